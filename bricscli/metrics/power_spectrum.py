"""How much of an image's variation lies at each frequency: the radially averaged power spectrum (LPL, Figs. 5 and 6).

An image is its luma y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), of the stored values in [0, 1], H x W. Its power at
a frequency is |DFT(y)|^2 / (H W): the mean over all frequencies is that of y^2, and noise of variance s^2 has power s^2
everywhere. A ring i holds the frequencies of length within half a step of i / min(H, W) cycles per pixel, i = 0 up to
Nyquist's 1/2; the corners beyond it belong to none. No window: what wraps around at the borders does so in every set.

The paper says neither which channel it takes, nor how it bins, nor whether the means are of the power or its logarithm;
here the power is averaged, over rings and images, and then compared in decibels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

#: LPL's text on images of 512 pixels: middle frequencies are those between 75 and 150 cycles, high ones those beyond.
BANDS = {"low": (0.0, 75 / 512), "middle": (75 / 512, 150 / 512), "high": (150 / 512, 0.5)}


def luma(images: Tensor) -> Tensor:
    """uint8 `(B, 3, H, W)` -> float64 `(B, H, W)` in [0, 1]."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=images.device)
    return torch.einsum("bchw,c->bhw", images.double() / 255, weights)


def power(planes: Tensor) -> Tensor:
    """`(B, H, W)` -> the power at every frequency, `(B, H, W)`, in the order of `torch.fft.fftfreq`."""
    return torch.fft.fft2(planes, norm="ortho").abs().square()


def ring_frequencies(height: int, width: int) -> Tensor:
    """Cycles per pixel of each ring: `(R,)` float64, R = min(H, W) // 2 + 1."""
    size = min(height, width)
    return torch.arange(size // 2 + 1, dtype=torch.float64) / size


def radial_mean(power: Tensor) -> Tensor:
    """`(B, H, W) -> (B, R)`."""
    height, width = power.shape[1:]
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64, device=power.device) for size in (height, width))
    ring = (torch.hypot(rows[:, None], columns) * min(height, width)).round().long().flatten()
    rings = min(height, width) // 2 + 1
    inside = ring < rings
    sums = power.new_zeros(len(power), rings).index_add_(1, ring[inside], power.flatten(1)[:, inside])
    return sums / ring[inside].bincount(minlength=rings)


class MeanSpectrum:
    """The mean over images of their radially averaged power; `value` `(R,)` float64."""

    def __init__(self) -> None:
        self.images, self._sum = 0, torch.zeros((), dtype=torch.float64)

    def update(self, images: Tensor) -> None:
        """uint8 `(B, 3, H, W)`."""
        self.images += len(images)
        self._sum = self._sum + radial_mean(power(luma(images))).sum(0).cpu()

    @property
    def value(self) -> Tensor:
        return self._sum / self.images


def decibels(power: Tensor) -> Tensor:
    """10 log10; what is below rounding to 8 bits by far, as in a set of flat images, counts as -150."""
    return 10 * power.clamp(min=1e-15).log10()


@dataclass(frozen=True)
class BandError:
    """Over the rings of a band, decibels: the mean of generated less real, and of how far off it is either way."""

    bias: float
    error: float


def band_errors(frequencies: Tensor, difference: Tensor) -> dict[str, BandError]:
    """Of the log power's difference `(R,)`; ring 0, the mean brightness, is in no band. Empty bands are left out."""
    found = {}
    for name, (low, high) in BANDS.items():
        inside = difference[(frequencies > low) & (frequencies <= high)]
        if len(inside):
            found[name] = BandError(float(inside.mean()), float(inside.abs().mean()))
    return found
