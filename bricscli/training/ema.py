"""An exponential moving average of weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class EMA(Generic[M]):
    """Averaged copy of `module`; the decay warms up as min(decay, (1 + n) / (10 + n)) after n updates.

    Without the warm-up a short run would average over its random start.
    """

    def __init__(self, module: M, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module, updates: int) -> None:
        """Move towards `module`; `updates` counts the updates before this one. Buffers are copied."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        for mine, latest in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(latest)
