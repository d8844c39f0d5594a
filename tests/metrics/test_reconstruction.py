"""PSNR and SSIM against direct computation, LPIPS against the package's own way."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from bricscli.errors import DataError
from bricscli.metrics.reconstruction import PSNR_CEILING, Lpips, psnr, ssim
from bricscli.nn.lpips import LPIPS_WEIGHTS


def pair(count: int = 3, height: int = 24, width: int = 31) -> tuple[Tensor, Tensor]:
    """A smooth image and a noisy copy, uint8."""
    generator = np.random.default_rng(0)
    smooth = gaussian_filter(generator.normal(size=(count, 3, height, width)), (0, 0, 3, 3))
    smooth = 128 + 60 * smooth / smooth.std()
    noisy = smooth + generator.normal(0, 12, smooth.shape)
    a, b = (torch.from_numpy(x.round().clip(0, 255).astype(np.uint8)) for x in (smooth, noisy))
    return a, b


def scipy_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, Eq. 13, one channel in [0,1], only where the window lies inside."""
    inside = (slice(5, -5), slice(5, -5))

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, truncate=5 / 1.5)[inside]

    m_a, m_b = mean(a), mean(b)
    v_a, v_b, c = mean(a * a) - m_a**2, mean(b * b) - m_b**2, mean(a * b) - m_a * m_b
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * m_a * m_b + c1) * (2 * c + c2)) / ((m_a**2 + m_b**2 + c1) * (v_a + v_b + c2))).mean())


def test_ssim_agrees_with_scipy() -> None:
    a, b = pair()
    for i, value in enumerate(ssim(a, b)):
        expected = np.mean([scipy_ssim(x / 255.0, y / 255.0) for x, y in zip(a[i].numpy(), b[i].numpy(), strict=True)])
        assert 0.1 < expected < 0.95
        assert float(value) == pytest.approx(expected, abs=1e-10)


def test_ssim_of_constants_has_a_closed_form() -> None:
    a, b = torch.full((1, 3, 11, 11), 0.2), torch.full((1, 3, 11, 11), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert float(ssim(a, b)) == pytest.approx(expected, rel=1e-6)


def test_psnr_is_that_of_each_image() -> None:
    a = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    b = torch.stack([torch.full((3, 8, 8), v, dtype=torch.uint8) for v in (255, 51, 5)])
    assert psnr(a, b).tolist() == pytest.approx([0.0, 20 * np.log10(5), 20 * np.log10(51)], abs=1e-9)


def test_equal_images() -> None:
    a, _ = pair()
    assert psnr(a, a).tolist() == [PSNR_CEILING] * 3
    torch.testing.assert_close(ssim(a, a), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_uint8_and_unit_range_agree(measure: object) -> None:
    a, b = pair()
    assert callable(measure)
    torch.testing.assert_close(measure(a, b), measure(a.double() / 255, b.double() / 255))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_a_wrong_range_is_refused(measure: object) -> None:
    a, b = (x.float() / 127.5 - 1 for x in pair())
    assert callable(measure)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        measure(a, b)
    with pytest.raises(ValueError, match="one shape"):
        measure(a, b[:1])


def test_ssim_needs_room_for_its_window() -> None:
    small = torch.zeros(1, 3, 10, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(small, small)


@pytest.mark.parametrize("net", sorted(LPIPS_WEIGHTS))
def test_lpips_with_our_file_is_lpips_with_torchvisions(net: str) -> None:
    """The same backbone put in by torchvision itself, as the package does it when it downloads."""
    import lpips
    from torchvision import models

    torch.manual_seed(0)
    names = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
    backbone = getattr(models, names[net])(weights=None)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(models, names[net], lambda pretrained: backbone)
        theirs = lpips.LPIPS(net=net, verbose=False)
        patch.undo()
        state = {k: v.clone() for k, v in backbone.state_dict().items()}
        ours = Lpips(net, state)  # type: ignore[arg-type]
    a, b = pair(2, 40, 40)
    expected = theirs(a.float() / 127.5 - 1, b.float() / 127.5 - 1).flatten().double().detach()
    assert (expected > 0).all()
    torch.testing.assert_close(ours(a, b), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("net", "side"), [("alex", 31), ("vgg", 16), ("squeeze", 17)])
def test_the_smallest_images_of_lpips(net: Any, side: int) -> None:
    lpips, image = Lpips(net), torch.zeros(1, 3, side, side)
    assert lpips(image, image).tolist() == [0]
    with pytest.raises(RuntimeError, match="too small"):
        lpips(image[..., 1:], image[..., 1:])


def test_lpips_refuses_another_network() -> None:
    with pytest.raises(DataError, match="weights of alexnet"):
        Lpips("alex", {"features.0.weight": torch.zeros(1)})
