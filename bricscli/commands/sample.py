"""`brics sample`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bricscli.commands import options, processes


def sample(
    count: Annotated[int | None, typer.Option("--count", "-n", metavar="N", help="How many images.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The images' folder (default: RUN/samples); a "
                                                                 "contact sheet goes beside it.")] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The run of a diffusion model (default: the one "
                                                                 "under runs/ that was trained last).")] = None,
    seed: Annotated[int | None, typer.Option(help="The first seed; the images have seeds SEED to SEED + N - 1 "
                                                  "(default: 0).")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="SEEDS", help="Instead of -n and --seed: seeds and ranges of "
                                                                    "seeds, such as 0-49999 or 7,10-19.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc_2, unipc_3, heun, "
                                                     "flow_euler or flow_heun (default: the recipe's).")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per image; each asks the denoiser once, of heun and "
                                                   "flow_heun twice (default: the recipe's).")] = None,
    grid: options.Grid = None,
    eta: options.Eta = None,
    start: options.Start = None,
    ema: options.Ema = None,
    guidance: Annotated[float | None, typer.Option(metavar="W", help="How far beyond what their classes change images "
                                                   "go: 1 is as in training, 0 without classes; other than 1 asks the "
                                                   "denoiser twice as often (default: the recipe's).")] = None,
    only: Annotated[str | None, typer.Option("--class", metavar="NAME", help="Draw this class only (default: of each "
                                             "class as often as it was in the training data).")] = None,
    format: Annotated[str, typer.Option(help="png: a file per image, named by its seed. shards: WebDataset tar files "
                                             "of 1024 consecutive seeds each.")] = "png",
    batch_size: Annotated[int, typer.Option(help="Images drawn before they are written; does not change them. Rounded "
                                                 "up to what one pass takes: 8 on a CPU, 32 on a GPU.")] = 64,
    device: options.Device = "auto",
    part: processes.MadePart = None,
    devices: processes.Devices = None,
) -> None:
    """Draw new images: one per seed, the same whatever the batch size, or the cores of a CPU.

    Images that are there already, whole, drawn by the same model in the same way, are kept: the same command again
    after an interruption draws the rest. Several commands may draw into one folder at a time. A part is every Nth block
    of 64 seeds, or of the 1024 of a shard.

    Example: brics sample -n 50000 --out samples/
    """
    from bricscli.copies import typed
    from bricscli.parts import WHOLE, parse_part
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.choices import Asked, choose_seeds, describe_seeds
    from bricscli.tasks.sample import sample_part, sample_to_folder

    which = parse_part(part) if part else WHOLE
    wanted = choose_seeds(count, seed, seeds)
    chosen = options.diffusion_run(run)
    out = out or chosen.samples
    asked = Asked(sampler=sampler, steps=steps, grid=grid, eta=eta, start=start, guidance=guidance)
    if devices is not None:
        processes.run_devices(out, devices, device, which, "--run", str(chosen.path), "--out", str(out))
        return
    how: dict[str, Any] = {"seeds": wanted, "device": choose_device(device), "asked": asked, "only": only, "ema": ema,
                           "format": format, "batch_size": batch_size}
    if which != WHOLE:
        processes.tell_share(out, which, sample_part(chosen, out, which, command=typed("--part"), **how))
        return
    done = sample_to_folder(chosen, out, **how)
    sheet = f"; the first of them in {done.sheet}" if done.sheet else ""
    say(f"{out}: {len(wanted)} images, {describe_seeds(wanted)}: {done.new} new, {done.kept} kept, {done.redone} redone"
        f"{sheet}.")
