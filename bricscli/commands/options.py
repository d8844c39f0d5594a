"""Options that several commands share, and where things lie unless told otherwise."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from bricscli.parts import Part, Share
    from bricscli.run.directory import RunDirectory

DATA_ROOT, RUNS_ROOT = Path("data"), Path("runs")

Device = Annotated[str, typer.Option(help="auto (CUDA if there is one, else the CPU), cpu, cuda or cuda:N.")]
Recipe = Annotated[str, typer.Option("--recipe", "-r", metavar="RECIPE",
                                     help="A recipe that comes with brics, by name (church64x4.yaml), or a file.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="A.B=VALUE",
                                              help="Change one key of the recipe; may be given several times.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe, parameter counts and the shards "
                                                        "that would be read, and stop.")]
TrainingDevices = Annotated[int | None, typer.Option("--devices", metavar="N", min=1, help="Train as N processes of "
                                                     "this machine: on N GPUs, or each on its share of the cores. "
                                                     "Leave it out under torchrun.")]
Determinism = Annotated[Literal["fast", "exact"], typer.Option(
    help="exact: the same weights, bit for bit, on 1, 2, 4 or 8 processes (on a CPU), a batch in 8 shares that are "
         "computed and summed in one order. fast: by rounding alone not the same.")]
SaveEvery = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Seconds between checkpoints; one is saved at "
                                                                          "the end and on Ctrl-C anyway.")]
AllowDrift = Annotated[bool, typer.Option("--allow-drift", help="Go on with a run although brics, torch or the device "
                                          "is another than before; run.json notes since which step.")]
Checkpoint = Annotated[str | None, typer.Option(metavar="STEP|DIGEST", help="A checkpoint of the autoencoder, as "
                                                "step-0001000 or the first digits of its digest (default: newest).")]
PartOf = Annotated[str | None, typer.Option("--part", metavar="K/N", help="Only part K of N, beside the place. N "
                                            "processes, on machines that share the disk, make all of it, and `brics "
                                            "gather` puts it together. A part may be made again, or twice at once.")]
Devices = Annotated[int | None, typer.Option(metavar="N", help="So many processes on this machine, each with a GPU "
                                             "of its own if there are any; the result does not depend on it.")]

AllowHost = Annotated[list[str], typer.Option("--allow-host", metavar="HOST[:PORT]", envvar="BRICS_ALLOW_HOSTS",
                                              help="A server that data may be fetched from although it is not public, "
                                                   "or by http; may be given several times.")]

#: Of sampling, where it differs from the recipe's.
Grid = Annotated[str | None, typer.Option(help="Steps uniform in log SNR, log_snr, or in time, trailing (default: the "
                                               "recipe's).")]
Eta = Annotated[float | None, typer.Option(metavar="ETA", help="Noise that ddim adds at every step, 0 to 1, which is "
                                                               "ddpm (default: the recipe's).")]
Start = Annotated[float | None, typer.Option(metavar="T", help="Time in (0, 1] at which noise is taken for a noisy key "
                                             "code (default: the recipe's).")]
Ema = Annotated[float | None, typer.Option(metavar="DECAY", help="Weights averaged with this decay, one of the "
                                           "recipe's training.ema (default: its first).")]


def manual(command: Callable[..., None]) -> str:
    """A command's docstring with every paragraph on one line, so that the help breaks where the terminal does."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def diffusion_run(run: Path | None) -> "RunDirectory":
    """The run that was named, or, said aloud, the diffusion model's that was trained last."""
    from bricscli.errors import DataError
    from bricscli.run.directory import RunDirectory, newest_run
    from bricscli.run.log import say

    if run is not None:
        return RunDirectory.open(run)
    newest = newest_run(RUNS_ROOT, "diffusion")
    if newest is None:
        raise DataError(f"{RUNS_ROOT}: has no trained diffusion model. Train one with `brics train-diffusion`, or name "
                        "its run with --run.")
    say(f"{newest.path}: is the diffusion model that was trained last; using it.")
    return newest


def at_hand(where: str, allowed: list[str], check: Callable[[str, dict[str, Any]], None] = lambda *_: None) -> str:
    """What was named, on this machine: the address of a data set becomes the folder that it was fetched into.

    `check(address, header)` may refuse a data set before its shards are fetched.
    """
    from bricscli.data.remote import fetch, is_remote, look_up
    from bricscli.run.log import Progress

    if not is_remote(where):
        return where
    remote = look_up(where, allowed)
    check(remote.where, remote.header)
    with Progress(-(-remote.bytes // 10**6), f"fetching {remote.name}", "MB") as shown:
        return str(fetch(remote, lambda done: shown.show(-(-done // 10**6))))


def spread_over(devices: int | None, device: str) -> bool:
    """Where `--devices` asks for several processes, runs this command as so many, and returns whether it did.

    Raises RecipeError where there are not as many GPUs, or where this is one of several processes already.
    """
    if devices is None:
        return False
    from bricscli.copies import run_world
    from bricscli.errors import RecipeError
    from bricscli.parallel.world import in_world
    from bricscli.runtime import choose_device, count_gpus

    if in_world():
        raise RecipeError("--devices: this is one of several processes already, as WORLD_SIZE says. Leave it out.")
    if devices > 1 and choose_device(device).type == "cuda" and devices > count_gpus():
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
    from bricscli.parts import WHOLE
    from bricscli.run.log import say
    from bricscli.tasks.devices import run_parts
    from bricscli.tasks.gather import gather

    run_parts([*typed("--devices", "--part"), *words], devices, device, part)
    if part == WHOLE:
        for line in gather(place):
            say(line)


def typed(*without: str) -> list[str]:
    """The words of this command line, but for options, with their values, that are named."""
    words, left = [], iter(sys.argv[1:])
    for word in left:
        if word in without:
            next(left, None)
        elif word.partition("=")[0] not in without:
            words.append(word)
    return words


def run_name(recipe: str) -> str:
    """`tiny/toy.yaml` -> `toy`: what a run is called unless told otherwise."""
    return Path(recipe).name.removesuffix(".yaml")
