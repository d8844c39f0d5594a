"""How two sets of features lie among each other, by balls that reach from each to its k-th neighbour in its own set.

precision  share of the fakes in the ball of any real      improved precision and recall, arXiv:1904.06991v3, k = 3
recall     share of the reals in the ball of any fake
density    how many reals' balls hold a fake, over k       density and coverage, arXiv:2002.09797v2, k = 5
coverage   share of the reals whose ball holds a fake

An image is not its own neighbour. Inside is strictly less than the radius, as in youngjung's and Naeem's programs
(torch-fidelity and ADM take less or equal, which tells where images are repeated).

The answers are those of float64, at the price of float32. Squared distances are |a|^2 + |b|^2 - 2 a·b by matrix
products in float32, never TF32, of features less a common centre. With u = 2^-24 their error is at most
q (|a|^2 + |b|^2), q = u (D + 16): u D from the product of D terms in any order, the rest from the centring, the norms
and the sums. So each is known to lie between a lower and an upper bound, and the few that the bounds leave open are
computed again, in float64, from the features as they came: sum of (a - b)^2.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bricscli.errors import DataError

#: Bytes of working memory, beside the features themselves and a few numbers for each of them; less than a few MB
#: are not honoured.
MEMORY = 256 * 2**20
#: Neighbours kept beyond the k-th, for when bounds overlap.
SPARE = 4
#: Bytes for each element of a block of distances: the bounds, what compares them, and room for sorting.
ELEMENT = 24

Features = Tensor | NDArray[np.floating]


def precision_recall(fake: Features, real: Features, k: int = 3, memory: int = MEMORY) -> tuple[float, float]:
    """Features (N,D) and (M,D); swapped arguments give swapped answers. Raises DataError for k rows or fewer."""
    found = Neighbourhoods(fake, real, (k,), memory)
    return found.precision(k), found.recall(k)


def density_coverage(fake: Features, real: Features, k: int = 5, memory: int = MEMORY) -> tuple[float, float]:
    """Features (N,D) and (M,D). Density can exceed 1. Raises DataError for k rows or fewer."""
    found = Neighbourhoods(fake, real, (k,), memory)
    return found.density(k), found.coverage(k)


def f1(precision: float, recall: float) -> float:
    """Their harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class Neighbourhoods:
    """All four for every k in `k`, from one pass over the pairs of both sets and half a pass over those of each.

    Tensors are computed on where they are; both on one device.
    """

    def __init__(self, fake: Features, real: Features, k: Sequence[int] = (3, 5), memory: int = MEMORY) -> None:
        fake, real = (torch.as_tensor(features).float() for features in (fake, real))
        if fake.ndim != 2 or real.ndim != 2 or fake.shape[1] != real.shape[1]:
            raise ValueError(f"features (N,D) and (M,D) expected, got {tuple(fake.shape)} and {tuple(real.shape)}")
        if (fewest := min(len(fake), len(real))) <= max(k):
            raise DataError(
                f"precision, recall, density, coverage: {max(k)} neighbours need at least {max(k) + 1} images on each"
                f" side, there are {fewest}. Use more images."
            )
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            self._compare(_Pairs(fake, real, memory), tuple(k))
        finally:
            torch.set_float32_matmul_precision(before)

    def _compare(self, pairs: "_Pairs", k: tuple[int, ...]) -> None:
        fake, real = pairs.sets
        self._balls_around = {n: fake.new_zeros(len(fake), dtype=torch.int64) for n in k}  # reals' balls, by fake
        self._covered = {n: real.new_zeros(len(real), dtype=torch.bool) for n in k}  # reals whose ball holds a fake
        self._reached = {n: real.new_zeros(len(real), dtype=torch.bool) for n in k}  # reals in the ball of a fake
        radii_fake, radii_real = pairs.radii(0, k), pairs.radii(1, k)
        for rows, columns, lower, upper in pairs.iter_blocks(0, 1):
            for n in k:
                inside = pairs.inside(rows, columns, lower, upper, radii_real[n][columns][None, :])
                self._balls_around[n][rows] += inside.sum(dim=1)
                self._covered[n][columns] |= inside.any(dim=0)
                inside = pairs.inside(rows, columns, lower, upper, radii_fake[n][rows][:, None])
                self._reached[n][columns] |= inside.any(dim=0)

    def precision(self, k: int) -> float:
        return float((self._balls_around[k] > 0).double().mean())

    def recall(self, k: int) -> float:
        return float(self._reached[k].double().mean())

    def density(self, k: int) -> float:
        return float(self._balls_around[k].double().mean()) / k

    def coverage(self, k: int) -> float:
        return float(self._covered[k].double().mean())


