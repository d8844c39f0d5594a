"""L_2 of Eq. 5, and the L_1 of VQGAN and latent-diffusion; pixels in [-1, 1]."""

from torch import Tensor
from torch.nn import functional as F


def l1_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Mean over pixels and images of |fake - real|."""
    return F.l1_loss(fake, real)


def l2_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Mean over pixels and images of (fake - real)^2."""
    return F.mse_loss(fake, real)
