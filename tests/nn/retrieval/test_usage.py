"""Use of entries: counted by hand, and what the geometry allows."""

import itertools
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.nn.retrieval.levels import Level, cell, pixel_centres
from bricscli.nn.retrieval.usage import EntryUsage, reachable_entries

MakeGrid = Callable[..., FeatureGrid]
DrawKeys = Callable[..., Tensor]


def count_by_hand(grid: FeatureGrid, keys: Tensor) -> Tensor:
    """Corner by corner and pixel by pixel."""
    counts = torch.zeros(grid.groups, sum(grid.entries), dtype=torch.int64)
    centres = pixel_centres(grid.size)
    for image, group, row, column in itertools.product(range(len(keys)), range(grid.groups), *[range(grid.size)] * 2):
        unit = keys[image].unflatten(0, (grid.groups, grid.key_length))[group, :, row, column]
        query = torch.stack([*unit, centres[column], centres[row]])
        start = 0
        for level in grid.levels:
            node, fraction = cell(query, level.resolution)
            for corner in itertools.product((0, 1), repeat=level.dimensions):
                if all(f > 0 if up else f < 1 for f, up in zip(fraction.tolist(), corner, strict=True)):
                    counts[group, start + int(level.entry_of(node + torch.tensor(corner)))] += 1
            start += level.entries
    return counts


@pytest.mark.parametrize(("index", "key_length"), [("modulo", 1), ("hash", 1), ("modulo", 2)])
def test_counts(make_grid: MakeGrid, draw_keys: DrawKeys, index: str, key_length: int) -> None:
    grid = make_grid(index=index, key_length=key_length, r_max=4)
    keys = draw_keys(grid)
    keys.view(-1)[:4] = torch.tensor([0.0, 0.5, 0.25, 1.0])  # on nodes: one corner along the key has no weight
    usage = EntryUsage(grid)
    for part in keys.split(1):
        usage.update(part)
    assert torch.equal(usage.counts, count_by_hand(grid, keys))


@pytest.mark.parametrize(("resolution", "limit", "columns"), [
    (64, 2**20, 65**2),  # centres lie between nodes, each has both as neighbours
    (32, 2**20, 33**2),
    (16, 2**20, 17**2),
    (192, 2**26, 128**2),  # 64 pixels touch two of 193 nodes each
    (128, 2**26, 64**2),  # centres lie on nodes
])
def test_reachable_columns(resolution: int, limit: int, columns: int) -> None:
    level = Level(resolution, 3, limit, "modulo")
    assert int(reachable_entries(level, 64).sum()) == columns * (resolution + 1)


def test_reachable_is_what_every_key_hits(make_grid: MakeGrid) -> None:
    """All keys on a fine lattice hit each reachable entry, and no other; the padding is never hit."""
    for index, key_length, max_entries in (("modulo", 1, 4096), ("modulo", 1, 64), ("hash", 1, 64), ("modulo", 2, 512)):
        grid = make_grid(groups=1, size=2, r_max=7, index=index, key_length=key_length, max_entries=max_entries)
        usage = EntryUsage(grid)
        assert usage.hit_share() == 0
        lattice = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
        for unit in itertools.product(lattice, repeat=key_length):
            usage.update(torch.stack(unit).view(1, -1, 1, 1).expand(1, key_length, 2, 2))
        reachable = torch.cat([reachable_entries(level, 2) for level in grid.levels])
        assert torch.equal(usage.counts[0] > 0, reachable)
        assert usage.hit_share() == 1 and not reachable.all()


def test_summary(make_grid: MakeGrid) -> None:
    """One group, one pixel, r = 2: the pixel's centre lies on a node, so that 3 of 27 entries can be hit."""
    grid = make_grid(groups=2, size=1, levels=1, r_min=2, r_max=2)
    usage = EntryUsage(grid)
    usage.update(torch.tensor([[0.25, 0.5]], dtype=torch.float64).view(1, 2, 1, 1))
    usage.update(torch.tensor([[0.25, 0.5]], dtype=torch.float64).view(1, 2, 1, 1))
    assert usage.summary() == [{"resolution": 2, "entries": 32, "used": 27, "reachable": 3, "groups": [
        {"hit_of_used": 2 / 27, "hit_of_reachable": 2 / 3, "mean": 4 / 3, "variance": pytest.approx(8 / 9),
         "variation": pytest.approx(0.5**0.5)},
        {"hit_of_used": 1 / 27, "hit_of_reachable": 1 / 3, "mean": 2 / 3, "variance": pytest.approx(8 / 9),
         "variation": pytest.approx(2**0.5)}]}]
    assert usage.hit_share() == 0.5
    json.dumps(usage.summary())