class _Pairs:
    """Squared distances within and between two sets, in blocks that fit into the memory, and exactly where asked."""

    def __init__(self, fake: Tensor, real: Tensor, memory: int) -> None:
        self.sets = (fake, real)
        dimension = fake.shape[1]
        self._slack = 2.0**-24 * (dimension + 16)
        #: Exact distances computed together: a float32 and a float64 for each number, a quarter of the memory.
        self._together = max(64, memory // 4 // (12 * dimension))
        #: side^2 · ELEMENT + 2 · side · dimension · 4 (both sides' rows, centred) = three quarters of the memory
        self._side = max(32, int((np.sqrt(dimension**2 * 16 + 3 * ELEMENT * memory) - 4 * dimension) / (2 * ELEMENT)))
        self._side = min(self._side, max(len(x) for x in self.sets))
        # Held, since a C library asked for aligned memory again and again may take new memory each time.
        self._left, self._right = (fake.new_empty(self._side, dimension) for _ in range(2))
        self._lower, self._upper = (fake.new_empty(self._side, self._side) for _ in range(2))
        self._rows = fake.new_empty(self._together, dimension)
        self._wide = self._rows.double()
        self._centre = sum((self._sum(x) / len(x) / 2 for x in self.sets), torch.zeros_like(self._wide[0])).float()
        self._norms = [self._squares(x) for x in self.sets]
        if not all(bool(norms.isfinite().all()) for norms in self._norms):
            raise ValueError("features hold values that are not finite")

    def _sum(self, x: Tensor) -> Tensor:
        """(D,) float64."""
        total = torch.zeros_like(self._wide[0])
        for part in x.split(self._together):
            total += self._wide[: len(part)].copy_(part).sum(dim=0)
        return total

    def _squares(self, x: Tensor) -> Tensor:
        """The squared distance of every row from the centre, (N,)."""
        norms = x.new_empty(len(x))
        for part, out in zip(x.split(self._together), norms.split(self._together), strict=True):
            difference = self._wide[: len(part)].copy_(part).sub_(self._centre)
            out.copy_(difference.square_().sum(dim=1))
        return norms

    def iter_blocks(self, a: int, b: int) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Rows of set `a`, rows of set `b`, lower and upper bounds of the squared distances between them.

        Of a set and itself only blocks on and above the diagonal. The next block overwrites the bounds.
        """
        for top in range(0, len(self.sets[a]), self._side):
            rows = slice(top, min(top + self._side, len(self.sets[a])))
            height = rows.stop - top
            left_rows = torch.sub(self.sets[a][rows], self._centre, out=self._left[:height])
            for left in range(top if a == b else 0, len(self.sets[b]), self._side):
                columns = slice(left, min(left + self._side, len(self.sets[b])))
                width = columns.stop - left
                right_rows = torch.sub(self.sets[b][columns], self._centre, out=self._right[:width])
                lower, upper = (block.flatten()[: height * width].view(height, width)
                                for block in (self._lower, self._upper))
                torch.add(self._norms[a][rows, None], self._norms[b][None, columns], out=upper)
                torch.mul(upper, 1 - self._slack, out=lower)
                lower.addmm_(left_rows, right_rows.T, alpha=-2)
                yield rows, columns, lower, upper.mul_(2 * self._slack).add_(lower)

    def inside(self, rows: slice, columns: slice, lower: Tensor, upper: Tensor, radii: Tensor) -> Tensor:
        """Whether each distance of a block between the two sets is less than a radius; `radii` squared, float64."""
        rounded = radii.float()
        highest = rounded.nextafter(rounded.new_tensor(torch.inf))
        lowest = rounded.nextafter(rounded.new_tensor(-torch.inf))
        sure = upper < lowest
        i, j = ((lower < highest) & ~sure & (radii > 0)).nonzero(as_tuple=True)
        if len(i):
            limits = radii.expand(sure.shape)[i, j]
            sure[i, j] = self._exact(0, i + rows.start, 1, j + columns.start) < limits
        return sure

    def _exact(self, a: int, i: Tensor, b: int, j: Tensor) -> Tensor:
        """Squared distances (P,) float64 between rows `i` of set `a` and rows `j` of set `b`."""
        distances = self._wide.new_empty(len(i))
        for some_i, some_j, out in zip(*(x.split(self._together) for x in (i, j, distances)), strict=True):
            rows, difference = self._rows[: len(out)], self._wide[: len(out)]
            difference.copy_(torch.index_select(self.sets[a], 0, some_i, out=rows))
            difference -= torch.index_select(self.sets[b], 0, some_j, out=rows)
            out.copy_(difference.square_().sum(dim=1))
        return distances

    def radii(self, a: int, k: tuple[int, ...]) -> dict[int, Tensor]:
        """Squared distances (N,) float64 of every row of set `a` to its k-th neighbour in it."""
        lower, nearest = self._nearest(a, min(max(k) + SPARE, len(self.sets[a]) - 1))
        norms = self._norms[a]
        upper = lower + 2 * self._slack * (norms[:, None] + norms[nearest])
        return {n: self._exact_radii(a, n, lower, upper, nearest) for n in k}

    def _nearest(self, a: int, count: int) -> tuple[Tensor, Tensor]:
        """The `count` least lower bounds of each row, and whose they are: (N, count) both, ascending."""
        size = len(self.sets[a])
        least = self._norms[a].new_full((size, count), torch.inf)
        whose = torch.zeros(size, count, dtype=torch.int64, device=least.device)

        def keep(rows: slice, first: int, block: Tensor) -> None:
            values, places = block.topk(min(count, block.shape[1]), dim=1, largest=False)
            values, places = torch.cat([least[rows], values], 1), torch.cat([whose[rows], places + first], 1)
            least[rows], chosen = values.topk(count, dim=1, largest=False)
            whose[rows] = places.gather(1, chosen)

        for rows, columns, lower, _ in self.iter_blocks(a, a):
            if rows == columns:
                lower.fill_diagonal_(torch.inf)
            else:
                keep(columns, rows.start, lower.T)
            keep(rows, columns.start, lower)
        return least, whose

    def _exact_radii(self, a: int, k: int, lower: Tensor, upper: Tensor, nearest: Tensor) -> Tensor:
        """The k-th distance lies between the k-th bounds; only neighbours whose bounds reach in there are computed."""
        low = lower.kthvalue(k, dim=1, keepdim=True).values
        high = upper.kthvalue(k, dim=1, keepdim=True).values
        nearer = upper < low
        i, column = (~nearer & (lower <= high)).nonzero(as_tuple=True)
        distances = torch.full(lower.shape, torch.inf, dtype=torch.float64, device=lower.device)
        distances[nearer] = -1.0
        distances[i, column] = self._exact(a, i, a, nearest[i, column])
        radii = distances.kthvalue(k, dim=1).values
        if lower.shape[1] < len(self.sets[a]) - 1:
            # Those who were not kept are no nearer than the last lower bound that was.
            for row in ((radii > lower[:, -1]) & (radii > 0)).nonzero().flatten().tolist():
                radii[row] = self._exact_radius(a, k, row)
        return radii

    def _exact_radius(self, a: int, k: int, row: int) -> float:
        others = torch.arange(len(self.sets[a]), device=self._centre.device)
        distances = self._exact(a, torch.full_like(others, row), a, others)
        distances[row] = torch.inf
        return float(distances.kthvalue(k).values)
