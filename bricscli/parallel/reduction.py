"""How the gradient of a batch is made of those of its shares, on one process or several.

A batch is cut into equal shares, one after another; each is computed in parts, to save memory; the gradient is the mean
over the shares.

    fast    every process has one share, and DistributedDataParallel averages them
    exact   there are V = 8 shares (`world.virtual_ranks`), whatever the number of processes, and their gradients are
            summed in one binary tree: ((1 + 2) + (3 + 4)) + ((5 + 6) + (7 + 8)). So 1, 2, 4 and 8 processes make the
            same bits, as long as each computes a share in the same way (one thread of a CPU).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bricscli.parallel.world import World, virtual_ranks


@dataclass(frozen=True)
class Division:
    """`shares` of a batch, of which this process computes `here`, each in `parts`."""

    shares: int
    here: int
    parts: int

    @property
    def count(self) -> int:
        """How many parts this process computes."""
        return self.here * self.parts


def divide(world: World, batch_size: int, accumulate: int) -> Division:
    """How a batch is divided that one process would compute in `accumulate` parts: in as many or, at need, more."""
    shares = virtual_ranks(batch_size) if world.exact else world.size
    rows = batch_size // shares
    parts = next(count for count in range(1, rows + 1) if count * shares >= accumulate and rows % count == 0)
    return Division(shares, shares // world.size, parts)


class Reduction(Protocol):
    """Gives the parameters of a model the gradient of the whole batch."""

    def backward(self, losses: Iterator[Tensor]) -> bool:
        """`losses`, of this process's parts, are divided by the number of parts of a share; each is asked for when the
        one before has been differentiated. Returns whether all losses, everywhere, were finite.

        Nothing is raised for one that is not, since the other processes would wait.
        """
        ...


def build_reduction(model: nn.Module, world: World, division: Division) -> Reduction | None:
    """None: a single process, whose backward pass is all that there is to do."""
    if world.exact:
        return TreeSum(model, world, division)
    if world.sharded:
        return Sharded(model, world, division)
    return None if world.alone else Averaged(model, world, division)


class _Computed(nn.Module):
    """What DistributedDataParallel takes for the model: what of it learns, and a forward pass that computes whatever
    it is given. Buffers are everybody's own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.learning = nn.ParameterList(p for p in model.parameters() if p.requires_grad)

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()


class Averaged:
    """By DistributedDataParallel, which exchanges while the last part is differentiated.

    A loss is computed inside of its forward pass, whatever it makes of the model: passes, penalties, gradients.
    """

    def __init__(self, model: nn.Module, world: World, division: Division) -> None:
        self.model, self.world, self.division = model, world, division

    @cached_property
    def engine(self) -> DistributedDataParallel:
        """Made when it is first needed, since it looks at which parameters learn and how they lie in memory."""
        return DistributedDataParallel(_Computed(self.model))

    def backward(self, losses: Iterator[Tensor]) -> bool:
        bad = _Bad()
        for part in range(1, self.division.count + 1):
            with nullcontext() if part == self.division.count else self.engine.no_sync():
                loss = self.engine(lambda: next(losses))
                bad.see(loss)
                loss.backward()
        return not self.world.any(bad.found)[0]


class Sharded:
    """By the hooks that `sharding.shard` puts on a model."""

    def __init__(self, model: nn.Module, world: World, division: Division) -> None:
        self.model: Any = model
        self.world, self.division = world, division

    def backward(self, losses: Iterator[Tensor]) -> bool:
        bad = _Bad()
        for part in range(1, self.division.count + 1):
            self.model.set_requires_gradient_sync(part == self.division.count)
            loss = next(losses)
            bad.see(loss)
            loss.backward()
        return not self.world.any(bad.found)[0]


class TreeSum:
    """By one binary tree over the shares, as a tree of processes whose leaves are trees in each of them."""

    def __init__(self, model: nn.Module, world: World, division: Division) -> None:
        self.model, self.world, self.division = model, world, division

    def backward(self, losses: Iterator[Tensor]) -> bool:
        bad, sums = _Bad(), list[tuple[int, Tensor]]()
        for _ in range(self.division.here):
            self.model.zero_grad()
            for _ in range(self.division.parts):
                loss = next(losses)
                bad.see(loss)
                loss.backward()
            learning = [p for p in self.model.parameters() if p.grad is not None]
            _add(sums, torch.cat([_gradient(p).flatten() for p in learning]))
        ((_, total),) = sums
        mean = self._across(total) / self.division.shares
        for parameter, gradient in zip(learning, mean.split([p.numel() for p in learning]), strict=True):
            parameter.grad = gradient.view_as(parameter)
        return not self.world.any(bad.found)[0]

    def _across(self, total: Tensor) -> Tensor:
        """The sum over the processes: each makes a piece of it, so that no more is sent than a ring would send."""
        if self.world.alone:
            return total
        padded = F.pad(total, (0, -len(total) % self.world.size))
        pieces = torch.empty_like(padded)
        dist.all_to_all_single(pieces, padded)
        return self.world.gather(tree_sum(pieces.chunk(self.world.size))).flatten()[:len(total)]


def tree_sum(terms: Sequence[Tensor]) -> Tensor:
    """The sum of a power of two of tensors: neighbours first, then neighbouring sums."""
    sums: list[tuple[int, Tensor]] = []
    for term in terms:
        _add(sums, term)
    ((_, total),) = sums
    return total


def _add(sums: list[tuple[int, Tensor]], term: Tensor) -> None:
    """One more term of a binary tree: `sums` are those of 2^level terms each, of falling level, as in a counter."""
    level = 0
    while sums and sums[-1][0] == level:
        term = sums.pop()[1] + term
        level += 1
    sums.append((level, term))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class _Bad:
    """Whether a loss was not finite; a GPU is only waited for when that is asked."""

    def __init__(self) -> None:
        self._seen: list[Tensor] = []

    def see(self, loss: Tensor) -> None:
        self._seen.append(loss.detach().isfinite())

    @property
    def found(self) -> bool:
        return not bool(torch.stack(self._seen).all())
