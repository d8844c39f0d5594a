"""Random numbers of training that a row of a batch gets, however the batch is divided."""

import torch
from torch import Tensor


class Noise:
    """What a generator draws for a whole batch, on the CPU, cut to the rows of one part of it.

    Alone, it is drawn for what it is asked about. `part` makes those of a batch of `batch_size`: each asks for the same
    shapes in the same order, and the first that asks draws for all of them.
    """

    def __init__(self, generator: torch.Generator, batch_size: int | None = None) -> None:
        self._generator, self._batch_size, self._first = generator, batch_size, 0
        self._drawn: list[Tensor] = []
        self._asked = 0

    def part(self, first: int) -> "Noise":
        """Of the rows that begin with row `first`."""
        part = Noise(self._generator, self._batch_size)
        part._first, part._drawn = first, self._drawn
        return part

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, shaped like `(B, ...)`, on its device, in its precision."""
        if self._asked == len(self._drawn):
            shape = (self._batch_size or len(like), *like.shape[1:])
            self._drawn.append(torch.randn(shape, generator=self._generator))
        drawn = self._drawn[self._asked]
        self._asked += 1
        return drawn[self._first:self._first + len(like)].to(like)

    def seed(self) -> int:
        """For another generator; only where a batch is not divided."""
        return int(torch.randint(2**62, (), generator=self._generator))
