"""Retrieval at inference: the table of every level resampled once at the pixel centres, which never move.

What is left of a query is linear interpolation along the key: A[g, pixel, node, C_v] holds, for the K = sum of
(ceil(r_l) + 1) key nodes of all levels, the table interpolated over (x, y). Exact for any index function. At
church64x4 A is 146 MiB in float32, twice the table; two rows are read for a level instead of eight.
"""

from threading import Lock

import torch
from torch import Tensor

from bricscli.nn.retrieval.levels import Level, cell
from bricscli.nn.retrieval.portable import take


def resample(table: Tensor, levels: list[Level], size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A `(N_h, H_d * W_d, K, C_v)` of a table `(N_h, E, C_v)`; beside it, memory for one level of one group."""
    pixels = size[0] * size[1]
    widths = [level.resolution + 1 for level in levels]
    result = table.new_empty(table.shape[0], pixels, sum(widths), table.shape[2], dtype=dtype)
    for group, hoisted in zip(table, result, strict=True):
        parts = group.split([level.entries for level in levels])
        for level, part, out in zip(levels, parts, hoisted.split(widths, dim=1), strict=True):
            _resample_level(part, level, size, out)
    return result


def _resample_level(part: Tensor, level: Level, size: tuple[int, int], out: Tensor) -> None:
    """Entries `(E_l, C_v)` -> `(P, n, C_v)`, by corners (x, y)."""
    terms, weights = level.pixel_corners(*size)
    key = level.term(torch.arange(level.resolution + 1), axis=0)
    total = out.new_zeros(out.shape, dtype=part.dtype)
    for corner, weight in zip(terms, weights, strict=True):
        rows = level.entry(level.join(corner[:, None], key)).to(part.device)
        total.addcmul_(take(part, rows), weight.to(part)[:, None, None])
    out.copy_(total)


class RetrievalCache:
    """A and the state of the table that it was made from; no part of a module's state, and never copied with it.

    A change of the table is seen in torch's version counter, which every in-place change moves but one through
    `.data`: call `clear` after that.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # passes of several threads make A once
        self.clear()

    def __reduce__(self) -> tuple[type["RetrievalCache"], tuple[()]]:
        return RetrievalCache, ()  # copies of a module, by copy or pickle, start empty

    def clear(self) -> None:
        """Frees the memory."""
        self._made_from: tuple[object, ...] | None = None
        self._hoisted: Tensor | None = None

    def retrieve(self, table: Tensor, keys: Tensor, levels: list[Level], dtype: torch.dtype) -> Tensor:
        """As `portable.retrieve` without gradients, for keys `(N_h, B, H_d, W_d)`; A is kept in `dtype`."""
        size = (keys.shape[2], keys.shape[3])
        state = (table.data_ptr(), table._version, table.device, table.dtype, tuple(table.shape), size, dtype)
        with self._lock:
            hoisted = self._hoisted
            if state != self._made_from or hoisted is None:
                hoisted = None
                self.clear()  # before the new one is made: there is never room for two
                self._hoisted, self._made_from = hoisted, _ = resample(table.detach(), levels, size, dtype), state
        return _interpolate(hoisted, keys, [level.resolution for level in levels])


def _interpolate(hoisted: Tensor, keys: Tensor, resolutions: list[int]) -> Tensor:
    """Linear interpolation along the key, all levels at once: `(N_h, B * H_d * W_d, N_r * C_v)`.

    Group by group, so that the second of two neighbouring rows is still in the CPU's cache; the batch is the faster
    axis for the same reason.
    """
    pixels, nodes, channels = hoisted.shape[1:]
    groups, batch = keys.shape[:2]
    resolution = torch.tensor(resolutions, device=keys.device)
    start = (resolution + 1).cumsum(0) - resolution - 1  # of each level among the key nodes
    columns = torch.arange(pixels, device=keys.device)[:, None, None] * nodes + start
    result = keys.new_empty(groups, batch, pixels, len(resolutions), channels)
    for table, unit, out in zip(hoisted.flatten(1, 2), keys.flatten(2).transpose(1, 2), result, strict=True):
        node, fraction = cell(unit.unsqueeze(-1), resolution)  # (P, B, N_r)
        node += columns
        low, high = (take(table[up:], node).to(keys.dtype) for up in (0, 1))
        torch.lerp(low, high, fraction.unsqueeze(-1), out=out.transpose(0, 1))
    return result.flatten(3).flatten(1, 2)
