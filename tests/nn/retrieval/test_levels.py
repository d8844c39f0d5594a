"""Geometry of the feature grids: the paper's levels and counts, and the order of entries."""

import itertools
import math

import pytest
import torch

from bricscli.nn.retrieval.levels import Index, Level, cell, level_entries, level_resolutions, tile


def test_level_resolutions() -> None:
    assert level_resolutions(16, 64, 16) == [16, 18, 20, 22, 24, 26, 28, 31, 34, 37, 41, 45, 49, 54, 59, 64]
    assert level_resolutions(4, 64, 16)[-1] == 64
    assert level_resolutions(4, 32, 4) == [4, 8, 16, 32]
    assert level_resolutions(7, 99, 1) == [7]
    for r_min, r_max in itertools.product(range(1, 20), (32, 64, 100, 256)):
        levels = level_resolutions(r_min, r_max, 16)
        assert (levels[0], levels[-1]) == (r_min, r_max), "no level may gain a node by rounding"


@pytest.mark.parametrize(("resolution", "dimensions", "limit", "entries"), [
    (2, 3, 1000, 32), (3, 3, 1000, 64), (4, 3, 100, 104), (64, 3, 2**18, 2**18), (16, 4, 2**18, 83528)])
def test_level_entries(resolution: int, dimensions: int, limit: int, entries: int) -> None:
    assert level_entries(resolution, dimensions, limit) == entries
    assert Level(resolution, dimensions, limit, "hash").entries == entries, "hashing stores no more"


def test_tiling_repeats_every_key_in_place() -> None:
    codes = torch.randn(2, 3, 4, 4)
    tiled = tile(codes, 12)
    for row, column in itertools.product(range(12), repeat=2):
        assert torch.equal(tiled[..., row, column], codes[..., row // 3, column // 3])


def test_cells() -> None:
    node, fraction = cell(torch.tensor([0.0, 0.24, 0.5, 0.99, 1.0, -3.0, 7.0, math.nan]), 4)
    assert node.tolist() == [0, 0, 2, 3, 3, 0, 3, 0], "a query always has a node above"
    torch.testing.assert_close(fraction, torch.tensor([0, 0.96, 0, 0.96, 1, 0, 1, math.nan]), equal_nan=True)


def entry_by_hand(node: tuple[int, ...], resolution: int, limit: int, index: Index) -> int:
    """Eq. 6, or Teschner's hash where the nodes exceed the entries, in plain Python."""
    if index == "hash" and (resolution + 1) ** len(node) > limit:
        value = 0
        for i, prime in zip(node, (1, 2654435761, 805459861, 3674653429), strict=False):
            value ^= i * prime
        return value % limit
    return sum(i * (resolution + 1) ** axis for axis, i in enumerate(node)) % limit


@pytest.mark.parametrize("dimensions", [3, 4])
@pytest.mark.parametrize(("index", "limit"), [("modulo", 64), ("modulo", 60), ("modulo", 4096), ("hash", 64),
                                              ("hash", 4096)])
def test_entries_of_nodes(index: Index, limit: int, dimensions: int) -> None:
    level = Level(5, dimensions, limit, index)
    nodes = list(itertools.product(range(6), repeat=dimensions))
    found = level.entry_of(torch.tensor(nodes)).tolist()
    assert found == [entry_by_hand(node, 5, limit, index) for node in nodes]
    if level.dense:
        assert len(set(found)) == len(nodes), "nodes that fit share no entry"


def test_pixel_corners() -> None:
    level = Level(5, 3, 10_000, "modulo")
    terms, weights = level.pixel_corners(2, 3)
    assert terms.shape == weights.shape == (4, 6)
    torch.testing.assert_close(weights.sum(0), torch.ones(6, dtype=torch.float64))
    # Weighted over the corners, n x + n^2 y is linear, hence exact at every pixel centre.
    for row, column in itertools.product(range(2), range(3)):
        wanted = 5 * (6 * (column + 0.5) / 3 + 36 * (row + 0.5) / 2)
        assert float((terms * weights).sum(0)[row * 3 + column]) == pytest.approx(wanted, abs=1e-12)
