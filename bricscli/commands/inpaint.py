"""`brics inpaint`."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options


def inpaint(
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="A picture, of any size, or a folder of "
                                                                       "pictures.")] = None,
    mask: Annotated[str | None, typer.Option(metavar="MASK", help="What is replaced: a black and white image (white is "
                                             "replaced), a folder with one of each picture's name, `alpha` (what is "
                                             "transparent), or a drawn one, such as thick:7 (thin, medium, thick, "
                                             "mixed, box, half or outpaint, and a seed).")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the filled pictures, "
                                             "NAME-VARIANT.png; a sheet goes beside it.")] = None,
    pairs: Annotated[Path | None, typer.Option(metavar="CSV", help="Instead of IMAGE and --mask: a table with the "
                                               "columns image, mask and, if you like, seed; paths from its own "
                                               "folder.")] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Replace what is black, and keep what is white.")] = False,
    grow: Annotated[int, typer.Option(metavar="N", help="Draw anew also the codes that are up to N cells away from the "
                                      "mask: for what a cut leaves behind, such as shadows.")] = 0,
    method: Annotated[str | None, typer.Option(help="blended, repaint (better and dearer), or concat, of a model that "
                                               "was trained to fill (default: concat of such a one, else blended)."
                                               )] = None,
    variants: Annotated[int, typer.Option(metavar="N", help="Different fillings of each picture.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed fills otherwise.")] = 0,
    blend: Annotated[str, typer.Option(help="feather:8 (kept pixels stay as they are, and the step at the mask's edge "
                                            "fades out over 8 pixels inside), paste (the same, with the step), or none "
                                            "(everything as decoded).")] = "feather:8",
    window: Annotated[str | None, typer.Option(help="crop: what is around the mask, made smaller if need be, so that "
                                               "what is filled is softer; tile: piece by piece (default: by the mask's "
                                               "size).")] = None,
    decoder: Annotated[str | None, typer.Option(help="asymmetric, which is shown the kept pixels, or plain (default: "
                                                "asymmetric, if one was trained).")] = None,
    autoencoder: Annotated[Path | None, typer.Option(metavar="RUN", help="The asymmetric decoder's run (default: the "
                                                     "newest that began with the diffusion model's autoencoder)."
                                                     )] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The run of a diffusion model (default: the one "
                                                                 "under runs/ that was trained last).")] = None,
    sampler: Annotated[str | None, typer.Option(help="As of `brics sample`; of repaint ddpm or ddim (default: the "
                                                     "recipe's).")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per window (default: the recipe's).")] = None,
    grid: options.Grid = None,
    eta: options.Eta = None,
    start: options.Start = None,
    resamplings: Annotated[int | None, typer.Option(metavar="R", help="repaint: how often every stretch of steps is "
                                                    "walked (default: 5).")] = None,
    jump: Annotated[int | None, typer.Option(metavar="J", help="repaint: how many steps are a stretch (default: 5)."
                                             )] = None,
    ema: options.Ema = None,
    guidance: Annotated[float | None, typer.Option(metavar="W", help="How far towards --class: 1 is as in training "
                                                   "(default: the recipe's).")] = None,
    only: Annotated[str | None, typer.Option("--class", metavar="NAME", help="What the picture shows, for a model with "
                                             "classes (default: it is not told).")] = None,
    device: options.Device = "auto",
    ui: Annotated[bool, typer.Option("--ui", help="Serve a page, to this machine alone, on which pictures are opened "
                                     "and masks painted. Needs `pip install 'brics\\[ui]'`.")] = False,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Of the page; 0 is any that is free (default: 7860)."
                                             )] = None,
) -> None:
    """Replace a part of a picture, and leave the rest as it is.

    What the mask covers is never looked at. With --blend none the decoder also touches what is kept; else those pixels
    come out bit for bit. The same command again after an interruption fills the rest.

    Example: brics inpaint cat.jpg --mask cat-mask.png --variants 4 --out filled/, or brics inpaint --ui
    """
    from bricscli.data.pairs import find_pairs
    from bricscli.errors import RecipeError
    from bricscli.run.directory import RunDirectory
    from bricscli.run.log import say

    if ui:
        _check_page(image, mask, out, pairs, window, invert)
    elif port is not None:
        raise RecipeError("--port: belongs to the page. Add --ui, or leave it out.")
    elif out is None:
        raise RecipeError("--out: is missing. Name the folder of the filled pictures.")
    wanted = [] if ui else find_pairs(image, mask, pairs, seed)
    chosen = options.diffusion_run(run)

    from bricscli.runtime import choose_device
    from bricscli.tasks.choices import Asked
    from bricscli.tasks.inpainting.inpaint import inpaint_to_folder
    from bricscli.tasks.inpainting.inpainter import prepare_inpainter

    asked = Asked(sampler=sampler, steps=steps, grid=grid, eta=eta, start=start, guidance=guidance)
    inpainter, line = prepare_inpainter(
        chosen, choose_device(device), asked=asked, ema=ema, only=only, resamplings=resamplings, jump=jump, grow=grow,
        decoder=decoder, autoencoder=RunDirectory.open(autoencoder) if autoencoder else None)
    if line:
        say(line)
    if ui:
        from bricscli.page.desk import Choice
        from bricscli.page.server import serve

        words = _words(run=chosen.path, autoencoder=autoencoder, sampler=sampler, steps=steps, grid=grid, eta=eta,
                       start=start, resamplings=resamplings, jump=jump, ema=ema, guidance=guidance,
                       grow=grow or None, device=None if device == "auto" else device)
        serve(inpainter, words + (["--class", only] if only else []),
              Choice(method, decoder, variants, seed, blend), 7860 if port is None else port)
        return
    assert out is not None
    done = inpaint_to_folder(inpainter, wanted, out, variants=variants, method=method, blend=blend, window=window,
                             invert=invert)
    sheet = f"; the first of them in {done.sheet}" if done.sheet else ""
    say(f"{out}: {done.new + done.kept} filled pictures: {done.new} new, {done.kept} kept{sheet}.")


def _check_page(image: Path | None, mask: str | None, out: Path | None, pairs: Path | None, window: str | None,
                invert: bool) -> None:
    """Raises RecipeError for what is chosen on the page, DataError where it cannot be served."""
    from bricscli.errors import RecipeError
    from bricscli.page.place import check_installed

    given = {"IMAGE": image, "--mask": mask, "--out": out, "--pairs": pairs, "--window": window,
             "--invert": invert or None}
    if named := [name for name, value in given.items() if value is not None]:
        raise RecipeError(f"--ui: pictures are opened, painted and saved on the page. Leave {', '.join(named)} out.")
    check_installed()


def _words(**given: object) -> list[str]:
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
