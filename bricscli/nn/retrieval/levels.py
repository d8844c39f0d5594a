"""Geometry of the feature grids: levels, nodes, their entries, where pixels lie (BRICS arXiv:2305.18601v3, App. A.1).

A query is q = [key; x; y] in [0, 1]^D, D = C_key + 2; at level l it lies at q r_l among nodes 0..r_l of every axis,
and is answered by the 2^D corners of its cell. n = ceil(r_l) + 1 nodes an axis, at most T entries a level.

modulo  entry (k + n x + n^2 y) mod T (Eq. 6). The key is the fastest axis: the nodes that a pixel can reach
        lie together, and what wraps around at T are the last rows of y, never the keys.
hash    entry (k XOR x p_1 XOR y p_2) mod T with large primes p (Teschner et al. 2003; App. K), as in Instant-NGP only
        at levels whose nodes exceed T: the others keep one entry a node, and the numbers of entries are the same.

Differs from the paper: q is scaled by ceil(r_l), not by r_l, so that [0, 1] spans the nodes exactly.
"""

import itertools
import math
import operator
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

Index = Literal["modulo", "hash"]
#: Of Instant-NGP (arXiv:2201.05989, Eq. 4) and, for a fourth axis, of its code; the first axis stays as it is.
PRIMES = (1, 2_654_435_761, 805_459_861, 3_674_653_429)


def level_resolutions(r_min: int, r_max: int, levels: int) -> list[int]:
    """ceil(r_l), r_l = r_min b^l, b = exp((ln r_max - ln r_min) / (L - 1)) (App. A.1).

    Rounded to 9 digits first: b^15 in floating point would make 64.00000001, hence 65, of the last level.
    """
    ratio = r_max / r_min
    return [math.ceil(round(r_min * ratio ** (level / max(levels - 1, 1)), 9)) for level in range(levels)]


def level_entries(resolution: int, dimensions: int, max_entries: int) -> int:
    """Entries that a level stores: its nodes, at most T, rounded up to a multiple of 8."""
    return math.ceil(min(max_entries, (resolution + 1) ** dimensions) / 8) * 8


def pixel_centres(size: int) -> Tensor:
    """(i - 0.5) / size for i = 1..size: `(size,)` in (0, 1), float64."""
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def tile(key_code: Tensor, size: int) -> Tensor:
    """Repeat every key in place: `(B, C_z, H_z, W_z) -> (B, C_z, size, size)`, the paper's interleaved tiling."""
    factor = size // key_code.shape[-1]
    return key_code.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def cell(coordinate: Tensor, resolution: int | Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in [0, 1] -> the node below, int64 in 0..r - 1, and the fraction of the cell, in [0, 1].

    Coordinates beyond [0, 1] are read at its ends; NaN keeps a valid node and a fraction of NaN.
    """
    position = coordinate.clamp(0, 1) * resolution
    top = resolution - 1
    node = position.long().clamp(min=0)
    node = node.minimum(top) if isinstance(top, Tensor) else node.clamp(max=top)
    return node, position - node


@dataclass(frozen=True)
class Level:
    """One level of every group: which entry holds which node.

    An entry is found from one term an axis, so that what x and y contribute can be computed once for all images.
    """

    resolution: int  #: ceil(r_l)
    dimensions: int  #: D
    max_entries: int  #: T
    index: Index

    @property
    def nodes(self) -> int:
        """(ceil(r_l) + 1)^D."""
        return (self.resolution + 1) ** self.dimensions

    @property
    def entries(self) -> int:
        """Entries stored."""
        return level_entries(self.resolution, self.dimensions, self.max_entries)

    @property
    def dense(self) -> bool:
        """Every node has an entry of its own."""
        return self.nodes <= self.max_entries

    @property
    def hashed(self) -> bool:
        """Entries are found by hashing."""
        return self.index == "hash" and not self.dense

    def term(self, node: Tensor, axis: int) -> Tensor:
        """What an axis' node contributes to the entry; axes are in the order of q."""
        return node * (PRIMES[axis] if self.hashed else (self.resolution + 1) ** axis)

    def join(self, *terms: Tensor) -> Tensor:
        """Contributions of several axes -> that of all of them."""
        return reduce(operator.xor if self.hashed else operator.add, terms)

    def entry(self, joined: Tensor) -> Tensor:
        """Contributions of all axes -> entry in 0..T - 1."""
        if self.dense:
            return joined
        power_of_two = self.max_entries & (self.max_entries - 1) == 0
        return joined & (self.max_entries - 1) if power_of_two else joined % self.max_entries

    def entry_of(self, node: Tensor) -> Tensor:
        """Nodes `(..., D)` int64 -> entries `(...)`."""
        return self.entry(self.join(*(self.term(node[..., axis], axis) for axis in range(self.dimensions))))

    def pixel_corners(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The 4 corners (x, y) of every pixel centre, which never change: what they contribute, and their weights.

        Both `(4, height * width)`; int64 and float64.
        """
        (x, right), (y, below) = (cell(pixel_centres(size), self.resolution) for size in (width, height))
        terms, weights = [], []
        for up, over in itertools.product((0, 1), repeat=2):
            column, row = self.term(x + over, self.dimensions - 2), self.term(y + up, self.dimensions - 1)
            terms.append(self.join(column[None, :], row[:, None]).flatten())
            weights.append(torch.outer(below if up else 1 - below, right if over else 1 - right).flatten())
        return torch.stack(terms), torch.stack(weights)
