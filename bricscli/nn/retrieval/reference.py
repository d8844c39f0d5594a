"""Multilinear interpolation written as the paper writes it (Eq. 4, Eq. 6): what the fast paths are tested against."""

import itertools

import torch
from torch import Tensor

from bricscli.nn.retrieval.levels import Level, cell, pixel_centres


def query(keys: Tensor) -> Tensor:
    """q of Eq. 1, order [key, x, y]: keys `(C_key, N_h, B, H_d, W_d)` -> `(N_h, B * H_d * W_d, C_key + 2)`."""
    height, width = keys.shape[-2:]
    x = pixel_centres(width).to(keys).expand(keys.shape[1:])
    y = pixel_centres(height).to(keys)[:, None].expand(keys.shape[1:])
    return torch.stack([*keys, x, y], dim=-1).flatten(1, 3)


def interpolate(table: Tensor, query: Tensor, level: Level) -> Tensor:
    """The sum over 2^D corners: `table` `(E, C_v)`, `query` `(N, D)` in [0, 1] -> `(N, C_v)`."""
    node, fraction = cell(query, level.resolution)
    result = query.new_zeros(query.shape[0], table.shape[-1])
    for corner in itertools.product((0, 1), repeat=level.dimensions):
        offset = torch.tensor(corner, device=query.device)
        weight = torch.where(offset.bool(), fraction, 1 - fraction).prod(-1, keepdim=True)
        result = result + weight * table[level.entry_of(node + offset)]
    return result


def retrieve(table: Tensor, keys: Tensor, levels: list[Level]) -> Tensor:
    """As `portable.retrieve`, level by level and group by group; slow."""
    q = query(keys)
    tables = table.split([level.entries for level in levels], dim=1)
    return torch.cat([torch.stack([interpolate(group, points, level) for group, points in zip(part, q, strict=True)])
                      for part, level in zip(tables, levels, strict=True)], dim=-1)
