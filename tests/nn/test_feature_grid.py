"""Feature grids: the paper's sums, its order of entries, its counts, and gradients that are right."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from bricscli.nn.feature_grid import FeatureGrid, interpolate_reference, level_entries, level_resolutions, tile


def make_grid(**changes: object) -> FeatureGrid:
    """Small, float64, with entries far from 0; the last level has 6^3 nodes and 64 entries, so it wraps around."""
    torch.manual_seed(0)
    arguments: dict[str, object] = {
        "groups": 2, "key_length": 1, "size": 2, "levels": 3, "r_min": 2, "r_max": 5, "entry_channels": 2,
        "max_entries": 64, "mlp_width": 4, "mlp_layers": 3, "channels": 6}
    grid = FeatureGrid(**(arguments | changes)).double()  # type: ignore[arg-type]
    torch.nn.init.normal_(grid.table)
    for bias in grid.mlp.biases:
        torch.nn.init.normal_(bias)
    return grid


def keys_between_knots(grid: FeatureGrid, batch: int = 2) -> Tensor:
    """Keys at least 1e-3 of a cell away from every node, where the interpolation is not differentiable."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, grid.groups * grid.key_length, grid.size, grid.size)
    keys = torch.rand(shape, generator=generator, dtype=torch.float64)
    while (near := torch.stack([(keys * r % 1 - 0.5).abs() > 0.499 for r in grid.resolutions]).any(0)).any():
        keys[near] = torch.rand(int(near.sum()), generator=generator, dtype=torch.float64)
    return keys


def read_by_hand(table: Tensor, query: list[float], resolution: int, max_entries: int) -> Tensor:
    """Eq. 4 and Eq. 6 for one query, in plain Python: sum of the corners, entry (k + n x + n^2 y ...) mod T."""
    n = resolution + 1
    total = torch.zeros(table.shape[1], dtype=table.dtype)
    for corner in itertools.product((0, 1), repeat=len(query)):
        weight, index = 1.0, 0
        for axis, (value, up) in enumerate(zip(query, corner, strict=True)):
            node = min(math.floor(value * resolution), resolution - 1)
            fraction = value * resolution - node
            weight *= fraction if up else 1 - fraction
            index += (node + up) * n**axis
        total += weight * table[index % max_entries]
    return total


