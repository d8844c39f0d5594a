"""Key code -> feature block: groups of multi-resolution feature grids (BRICS arXiv:2305.18601v3, section 3.2, Fig. 8).

Symbols: N_h groups, N_r levels of resolution r_l, entries of C_v floats, at most T of them per level; a key unit has
C_key values; the feature block has C_d channels at H_d x W_d. A query is q = [key; x; y] in [0, 1]^(C_key + 2).

Per level the grid has (ceil(r_l) + 1)^(C_key + 2) nodes; node (k, x, y) is entry
(k + n x + n^2 y) mod T with n = ceil(r_l) + 1 (Eq. 6): the key is the fastest axis, so that the columns that one
pixel can reach lie together, and what wraps around at T are the last rows of y, never the keys.

Differs from the paper: q is scaled by ceil(r_l), not by r_l, so that [0, 1] spans the nodes exactly.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def level_resolutions(r_min: int, r_max: int, levels: int) -> list[int]:
    """ceil(r_l), r_l = r_min b^l, b = exp((ln r_max - ln r_min) / (L - 1)) (App. A.1).

    Rounded to 9 digits first: b^15 in floating point would make 64.00000001, hence 65, of the last level.
    """
    ratio = r_max / r_min
    return [math.ceil(round(r_min * ratio ** (level / max(levels - 1, 1)), 9)) for level in range(levels)]


def level_entries(resolution: int, dimensions: int, max_entries: int) -> int:
    """Entries that a level stores: its nodes, at most T, rounded up to a multiple of 8."""
    return math.ceil(min(max_entries, (resolution + 1) ** dimensions) / 8) * 8


def tile(key_code: Tensor, size: int) -> Tensor:
    """Repeat every key in place: `(B, C_z, H_z, W_z) -> (B, C_z, size, size)`, the paper's interleaved tiling."""
    factor = size // key_code.shape[-1]
    return key_code.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def pixel_centres(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(i - 0.5) / size for i = 1..size: `(size,)` in (0, 1)."""
    return (torch.arange(size, device=device, dtype=dtype) + 0.5) / size


def interpolate_reference(table: Tensor, query: Tensor, resolution: int, max_entries: int) -> Tensor:
    """Multilinear interpolation written as the paper writes it (Eq. 4): the sum over 2^D corners.

    `table` `(E, C_v)`; `query` `(N, D)` in [0, 1]; returns `(N, C_v)`. Slow: the fast path is tested against it, and it
    serves C_key = 2.
    """
    dimensions = query.shape[-1]
    position = query * resolution
    low = position.floor().clamp(max=resolution - 1)
    fraction = position - low
    strides = torch.tensor([(resolution + 1) ** d for d in range(dimensions)], device=query.device)
    result = query.new_zeros(query.shape[0], table.shape[-1])
    for corner in itertools.product((0, 1), repeat=dimensions):
        offset = torch.tensor(corner, device=query.device)
        weight = torch.where(offset.bool(), fraction, 1 - fraction).prod(-1, keepdim=True)
        index = ((low.long() + offset) * strides).sum(-1) % max_entries
        result = result + weight * table[index]
    return result


class GroupedMLP(nn.Module):
    """F_mlp: one small MLP per group (Fig. 8), all groups in one batched product: `(N_h, N, in) -> (N_h, N, out)`.

    The paper states neither the activation nor the depth; 3 layers is what App. B's count of operations implies.
    """

    def __init__(self, groups: int, widths: list[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in itertools.pairwise(widths):
            bound = math.sqrt(6 / inputs)  # He: the variance survives the ReLUs
            self.weights.append(nn.Parameter(torch.empty(groups, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(groups, 1, outputs)))

    def forward(self, x: Tensor) -> Tensor:
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, F.relu(x) if layer else x, weight)
        return x


class FeatureGrid(nn.Module):
    """Tiled key code `(B, C_z, H_d, W_d)` in [0, 1] -> feature block f `(B, C_d, H_d, W_d)` (Eq. 2)."""

    def __init__(self, *, groups: int, key_length: int, size: int, levels: int, r_min: int, r_max: int,
                 entry_channels: int, max_entries: int, mlp_width: int, mlp_layers: int, channels: int) -> None:
        super().__init__()
        self.groups, self.key_length, self.size, self.max_entries = groups, key_length, size, max_entries
        self.r_max = r_max
        self.resolutions = level_resolutions(r_min, r_max, levels)
        self.entries = [level_entries(r, key_length + 2, max_entries) for r in self.resolutions]
        table = torch.empty(groups, sum(self.entries), entry_channels).uniform_(-1e-4, 1e-4)  # as Instant-NGP
        self.table = nn.Parameter(table)
        widths = [levels * entry_channels, *[mlp_width] * (mlp_layers - 1), channels // groups]
        self.mlp = GroupedMLP(groups, widths)

    def query(self, tiled: Tensor) -> Tensor:
        """q of Eq. 1 for every group, sample and position: `(N_h, B, H_d, W_d, C_key + 2)`, order [key, x, y]."""
        batch, _, height, width = tiled.shape
        keys = tiled.reshape(batch, self.groups, self.key_length, height, width).permute(1, 0, 3, 4, 2)
        x = pixel_centres(width, tiled.device, tiled.dtype).view(1, 1, 1, width, 1)
        y = pixel_centres(height, tiled.device, tiled.dtype).view(1, 1, height, 1, 1)
        shape = (self.groups, batch, height, width, 1)
        return torch.cat([keys, x.expand(shape), y.expand(shape)], dim=-1)

    def retrieve(self, tiled: Tensor) -> Tensor:
        """Interpolated entries of all levels, side by side: `(N_h, B * H_d * W_d, N_r * C_v)`."""
        query = self.query(tiled)
        # One split: slicing the parameter per level would make autograd write a full-size zero tensor per level.
        tables = self.table.split(self.entries, dim=1)
        read = self._read_trilinear if self.key_length == 1 else self._read_reference
        levels = [read(table, query, r) for table, r in zip(tables, self.resolutions, strict=True)]
        return torch.cat(levels, dim=-1)

    def _read_trilinear(self, table: Tensor, query: Tensor, resolution: int) -> Tensor:
        """F.grid_sample over the level seen as a dense volume, the groups as its batch."""
        n = resolution + 1
        entries = table[:, : self.max_entries]
        if n**3 > entries.shape[1]:  # Eq. 6's wrap-around, as a view of a longer table
            entries = entries.repeat(1, math.ceil(n**3 / entries.shape[1]), 1)
        volume = entries[:, : n**3].reshape(self.groups, n, n, n, -1).permute(0, 4, 1, 2, 3)  # y, x, key
        read = F.grid_sample(volume, query * 2 - 1, mode="bilinear", padding_mode="border", align_corners=True)
        return read.flatten(2).transpose(1, 2)

    def _read_reference(self, table: Tensor, query: Tensor, resolution: int) -> Tensor:
        flat = query.flatten(1, 3)
        return torch.stack([interpolate_reference(table[g], flat[g], resolution, self.max_entries)
                            for g in range(self.groups)])

    def forward(self, tiled: Tensor) -> Tensor:
        batch, _, height, width = tiled.shape
        features = self.mlp(self.retrieve(tiled))
        block = features.reshape(self.groups, batch, height, width, -1).permute(1, 0, 4, 2, 3)
        return block.reshape(batch, -1, height, width)
