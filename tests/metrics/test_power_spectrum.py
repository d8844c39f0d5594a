"""Power spectra whose answer is known: noise, waves, Parseval, scaling."""

import math

import pytest
import torch
from torch import Tensor

from bricscli.metrics.power_spectrum import (
    BANDS,
    MeanSpectrum,
    band_errors,
    decibels,
    luma,
    power,
    radial_mean,
    ring_frequencies,
)

SIZES = [(32, 32), (33, 33), (24, 40)]


def noise(height: int, width: int, count: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def wave(size: int, across: float, down: float) -> Tensor:
    """A cosine with so many periods in each direction, of amplitude 1: `(1, size, size)`."""
    x = torch.arange(size, dtype=torch.float64) / size
    return torch.cos(2 * math.pi * (across * x + down * x[:, None]))[None]


def test_white_noise_is_flat_at_its_variance() -> None:
    """A ring of n frequencies over 400 images: a relative deviation of at most sqrt(2 / (400 n))."""
    found = radial_mean(power(3 * noise(32, 32, 400))).mean(0)
    assert found.shape == (17,)
    assert found[0].item() == pytest.approx(9, rel=0.3), "one frequency"
    assert (found[1:] / 9 - 1).abs().max() < 0.12


@pytest.mark.parametrize(("across", "down"), [(1, 0), (0, 5), (3, 4), (8, 6), (16, 0)])
def test_a_wave_has_all_its_power_in_one_ring(across: int, down: int) -> None:
    spectrum = radial_mean(power(wave(32, across, down)))[0]
    ring = round(math.hypot(across, down))
    assert int(spectrum.argmax()) == ring
    assert ring_frequencies(32, 32)[ring].item() == pytest.approx(math.hypot(across, down) / 32, abs=1 / 64)
    others = torch.arange(17) != ring
    assert spectrum[others].max() < 1e-20 * spectrum[ring]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_parseval(height: int, width: int) -> None:
    planes = noise(height, width, 3) + 2
    torch.testing.assert_close(power(planes).mean((1, 2)), planes.square().mean((1, 2)))
    torch.testing.assert_close(power(planes)[:, 0, 0], height * width * planes.mean((1, 2)).square())


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_scaling_shifts_the_logarithm(factor: float) -> None:
    """By 2 log c, that is 20 log10 c decibels, at every frequency."""
    planes = noise(32, 32, 4)
    shift = decibels(radial_mean(power(factor * planes))) - decibels(radial_mean(power(planes)))
    torch.testing.assert_close(shift, torch.full_like(shift, 20 * math.log10(factor)))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rings_are_the_means_over_their_frequencies(height: int, width: int) -> None:
    """In loops; every frequency up to Nyquist's in the shorter direction is in one ring."""
    spectrum, size = power(noise(height, width))[0], min(height, width)
    rings: dict[int, list[float]] = {}
    for row in range(height):
        for column in range(width):
            down, across = (min(i, n - i) / n for i, n in ((row, height), (column, width)))
            rings.setdefault(round(math.hypot(down, across) * size), []).append(float(spectrum[row, column]))
    wanted = [sum(rings[i]) / len(rings[i]) for i in range(size // 2 + 1)]
    assert radial_mean(spectrum[None])[0].tolist() == pytest.approx(wanted)
    assert ring_frequencies(height, width).tolist() == pytest.approx([i / size for i in range(size // 2 + 1)])


def test_turning_and_shifting_change_nothing() -> None:
    planes = noise(32, 32, 2)
    wanted = radial_mean(power(planes))
    for other in (planes.rot90(1, (1, 2)), planes.flip(2), planes.roll((5, 9), (1, 2))):
        torch.testing.assert_close(radial_mean(power(other)), wanted)


def test_luma() -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    assert luma(colours[:, :, None, None]).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114, 1])


def test_the_mean_over_images_whatever_the_batches() -> None:
    images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole, parts = MeanSpectrum(), MeanSpectrum()
    whole.update(images)
    for part in images.split(3):
        parts.update(part)
    assert whole.images == parts.images == 7
    torch.testing.assert_close(parts.value, whole.value)
    torch.testing.assert_close(whole.value, radial_mean(power(luma(images))).mean(0))


def test_bands() -> None:
    """Those of LPL's text, cycles of 512 pixels; what cancels in the bias does not in the error."""
    frequencies = ring_frequencies(512, 512)
    difference = torch.where(frequencies * 512 <= 75, 1.0, torch.where(frequencies * 512 <= 150, -2.0, 4.0))
    difference[0] = 1000
    difference[160] = -4
    found = band_errors(frequencies, difference)
    assert (found["low"].bias, found["middle"].bias) == (1, -2)
    assert (found["low"].error, found["middle"].error, found["high"].error) == (1, 2, 4)
    assert found["high"].bias == pytest.approx(4 - 8 / 106)
    assert list(found) == list(BANDS) == ["low", "middle", "high"]
    assert list(band_errors(ring_frequencies(2, 2), torch.zeros(2))) == ["high"]


def test_no_power_is_no_infinity() -> None:
    assert decibels(torch.zeros(1)).item() == -150
