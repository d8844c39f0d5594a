"""Features of Fréchet distances: fixed for good, and able to see what they claim to see."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bricscli.data.toy import draw
from bricscli.errors import DataError
from bricscli.metrics.features.inception import CleanInceptionFeatures
from bricscli.metrics.features.random import RandomFeatures
from bricscli.metrics.frechet import Statistics, frechet_distance


@pytest.fixture(scope="module")
def extractor() -> RandomFeatures:
    return RandomFeatures()


@pytest.fixture(scope="module")
def toys() -> Tensor:
    """(400,3,32,32) uint8."""
    return torch.from_numpy(np.stack([np.asarray(draw(7, i, 32)).transpose(2, 0, 1) for i in range(400)]))


def distance(extractor: RandomFeatures, a: Tensor, b: Tensor) -> float:
    sides = []
    for images in (a, b):
        statistics = Statistics(extractor.outputs["features"])
        statistics.update(extractor(images)["features"].numpy())
        sides.append(statistics)
    return frechet_distance(*sides)


def exchange_blocks(images: Tensor, size: int) -> Tensor:
    """Every block keeps its place and changes its image: marginals stay, structure goes."""
    generator, mixed = torch.Generator().manual_seed(0), images.clone()
    for top in range(0, images.shape[2], size):
        for left in range(0, images.shape[3], size):
            block = (slice(None), slice(None), slice(top, top + size), slice(left, left + size))
            mixed[block] = images[torch.randperm(len(images), generator=generator)][block]
    return mixed


def test_weights_are_fixed_for_good(extractor: RandomFeatures) -> None:
    """A change of these numbers would make every distance ever printed incomparable."""
    digest = hashlib.sha256()
    for weights in (extractor.filters, extractor.pairings):
        digest.update(np.round(weights.double().numpy() * 2**16).astype("<i4").tobytes())
    assert digest.hexdigest() == "1a8b4c19dcbd239a851adb90de0dfebb491e565004fe1a9d0e55a86c7f31352e"


def test_values_are_fixed_for_good(extractor: RandomFeatures) -> None:
    pattern = (torch.arange(3 * 24 * 20).view(1, 3, 24, 20) * 37 % 256).byte()
    features = extractor(pattern)["features"][0].double()
    assert [float(features.sum()), float(features.std())] == pytest.approx([-81.13273, 0.82533], rel=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (33, 47), (256, 256)])
def test_any_resolution(extractor: RandomFeatures, size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    features = extractor(images)["features"]
    assert features.shape == (2, extractor.outputs["features"])
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_images_do_not_mix_in_a_batch(extractor: RandomFeatures, toys: Tensor) -> None:
    together = extractor(toys[:5])["features"]
    alone = torch.cat([extractor(toys[i : i + 1])["features"] for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_constant_images_have_only_colour(extractor: RandomFeatures) -> None:
    flat = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    features = extractor(flat)["features"][0]
    torch.testing.assert_close(features[:12], torch.full((12,), 200 / 127.5 - 1))
    torch.testing.assert_close(
        features[12:], torch.full((extractor.outputs["features"] - 12,), float(np.log(0.1))), rtol=1e-4, atol=1e-4
    )


def test_a_set_is_nearer_to_its_kind_than_to_anything_spoilt(extractor: RandomFeatures, toys: Tensor) -> None:
    """N as small as it gets in practice: 64 samples against 336 others."""
    few, many = toys[:64], toys[64:]
    floor = distance(extractor, few, many)
    assert distance(extractor, toys[64:128], torch.cat([toys[:64], toys[128:]])) < 2 * floor
    soft = functional.avg_pool2d(few.float(), 3, 1, 1, count_include_pad=False).round().byte()
    for size in (4, 8):
        mixed = exchange_blocks(few, size)
        assert distance(extractor, mixed, many) > 8 * floor
        assert distance(extractor, soft, many) < distance(extractor, mixed, many)
    assert distance(extractor, soft, many) > 2 * floor
    assert distance(extractor, few[:4].repeat(16, 1, 1, 1), many) > 3 * floor
    assert distance(extractor, 255 - few, many) > 3 * floor
    noise = torch.randint(-40, 41, few.shape, generator=torch.Generator().manual_seed(0))
    assert distance(extractor, (few + noise).clamp(0, 255).byte(), many) > 3 * floor


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8)])
def test_other_than_uint8_batches_are_refused(extractor: RandomFeatures, bad: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        extractor(bad)


class _Layers(nn.Module):
    """Stands in for Inception: 2048 numbers that show what arrived."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(x, 1).mean(1, keepdim=True).repeat(1, 2048, 1, 1)


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    path = tmp_path / "inception-2015-12-05.pt"
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.script(_Network()), path)
    return path


def test_inception_sees_what_clean_fid_would_show_it(stand_in: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 40), dtype=np.uint8)
    features = CleanInceptionFeatures(stand_in)(torch.from_numpy(pixels))["features"]
    assert features.shape == (2, 2048)
    for image, feature in zip(pixels, features, strict=True):
        channels = [
            Image.fromarray(channel.astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
            for channel in image
        ]
        seen = np.stack([np.asarray(channel).clip(0, 255) for channel in channels])
        expected = ((seen - 128) / 128).mean()
        torch.testing.assert_close(feature, torch.full((2048,), float(expected)), rtol=1e-4, atol=1e-5)


def test_inception_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = tmp_path / "inception-2015-12-05.pt"
    path.write_bytes(b"not TorchScript")
    with pytest.raises(DataError, match="cannot be loaded"):
        CleanInceptionFeatures(path)


def test_clean_fid_does_not_silence_our_warnings(stand_in: Path) -> None:
    import warnings

    before = list(warnings.filters)
    extract = CleanInceptionFeatures(stand_in)
    extract(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert list(warnings.filters) == before
