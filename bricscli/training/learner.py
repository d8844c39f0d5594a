"""What one player of a training owns: a model, its optimiser, its averaged weights; and the numbers for the log."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from bricscli.parallel.reduction import Reduction
from bricscli.parallel.sharding import for_saving, laid_out, shard, whole
from bricscli.parallel.world import ALONE, World
from bricscli.training.ema import EMA
from bricscli.training.optimiser import load_optimiser_tensors, optimiser_tensors, set_learning_rate

M = TypeVar("M", bound=nn.Module)


class NonFiniteError(Exception):
    """A loss or a gradient, which the message names, is NaN or infinite; raised before a step is taken."""


def require_finite(name: str, value: Tensor) -> float:
    """The value as a number. Raises NonFiniteError."""
    number = float(value.detach())
    if not math.isfinite(number):
        raise NonFiniteError(name)
    return number


class Means:
    """Means of named numbers over the parts of a batch; a GPU is only waited for when they are asked for.

    Parts are added in the order of the batch, on every process those that it has, with the same names.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, **numbers: Tensor | float) -> None:
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(torch.as_tensor(value).detach())

    def means(self, world: World = ALONE) -> dict[str, float]:
        """Over all parts of all processes, in the order of the batch."""
        here = torch.stack([torch.stack([value.to(world.device, torch.float64) for value in values])
                            for values in self.values.values()])
        parts = world.gather(here).transpose(0, 1).flatten(1).tolist()
        return {name: sum(values) / len(values) for name, values in zip(self.values, parts, strict=True)}


class Learner(Generic[M]):
    """A model with its optimiser and its averaged weights: what is trained, saved and loaded together.

    `ema` are the decays of the averages; 0 is none. `reduction` is None where this process alone has all of a batch.
    """

    def __init__(self, model: M, optimiser: torch.optim.Optimizer, ema: Sequence[float], largest_norm: float,
                 reduction: Reduction | None = None) -> None:
        self.model, self.optimiser, self.largest_norm, self.reduction = model, optimiser, largest_norm, reduction
        self.emas = [EMA(model, decay) for decay in ema if decay]

    @property
    def averaged(self) -> M:
        """The weights that everything after training uses: the first average."""
        return self.emas[0].module if self.emas else self.model

    def more_averages(self) -> dict[float, dict[str, Tensor]]:
        """The weights of the other averages, by decay."""
        return {ema.decay: whole_state(ema.module) for ema in self.emas[1:]}

    def differentiate(self, name: str, losses: Iterable[Tensor]) -> float:
        """Gradients of the sum of `losses`, clipped; returns their norm before that. Raises NonFiniteError.

        Each loss is differentiated before the next is asked for, so only one graph is alive at a time. On several
        processes the gradients are those of the whole batch, and all raise what one does.
        """
        self.optimiser.zero_grad()
        if self.reduction is None:
            for loss in losses:
                require_finite(name, loss)
                loss.backward()
        elif not self.reduction.backward(iter(losses)):
            raise NonFiniteError(name)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.largest_norm or math.inf)
        return require_finite(f"gradient of the {name}", whole(norm))

    def update(self, step: int, rate: float) -> None:
        """Moves the weights along the gradients, and the averages after them."""
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        for ema in self.emas:
            ema.update(self.model, step)

    def shard(self, parts: type[nn.Module], world: World) -> None:
        """Divides model and averages among the processes, before anything was learned: each module of that class."""
        for module in (self.model, *(ema.module for ema in self.emas)):
            shard(module, [part for part in module.modules() if isinstance(part, parts)], world)
        (group,) = self.optimiser.param_groups
        group["params"] = list(self.model.parameters())

    def weights(self) -> dict[str, Tensor]:
        """Of `averaged`, whole; where they are sharded, all processes have to ask."""
        return whole_state(self.averaged)

    def training_state(self, prefix: str) -> dict[str, Tensor]:
        """All that the averages lack for going on."""
        model = {f"{prefix}.model.{name}": tensor for name, tensor in whole_state(self.model).items()}
        return (model if self.emas else {}) | optimiser_tensors(self.optimiser, self.model, f"{prefix}.optimiser")

    def load(self, prefix: str, weights: dict[str, Tensor], training: dict[str, Tensor],
             averages: Mapping[float, dict[str, Tensor]] = {}) -> None:
        """From `weights`, `training_state`, `more_averages`. Raises RuntimeError where they do not fit."""
        load_whole(self.averaged, weights)
        for ema in self.emas[1:]:
            load_whole(ema.module, averages.get(ema.decay, {}))
        if self.emas:
            load_whole(self.model, under(training, f"{prefix}.model."))
        load_optimiser_tensors(self.optimiser, self.model, f"{prefix}.optimiser", training)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """A state dict without divided tensors, in the first process; in the others of divided ones the names alone."""
    return {name: for_saving(tensor) for name, tensor in module.state_dict().items()}


def load_whole(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `whole_state`. Raises RuntimeError where they do not fit."""
    own = module.state_dict()
    module.load_state_dict({name: laid_out(tensor, own[name]) if name in own else tensor
                            for name, tensor in tensors.items()})


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
