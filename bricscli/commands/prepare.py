"""`brics prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands.options import DATA_ROOT


def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="toy (churches drawn by the program) or folder (your "
                                                                 "own images, see --from).")],
    folder: Annotated[Path | None, typer.Option("--from", metavar="DIR", help="The folder with your images; its "
                                                "sub-folders are searched too.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DATA", help="Where the data set goes (default: data/toy, or "
                                                                  "data/NAME-OF-THE-FOLDER).")] = None,
    resolution: Annotated[int | None, typer.Option(metavar="PIXELS", help="Width and height of the prepared images, 8 "
                                                   "to 1024 (default for toy: 32).")] = None,
    count: Annotated[int | None, typer.Option(metavar="IMAGES", help="How many images to draw (toy) "
                                                                     "(default: 4096).")] = None,
    seed: Annotated[int | None, typer.Option(help="Which images are drawn (toy) (default: 0).")] = None,
    classes: Annotated[bool, typer.Option("--classes", help="The folders directly under DIR name the classes of the "
                                                            "images in them (folder).")] = False,
    val_fraction: Annotated[float, typer.Option(metavar="SHARE", help="Share of the images that is kept for "
                                                                      "validation.")] = 0.05,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes (default: one per core); the result does "
                                                                  "not depend on it.")] = None,
) -> None:
    """Turn images into a data set: WebDataset shards and a manifest.

    Images are turned upright (EXIF), cropped to their centre and resized with an antialiased Lanczos filter. The split
    into train and val depends on the contents alone. The same input gives the same bytes.

    Example: brics prepare folder --from ~/Pictures/cats --resolution 64
    """
    from bricscli.data import sources
    from bricscli.errors import RecipeError
    from bricscli.run.log import say, track, warn
    from bricscli.tasks.prepare import prepare_folder, prepare_toy

    SOURCES = {name: sources.SOURCES[name] for name in ("toy", "folder")}
    if source not in SOURCES:
        known = ", ".join(f"{name} ({entry.description})" for name, entry in SOURCES.items())
        raise RecipeError(f"SOURCE: `{source}` is unknown. There are: {known}.")
    if source == "toy":
        if classes:
            raise RecipeError("--classes: goes with `folder`; the churches of `toy` are of one kind.")
        if folder is not None:
            raise RecipeError("--from: goes with `folder`, not with `toy`. Write `brics prepare folder --from DIR`.")
        default = SOURCES["toy"]
        result = prepare_toy(out or DATA_ROOT / "toy", seed=0 if seed is None else seed,
                             resolution=default.resolution or 0 if resolution is None else resolution,
                             count=default.count or 0 if count is None else count,
                             val_fraction=val_fraction, workers=workers, progress=track)
    else:
        if folder is None:
            raise RecipeError("--from: is missing. Write `brics prepare folder --from DIR --resolution PIXELS`.")
        if resolution is None:
            raise RecipeError("--resolution: is missing. Choose the size of the prepared images in pixels, such as 64.")
        if count is not None:
            raise RecipeError("--count: goes with `toy`; `folder` takes every image that it finds.")
        if seed is not None:
            raise RecipeError("--seed: goes with `toy`; `folder` draws nothing.")
        result = prepare_folder(out or DATA_ROOT / folder.resolve().name, folder=folder, resolution=resolution,
                                classes=classes, val_fraction=val_fraction, workers=workers, progress=track)
    if result.rejected:
        warn(f"{len(result.rejected)} of the files could not be read; they are listed in the manifest, the first is "
             f"{result.rejected[0].path} ({result.rejected[0].reason})")
    images = result.dataset
    notes = [f"{result.ignored} other files ignored"] * (result.ignored > 0)
    notes += [f"{result.duplicates} duplicates among them"] * (result.duplicates > 0)
    notes += [f"{len(images.header.get('classes', []))} classes"] * classes
    say(f"{images.path}: {'is prepared already' if result.already else 'prepared'}: "
        f"{', '.join(f'{n} {split}' for split, n in images.splits.items())} images of "
        f"{images.header['resolution']} pixels{''.join(f'; {note}' for note in notes)}.")
