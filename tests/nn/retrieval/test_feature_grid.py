"""Feature grids: the paper's sum, written three times over, and gradients that are right."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bricscli.nn.retrieval import portable, reference
from bricscli.nn.retrieval.feature_grid import FeatureGrid, NoRetrieval

#: Index, entries a level at most, key length: no wrap-around, some, and a T that is no power of two.
VARIANTS = [("modulo", 4096, 1), ("modulo", 64, 1), ("modulo", 60, 1), ("hash", 64, 1), ("modulo", 4096, 2),
            ("modulo", 64, 2), ("modulo", 60, 2), ("hash", 64, 2)]
MakeGrid = Callable[..., FeatureGrid]
DrawKeys = Callable[..., Tensor]


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


@pytest.mark.parametrize(("key_length", "max_entries"), [(1, 64), (1, 60), (1, 4096), (2, 64), (2, 4096)])
def test_the_reference_is_the_papers_sum(make_grid: MakeGrid, draw_keys: DrawKeys, key_length: int,
                                         max_entries: int) -> None:
    grid = make_grid(size=2, key_length=key_length, max_entries=max_entries)
    keys = draw_keys(grid)
    found = reference.retrieve(grid.table.detach(), grid.keys(keys), grid.levels)
    found = found.reshape(2, 2, 2, 2, 3, 2)  # group, image, row, column, level, C_v
    tables = grid.table.detach().split(grid.entries, dim=1)
    for group, image, row, column in itertools.product(range(2), repeat=4):
        unit = keys[image, group * key_length : (group + 1) * key_length, row, column].tolist()
        query = [*unit, (column + 0.5) / 2, (row + 0.5) / 2]
        for level, resolution in enumerate(grid.resolutions):
            wanted = read_by_hand(tables[level][group], query, resolution, max_entries)
            torch.testing.assert_close(found[group, image, row, column, level], wanted, rtol=0, atol=1e-12)


def features_and_gradients(retrieve: Callable[[Tensor], Tensor], grid: FeatureGrid,
                           keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features, and the gradients of their weighted sum in keys and table."""
    keys = keys.clone().requires_grad_()
    features = retrieve(keys)
    weight = torch.randn(features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    of_keys, of_table = torch.autograd.grad((features * weight.to(features)).sum(), (keys, grid.table))
    return features.detach(), of_keys, of_table


def assert_agree(grid: FeatureGrid, keys: Tensor, tolerance: float) -> None:
    """What the grid does is the reference, relative to the largest value."""
    fast = features_and_gradients(grid.retrieve, grid, keys)
    slow = features_and_gradients(lambda k: reference.retrieve(grid.table, grid.keys(k), grid.levels), grid, keys)
    for found, wanted in zip(fast, slow, strict=True):
        largest = wanted.abs().max()
        assert largest > 0.1 and (found - wanted).abs().max() <= tolerance * largest


@pytest.mark.parametrize("batch", [1, 10])  # of 1 no column is interpolated as a whole, of 10 every one
@pytest.mark.parametrize("entry_channels", [1, 2, 3, 4])  # with 3, a row is no single element
@pytest.mark.parametrize(("index", "max_entries", "key_length"), VARIANTS)
def test_training_path_is_the_reference(make_grid: MakeGrid, draw_keys: DrawKeys, index: str, max_entries: int,
                                        key_length: int, entry_channels: int, batch: int) -> None:
    grid = make_grid(index=index, max_entries=max_entries, key_length=key_length, entry_channels=entry_channels)
    assert all(level.dense for level in grid.levels) == (max_entries == 4096)
    keys = draw_keys(grid, batch=batch)
    every_level = portable.iter_corners(grid.table.shape, grid.keys(keys), grid.levels, hoist=True)
    assert [corners.hoisted for corners in every_level] == [batch == 10] * len(grid.levels)
    assert_agree(grid, keys, 1e-10)
    grid.float()
    assert_agree(grid, keys.float(), 1e-5)


@pytest.mark.parametrize("index", ["modulo", "hash"])
def test_wrap_around_at_the_papers_size(make_grid: MakeGrid, draw_keys: DrawKeys, index: str) -> None:
    """r = 64: 65^3 nodes in 2^18 entries, at 64 x 64 pixels."""
    grid = make_grid(groups=1, size=64, levels=1, r_min=64, r_max=64, max_entries=2**18, index=index, entry_channels=4)
    assert not grid.levels[0].dense
    assert_agree(grid, draw_keys(grid, batch=1), 1e-10)
    grid.float()
    assert_agree(grid, draw_keys(grid, batch=1), 1e-5)


@pytest.mark.parametrize(("index", "key_length"), [("modulo", 1), ("hash", 1), ("modulo", 2)])
def test_gradients_by_finite_differences(make_grid: MakeGrid, draw_keys: DrawKeys, index: str,
                                         key_length: int) -> None:
    grid = make_grid(key_length=key_length, levels=2, r_max=4, max_entries=32, size=2, index=index)
    assert not grid.levels[1].dense
    names = [name for name, _ in grid.named_parameters()]
    values = [value.detach().requires_grad_() for value in grid.parameters()]

    def features(keys: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(grid, dict(zip(names, parameters, strict=True)), keys)

    assert "table" in names and any(name.startswith("mlp.") for name in names)
    keys = draw_keys(grid, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(features, (keys, *values))


def test_a_frozen_table_passes_gradients_on(make_grid: MakeGrid, draw_keys: DrawKeys) -> None:
    grid = make_grid()
    keys = draw_keys(grid)
    _, wanted, _ = features_and_gradients(grid.retrieve, grid, keys)
    grid.requires_grad_(False)
    features = grid.retrieve(keys.requires_grad_())
    weight = torch.randn(features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(torch.autograd.grad((features * weight).sum(), keys)[0], wanted)


@pytest.mark.parametrize("max_entries", [125, 40])
def test_the_key_is_the_fastest_axis(make_grid: MakeGrid, max_entries: int) -> None:
    """With r = 4 and 2x2 pixels, centres lie on nodes 1 and 3, so that a query reads one entry alone."""
    grid = make_grid(groups=1, size=2, levels=1, r_min=4, r_max=4, entry_channels=1, max_entries=max_entries)
    for key, column, row in itertools.product(range(5), (0, 1), (0, 1)):
        entry = (key + 5 * (2 * column + 1) + 25 * (2 * row + 1)) % max_entries
        with torch.no_grad():
            grid.table.zero_()[0, entry] = 1
        read = grid.retrieve(torch.full((1, 1, 2, 2), key / 4, dtype=torch.float64)).reshape(2, 2)
        assert read[row, column] == 1, (key, row, column)


@pytest.mark.parametrize("beyond", [-0.5, 0.0, 1.0, 1.5])
def test_the_ends_of_the_key_are_nodes(make_grid: MakeGrid, beyond: float) -> None:
    """A key beyond [0, 1] is read at its end, and pulls at nothing."""
    grid = make_grid(groups=1, size=2, levels=1, r_min=3, r_max=3)
    keys = torch.full((1, 1, 2, 2), beyond, dtype=torch.float64, requires_grad=True)
    features = grid.retrieve(keys)
    features.sum().backward()
    assert keys.grad is not None and bool((keys.grad == 0).all()) == (beyond in (-0.5, 1.5))
    for row, column in itertools.product((0, 1), repeat=2):
        query = [min(max(beyond, 0), 1), (column + 0.5) / 2, (row + 0.5) / 2]
        wanted = read_by_hand(grid.table.detach()[0], query, 3, 64)
        torch.testing.assert_close(features.detach().reshape(2, 2, 2)[row, column], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("groups", "key_length", "r_min", "index", "millions"), [
    (4, 1, 16, "modulo", 18.630),  # 64x64x4 of Table 3
    (4, 1, 16, "hash", 18.630),  # App. K changes which entries are read, not how many there are
    (8, 1, 4, "modulo", 21.215),  # 16x16x8
    (16, 1, 4, "modulo", 42.431),  # 16x16x16
    (2, 2, 16, "modulo", 30.530),  # C_key = 2, Table 7
])
def test_sizes_of_table_3(groups: int, key_length: int, r_min: int, index: str, millions: float) -> None:
    with torch.device("meta"):
        grid = FeatureGrid(groups=groups, key_length=key_length, size=64, levels=16, r_min=r_min, r_max=64,
                           index=index, entry_channels=4, max_entries=2**18,  # type: ignore[arg-type]
                           mlp_width=64, mlp_layers=3, channels=512)
    assert grid.table.numel() / 1e6 == pytest.approx(millions, abs=5e-4)


def test_hash_tables_have_a_power_of_two_of_entries(make_grid: MakeGrid) -> None:
    with pytest.raises(ValueError, match="60"):
        make_grid(index="hash", max_entries=60)


@pytest.mark.parametrize("key_length", [1, 2])
def test_groups_and_images_go_their_own_ways(make_grid: MakeGrid, draw_keys: DrawKeys, key_length: int) -> None:
    """A group's key moves only the group's channels, of its own image and position."""
    grid = make_grid(key_length=key_length)
    keys = draw_keys(grid)
    before = grid(keys)
    assert before.shape == (2, 6, 4, 4)
    keys[1, -1, 2, 3] = 1 - keys[1, -1, 2, 3]
    changed = (grid(keys) != before).nonzero().tolist()
    assert changed and all(place[0] == 1 and place[1] >= 3 and place[2:] == [2, 3] for place in changed)


def test_the_same_gradients_twice(make_grid: MakeGrid, draw_keys: DrawKeys) -> None:
    """Many keys share entries: sums in another order would differ in the last bits."""
    grid = make_grid(size=32, entry_channels=4).float()
    keys = draw_keys(grid, batch=8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = (features_and_gradients(grid.retrieve, grid, keys) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_retrieval_is_the_code_itself() -> None:
    code, retrieval = torch.randn(1, 4, 8, 8), NoRetrieval()
    assert retrieval(retrieval.tile(code)) is code and not list(retrieval.parameters())
