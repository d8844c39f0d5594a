"""How close a reconstruction is to its original, image by image: PSNR, SSIM, LPIPS.

Images are (B,3,H,W), uint8 or float in [0,1]; every result is (B,) float64.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bricscli.errors import DataError

#: Equal images have infinite PSNR, which no mean survives: they count as this many dB.
PSNR_CEILING = 100.0

#: Wang et al. 2004 (IEEE TIP 13(4)), section III-B.
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03

#: lpips' name of a network -> ours in `weights.WEIGHTS`.
LPIPS_WEIGHTS: dict[str, str] = {"alex": "alexnet", "vgg": "vgg16"}


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a data range of 1, from each image's own mean squared error."""
    a, b = _unit_range(a, b)
    error = ((a - b) ** 2).mean(dim=(1, 2, 3))
    return (-10 * error.log10()).clamp(max=PSNR_CEILING)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity, the mean over RGB, for a data range of 1; sides of at least 11 pixels.

    Gaussian window 11x11, sigma 1.5, k1 = 0.01, k2 = 0.03; only windows that lie wholly inside the image count
    (as in Wang's own program and torchmetrics before the end of 2024; later versions pad the border).
    """
    a, b = _unit_range(a, b)
    if min(a.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs sides of at least {SSIM_WINDOW} pixels, got {tuple(a.shape[2:])}")
    offsets = torch.arange(SSIM_WINDOW, dtype=a.dtype, device=a.device) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    window = window / window.sum()

    def local_mean(x: Tensor) -> Tensor:
        flat = x.reshape(-1, 1, *x.shape[2:])
        flat = functional.conv2d(functional.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
        return flat.view(*x.shape[:2], *flat.shape[2:])

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a, variance_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return similarity.mean(dim=(1, 2, 3))


class Lpips(nn.Module):
    """LPIPS v0.1 of the `lpips` package (arXiv:1801.03924v2), its linear weights as they ship in the package.

    `state`: torchvision's state dict of the backbone (`weights.load_state(LPIPS_WEIGHTS[net])`), so that the package
    downloads nothing; None leaves the backbone random, for tests. Sides of at least 32 pixels.
    """

    def __init__(self, net: Literal["alex", "vgg"], state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        with warnings.catch_warnings():  # lpips speaks to torchvision in words that are deprecated
            warnings.simplefilter("ignore")
            import lpips

            self._lpips = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        if state is not None:
            self._load_backbone(state, net)
        self.requires_grad_(False)
        self.eval()

    def _load_backbone(self, state: Mapping[str, Tensor], net: str) -> None:
        """lpips cuts torchvision's `features.7.weight` up into `slice3.7.weight`: the index stays."""
        own = self._lpips.net.state_dict()
        backbone = {}
        for key, value in own.items():
            source = "features." + key.split(".", 1)[1]
            if source not in state or state[source].shape != value.shape:
                raise DataError(f"weights of {LPIPS_WEIGHTS[net]}: {source} does not fit. Use torchvision's file.")
            backbone[key] = state[source]
        self._lpips.net.load_state_dict(backbone)

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,)."""
        a, b = (x.float() * 2 - 1 for x in _unit_range(a, b))
        return self._lpips(a, b).flatten().double()


def _unit_range(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """float64 in [0,1]; a wrong range is an error, since it would silently give another number."""
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"two batches (B,C,H,W) of one shape expected, got {tuple(a.shape)} and {tuple(b.shape)}")
    return _to_unit(a), _to_unit(b)


def _to_unit(x: Tensor) -> Tensor:
    if x.dtype == torch.uint8:
        return x.double() / 255
    low, high = (math.nan, math.nan) if x.numel() == 0 else (float(x.min()), float(x.max()))
    if not x.is_floating_point() or not (low >= 0 and high <= 1):
        raise ValueError(f"uint8, or float in [0, 1], expected; got {x.dtype} in [{low:.3g}, {high:.3g}]")
    return x.double()
