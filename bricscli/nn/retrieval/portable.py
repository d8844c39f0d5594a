"""Retrieval on any device: one autograd function that knows that the pixels never move.

Per level, a query's 2^D corners are 4 corners (x, y), whose entries and weights are constants, times 2^C_key corners
of the key. Forward gathers rows of C_v numbers as one element; backward adds them up channel by channel. Nothing of
the size of the corners is kept: saved are the keys, and the slope along each key axis, each as large as the result.

Deterministic on the CPU, where `scatter_add_` of a vector is one loop in order; on CUDA wherever
`torch.use_deterministic_algorithms` is on, which makes the same call sort first.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bricscli.nn.retrieval.levels import Level, cell

#: One element of as many bytes: several times faster to gather than a row of small numbers.
PACKED = {4: torch.int32, 8: torch.int64, 16: torch.complex128}


def retrieve(table: Tensor, keys: Tensor, levels: list[Level]) -> Tensor:
    """Interpolated entries of all levels, side by side, differentiable once.

    `table` `(N_h, E, C_v)` holds the levels along E; `keys` `(C_key, N_h, B, H_d, W_d)` in [0, 1], of the table's
    dtype; returns `(N_h, B * H_d * W_d, N_r * C_v)`.
    """
    return _Retrieve.apply(table, keys, levels)


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `(E, C_v)` at `(...)` int64 -> `(..., C_v)`; not differentiable."""
    element = PACKED.get(rows.shape[1] * rows.element_size())
    if element is None:
        return F.embedding(index, rows)
    return rows.view(element).view(-1).gather(0, index.flatten()).view(*index.shape, 1).view(rows.dtype)


