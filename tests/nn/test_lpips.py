"""LPIPS as a squared Euclidean distance, against the lpips package pair by pair."""

import copy
import functools
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from bricscli.errors import DataError
from bricscli.nn import lpips as ours
from bricscli.nn.lpips import LpipsEmbedding

Net = Literal["alex", "vgg", "squeeze"]
SIZES: list[tuple[Net, tuple[int, int]]] = [
    ("alex", (64, 64)), ("alex", (47, 33)), ("squeeze", (64, 64)), ("squeeze", (41, 35)), ("vgg", (64, 64)),
    ("vgg", (37, 23))]


@functools.cache
def random_embedding(net: Net) -> LpipsEmbedding:
    torch.manual_seed(1)
    return LpipsEmbedding(net)


def package(embedding: LpipsEmbedding) -> Any:
    """A `lpips.LPIPS` of the package with the same weights, in its own layout."""
    return copy.deepcopy(embedding._lpips).to(memory_format=torch.contiguous_format)


def images(count: int, size: tuple[int, int]) -> Tensor:
    """Some smooth, some noise, in [-1, 1]."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    noise = torch.rand(count, 3, *size, generator=generator)
    return (smooth + torch.linspace(0, 1, count).view(-1, 1, 1, 1) * (noise - smooth)) * 2 - 1


@pytest.mark.parametrize(("net", "size"), SIZES, ids=[f"{net}-{size[0]}x{size[1]}" for net, size in SIZES])
@torch.no_grad()
def test_squared_distances_are_lpips(net: Net, size: tuple[int, int]) -> None:
    embedding = random_embedding(net)
    module, batch = package(embedding), images(4, size)
    assert type(module).__module__.startswith("lpips.")
    vectors = embedding(batch)
    for i, j in ((0, 1), (0, 3), (2, 3), (1, 1)):
        expected = float(module(batch[i : i + 1], batch[j : j + 1]))
        found = float((vectors[i] - vectors[j]).square().sum())
        assert found == pytest.approx(expected, rel=2e-6, abs=1e-12)
        assert (expected > 1e-3) == (i != j)


@torch.no_grad()
def test_features_about_as_short_as_what_lpips_adds_to_their_length() -> None:
    """Lengths of 1e-10 and 0: the result then depends on how exactly the division is made."""
    embedding = copy.deepcopy(random_embedding("alex"))
    first = embedding._lpips.net.slice1[0]
    first.weight.mul_(1e-10)
    first.bias.zero_()
    module, batch = package(embedding), images(3, (40, 40))
    batch[2] = 0
    length = module.net(module.scaling_layer(batch))[0][0].square().sum(0).sqrt()
    assert 1e-12 < length.mean() < 1e-9
    vectors = embedding(batch)
    for i, j in ((0, 1), (0, 2)):
        expected = float(module(batch[i : i + 1], batch[j : j + 1]))
        assert float((vectors[i] - vectors[j]).square().sum()) == pytest.approx(expected, rel=2e-6)


def test_negative_linear_weights_are_no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    make = ours.LpipsDistance.__init__

    def with_a_negative(self: Any, *arguments: Any) -> None:
        make(self, *arguments)
        self._lpips.lins[2].model[-1].weight[0, 5] = -0.25

    monkeypatch.setattr(ours.LpipsDistance, "__init__", with_a_negative)
    with pytest.raises(DataError, match=r"linear weight of layer 2 is -0\.25"):
        LpipsEmbedding("alex")
