"""`brics sample`."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options


def sample(
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", help="How many images.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the PNG files go, named by their seeds "
                                                                 "(default: RUN/samples).")] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The run of a diffusion model (default: the one "
                                                                 "under runs/ that was trained last).")] = None,
    seed: Annotated[int, typer.Option(help="The first seed; the images have seeds SEED to SEED + N - 1.")] = 0,
    sampler: Annotated[str | None, typer.Option(help="ddim or dpmpp_2m (default: the recipe's).")] = None,
    steps: Annotated[int | None, typer.Option(help="Evaluations of the denoiser per image, less one "
                                                   "(default: the recipe's).")] = None,
    start: Annotated[float | None, typer.Option(metavar="T", help="Time in (0, 1] at which noise is taken for a noisy "
                                                "key code (default: the recipe's).")] = None,
    batch_size: Annotated[int, typer.Option(help="Images held in memory at a time; does not change them.")] = 64,
    device: options.Device = "auto",
) -> None:
    """Draw new images: one per seed, the same whatever the batch size.

    Images that are there already, drawn by the same model in the same way, are kept: the same command again after
    an interruption draws the rest.

    Example: brics sample -n 50000 --out samples/
    """
    from bricscli.errors import DataError
    from bricscli.run.directory import RunDirectory, newest_run
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.sample import sample_to_folder

    chosen = RunDirectory.open(run) if run else newest_run(options.RUNS_ROOT, "diffusion")
    if chosen is None:
        raise DataError(f"{options.RUNS_ROOT}: has no trained diffusion model. Train one with `brics train-diffusion`, "
                        "or name its run with --run.")
    if run is None:
        say(f"{chosen.path}: is the diffusion model that was trained last; using it.")
    out = out or chosen.samples
    new = sample_to_folder(chosen, out, count=count, first_seed=seed, device=choose_device(device), sampler=sampler,
                           steps=steps, start=start, batch_size=batch_size)
    kept = f" ({count - new} were there already)" if new < count else ""
    say(f"{out}: {count} images, seeds {seed} to {seed + count - 1}{kept}.")
