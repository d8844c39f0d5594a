"""What one player of a training owns: a model, its optimiser, its averaged weights; and the numbers for the log."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

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
    """Means of named numbers over the parts of a batch; a GPU is only waited for when they are asked for."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, **numbers: Tensor | float) -> None:
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(torch.as_tensor(value).detach())

    def means(self) -> dict[str, float]:
        return {name: sum(map(float, values)) / len(values) for name, values in self.values.items()}


class Learner(Generic[M]):
    """A model with its optimiser and its averaged weights: what is trained, saved and loaded together.

    `ema` are the decays of the averages; 0 is none.
    """

    def __init__(self, model: M, optimiser: torch.optim.Optimizer, ema: Sequence[float], largest_norm: float) -> None:
        self.model, self.optimiser, self.largest_norm = model, optimiser, largest_norm
        self.emas = [EMA(model, decay) for decay in ema if decay]

    @property
    def averaged(self) -> M:
        """The weights that everything after training uses: the first average."""
        return self.emas[0].module if self.emas else self.model

    def more_averages(self) -> dict[float, dict[str, Tensor]]:
        """The weights of the other averages, by decay."""
        return {ema.decay: dict(ema.module.state_dict()) for ema in self.emas[1:]}

    def differentiate(self, name: str, losses: Iterable[Tensor]) -> float:
        """Gradients of the sum of `losses`, clipped; returns their norm before that. Raises NonFiniteError.

        Each loss is differentiated before the next is asked for, so only one graph is alive at a time.
        """
        self.optimiser.zero_grad()
        for loss in losses:
            require_finite(name, loss)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.largest_norm or math.inf)
        return require_finite(f"gradient of the {name}", norm)

    def update(self, step: int, rate: float) -> None:
        """Moves the weights along the gradients, and the averages after them."""
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        for ema in self.emas:
            ema.update(self.model, step)

    def training_state(self, prefix: str) -> dict[str, Tensor]:
        """All that the averages lack for going on."""
        model = {f"{prefix}.model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return (model if self.emas else {}) | optimiser_tensors(self.optimiser, self.model, f"{prefix}.optimiser")

    def load(self, prefix: str, weights: dict[str, Tensor], training: dict[str, Tensor],
             averages: Mapping[float, dict[str, Tensor]] = {}) -> None:
        """From `averaged.state_dict`, `training_state`, `more_averages`. Raises RuntimeError where they do not fit."""
        self.averaged.load_state_dict(weights)
        for ema in self.emas[1:]:
            ema.module.load_state_dict(averages.get(ema.decay, {}))
        if self.emas:
            self.model.load_state_dict(under(training, f"{prefix}.model."))
        load_optimiser_tensors(self.optimiser, self.model, f"{prefix}.optimiser", training)


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
