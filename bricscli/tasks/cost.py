"""What decoding one code costs: parameters and operations, counted from the model that a recipe builds.

Everything happens on the meta device: no memory, no arithmetic. Two counts of operations, both in units of 10^9:

- `gmacs`: multiply-accumulates, half of what torch's FlopCounterMode counts;
- `gflops`: what fvcore counts and BRICS prints as "GFlops": the same, and 5 operations for every value that a
  normalisation reads and 1 for every value that a resizing writes. fvcore itself traces models by torch.jit, which is
  deprecated and cannot trace on the meta device; a test holds these two formulas against it.

Not in them, as not in the paper's: element-wise operations, and the interpolation of feature grids (by App. B, 3 % of
what retrieval costs).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from bricscli.build import build_decoder, build_retrieval, count_parameters
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.recipe.recipes import AutoencoderRecipe


@dataclass(frozen=True)
class Operations:
    """Of one image, in units of 10^9."""

    gmacs: float
    gflops: float

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.gmacs + other.gmacs, self.gflops + other.gflops)


@dataclass(frozen=True)
class DecodingCost:
    """Numbers of parameters, and the operations from code to image."""

    grid_parameters: int
    decoder_parameters: int
    retrieval: Operations
    decoder: Operations


def count_decoding(recipe: AutoencoderRecipe) -> DecodingCost:
    """Retrieval and decoder of a recipe's autoencoder."""
    with torch.device("meta"):
        retrieval, decoder = build_retrieval(recipe), build_decoder(recipe)
        code = torch.empty(1, *recipe.code_shape)
    grids = retrieval.table.numel() if isinstance(retrieval, FeatureGrid) else 0
    features, retrieving = count_operations(retrieval, retrieval.tile(code))
    _, decoding = count_operations(decoder, features)
    return DecodingCost(grids, count_parameters(decoder), retrieving, decoding)


def count_operations(module: nn.Module, x: Tensor) -> tuple[Tensor, Operations]:
    """`module(x)`, and what that takes."""
    beyond = {torch.ops.aten.native_group_norm: _norm_operations, torch.ops.aten.upsample_nearest2d: _resize_operations}
    table = beyond | {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations}
    # torch 2.14 takes apart what does not stand in the table under its overload's name too, and never counts by that.
    whole = {operation.default: _norm_operations for operation in (*table, *flop_registry)
             if isinstance(operation, torch._ops.OpOverloadPacket)}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=table | whole) as counter:
        y = module(x)
    counts = {operation: count / 2e9 for operation, count in counter.get_flop_counts().get("Global", {}).items()}
    gflops = sum(counts.values())
    return y, Operations(gflops - sum(counts.get(operation, 0) for operation in beyond), gflops)


def _attention_operations(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """As torch counts it elsewhere: both matrix products, of a CPU's own attention."""
    return sdpa_flop_count(query, key, value)


def _norm_operations(x_shape: torch.Size, *_: Any, **__: Any) -> int:
    """Twice what is meant: torch's counter has two operations in a multiply-accumulate."""
    return 2 * 5 * math.prod(x_shape)


def _resize_operations(*_: Any, out_shape: torch.Size, **__: Any) -> int:
    return 2 * math.prod(out_shape)
