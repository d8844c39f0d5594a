"""What one player of a training owns: a model, its optimiser, its averaged weights; and the numbers for the log."""

import math
from collections.abc import Iterable
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
    """A model with its optimiser and its averaged weights: what is trained, saved and loaded together."""

    def __init__(self, model: M, optimiser: torch.optim.Optimizer, ema: float, largest_norm: float) -> None:
        self.model, self.optimiser, self.largest_norm = model, optimiser, largest_norm
        self.ema = EMA(model, ema) if ema else None

    @property
    def averaged(self) -> M:
        """The weights that everything after training uses."""
        return self.ema.module if self.ema else self.model

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
        if self.ema:
            self.ema.update(self.model, step)

    def training_state(self, prefix: str) -> dict[str, Tensor]:
        """All that `averaged` lacks for going on."""
        model = {f"{prefix}.model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return (model if self.ema else {}) | optimiser_tensors(self.optimiser, self.model, f"{prefix}.optimiser")

    def load(self, prefix: str, weights: dict[str, Tensor], training: dict[str, Tensor]) -> None:
        """From `averaged.state_dict` and `training_state`. Raises RuntimeError where names or shapes differ."""
        self.averaged.load_state_dict(weights)
        if self.ema:
            self.model.load_state_dict(under(training, f"{prefix}.model."))
        load_optimiser_tensors(self.optimiser, self.model, f"{prefix}.optimiser", training)


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
