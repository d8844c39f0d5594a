"""Starts the process that reads (`reader.py`), waits for it, and believes nothing of what it leaves without a look."""

import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bricscli import files
from bricscli.errors import DataError
from bricscli.strict_json import read_json
from bricscli.tasks.importing import reader

#: Seconds that it may take for a file of no size, much of it for loading torch, and those for each gigabyte.
SECONDS, SECONDS_A_GIGABYTE = 240.0, 120.0
_MOST_REPORT_BYTES = 64 << 20


@dataclass(frozen=True)
class Tensors:
    """`shapes` of all tensors of a file, by name; and those of its first stage, as float32, on the CPU."""

    shapes: dict[str, tuple[int, ...]]
    first_stage: dict[str, Tensor]


def read_tensors(path: Path) -> Tensors:
    """What is in a checkpoint, read by another process.

    Raises DataError, one line, where it holds anything but tensors, is damaged, or asks for more memory or time than a
    file of its size may.
    """
    size = path.stat().st_size
    with tempfile.TemporaryDirectory(prefix="brics-") as folder:
        command = [sys.executable, "-I", str(Path(reader.__file__).resolve()), str(path.resolve()),
                   str(Path(torch.__file__).parents[1])]
        limit = SECONDS + SECONDS_A_GIGABYTE * size / 2**30
        try:
            done = subprocess.run(command, cwd=folder, timeout=limit, check=False, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  env={"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"})
        except subprocess.TimeoutExpired:
            raise DataError(f"{path}: took more than {limit:.0f} s to read, and was given up. "
                            "Save its weights as safetensors.") from None
        try:
            report = read_json(Path(folder, reader.REPORT), _MOST_REPORT_BYTES)
            if "refused" in report:
                raise DataError(f"{path}: {report['refused']}. {_advice(str(report['refused']))}")
            if done.returncode:
                raise ValueError
            read = _checked(report["shapes"], Path(folder, reader.TENSORS))
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"{path}: the process that read it ended early ({_end(done.returncode)}), as damaged and "
                            f"hostile files make it; {files.show_bytes(size)} were to be read. Save its weights as "
                            "safetensors with the program that made it.") from None
    for name, tensor in read.first_stage.items():
        if not tensor.isfinite().all():
            raise DataError(f"{path}: {name} has values that are not finite. Choose another checkpoint.")
    return read


def _end(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"exit code {code}"


def _advice(refused: str) -> str:
    if "code to be run" in refused:
        return "Nothing of it was run. Where you trust it, save its state dict as safetensors and import that."
    if "torch" in refused:
        return "Update torch."
    return "Copy or download it again, or save its weights as safetensors."


def _checked(shapes: Any, path: Path) -> Tensors:
    """Raises ValueError, TypeError or OSError unless file and report are what the process was to leave."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not isinstance(shapes, dict) or len(shapes) > reader.MOST_TENSORS:
        raise ValueError("no shapes")
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if not all(type(length) is int and length >= 0 for length in shape) or len(shape) > 64:
            raise ValueError("no shape")
        found[name] = tuple(shape)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != found[name] or math.prod(found[name]) != tensor.numel():
            raise ValueError("other shapes")
    return Tensors(found, tensors)
