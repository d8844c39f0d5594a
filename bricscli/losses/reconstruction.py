"""L_2 of Eq. 5: mean squared error of pixels in [-1, 1]."""

from torch import Tensor
from torch.nn import functional as F


def l2_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Mean over pixels and images of (fake - real)^2."""
    return F.mse_loss(fake, real)