class Corners:
    """One level's corners for keys `(C_key, N_h, P, B)`: rows of a table, and their weights.

    The batch is the fastest axis: its images share a pixel's columns of the table, which then stay in the CPU's cache.
    Weights are repeated beforehand: broadcasting along axes as short as B and C_v costs more than the sum.

    `hoist`: where a pixel's columns have fewer nodes than the batch would read of them, they are first interpolated
    over (x, y) as a whole (`columns`), and what is read are rows `(N_h P N, C_v)` of those, N nodes a pixel. Otherwise
    they are rows of the table `(N_h E, C_v)` itself.
    """

    def __init__(self, level: Level, keys: Tensor, size: tuple[int, int], start: Tensor, channels: int,
                 hoist: bool) -> None:
        axes, groups, pixels, batch = keys.shape
        self.level, self.start = level, start  # start: first row of the level, for every group
        self.n = level.resolution + 1
        terms, weights = level.pixel_corners(*size)
        self.pixel_terms = terms.to(keys.device).unsqueeze(-1)  # (4, P, 1)
        self.hoisted = hoist and self.n**axes < batch * 2**axes
        columns = self.n**axes if self.hoisted else batch
        self.pixel_weights = weights.to(keys)[..., None, None].repeat(1, 1, columns, channels)  # (4, P, N or B, C_v)
        self.nodes, fractions = cell(keys, level.resolution)
        self.fractions = fractions[..., None].repeat(1, 1, 1, 1, channels)  # (C_key, N_h, P, B, C_v)
        self.first_node = (torch.arange(groups * pixels, device=keys.device) * self.n**axes).view(groups, pixels, 1)

    def __iter__(self) -> Iterator[Iterator[tuple[Tensor, Tensor | None]]]:
        """For each corner of the key, its last axis fastest, the rows to add up, with weights (None: 1)."""
        for corner in itertools.product((0, 1), repeat=len(self.nodes)):
            nodes = [node + up for node, up in zip(self.nodes, corner, strict=True)]
            yield iter([(self._in_columns(nodes), None)]) if self.hoisted else self._around_pixels(nodes)

    def columns(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows `(N_h, P, N)` and weights `(P, N, C_v)` of the four corners (x, y), for every node of the key."""
        number = torch.arange(self.n ** len(self.nodes), device=self.start.device)
        return self._around_pixels([number // self.n**axis % self.n for axis in range(len(self.nodes))])

    def _around_pixels(self, nodes: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        terms = [self.level.term(node, axis) for axis, node in enumerate(nodes)]
        for pixel_term, weights in zip(self.pixel_terms, self.pixel_weights, strict=True):
            yield self.level.entry(self.level.join(*terms, pixel_term)) + self.start, weights

    def _in_columns(self, nodes: list[Tensor]) -> Tensor:
        index = self.first_node
        for axis, node in enumerate(nodes):
            index = index + node * self.n**axis
        return index


def iter_corners(shape: tuple[int, ...], keys: Tensor, levels: list[Level], *, hoist: bool) -> Iterator[Corners]:
    """Each level's corners in a table of `shape` (N_h, E, C_v), for keys `(C_key, N_h, B, H_d, W_d)`."""
    groups, entries, channels = shape
    start = (torch.arange(groups, device=keys.device) * entries).view(-1, 1, 1)
    batch_last = keys.flatten(-2).transpose(2, 3).contiguous()
    for level in levels:
        yield Corners(level, batch_last, (keys.shape[3], keys.shape[4]), start, channels, hoist)
        start = start + level.entries


def _sum_rows(rows: Tensor, around: Iterator[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Weighted sum of rows `(..., C_v)`."""
    total = None
    for index, weights in around:
        row = take(rows, index)
        if total is None:
            total = row if weights is None else row * weights
        else:
            total = total + row if weights is None else total.addcmul_(row, weights)
    assert total is not None
    return total


def _add_to_rows(rows: Tensor, around: Iterator[tuple[Tensor, Tensor | None]], gradient: Tensor) -> None:
    """The transpose of `_sum_rows`."""
    for index, weights in around:
        added = (gradient if weights is None else gradient * weights).flatten(0, -2)
        for channel, values in zip(rows.unbind(1), added.unbind(1), strict=True):
            channel.scatter_add_(0, index.flatten(), values)


def _blend(values: Tensor, fractions: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Values `(2, ..., 2, N_h, P, B, C_v)` at the corners of the key -> at the key, and the slopes along its axes."""
    slopes: list[Tensor] = []
    for fraction in fractions:
        slopes = [torch.lerp(slope[0], slope[1], fraction) for slope in slopes]
        low, high = values
        slopes.append(high - low)
        values = torch.lerp(low, high, fraction)
    return values, slopes


def _spread(gradient: Tensor, fractions: Tensor) -> list[Tensor]:
    """The transpose of `_blend`: the gradient at the key -> at its corners, in the order of `Corners`."""
    parts = [gradient]
    for fraction in fractions:
        parts = [end for part in parts for end in (part * (1 - fraction), part * fraction)]
    return parts


def _add_corners(rows: Tensor, corners: Corners, gradient: Tensor) -> None:
    """Add a level's share of the gradient `(N_h, P, B, C_v)` to the rows `(N_h E, C_v)` that it was read from."""
    parts = _spread(gradient, corners.fractions)
    if not corners.hoisted:
        for part, around in zip(parts, corners, strict=True):
            _add_to_rows(rows, around, part)
        return
    shape = (*gradient.shape[:2], corners.n ** len(corners.nodes), rows.shape[1])
    columns = rows.new_zeros(shape)
    for part, around in zip(parts, corners, strict=True):
        _add_to_rows(columns.flatten(0, 2), around, part)
    _add_to_rows(rows, corners.columns(), columns)


class _Retrieve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, keys: Tensor, levels: list[Level]) -> Tensor:
        axes, groups, batch, height, width = keys.shape
        rows, shape = table.flatten(0, 1), (groups, height * width, batch, table.shape[-1])
        features = table.new_empty(groups, batch, height * width, len(levels), table.shape[-1])
        slopes: list[Tensor] = []
        every_level = iter_corners(table.shape, keys, levels, hoist=True)
        for corners, out in zip(every_level, features.unbind(3), strict=True):
            source = _sum_rows(rows, corners.columns()).flatten(0, 2) if corners.hoisted else rows
            values = torch.stack([_sum_rows(source, around) for around in corners])
            feature, slope = _blend(values.view(*[2] * axes, *shape), corners.fractions)
            out.copy_(feature.transpose(1, 2))
            slopes += slope
        ctx.save_for_backward(keys, *slopes)
        ctx.shape, ctx.levels = table.shape, levels
        return features.flatten(3).flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        keys, *slopes = ctx.saved_tensors
        axes, groups, batch, height, width = keys.shape
        gradients = gradient.view(groups, batch, height * width, len(ctx.levels), -1).transpose(1, 2).unbind(3)
        of_table = keys.new_zeros(ctx.shape) if ctx.needs_input_grad[0] else None
        of_keys = torch.zeros_like(keys)
        for number, corners in enumerate(iter_corners(ctx.shape, keys, ctx.levels, hoist=True)):
            here = gradients[number].contiguous()
            for of_key, slope in zip(of_keys, slopes[number * axes : (number + 1) * axes], strict=True):
                of_key += (here * slope).sum(-1).transpose(1, 2).view_as(of_key) * corners.level.resolution
            if of_table is not None:
                _add_corners(of_table.flatten(0, 1), corners, here)
        inside = (keys >= 0) & (keys <= 1)  # `cell` clamps
        return of_table, of_keys * inside, None
