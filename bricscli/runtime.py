"""Where a run happens: device, and random numbers that depend on nothing but a seed and a position."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from bricscli.errors import RecipeError

A = TypeVar("A")
B = TypeVar("B")

#: Rows per forward pass of `in_passes`.
PASS_WIDTH = {"cpu": 8, "cuda": 32}


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: CUDA if there is one, else the CPU.

    Raises:
        RecipeError: the name is unknown, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise RecipeError(f"--device: `{name}` is unknown. Use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(f"--device: there is no `{name}` here (CUDA devices: {torch.cuda.device_count()}). Use cpu.")
    return device


def one_thread_each(function: Callable[[A], B], items: Sequence[A], device: torch.device) -> list[B]:
    """function(item) for each item; on a CPU torch's threads share the items, and each item is one thread's.

    Kernels round differently by how many threads share them: so results are the same on any number of cores.
    `function` has to bear several calls at a time.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [function(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, "brics-pass", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)  # of threads to come; this one has kept its own


def derive_seed(seed: int, *position: int | str) -> int:
    """A 63-bit seed for one purpose at one position, e.g. `derive_seed(0, "noise", step)`."""
    text = ":".join(map(str, (seed, *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *position: int | str) -> torch.Generator:
    """A CPU generator for one purpose at one position: a resumed run needs no saved random state."""
    return torch.Generator().manual_seed(derive_seed(seed, *position))


@contextmanager
def deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """Asks torch for repeatable kernels where the run is on the CPU; CUDA is left at its fastest."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def in_passes(function: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device) -> Tensor:
    """Applies `function` on `device`, without gradients, to passes of one fixed width; the result is on the CPU.

    Kernels round differently at different widths. With one width, the last pass padded by copies of its first row, a
    row's result depends on that row alone, whatever is computed beside it.
    """
    width = PASS_WIDTH[device.type]
    outputs = []
    with torch.no_grad(), deterministic_algorithms(device):
        for part in inputs.split(width):
            padded = torch.cat([part, part[:1].expand(width - len(part), *part.shape[1:])])
            outputs.append(function(padded.to(device))[: len(part)].cpu())
    return torch.cat(outputs)
