"""How close a reconstruction is to its original, image by image: PSNR, SSIM, LPIPS.

Images are (B,3,H,W), uint8 or float in [0,1]; every result is (B,) float64.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from bricscli.nn.lpips import LpipsDistance

#: Equal images have infinite PSNR, which no mean survives: they count as this many dB.
PSNR_CEILING = 100.0

#: Wang et al. 2004 (IEEE TIP 13(4)), section III-B.
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03


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


class Lpips(LpipsDistance):
    """The same distance between images; `state` and the sides that a backbone needs are the parent's."""

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,)."""
        a, b = (x.float() * 2 - 1 for x in _unit_range(a, b))
        return super().forward(a, b).double()


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