@pytest.mark.parametrize("key_length", [1, 2])
def test_gradients_by_finite_differences(key_length: int) -> None:
    grid = make_grid(key_length=key_length, levels=2, r_max=4, max_entries=40)
    assert any((r + 1) ** (key_length + 2) > 40 for r in grid.resolutions), "no level wraps around"
    names = [name for name, _ in grid.named_parameters()]
    values = [value.detach().requires_grad_() for value in grid.parameters()]

    def features(keys: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(grid, dict(zip(names, parameters, strict=True)), keys)

    assert "table" in names and any(name.startswith("mlp.") for name in names)
    keys = keys_between_knots(grid, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(features, (keys, *values))


@pytest.mark.parametrize(("key_length", "max_entries"), [(1, 64), (1, 60), (1, 4096), (2, 64), (2, 4096)])
def test_retrieval_is_the_papers_sum(key_length: int, max_entries: int) -> None:
    grid = make_grid(key_length=key_length, max_entries=max_entries)
    keys = keys_between_knots(grid)
    found = grid.retrieve(keys).reshape(2, 2, 2, 2, 3, 2)  # group, image, row, column, level, C_v
    tables = grid.table.detach().split(grid.entries, dim=1)
    for group, image, row, column in itertools.product(range(2), repeat=4):
        unit = keys[image, group * key_length : (group + 1) * key_length, row, column].tolist()
        query = [*unit, (column + 0.5) / 2, (row + 0.5) / 2]
        for level, resolution in enumerate(grid.resolutions):
            wanted = read_by_hand(tables[level][group], query, resolution, max_entries)
            torch.testing.assert_close(found[group, image, row, column, level], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("max_entries", [64, 60, 4096])
def test_fast_path_equals_the_reference_and_its_gradients(max_entries: int) -> None:
    grid = make_grid(size=4, max_entries=max_entries)
    keys = keys_between_knots(grid).requires_grad_()
    weight = torch.randn(2, 32, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    fast = grid.retrieve(keys)
    gradients = torch.autograd.grad((fast * weight).sum(), (keys, grid.table))
    tables, query = grid.table.split(grid.entries, dim=1), grid.query(keys).flatten(1, 3)
    slow = torch.cat([torch.stack([interpolate_reference(table[g], query[g], r, max_entries) for g in range(2)])
                      for table, r in zip(tables, grid.resolutions, strict=True)], dim=-1)
    wanted = torch.autograd.grad((slow * weight).sum(), (keys, grid.table))

    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    for found, expected in zip(gradients, wanted, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("max_entries", [125, 40])
def test_the_key_is_the_fastest_axis(max_entries: int) -> None:
    """With r = 4 and 2x2 pixels, centres lie on nodes 1 and 3, so that a query reads one entry alone."""
    grid = make_grid(groups=1, levels=1, r_min=4, r_max=4, entry_channels=1, max_entries=max_entries)
    for key, column, row in itertools.product(range(5), (0, 1), (0, 1)):
        entry = (key + 5 * (2 * column + 1) + 25 * (2 * row + 1)) % max_entries
        with torch.no_grad():
            grid.table.zero_()[0, entry] = 1
        read = grid.retrieve(torch.full((1, 1, 2, 2), key / 4, dtype=torch.float64)).reshape(2, 2)
        assert read[row, column] == 1, (key, row, column)


@pytest.mark.parametrize("key", [0.0, 1.0])
def test_the_ends_of_the_key_are_nodes(key: float) -> None:
    grid = make_grid(groups=1, levels=1, r_min=3, r_max=3, max_entries=64)
    keys = torch.full((1, 1, 2, 2), key, dtype=torch.float64)
    read = grid.retrieve(keys).reshape(2, 2, 2)
    for row, column in itertools.product((0, 1), repeat=2):
        wanted = read_by_hand(grid.table.detach()[0], [key, (column + 0.5) / 2, (row + 0.5) / 2], 3, 64)
        torch.testing.assert_close(read[row, column], wanted, rtol=0, atol=1e-12)


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


@pytest.mark.parametrize(("groups", "key_length", "r_min", "millions"), [
    (4, 1, 16, 18.630),  # 64x64x4 of Table 3
    (8, 1, 4, 21.215),  # 16x16x8
    (16, 1, 4, 42.431),  # 16x16x16
    (2, 2, 16, 30.530),  # C_key = 2, Table 7
])
def test_sizes_of_table_3(groups: int, key_length: int, r_min: int, millions: float) -> None:
    with torch.device("meta"):
        grid = FeatureGrid(groups=groups, key_length=key_length, size=64, levels=16, r_min=r_min, r_max=64,
                           entry_channels=4, max_entries=2**18, mlp_width=64, mlp_layers=3, channels=512)
    assert grid.table.numel() / 1e6 == pytest.approx(millions, abs=5e-4)


def test_tiling_repeats_every_key_in_place() -> None:
    codes = torch.randn(2, 3, 4, 4)
    tiled = tile(codes, 12)
    for row, column in itertools.product(range(12), repeat=2):
        assert torch.equal(tiled[..., row, column], codes[..., row // 3, column // 3])


def test_queries_are_key_x_y_at_pixel_centres() -> None:
    grid = make_grid(key_length=2, size=4)
    keys = torch.rand(1, 4, 4, 4, dtype=torch.float64)
    query = grid.query(keys)
    assert query.shape == (2, 1, 4, 4, 4)
    for group, row, column in itertools.product(range(2), range(4), range(4)):
        unit = keys[0, 2 * group : 2 * group + 2, row, column].tolist()
        assert query[group, 0, row, column].tolist() == [*unit, (column + 0.5) / 4, (row + 0.5) / 4]


def test_groups_and_images_go_their_own_ways() -> None:
    """A group's key moves only the group's channels, of its own image and position."""
    grid = make_grid(size=4)
    keys = keys_between_knots(grid)
    before = grid(keys)
    assert before.shape == (2, 6, 4, 4)
    keys[1, 1, 2, 3] = 1 - keys[1, 1, 2, 3]
    changed = (grid(keys) != before).nonzero().tolist()
    assert changed and all(place[0] == 1 and place[1] >= 3 and place[2:] == [2, 3] for place in changed)
