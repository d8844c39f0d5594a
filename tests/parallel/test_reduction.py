"""How gradients of shares become one: against sums that are written out here."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bricscli.parallel.reduction import Division, TreeSum, build_reduction, divide, tree_sum
from bricscli.parallel.world import ALONE, World

EXACT = World(exact=True)


def halves(terms: list[Tensor]) -> Tensor:
    """The tree, from above: the sum of the left half and that of the right."""
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return halves(terms[:middle]) + halves(terms[middle:])


def awkward(count: int) -> list[Tensor]:
    """Numbers of which no two orders of summing give the same."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(count, 1000, generator=generator) * 10 ** torch.randn(count, 1, generator=generator))


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_a_tree_is_halves_of_halves(count: int) -> None:
    terms = awkward(count)
    before = [term.clone() for term in terms]
    assert torch.equal(tree_sum(terms), halves(terms))
    assert all(map(torch.equal, terms, before))
    assert count < 4 or not torch.equal(tree_sum(terms), sum(terms[1:], terms[0]))


@pytest.mark.parametrize(("world", "batch_size", "accumulate", "wanted"), [
    (ALONE, 12, 1, Division(1, 1, 1)),
    (ALONE, 12, 4, Division(1, 1, 4)),
    (World(size=2), 12, 1, Division(2, 1, 1)),
    (World(size=2), 12, 4, Division(2, 1, 2)),
    (World(size=2), 12, 3, Division(2, 1, 2)),  # 6 rows are no 1.5 parts
    (World(size=4), 12, 2, Division(4, 1, 1)),
    (EXACT, 12, 1, Division(4, 4, 1)),
    (EXACT, 12, 12, Division(4, 4, 3)),
    (EXACT, 24, 12, Division(8, 8, 3)),
    (World(size=4, exact=True), 48, 1, Division(8, 2, 1)),
    (EXACT, 7, 7, Division(1, 1, 7)),
])
def test_how_a_batch_is_divided(world: World, batch_size: int, accumulate: int, wanted: Division) -> None:
    """Every part has the same number of rows, and not more than with `accumulate` parts on one process."""
    division = divide(world, batch_size, accumulate)
    assert division == wanted
    assert batch_size % (division.shares * division.parts) == 0
    assert division.shares * division.parts >= accumulate


def losses_of(model: nn.Module, rows: Tensor, division: Division) -> Iterator[Tensor]:
    for part in rows.chunk(division.count):
        yield model(part).square().mean() / division.parts


def small() -> nn.Module:
    """Of an odd number of parameters, so that no number of processes divides them, one of which never learns."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    return model


BATCH = torch.randn(16, 5, generator=torch.Generator().manual_seed(2))


def test_the_gradient_is_the_tree_of_those_of_the_shares() -> None:
    model, division = small(), divide(EXACT, 16, 16)
    assert division == Division(8, 8, 2)
    assert TreeSum(model, EXACT, division).backward(losses_of(model, BATCH, division))
    found = [p.grad for p in model.parameters()]
    shares = []
    for share in BATCH.chunk(8):
        model.zero_grad()
        for part in share.chunk(2):
            (model(part).square().mean() / 2).backward()
        shares.append([p.grad for p in model.parameters()])
    for ours, *theirs in zip(found, *shares, strict=True):
        if ours is None:
            assert theirs == [None] * 8
        else:
            assert torch.equal(ours, halves(theirs) / 8)


WORLD = r"""
import importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_reduction", job["file"])
test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test)
model, division = test.small(), reduction.divide(world, 16, job["accumulate"])
if not world.exact:
    del model.unused
rows = world.cut(test.BATCH).clone()
if job.get("bad") == world.rank:
    rows[0] = float("inf")
reduced = reduction.build_reduction(model, world, division)
for _ in range(2):
    model.zero_grad()
    result["finite"] = reduced.backward(test.losses_of(model, rows, division))
result["gradients"] = [None if p.grad is None else p.grad.flatten().tolist() for p in model.parameters()]
"""


def test_processes_make_the_same_tree(processes: Any) -> None:
    model, division = small(), divide(EXACT, 16, 1)
    TreeSum(model, EXACT, division).backward(losses_of(model, BATCH, division))
    wanted = [None if p.grad is None else p.grad.flatten().tolist() for p in model.parameters()]
    for size in (2, 4, 8):
        for result in processes.good(size, WORLD, file=__file__, accumulate=1, exact=True):
            assert result == {"finite": True, "gradients": wanted}


@pytest.mark.parametrize("accumulate", [1, 4])
def test_ddp_makes_the_mean(processes: Any, accumulate: int) -> None:
    model = small()
    model(BATCH).square().mean().backward()
    wanted = [p.grad for p in model.parameters() if p.grad is not None]
    for result in processes.good(2, WORLD, file=__file__, accumulate=accumulate):
        assert result["finite"]
        for ours, theirs in zip(result["gradients"], wanted, strict=True):
            torch.testing.assert_close(torch.tensor(ours), theirs.flatten())


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_not_finite_on_one_is_seen_on_all(processes: Any, exact: bool) -> None:
    results = processes.good(2, WORLD, file=__file__, accumulate=4, exact=exact, bad=1)
    assert [result["finite"] for result in results] == [False, False]


def test_one_process_in_fast_mode_needs_nothing() -> None:
    assert build_reduction(small(), ALONE, divide(ALONE, 16, 1)) is None
