"""`brics prepare`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bricscli.commands import processes
from bricscli.commands.options import DATA_ROOT

if TYPE_CHECKING:
    from bricscli.tasks.prepare import Prepared

#: option -> the word that `open_source` knows it by
SOURCE_OPTIONS = {"--classes": "classes", "--split": "ffhq_split", "--frames-per-video": "frames_per_video",
                  "--any-count": "any_count", "--seed": "seed"}


def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="toy (churches drawn by the program), folder (your "
                                          "own images), or a collection; an unknown word lists them.")],
    place: Annotated[Path | None, typer.Option("--from", metavar="PATH", help="What you have: a folder with its "
                                               "sub-folders, or an archive. Not for toy.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DATA", help="Where the data set goes (default: data/SOURCE, or "
                                                                  "data/NAME-OF-THE-FOLDER).")] = None,
    resolution: Annotated[int | None, typer.Option(metavar="PIXELS", help="Width and height, 8 to 1024 (default: 32 "
                                                   "for toy, 256 for LSUN, FFHQ).")] = None,
    resize: Annotated[str | None, typer.Option(metavar="PRESET", help="Whose filter: ldm, adm, nvlabs, rqvae, taming "
                                               "or lanczos (default: lanczos, as nvlabs).")] = None,
    format: Annotated[str, typer.Option(help="png, webp (lossless), or original: the files as they are, if all have "
                                             "the size.")] = "png",
    classes: Annotated[bool, typer.Option("--classes", help="The folders directly under PATH name the classes of the "
                                                            "images in them.")] = False,
    split: Annotated[str | None, typer.Option(metavar="RULE", help="FFHQ: taming (random 60k/10k), first60k or all "
                                                                   "(70k to train on).")] = None,
    frames_per_video: Annotated[int | None, typer.Option(metavar="N", help="Of each video (webvid).")] = None,
    any_count: Annotated[bool, typer.Option("--any-count", help="Take a collection that lacks images.")] = False,
    count: Annotated[int | None, typer.Option(metavar="IMAGES", help="How many to draw (toy) (default: 4096).")] = None,
    seed: Annotated[int | None, typer.Option(help="Which are drawn (toy), or which frames (videos) "
                                                 "(default: 0).")] = None,
    val_fraction: Annotated[float | None, typer.Option(metavar="SHARE", help="Share of the images for validation "
                                                       "(default: 0.05), unless SOURCE fixes it.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes (default: one per core); the result does "
                                                                  "not depend on it.")] = None,
    on_bad: Annotated[str, typer.Option(metavar="fail|skip", help="What to do where images cannot be read: name them "
                                        "and stop, or leave them out and list them in the manifest.")] = "fail",
    max_bad: Annotated[float | None, typer.Option(metavar="SHARE", help="With --on-bad skip: more than this share of "
                                                  "the images is an error (default: 0.01).")] = None,
    part: processes.MadePart = None,
) -> None:
    """Turn images into a data set: WebDataset shards and a manifest.

    Images are turned upright (EXIF), cropped to their centre and resized. The split into train and val depends on the
    contents alone. The same input gives the same bytes; stopped, the same command goes on behind its last shard. Parts
    are shards; each part reads all images once, to name them.

    Example: brics prepare folder --from ~/Pictures/cats --resolution 64
    """
    from bricscli.copies import typed
    from bricscli.data.sources import SOURCES, find_source
    from bricscli.parts import WHOLE, parse_part
    from bricscli.run.log import track
    from bricscli.tasks.prepare import find_toy, find_work, prepare_part
    from bricscli.tasks.prepare import prepare as run_prepare

    word = find_source(source)
    entry = SOURCES[word]
    chosen = {"--classes": classes or None, "--split": split, "--frames-per-video": frames_per_video,
              "--any-count": any_count or None, "--seed": seed, "--count": count, "--from": place, "--resize": resize}
    chosen = {option: value for option, value in chosen.items() if value is not None}
    _refuse(word, chosen)
    common: dict[str, Any] = {"format": format, "val_fraction": val_fraction, "workers": workers, "progress": track,
                              "on_bad": on_bad, "max_bad": max_bad}
    which = parse_part(part) if part else WHOLE
    if not entry.needs_path:
        out = out or DATA_ROOT / word
        listing, others = find_toy(seed=seed or 0, count=entry.count or 0 if count is None else count,
                                   resolution=entry.resolution or 0 if resolution is None else resolution, **common)
    else:
        options = {SOURCE_OPTIONS[option]: value for option, value in chosen.items() if option in SOURCE_OPTIONS}
        out, listing, others = find_work(word, place, out=out, resolution=resolution, resize=resize, options=options,
                                         **common)
    if which == WHOLE:
        _tell(run_prepare(out, listing, **others))
    else:
        processes.tell_share(out, which, prepare_part(out, listing, which, command=typed("--part"), **others))


def _refuse(word: str, chosen: Mapping[str, Any]) -> None:
    """Raises RecipeError for options that mean nothing to the source."""
    from bricscli.data.sources import SOURCES
    from bricscli.errors import RecipeError

    def takes(word: str, option: str) -> bool:
        source = SOURCES[word]
        if not source.needs_path:  # toy
            return option in ("--count", "--seed")
        return SOURCE_OPTIONS[option] in source.options if option in SOURCE_OPTIONS else option != "--count"

    problems = []
    for option in chosen:
        if not takes(word, option):
            fitting = [other for other in SOURCES if takes(other, option)]
            few = ", ".join(f"`{other}`" for other in fitting[:5]) + (" and others" if fitting[5:] else "")
            problems.append(f"{option}: goes with {few or 'no source'}, not with `{word}`. Leave it out.")
    if problems:
        raise RecipeError(*problems)


def _tell(result: "Prepared") -> None:
    from bricscli.run.log import say, warn

    images = result.dataset
    header = images.header
    if result.rejected:
        warn(f"{len(result.rejected)} of the files could not be read; they are listed in the manifest, the first is "
             f"{result.rejected[0].path} ({result.rejected[0].reason})")
    if parted := header.get("duplicates_between_splits"):
        warn(f"{parted} images have a copy in the other split, as {header['source']['name']} divides them")
    notes = [f"{result.ignored} other files ignored"] * (result.ignored > 0)
    if result.duplicates:
        (first, copy), *_ = header.get("first_duplicates", [("", "")])
        notes.append(f"{result.duplicates} duplicates among them, such as {copy} of {first}")
    notes += [f"{len(header.get('classes', []))} classes"] * ("classes" in header)
    notes += [f"{result.resumed} of its shards were there already"] * (result.resumed > 0)
    say(f"{images.path}: {'is prepared already' if result.already else 'prepared'}: "
        f"{', '.join(f'{n} {split}' for split, n in images.splits.items())} images of "
        f"{header['resolution']} pixels{''.join(f'; {note}' for note in notes)}.")
