"""`brics eval inpaint`."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options
from bricscli.commands.evaluate_samples import Force, Limit, Split


def inpaint(
    ref: Annotated[str, typer.Option("--ref", metavar="REF", help="The originals: a prepared data set, by path, name, "
                                     "a part of its name or https:// or s3:// address, or a folder of images.")],
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The run of a diffusion model (default: the one under "
                                                                 "runs/ that was trained last).")] = None,
    autoencoder: Annotated[Path | None, typer.Option(metavar="RUN", help="The mask-conditioned decoder's run (default: "
                                                     "the newest that began with the diffusion model's autoencoder)."
                                                     )] = None,
    split: Split = None,
    masks: Annotated[str, typer.Option(metavar="KIND", help="thin, medium, thick, mixed, box, half or "
                                                            "outpaint.")] = "thick",
    mask_seed: Annotated[int, typer.Option(help="Which masks are drawn.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed fills otherwise.")] = 0,
    method: Annotated[str | None, typer.Option(help="blended, repaint or concat (default: concat of a model that was "
                                                    "trained to fill, else blended).")] = None,
    sampler: Annotated[str | None, typer.Option(help="As of `brics sample` (default: the recipe's).")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per picture (default: the recipe's).")] = None,
    resamplings: Annotated[int | None, typer.Option(metavar="R", help="repaint: how often every stretch of steps is "
                                                    "walked.")] = None,
    jump: Annotated[int | None, typer.Option(metavar="J", help="repaint: how many steps are a stretch.")] = None,
    features: Annotated[str, typer.Option(help="inception: FID (torch-fidelity). random: a distance that needs no "
                                               "download.")] = "inception",
    lpips: Annotated[str, typer.Option(metavar="NET", help="LPIPS by alex, vgg or squeeze; or none.")] = "alex",
    limit: Limit = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the JSON file goes (default: evals in the "
                                             "run).")] = None,
    force: Force = False,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
) -> None:
    """Fill a hole in every picture of a data set, and measure the filling and what became of the rest.

    Rows: the plain decoder, the same with the kept pixels pasted over it, and the mask-conditioned decoder, each on
    filled codes and on the pictures' own. Columns: Pre_error on kept pixels, seam error, error at the edge and in the
    hole, PSNR, LPIPS and the Fréchet distance, over all pictures and over those of which 40 to 50 % are masked, as LaMa
    measures. Masks and fillings are the same every time.

    Example: brics eval inpaint --ref church --split val --features random --lpips none
    """
    from bricscli import files
    from bricscli.data.collection import find_images
    from bricscli.data.masks import KINDS
    from bricscli.errors import RecipeError
    from bricscli.run.directory import RunDirectory
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.choices import Asked
    from bricscli.tasks.eval.inpainting import describe_inpainting, evaluate_inpainting, load_judges, save_inpainting
    from bricscli.tasks.inpainting.inpainter import prepare_inpainter

    if masks not in KINDS:
        raise RecipeError(f"--masks: `{masks}` is unknown. There are: {', '.join(KINDS)}.")
    place = choose_device(device)
    extractor, measures = load_judges(features, lpips, place)
    chosen = options.diffusion_run(run)
    files.check_writable(out or chosen.evals)
    images = find_images(options.at_hand(ref, allow_host), split, default="val")
    inpainter, line = prepare_inpainter(
        chosen, place, asked=Asked(sampler=sampler, steps=steps), resamplings=resamplings, jump=jump,
        autoencoder=RunDirectory.open(autoencoder) if autoencoder else None)
    if line:
        say(line)
    result = evaluate_inpainting(inpainter, images, extractor, measures, masks=masks, mask_seed=mask_seed, seed=seed,
                                 method=method, limit=limit, force=force)
    say("\n".join([*describe_inpainting(result), f"written to {save_inpainting(result, out or chosen.evals)}"]))
