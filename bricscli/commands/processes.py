"""Words for several processes: `--devices` for those of this machine, `--part` for those of many.

A training is one work of all its processes. What the others make falls into parts: what is made of parts is put in
place by `brics gather`; what is measured in parts, by the command itself, once more without `--part`.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bricscli.parts import Part, Share

TrainingDevices = Annotated[int | None, typer.Option("--devices", metavar="N", min=1, help="Train as N processes of "
                                                     "this machine: on N GPUs, or each on its share of the cores. "
                                                     "Leave it out under torchrun.")]
MadePart = Annotated[str | None, typer.Option("--part", metavar="K/N", help="Make only part K of N, beside the place. "
                                              "N processes, on machines that share the disk, make all of it, and "
                                              "`brics gather` puts it together. A part may be made again, or twice at "
                                              "once.")]
MeasuredPart = Annotated[str | None, typer.Option("--part", metavar="K/N", help="Do only part K of N and leave it "
                                                  "beside the result. When the parts are done, the same command "
                                                  "without --part does what is missing and writes the result, which "
                                                  "is that of one process.")]
Devices = Annotated[int | None, typer.Option(metavar="N", min=1, help="So many processes on this machine, each with a "
                                             "GPU of its own if there are any; the result does not depend on it.")]


def spread_over(devices: int | None, device: str, batch_size: int, exact: bool) -> bool:
    """Where `--devices` asks for several processes, runs this command as so many, and returns whether it did.

    Raises RecipeError where there are not as many GPUs, where they cannot share a batch, or where this is one of
    several processes already.
    """
    if devices is None:
        return False
    from bricscli.copies import most_copies, run_world
    from bricscli.errors import RecipeError
    from bricscli.parallel.world import World, in_world
    from bricscli.runtime import choose_device, count_gpus

    if in_world():
        raise RecipeError("--devices: this is one of several processes already, as WORLD_SIZE says. Leave it out.")
    World(size=devices, exact=exact).check(batch_size, batch_size)
    on_gpus = devices > 1 and choose_device(device).type == "cuda"
    if not on_gpus and devices > most_copies():
        raise RecipeError(f"--devices: {devices} are too many for this machine's processor. Choose at most "
                          f"{most_copies()}.")
    if on_gpus and devices > count_gpus():
        raise RecipeError(f"--devices: {devices} processes need a GPU each, and there are {count_gpus()}. Use fewer, "
                          "or --device cpu.")
    if devices > 1:
        run_world(devices, "--devices")
    return devices > 1


def tell_share(place: Path, part: "Part", share: "Share") -> None:
    """The last line of a command that made a part of what is to be at `place`."""
    from bricscli.copies import PARENT
    from bricscli.run.log import say

    if PARENT in os.environ:  # who gathers speaks
        return
    if not share.of:
        say(f"{place}: is complete already.")
        return
    resumed = f", {share.resumed} of which were there already" if share.resumed else ""
    say(f"{place}: part {part} is made: {share.chunks} of {share.of} chunks{resumed}. When all parts are, `brics "
        f"gather {place}` puts them together.")


def run_devices(place: Path, devices: int, device: str, part: "Part", *words: str) -> None:
    """This command by so many processes, `words` added; and where they are all parts there are, they are gathered."""
    from bricscli.copies import typed
    from bricscli.parts import WHOLE
    from bricscli.run.log import say
    from bricscli.tasks.devices import run_parts
    from bricscli.tasks.gather import gather

    run_parts([*typed("--devices", "--part"), *words], devices, device, part)
    if part == WHOLE:
        for line in gather(place):
            say(line)


def begin(part: str | None, devices: int | None, device: str, *more: str) -> "Part | None":
    """The part that is asked for. With several devices, runs this command line, and `more` words, once for each first.

    Raises RecipeError, and CopyFailed where one of them fails.
    """
    from bricscli.errors import RecipeError
    from bricscli.parts import parse_part

    if part is not None:
        if devices is not None and devices > 1:
            raise RecipeError("--devices: a part is one process's. Leave out --part or --devices.")
        return parse_part(part)
    if devices not in (None, 1):
        assert devices is not None
        from bricscli.copies import typed
        from bricscli.tasks.devices import run_parts

        run_parts([*typed("--devices"), *more], devices, device)
    return None


def tell_part(where: object, part: "Part", what: str = "") -> None:
    """The last line of a part, unless `--devices` asked for it."""
    from bricscli.copies import PARENT
    from bricscli.run.log import say

    if PARENT not in os.environ:
        say(f"{where}: part {part} is done{what}. When all parts are, the same command without --part writes the "
            "result.")


def chunks(count: int, there: int) -> str:
    """How many chunks a part had, and how many of them were there already, in words."""
    return f": {count} chunks" + (f", {there} of which were there already" if there else "")
