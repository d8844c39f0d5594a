"""The process that reads a checkpoint of another program, and may do nothing else.

Started as a script (`python -I reader.py FILE FOLDER`; torch is in FOLDER), in an empty folder, with no environment.
Nothing of brics is imported, so that nothing of it can be misused. Before the file is looked at the process gives up
the network, where the kernel lets it, and takes limits on memory, time, files and their size. What it leaves:
`tensors.safetensors` with the first stage's tensors, and `report.json` with the names and shapes of all; or, there,
what was wrong.
"""

import contextlib
import ctypes
import json
import os
import re
import resource
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import torch

REPORT, TENSORS = "report.json", "tensors.safetensors"
#: The oldest torch whose weights_only reader has no known hole (CVE-2025-32434, CVE-2026-24747).
OLDEST_TORCH = (2, 10)
#: Above what the libraries take, for a file of no size; and as many times the file's size.
SPARE_MEMORY, MEMORY_TIMES = 384 << 20, 6
CPU_SECONDS, SECONDS_A_GIGABYTE = 60, 30
OPEN_FILES = 64
MOST_TENSORS, MOST_DIMENSIONS = 100_000, 8
#: JSON in front of a safetensors file: a name and two numbers each.
MOST_HEADER_BYTES = 32 << 20
#: Classes that Lightning of the time wrote into its files as mere names of the callbacks' state. An empty class of ours
#: is put in place of each, so that nothing of theirs is imported.
INERT = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
         "pytorch_lightning.callbacks.early_stopping.EarlyStopping")
#: Where other programs keep the state dict: Lightning and LDM, lucidrains, timm.
_INSIDE = ("state_dict", "model_state_dict", "model")
#: Not wanted whatever it is: critics, LPIPS, denoisers, text encoders, averages and optimisers are large.
_FIRST_STAGE = re.compile(r"(first_stage_model\.)?(encoder|decoder|quantize|quant_conv|post_quant_conv)\.")
_WANTED = re.compile(r"(?:unsupported GLOBAL|Unsupported global: GLOBAL|Unsupported class) ([\w.]+)|"
                     r"GLOBAL ([\w.]+) was not")

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


class Refused(Exception):
    """What is wrong with the file, for people."""


class Inert:
    """Stands for a class that is not imported; its state is thrown away."""

    def __setstate__(self, state: object) -> None:
        pass


def main(path: str) -> None:
    """Leaves the report in the current folder."""
    with open(path, "rb") as file:
        leave_network()
        report: dict[str, Any]
        try:
            import torch

            if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
                raise Refused(f"needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, whose reader of weights has "
                              f"no known hole; this is {torch.__version__}")
            from safetensors.torch import save_file

            take_limits(os.fstat(file.fileno()).st_size)
            tensors = read_safetensors(file) if is_safetensors(file) else read_pickle(file)
            if len(tensors) > MOST_TENSORS:
                raise Refused(f"holds {len(tensors):,} tensors")
            first_stage = {name: plain(name, tensor) for name, tensor in tensors.items() if _FIRST_STAGE.match(name)}
            save_file(first_stage, TENSORS)
            report = {"shapes": {name: list(tensor.shape) for name, tensor in tensors.items()}}
        except Refused as refused:
            report = {"refused": str(refused)}
        except MemoryError:
            report = {"refused": "asks for more memory than a file of its size may"}
        with open(REPORT, "w", encoding="ascii") as out:
            json.dump(report, out)


def leave_network() -> None:
    """Into a network of its own, where there is nobody: as root as it is, else as a user of a name space of its own."""
    with contextlib.suppress(OSError, AttributeError):
        unshare: Callable[[int], int] = ctypes.CDLL(None, use_errno=True).unshare
        if unshare(_CLONE_NEWNET):
            unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def take_limits(size: int) -> None:
    """For a file of `size` bytes; after the libraries were loaded, which alone are some gigabytes of addresses."""
    seconds = CPU_SECONDS + SECONDS_A_GIGABYTE * (size >> 30)
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: 4 * size + (1 << 20),
              resource.RLIMIT_NOFILE: OPEN_FILES, resource.RLIMIT_CORE: 0}
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = used + SPARE_MEMORY + MEMORY_TIMES * size
    for kind, limit in limits.items():
        _, most = resource.getrlimit(kind)
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        with contextlib.suppress(ValueError, OSError):  # macOS has limits that cannot be set
            resource.setrlimit(kind, (limit, limit))


def is_safetensors(file: BinaryIO) -> bool:
    """By its first bytes: the length of a header, which begins with a brace."""
    file.seek(0)
    start = file.read(9)
    return len(start) == 9 and start[8:] == b"{"


def read_safetensors(file: BinaryIO) -> "dict[str, torch.Tensor]":
    from safetensors import SafetensorError, safe_open

    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MOST_HEADER_BYTES:
        raise Refused(f"has a header of {length:,} bytes")
    try:
        with safe_open(f"/dev/fd/{file.fileno()}", framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise Refused(f"is a damaged safetensors file ({first_line(error)})") from None


def read_pickle(file: BinaryIO) -> "dict[str, torch.Tensor]":
    """Tensors only: whatever else a pickle asks for is refused by torch's own reader, and named."""
    import torch

    torch.serialization.add_safe_globals([(Inert, name) for name in INERT])
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch's reader raises nearly everything on damaged input
        wanted = _WANTED.search(str(error))
        if wanted:
            name = next(group for group in wanted.groups() if group)
            raise Refused(f"is a pickle that wants code to be run (`{name}`)") from None
        if isinstance(error, RuntimeError) and "alloc" in str(error):
            raise MemoryError from None
        raise Refused("is no checkpoint of tensors, or a damaged one") from None
    for name in _INSIDE:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping):
        raise Refused("holds no state dict")
    return dict(tensors_of(loaded))


def tensors_of(state: Mapping[Any, Any]) -> "Iterator[tuple[str, torch.Tensor]]":
    import torch

    for name, value in state.items():
        if isinstance(name, str) and len(name) <= 300 and isinstance(value, torch.Tensor):
            yield name, value


def plain(name: str, tensor: "torch.Tensor") -> "torch.Tensor":
    """float32, or what it is if it counts; dense, contiguous, with memory of its own."""
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.ndim > MOST_DIMENSIONS:
        raise Refused(f"has a tensor that is no plain array: {name}")
    if tensor.numel() * 4 > resource.getrlimit(resource.RLIMIT_FSIZE)[0]:  # strides of 0: a small file, a huge tensor
        raise MemoryError
    if not tensor.dtype.is_floating_point and tensor.dtype not in (torch.int64, torch.int32, torch.bool, torch.uint8):
        raise Refused(f"has a tensor of {tensor.dtype}: {name}")
    wanted = torch.float32 if tensor.dtype.is_floating_point else tensor.dtype
    return tensor.detach().to(wanted, copy=True, memory_format=torch.contiguous_format)


def first_line(error: BaseException) -> str:
    return str(error).split("\n")[0][:200]


if __name__ == "__main__":
    sys.path.append(sys.argv[2])  # -I leaves out what a user installed for himself
    main(sys.argv[1])
