"""What the benchmarks ask of the machine: its clock, its name, the versions on it."""

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bricscli.run.provenance import describe_process


def clock(device: torch.device, threads: int) -> Callable[[], float]:
    """Seconds: CPU time of one thread, else the wall's, once the device has finished."""
    if device.type == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def finished() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return finished


def device_name(device: torch.device) -> str:
    """The card's, or the processor's as Linux calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "CPU")


def describe_versions() -> dict[str, Any]:
    """Of all that can change a time, diffusers where it is installed."""
    versions = describe_process()
    del versions["argv"]
    found = importlib.util.find_spec("diffusers")
    return versions | {"diffusers": importlib.metadata.version("diffusers") if found else None}
