"""Retrieval on a GPU: all levels of all groups in one launch forward, and a backward pass without atomics.

The definition is that of `levels` with C_key = 1 and the index `modulo`; N_h groups, T = max_entries.

Forward reads the 8 corners of every query. Its transpose is taken one axis at a time: first each pixel's column of
n = r + 1 nodes collects the gradients of all samples of the batch, which share it, weighted by hat functions of the
keys; then the columns of a row of pixels go to the nodes along x, and those rows of nodes to the entries along y.

Tested under Triton's interpreter, which TRITON_INTERPRET=1 asks for before the first import of Triton.
"""

import itertools
import os
import shutil
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

try:
    from bricscli.nn.retrieval import _triton_programs as programs
except ImportError:  # Triton has no wheel for this platform
    programs = None  # type: ignore[assignment]

#: Outputs of one program, a power of two: one a thread in forward, where each has 8 reads in flight; two in backward.
TILE, BLOCK = 128, 256
NO_WRAP = 2**31 - 1
#: Said because Triton 3.10 changes the default; no result may depend on the version.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def available(device: torch.device) -> bool:
    """Triton is installed and runs on this device.

    On CUDA it needs a C compiler beside it, for the few lines that launch a kernel; without one there is `portable`.
    """
    if programs is None:
        return False
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return device.type == "cuda" and bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


class _Levels(NamedTuple):
    """On the device: ceil(r_l) in int32, and where each level begins (the last number: where all end) in int64."""

    resolutions: Tensor
    table: Tensor  #: in entries of the table
    columns: Tensor  #: in nodes of `(H, W, key)`
    rows: Tensor  #: in nodes of `(H, x, key)`


@cache
def _levels(resolutions: tuple[int, ...], entries: tuple[int, ...], height: int, width: int,
            device: torch.device) -> _Levels:
    columns = [height * width * (r + 1) for r in resolutions]
    rows = [height * (r + 1) ** 2 for r in resolutions]
    starts = [torch.tensor(list(itertools.accumulate(sizes, initial=0)), device=device)
              for sizes in (entries, columns, rows)]
    return _Levels(torch.tensor(resolutions, dtype=torch.int32, device=device), *starts)


def _blocks(outputs: int, block: int = BLOCK) -> int:
    return (outputs + block - 1) // block


class _Retrieve(torch.autograd.Function):
    """table `(N_h, E, C_v)`, keys `(N_h, B, H, W)` -> `(N_h, B * H * W, N_r * C_v)`; all float32 and contiguous."""

    @staticmethod
    def _tiles(keys: Tensor, table: Tensor, resolutions: tuple[int, ...],
               max_entries: int) -> tuple[int, dict[str, int]]:
        """Number of tiles of samples x pixels, and what the programs that work in such tiles are told."""
        _, batch, height, width = keys.shape
        samples = min(16, 1 << (batch - 1).bit_length())
        pixels = TILE // samples
        facts = {"batch": batch, "group_entries": table.shape[1], "LEVELS": len(resolutions),
                 "MAX_ENTRIES": max_entries, "HEIGHT": height, "WIDTH": width, "CHANNELS": table.shape[2],
                 "SAMPLES": samples, "PIXELS": pixels, **OPTIONS}
        return _blocks(batch, samples) * _blocks(height * width, pixels), facts

    @staticmethod
    def forward(ctx: Any, table: Tensor, keys: Tensor, resolutions: tuple[int, ...], entries: tuple[int, ...],
                max_entries: int) -> Tensor:
        groups, batch, height, width = keys.shape
        ctx.save_for_backward(table, keys)
        ctx.resolutions, ctx.entries, ctx.max_entries = resolutions, entries, max_entries
        levels = _levels(resolutions, entries, height, width, keys.device)
        result = table.new_empty(groups, batch * height * width, len(resolutions) * table.shape[2])
        tiles, facts = _Retrieve._tiles(keys, table, resolutions, max_entries)
        programs.interpolate[(tiles * len(resolutions), groups)](
            table, keys, result, levels.resolutions, levels.table, **facts)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.contiguous()
        to_table, to_keys, *_ = ctx.needs_input_grad
        return (_Retrieve._table_gradient(ctx, gradient) if to_table else None,
                _Retrieve._key_gradient(ctx, gradient) if to_keys else None, None, None, None)

    @staticmethod
    def _key_gradient(ctx: Any, gradient: Tensor) -> Tensor:
        table, keys = ctx.saved_tensors
        levels = _levels(ctx.resolutions, ctx.entries, *keys.shape[-2:], keys.device)
        result = torch.empty_like(keys)
        tiles, facts = _Retrieve._tiles(keys, table, ctx.resolutions, ctx.max_entries)
        programs.key_gradient[(tiles, keys.shape[0])](
            table, keys, gradient, result, levels.resolutions, levels.table, **facts)
        return result

    @staticmethod
    def _table_gradient(ctx: Any, gradient: Tensor) -> Tensor:
        """The transpose, an axis at a time: keys, x, y."""
        # A group at a time: its columns and rows (64 MB at 64x64 and 16..64, near the size of an H200's L2 cache) fill
        # a card with work, and the memory does not grow with the groups. All groups at once would hold 255 MB for 4
        # and 1 GB for 16; a level at a time a quarter of 64 MB, but at 48 launches a group instead of 3.
        table, keys = ctx.saved_tensors
        groups, batch, height, width = keys.shape
        channels, count, top = table.shape[2], len(ctx.resolutions), max(ctx.resolutions) + 1
        levels = _levels(ctx.resolutions, ctx.entries, height, width, keys.device)
        result = torch.empty_like(table)  # every entry is written, padding too
        columns = table.new_empty(height * width * sum(r + 1 for r in ctx.resolutions), channels)
        rows = table.new_empty(height * sum((r + 1) ** 2 for r in ctx.resolutions), channels)
        common = {"CHANNELS": channels, "BLOCK": BLOCK, **OPTIONS}
        for group in range(groups):
            programs.spread_keys[(_blocks(height * width * top), count)](
                gradient[group], keys[group], columns, levels.resolutions, levels.columns, batch,
                AREA=height * width, LEVELS=count, **common)
            programs.spread_axis[(_blocks(height * top**2), count)](
                columns, rows, levels.resolutions, levels.columns, levels.rows,
                SIZE=width, OUTER=height, INNER_AXES=1, MAX_ENTRIES=NO_WRAP, **common)
            programs.spread_axis[(_blocks(max(ctx.entries)), count)](
                rows, result[group], levels.resolutions, levels.rows, levels.table,
                SIZE=height, OUTER=1, INNER_AXES=2, MAX_ENTRIES=ctx.max_entries, **common)
        return result


def retrieve(table: Tensor, keys: Tensor, resolutions: list[int], entries: list[int], max_entries: int) -> Tensor:
    """Interpolated entries of all levels, side by side: `(N_h, B * H * W, N_r * C_v)`, float32.

    `table` `(N_h, sum of entries, C_v)` float32, C_v a power of two; `keys` `(N_h, B, H, W)` in [0, 1]; `resolutions`
    are the ceil(r_l), `entries` what each level stores. Differentiable once, to the table and to the keys.
    """
    assert table.dtype == torch.float32 and table.shape[1] == sum(entries)
    assert (max(resolutions) + 1) ** 3 < 2**31, "nodes are numbered in 32 bits"
    with torch.cuda.device_of(table):  # Triton launches on the current device
        return _Retrieve.apply(table.contiguous(), keys.float().contiguous(), tuple(resolutions), tuple(entries),
                               max_entries)
