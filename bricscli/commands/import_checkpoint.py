"""`brics import-checkpoint`."""

from pathlib import Path
from typing import Annotated

import typer


def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .ckpt, .pt, .pth or .safetensors file, or the folder "
                                                              "of an autoencoder that diffusers saved.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The new run, such as runs/kl-f8.")],
    resolution: Annotated[int, typer.Option(metavar="PIXELS", help="Of the images that it is for; the networks take "
                                                                   "any.")] = 256,
) -> None:
    """Make a run of an autoencoder that latent-diffusion, taming-transformers or diffusers trained.

    The file is read by another process, without network and with limits, as tensors alone: nothing in it is ever run.
    What a run cannot hold, such as denoisers, is named and left out; a first stage is imported whole or not at all.

    Example: brics import-checkpoint model.ckpt --out runs/kl-f8
    """
    from bricscli.run.log import say
    from bricscli.tasks.import_checkpoint import import_checkpoint as run_import

    imported = run_import(file, out, resolution=resolution)
    for beginning, (count, what) in imported.left_out.items():
        say(f"{file}: not imported: {count} {f'of `{beginning}`' if beginning else 'others'}, {what}.")
    depth, height, width = imported.recipe.code_shape
    say(f"{out}: {imported.recipe.bottleneck.kind.upper()} latents of {height}x{width}x{depth} for images of "
        f"{resolution} pixels. Next: `brics eval reconstruction --run {out} --ref DATA`.")
