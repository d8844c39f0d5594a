"""Where a run happens: device, and random numbers that depend on nothing but a seed and a position."""

import hashlib
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from bricscli.errors import BricsError, RecipeError

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


def count_gpus() -> int:
    """CUDA devices that this process may use."""
    return torch.cuda.device_count()


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread of a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


@contextmanager
def memory_errors(device: torch.device, advice: str) -> Iterator[None]:
    """Raises BricsError where the block runs out of the device's memory or the machine's: the most that was in use, and
    `advice`, sentences."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "can't allocate memory" not in str(error):  # what torch says of the machine's
            raise
        raise BricsError(f"{device}: is out of memory; at most {_most_memory(device) / 1e9:.2f} GB were in use. "
                         f"{advice}") from None


def _most_memory(device: torch.device) -> int:
    """Bytes: torch's on a GPU, else the process's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def in_passes(
    function: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device, one_thread: bool = False
) -> Tensor:
    """Applies `function` on `device`, without gradients, to passes of one fixed width; the result is on the CPU.

    Kernels round differently at different widths. With one width, the last pass padded by copies of its first row, a
    row's result depends on that row alone, whatever is computed beside it.

    On a CPU they also round differently by the number of threads that share a pass. `one_thread`: the threads share
    the passes instead, so that a row's result is the same on any number of cores. `function` then has to bear
    several calls at a time.
    """
    width = PASS_WIDTH[device.type]

    def run(part: Tensor) -> Tensor:
        padded = torch.cat([part, part[:1].expand(width - len(part), *part.shape[1:])])
        with torch.no_grad():  # each thread has a mode of its own
            return function(padded.to(device))[: len(part)].cpu()

    with deterministic_algorithms(device):
        parts = inputs.split(width)
        return torch.cat(one_thread_each(run, parts, device) if one_thread else [run(part) for part in parts])
