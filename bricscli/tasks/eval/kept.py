"""Features of finished chunks, kept beside the results until the evaluation that wants them is done.

One file for a chunk and an extractor, `EXTRACTOR-00037.safetensors`: its outputs, float32 (rows, D) each, and in the
metadata a SHA-256 of them and of the file's place. The folder's name stands for all that decides what is in it. Files
are whole or absent, and whoever writes one writes the same, so any number of processes may be at it.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bricscli import files
from bricscli.errors import BricsError
from bricscli.run.log import warn
from bricscli.strict_json import parse_json

SCHEMA = 1
#: Beside results: the folder of all features that are kept.
KEPT = "features"


def folder_for(root: Path, what: Mapping[str, Any]) -> Path:
    """The folder below `root` of features that `what`, ready for JSON, decides."""
    text = json.dumps({"schema": SCHEMA, **what}, sort_keys=True)
    return root / hashlib.sha256(text.encode()).hexdigest()[:16]


def read_chunk(folder: Path, extractor: str, number: int, shapes: Mapping[str, tuple[int, int]]
               ) -> dict[str, Tensor] | None:
    """The outputs of a chunk, `shapes` by name; None where they are not there, or, said aloud, damaged."""
    from safetensors import SafetensorError, safe_open

    path = _path(folder, extractor, number)
    try:
        with safe_open(path, "pt") as file:
            digest = parse_json(file.metadata()["brics"])["sha256"]
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        found = {name: (*tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        if found != {name: (*shape, torch.float32) for name, shape in shapes.items()} \
                or digest != _digest(path, tensors):
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        warn(f"{path}: is damaged; its features are computed again.")
        return None
    return tensors


def write_chunk(folder: Path, extractor: str, number: int, outputs: Mapping[str, Tensor]) -> None:
    """Complete or not at all. Raises BricsError where the disk is full or refuses."""
    from safetensors.torch import save

    path = _path(folder, extractor, number)
    tensors = {name: outputs[name].contiguous() for name in sorted(outputs)}
    with suppress(FileNotFoundError):  # another process has finished the evaluation, and this is not wanted any more
        files.write_bytes(path, save(tensors, {"brics": json.dumps({"sha256": _digest(path, tensors)})}))


def remove_kept(folder: Path) -> None:
    """Removes a folder of features, and the one above it if that was all; what refuses to go stays, which is said."""
    try:
        if folder.is_dir():
            files.remove_directory(folder)
        if folder.parent.is_dir():
            files.sweep(folder.parent)
            with suppress(OSError):  # others are in it
                folder.parent.rmdir()
    except (BricsError, FileNotFoundError) as error:
        if folder.is_dir():
            warn(f"{folder}: could not be removed, and is not needed any more ({error}).")


def _path(folder: Path, extractor: str, number: int) -> Path:
    return folder / f"{extractor}-{number:05}.safetensors"


def _digest(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Of the numbers, their names and the place that they are for."""
    digest = hashlib.sha256("/".join(path.absolute().parts[-3:]).encode())
    for name, tensor in tensors.items():
        digest.update(f"\0{name}\0".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
