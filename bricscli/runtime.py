"""Where a run happens: device, and random numbers that depend on nothing but a seed and a position."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bricscli.errors import RecipeError


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


def derive_seed(seed: int, *position: int | str) -> int:
    """A 63-bit seed for one purpose at one position, e.g. `derive_seed(0, "noise", step)`."""
    text = ":".join(map(str, (seed, *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *position: int | str) -> torch.Generator:
    """A CPU generator for one purpose at one position: a resumed run needs no saved random state."""
    return torch.Generator().manual_seed(derive_seed(seed, *position))


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Ask torch for repeatable kernels on the CPU; CUDA is left at its fastest."""
    if torch.cuda.is_available():
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
