"""Inference's cache: the numbers of the training path, of the table as it is now, and never anybody else's."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.nn.retrieval.portable import retrieve

MakeGrid = Callable[..., FeatureGrid]
DrawKeys = Callable[..., Tensor]


@torch.no_grad()
def cached(grid: FeatureGrid, keys: Tensor) -> Tensor:
    features = grid.eval().retrieve(keys)
    assert grid._cache._hoisted is not None, "the cache was not used"
    return features


@torch.no_grad()
def uncached(grid: FeatureGrid, keys: Tensor) -> Tensor:
    return retrieve(grid.table, grid.keys(keys), grid.levels)


@pytest.mark.parametrize("entry_channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("index", "max_entries"), [("modulo", 4096), ("modulo", 64), ("modulo", 60), ("hash", 64)])
def test_numbers(make_grid: MakeGrid, draw_keys: DrawKeys, index: str, max_entries: int, entry_channels: int) -> None:
    grid = make_grid(index=index, max_entries=max_entries, entry_channels=entry_channels, r_max=7, groups=3)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        grid.to(dtype)
        keys = draw_keys(grid)
        keys.view(-1)[:4] = torch.tensor([0.0, 1.0, -0.5, 1.5])
        wanted = uncached(grid, keys)
        assert (cached(grid, keys) - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_half_precision_is_asked_for(make_grid: MakeGrid, draw_keys: DrawKeys) -> None:
    grid = make_grid(entry_channels=4).float()
    keys = draw_keys(grid)
    cached(grid, keys)
    grid.cache_dtype = torch.float16
    found, wanted = cached(grid, keys), uncached(grid, keys)
    assert found.dtype == torch.float32
    error = (found - wanted).abs().max()
    assert 0 < error <= 2e-3, "entries of N(0, 1): half of float16's last digit at 4"
    assert grid._cache._hoisted is not None and grid._cache._hoisted.dtype == torch.float16


def test_it_follows_the_table(make_grid: MakeGrid, draw_keys: DrawKeys) -> None:
    grid = make_grid()
    keys, other = draw_keys(grid), make_grid(levels=3)
    torch.nn.init.normal_(other.table)
    optimiser = torch.optim.Adam(grid.parameters(), lr=0.1)

    def step() -> None:
        grid.train()(keys).sum().backward()
        optimiser.step()

    changes: list[Callable[[], object]] = [
        step, lambda: grid.load_state_dict(other.state_dict()), lambda: torch.nn.init.normal_(grid.table), grid.float,
        lambda: torch._foreach_lerp_([grid.table], [torch.zeros_like(grid.table)], 0.5),
        lambda: setattr(grid, "table", torch.nn.Parameter(grid.table.detach() * 2))]
    before = cached(grid, keys)
    for change in changes:
        with torch.set_grad_enabled(change is step):
            change()
        after = cached(grid, keys.to(grid.table.dtype))
        torch.testing.assert_close(after, uncached(grid, keys), rtol=1e-5, atol=1e-6)
        assert change == grid.float or not torch.allclose(after.double(), before.double(), atol=1e-3)
        before = after


def test_it_is_kept_while_nothing_changes(make_grid: MakeGrid, draw_keys: DrawKeys) -> None:
    grid = make_grid()
    cached(grid, draw_keys(grid))
    kept = grid._cache._hoisted
    cached(grid, draw_keys(grid, batch=1))
    assert grid._cache._hoisted is kept
    grid.train()
    grid(draw_keys(grid))
    assert grid._cache._hoisted is None, "training has no use for its memory"


def test_gradients_do_without_it(make_grid: MakeGrid, draw_keys: DrawKeys) -> None:
    grid = make_grid().eval()
    grid(draw_keys(grid)).sum().backward()
    assert grid._cache._hoisted is None and grid.table.grad is not None


def test_inference_mode_and_two_keys(make_grid: MakeGrid, draw_keys: DrawKeys) -> None:
    with torch.inference_mode():
        born_there = make_grid().eval()  # its table has no version that could be watched
        keys = draw_keys(born_there)
        torch.testing.assert_close(born_there.retrieve(keys), uncached(born_there, keys))
    grid = make_grid()
    with torch.inference_mode():
        torch.testing.assert_close(cached(grid, keys), uncached(grid, keys))
    torch.testing.assert_close(cached(grid, draw_keys(grid)), uncached(grid, draw_keys(grid)))
    pairs = make_grid(key_length=2).eval()
    with torch.no_grad():
        torch.testing.assert_close(pairs.retrieve(draw_keys(pairs)), uncached(pairs, draw_keys(pairs)))


def test_it_is_nobody_elses(make_grid: MakeGrid, draw_keys: DrawKeys) -> None:
    """Not of the state, nor of a copy (an average of weights begins as one), nor of a pickle."""
    grid = make_grid()
    names = set(grid.state_dict())
    keys = draw_keys(grid)
    before = cached(grid, keys)
    assert set(grid.state_dict()) == names == {name for name, _ in grid.named_parameters()}
    for twin in (copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        assert twin._cache._hoisted is None
        torch.nn.init.zeros_(twin.table)
        assert not cached(twin, keys).any()
    assert torch.equal(cached(grid, keys), before)
