"""The k nearest of a stream of images, exactly, by matrix products (BRICS arXiv:2305.18601v3, Figures 7, 19 and 21).

The queries' vectors stay in memory, the reference goes past once, chunk by chunk. A float32 product gives every
|q|^2 + |r|^2 - 2 q.r with an error that is bounded whatever the order in which it was summed: only pairs that can be
among the k nearest within that bound have |q - r|^2 computed from their difference, which alone is ranked and reported.
So nothing is approximate and no candidate has to be read again.

u = 2^-24; gamma(m) = m u / (1 - m u) bounds the relative error of a sum of m products (Higham 2002, section 3.1).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bricscli.errors import DataError
from bricscli.metrics.embeddings import Embedding

#: Products summed in float32 before float64 takes over: the error grows with it, and so does the speed.
PIECE = 2048
#: The same of squared lengths and differences; vectors are padded to a multiple of it.
BLOCK = 256
#: Numbers of differences in memory at a time.
_DIFFERENCES = 2**21


@dataclass
class Nearest:
    """The nearest so far of n queries, (n,k) each, by distance and then by number; inf and -1 where there are fewer."""

    distance: Tensor  #: float64
    index: Tensor  #: int64, the image's number in the reference
    mirrored: Tensor  #: bool, it is the image's mirror image that is as near as that

    @classmethod
    def empty(cls, count: int, k: int) -> "Nearest":
        return cls(torch.full((count, k), torch.inf, dtype=torch.float64),
                   torch.full((count, k), -1, dtype=torch.int64), torch.zeros((count, k), dtype=torch.bool))

    def rows(self, start: int, end: int) -> "Nearest":
        """Of some queries; the same memory."""
        return Nearest(self.distance[start:end], self.index[start:end], self.mirrored[start:end])

    def merge(self, other: "Nearest") -> None:
        """Adds what is nearest to the same queries among other images."""
        k = self.distance.shape[1]
        pairs = ((self.distance, other.distance), (self.index, other.index), (self.mirrored, other.mirrored))
        distance, index, mirrored = (torch.cat(both, 1) for both in pairs)
        chosen = index.argsort(1)  # by number, and then by distance, which leaves equals as they are
        chosen = chosen.gather(1, distance.gather(1, chosen).argsort(dim=1, stable=True))[:, :k]
        self.distance, self.index, self.mirrored = (x.gather(1, chosen) for x in (distance, index, mirrored))


class NeighbourSearch:
    """Brings `nearest` up to date with every chunk. `queries`: (n,D) as `embed` gives them."""

    def __init__(self, queries: Tensor, nearest: Nearest) -> None:
        self.queries, self.nearest = queries, nearest
        self.lengths = squared_lengths(queries)
        self.compared = 0  #: pairs whose difference was computed

    def update(self, chunk: Tensor, start: int, hidden: Tensor | None = None) -> None:
        """`chunk`: (c,o,D), images `start`, `start` + 1, ... in o orientations; `hidden`: bool (n,c), not to be found.

        Images come in the order of their numbers.
        """
        count, orientations, _ = chunk.shape
        flat = chunk.flatten(0, 1)
        low, high = self.bounds(flat)
        if hidden is not None:
            hidden = hidden.to(low.device).repeat_interleave(orientations, 1)
            low.masked_fill_(hidden, torch.inf)
            high.masked_fill_(hidden, torch.inf)
        k = self.nearest.distance.shape[1]
        known = self.nearest.distance.to(low.device)
        best = high.view(len(high), count, orientations).amin(2)
        enough = torch.cat([known, best], 1).kthvalue(k, 1).values[:, None]
        query, row = ((low <= enough) & low.isfinite()).nonzero(as_tuple=True)
        if len(query):
            changed, place = query.unique(return_inverse=True)
            found = low.new_full((len(changed), len(flat)), torch.inf)
            found[place, row] = squared_distances(self.queries, query, flat, row)
            self.compared += len(query)
            self._merge(changed.cpu(), found.view(len(changed), count, orientations).cpu(), start)

    def bounds(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(r,D) -> between which two numbers `squared_distances` lies, (n,r) float64 each."""
        product = _float64_product(self.queries, rows)
        own, other = self.lengths[:, None], squared_lengths(rows)[None]
        if not (own.isfinite().all() and other.isfinite().all()):
            raise DataError("neighbours: the network gives numbers that are not finite. Use other weights.")
        # Of the product; of both squared lengths and of the difference's own, which is at most 2 (|q|^2 + |r|^2).
        error = 2 * _gamma(PIECE) * (own * other).sqrt() + 3 * _gamma(BLOCK + 4) * (own + other) + 1e-30
        distance = own + other - 2 * product
        return distance - error, distance + error

    def _merge(self, queries: Tensor, found: Tensor, start: int) -> None:
        """`found`: (queries,c,o) distances, inf where there is none of interest."""
        distance, mirrored = found[..., 0], torch.zeros(found.shape[:2], dtype=torch.bool)
        if found.shape[2] == 2:
            mirrored = found[..., 1] < found[..., 0]
            distance = found.amin(2)
        numbers = torch.arange(start, start + distance.shape[1])
        index = torch.where(distance.isfinite(), numbers, -1)
        state, k = self.nearest, self.nearest.distance.shape[1]
        distance, order = torch.cat([state.distance[queries], distance], 1).sort(dim=1, stable=True)  # as it came
        order = order[:, :k]
        state.distance[queries] = distance[:, :k]
        state.index[queries] = torch.cat([state.index[queries], index], 1).gather(1, order)
        state.mirrored[queries] = torch.cat([state.mirrored[queries], mirrored], 1).gather(1, order)


