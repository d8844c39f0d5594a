"""`--part` and `--devices` of commands that measure: parts leave what they found beside the result, and the command
itself, once more without `--part`, puts it together."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bricscli.parts import Part as ParsedPart

Part = Annotated[str | None, typer.Option("--part", metavar="K/N", help="Do only part K of N and leave it beside the "
                                          "result. When the parts are done, the same command without --part does what "
                                          "is missing and writes the result, which is that of one process.")]
Devices = Annotated[int, typer.Option("--devices", metavar="N", min=1, help="So many processes on this machine, each "
                                      "with a GPU of its own if there are any; the result is that of one.")]


def begin(part: str | None, devices: int, device: str, *more: str) -> "ParsedPart | None":
    """The part that is asked for. With several devices, runs this command line, and `more` words, once for each first.

    Raises RecipeError, and CopyFailed where one of them fails.
    """
    from bricscli.errors import RecipeError
    from bricscli.parts import parse_part

    if part is not None:
        if devices > 1:
            raise RecipeError("--devices: a part is one process's. Leave out --part or --devices.")
        return parse_part(part)
    if devices > 1:
        from bricscli.copies import run_copies

        words = _words_without("--devices", sys.argv[1:])
        run_copies([[*words, *more, "--part", f"{i + 1}/{devices}"] for i in range(devices)],
                   _environments(devices, device))
    return None


def tell_part(where: object, part: "ParsedPart", what: str = "") -> None:
    """The last line of a part, unless `--devices` asked for it."""
    from bricscli.copies import PARENT
    from bricscli.run.log import say

    if PARENT not in os.environ:
        say(f"{where}: part {part} is done{what}. When all parts are, the same command without --part writes the "
            "result.")


def chunks(count: int, there: int) -> str:
    """How many chunks a part had, and how many of them were there already, in words."""
    return f": {count} chunks" + (f", {there} of which were there already" if there else "")


def _environments(count: int, device: str) -> list[dict[str, str]]:
    """A card each where the device is one, and a share of the cores."""
    from bricscli.errors import RecipeError
    from bricscli.runtime import choose_device

    place = choose_device(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // count)))}
    if place.type != "cuda":
        return [threads] * count
    import torch

    if place.index is not None:
        raise RecipeError(f"--devices: each process has a card of its own, and --device {device} is one. Use cuda.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if count > len(cards):
        raise RecipeError(f"--devices: {count} processes need a GPU each, and there are {len(cards)}. Use fewer, or "
                          "--device cpu.")
    return [threads | {"CUDA_VISIBLE_DEVICES": cards[i]} for i in range(count)]


def _words_without(option: str, words: list[str]) -> list[str]:
    """The words but `option VALUE` and `option=VALUE`."""
    kept, rest = list[str](), iter(words)
    for word in rest:
        if word == option:
            next(rest, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept
