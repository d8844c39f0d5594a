"""Options that several commands share, and where things lie unless told otherwise."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from bricscli.run.directory import RunDirectory

DATA_ROOT, RUNS_ROOT = Path("data"), Path("runs")

Device = Annotated[str, typer.Option(help="auto (CUDA if there is one, else the CPU), cpu, cuda or cuda:N.")]
Recipe = Annotated[str, typer.Option("--recipe", "-r", metavar="RECIPE",
                                     help="A recipe that comes with brics, by name (church64x4.yaml), or a file.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="A.B=VALUE",
                                              help="Change one key of the recipe; may be given several times.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe, parameter counts and the shards "
                                                        "that would be read, and stop.")]
Determinism = Annotated[Literal["fast", "exact"], typer.Option(
    help="exact: the same weights, bit for bit, on 1, 2, 4 or 8 processes (on a CPU), a batch in 8 shares that are "
         "computed and summed in one order. fast: by rounding alone not the same.")]
SaveEvery = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Seconds between checkpoints; one is saved at "
                                                                          "the end and on Ctrl-C anyway.")]
AllowDrift = Annotated[bool, typer.Option("--allow-drift", help="Go on with a run although brics, torch or the device "
                                          "is another than before; run.json notes since which step.")]
Checkpoint = Annotated[str | None, typer.Option(metavar="STEP|DIGEST", help="A checkpoint of the autoencoder, as "
                                                "step-0001000 or the first digits of its digest (default: newest).")]
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


def run_name(recipe: str) -> str:
    """`tiny/toy.yaml` -> `toy`: what a run is called unless told otherwise."""
    return Path(recipe).name.removesuffix(".yaml")