def embed(images: Tensor, embedding: Embedding, mirror: bool = False) -> Tensor:
    """uint8 (B,3,H,W) -> (B,o,D): the images and, with `mirror`, their mirror images; D padded by 0 for `BLOCK`."""
    result: Tensor | None = None
    for orientation in range(2 if mirror else 1):
        start = 0
        for vectors in embedding.passes(images.flip(3) if orientation else images):
            count, dimension = vectors.shape
            if result is None:
                padded = dimension + -dimension % BLOCK
                result = vectors.new_empty((len(images), 2 if mirror else 1, padded))
                result[:, :, dimension:] = 0
            result[start : start + count, orientation, :dimension] = vectors
            start += count
    assert result is not None
    return result


def find_nearest(queries: Tensor, chunks: Iterable[Tensor], embedding: Embedding, k: int, mirror: bool = False
                 ) -> Nearest:
    """The k nearest to each of the uint8 (n,3,H,W) `queries` among the images of all `chunks`, (c,3,H,W) each."""
    search = NeighbourSearch(embed(queries, embedding)[:, 0], Nearest.empty(len(queries), k))
    start = 0
    for chunk in chunks:
        search.update(embed(chunk, embedding, mirror), start)
        start += len(chunk)
    return search.nearest


def squared_lengths(rows: Tensor) -> Tensor:
    """(r,D) -> (r,) float64."""
    return torch.cat([_sum_of_squares(part.square()) for part in rows.split(_rows_at_once(rows))])


def squared_distances(a: Tensor, a_rows: Tensor, b: Tensor, b_rows: Tensor) -> Tensor:
    """|a[i] - b[j]|^2 of the pairs (i,j) that the two lists of rows name, float64; a pair's result is its own."""
    at_once = _rows_at_once(a)
    parts = []
    for i, j in zip(a_rows.split(at_once), b_rows.split(at_once), strict=True):
        difference = a.index_select(0, i)
        difference -= b.index_select(0, j)
        parts.append(_sum_of_squares(difference.square_()))
    return torch.cat(parts)


def _sum_of_squares(squares: Tensor) -> Tensor:
    return squares.unflatten(1, (-1, BLOCK)).sum(2).double().sum(1)


def _rows_at_once(rows: Tensor) -> int:
    return max(2, _DIFFERENCES // rows.shape[1])


def _float64_product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T (n,r): float32 products of `PIECE` columns, their sums in float64."""
    total = torch.zeros((len(a), len(b)), dtype=torch.float64, device=a.device)
    with _full_float32():
        for start in range(0, a.shape[1], PIECE):
            total += a[:, start : start + PIECE] @ b[:, start : start + PIECE].T
    return total


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32 and no bfloat16 inside products, whatever was allowed before: the bound is float32's."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _gamma(terms: int) -> float:
    rounding = terms * 2.0**-24
    return rounding / (1 - rounding)
