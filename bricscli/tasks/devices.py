"""`--devices N`: a stage's parts by so many processes of this machine, each with its GPU or its share of the cores."""

import os
from collections.abc import Sequence

from bricscli.copies import cores, most_copies, run_copies
from bricscli.errors import RecipeError
from bricscli.parts import WHOLE, Part


def run_parts(words: Sequence[str], devices: int, device: str, part: Part = WHOLE) -> None:
    """Runs `brics *words --part K/N` for the parts that make up `part`, `devices` of them, at once.

    `device`: as for `choose_device`; where it leaves the choice, and there are GPUs, each process sees one of its own.
    Raises RecipeError for a number that cannot be, CopyFailed where a process fails.
    """
    if devices < 1:
        raise RecipeError(f"--devices: {devices} is too few. Choose 1 or more.")
    environments = _environments(devices, device)
    parts = [Part(part.number + i * part.of, part.of * devices) for i in range(devices)]
    run_copies([[*words, "--part", str(each)] for each in parts], environments)


def _environments(devices: int, device: str) -> list[dict[str, str]]:
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // devices))}
    gpus = _gpus(device)
    if not gpus and devices > most_copies():
        raise RecipeError(f"--devices: {devices} are too many for this machine's processor. Choose at most "
                          f"{most_copies()}.")
    if gpus and devices > len(gpus):
        raise RecipeError(f"--devices: {devices} are more than the {len(gpus)} GPUs of this machine. Choose fewer, or "
                          "--device cpu.")
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i]} if gpus else {}) for i in range(devices)]


def _gpus(device: str) -> list[str]:
    """By the names that CUDA_VISIBLE_DEVICES has for them; none where the work is not for GPUs."""
    if device == "cpu":
        return []
    if device not in ("auto", "cuda"):
        raise RecipeError(f"--devices: does not go with --device {device}. Choose auto, cuda or cpu.")
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(i) for i in range(count)])[:count]
