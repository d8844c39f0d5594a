"""Key code -> feature block: groups of multi-resolution feature grids (BRICS arXiv:2305.18601v3, section 3.2, Fig. 8).

Symbols: N_h groups, N_r levels of resolution r_l, entries of C_v floats, at most T of them per level; a key unit has
C_key values; the feature block has C_d channels at H_d x W_d. `levels` has the geometry.

Three ways to the same numbers. Inference, that is neither gradients nor training mode, has `cache`; what is left goes
to the Triton kernel on CUDA, and to `portable` where there is none, on the CPU, for hash tables and for C_key = 2.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.retrieval import portable
from bricscli.nn.retrieval.cache import RetrievalCache
from bricscli.nn.retrieval.levels import Index, Level, level_resolutions, tile


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

    def __init__(self, *, groups: int, key_length: int, size: int, levels: int, r_min: int, r_max: int, index: Index,
                 entry_channels: int, max_entries: int, mlp_width: int, mlp_layers: int, channels: int) -> None:
        super().__init__()
        if index == "hash" and max_entries & (max_entries - 1):
            raise ValueError(f"hash tables have a power of two of entries, not {max_entries}")
        self.groups, self.key_length, self.size, self.r_max = groups, key_length, size, r_max
        self.resolutions = level_resolutions(r_min, r_max, levels)
        self.levels = [Level(r, key_length + 2, max_entries, index) for r in self.resolutions]
        self.entries = [level.entries for level in self.levels]
        table = torch.empty(groups, sum(self.entries), entry_channels).uniform_(-1e-4, 1e-4)  # as Instant-NGP
        self.table = nn.Parameter(table)
        widths = [levels * entry_channels, *[mlp_width] * (mlp_layers - 1), channels // groups]
        self.mlp = GroupedMLP(groups, widths)
        self.cache_dtype: torch.dtype | None = None  #: of inference's cache; None: the table's
        self._cache = RetrievalCache()

    def tile(self, code: Tensor) -> Tensor:
        """Key code `(B, C_z, H_z, W_z) -> (B, C_z, H_d, W_d)`."""
        return tile(code, self.size)

    def keys(self, tiled: Tensor) -> Tensor:
        """`(B, N_h C_key, H_d, W_d) -> (C_key, N_h, B, H_d, W_d)`, in the table's precision."""
        return tiled.to(self.table.dtype).unflatten(1, (self.groups, self.key_length)).permute(2, 1, 0, 3, 4)

    def retrieve(self, tiled: Tensor) -> Tensor:
        """Interpolated entries of all levels, side by side: `(N_h, B * H_d * W_d, N_r * C_v)`."""
        keys = self.keys(tiled)
        if self.training:
            self._cache.clear()
        elif self.key_length == 1 and not torch.is_grad_enabled() and not self.table.is_inference():
            return self._cache.retrieve(self.table, keys[0], self.levels, self.cache_dtype or self.table.dtype)
        if self._suits_triton():
            from bricscli.nn.retrieval import triton_kernel  # here: no other device has to know it

            if triton_kernel.available(self.table.device):
                return triton_kernel.retrieve(self.table, keys[0], self.resolutions, self.entries,
                                              self.levels[0].max_entries)
        return portable.retrieve(self.table, keys.contiguous(), self.levels)

    def free(self) -> None:
        """Gives back the memory that inference without gradients keeps, twice the table's; it is made again on use."""
        self._cache.clear()

    def _suits_triton(self) -> bool:
        channels = self.table.shape[2]
        return (self.table.is_cuda and self.table.dtype == torch.float32 and channels & (channels - 1) == 0
                and self.key_length == 1 and not any(level.hashed for level in self.levels))

    def forward(self, tiled: Tensor) -> Tensor:
        batch, _, height, width = tiled.shape
        features = self.mlp(self.retrieve(tiled))
        block = features.unflatten(1, (batch, height, width)).permute(1, 0, 4, 2, 3)
        return block.flatten(1, 2)


class NoRetrieval(nn.Module):
    """The code itself is the feature block, as in every method but BRICS."""

    def tile(self, code: Tensor) -> Tensor:
        return code

    def free(self) -> None:
        """Nothing is kept."""

    def forward(self, tiled: Tensor) -> Tensor:
        return tiled
