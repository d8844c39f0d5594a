"""`brics prepare`: images of any source -> image shards.

Every sample is an image and `<key>.json` ({"source", "sha256"}, and "facts" where the source knows some). With classes
it has a label as well, `<key>.cls`, which the JSON repeats ("label", "class"); the manifest names the classes. Keys
number the images by their places in the source: a rejected one leaves a hole.

First every item is named by its content, which decides duplicates, split, and which images make up which shard; then
they are decoded and written, a shard at a time. The same input gives the same bytes, whatever the number of workers and
however often the work was cut off: finished shards are kept (bricscli/data/unfinished.py).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bricscli import files
from bricscli.data.collection import DATA_ROOT
from bricscli.data.convert import FORMATS, ORIGINAL, Conversion
from bricscli.data.images import ImageError, image_extension
from bricscli.data.resize import DEFAULT, RESIZES
from bricscli.data.shards import MANIFEST, ShardSet
from bricscli.data.sources import SOURCES, default_place, find_source, how_to_get, open_source
from bricscli.data.sources.drawn import list_toy
from bricscli.data.sources.listing import Listing
from bricscli.data.unfinished import Rejected, remove_unfinished, unfinished
from bricscli.errors import DataError, RecipeError
from bricscli.parts import WHOLE, Part, Share
from bricscli.tasks.preparing import MAX_BAD, ON_BAD, Job, digest_source, make, name_items

A = TypeVar("A")

#: Share of the images for validation, unless told otherwise, where the source does not fix it.
VAL_FRACTION = 0.05
SAMPLES_PER_SHARD = 1024

class Progress(Protocol):
    """Shows how far an iteration is, such as `bricscli.run.log.track`."""

    def __call__(
        self, iterable: Iterable[A], total: int, description: str, unit: str, *, done: int = 0
    ) -> Iterable[A]: ...


@dataclass(frozen=True)
class Prepared:
    """The data set, whether it was there already, and how many of its shards an earlier command had finished."""

    dataset: ShardSet
    already: bool = False
    resumed: int = 0

    @property
    def rejected(self) -> list[Rejected]:
        return [Rejected(**entry) for entry in self.dataset.header["rejected"]]

    @property
    def ignored(self) -> int:
        """Files of the source that are not named like images, or are links out of it."""
        return int(self.dataset.header["ignored"])

    @property
    def duplicates(self) -> int:
        """Images whose file equals another's, byte for byte, the first of each kind not counted."""
        return int(self.dataset.header["duplicates"])


def prepare(
    out: Path,
    listing: Listing,
    *,
    resolution: int,
    resize: str | None = DEFAULT,
    format: str = "png",
    val_fraction: float | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    where: Path | None = None,
    on_bad: str = "fail",
    max_bad: float | None = None,
) -> Prepared:
    """Makes the data set `out` of the items of a source, which messages call `where`, or by its name.

    `resize`: a preset of RESIZES, or None for items that have the size already. `val_fraction`: share of the images for
    validation, 0.05 if None; not for sources that fix the split. `workers`: processes; None: one per CPU core.

    The same command on a finished data set made of the same items only verifies it; after an interruption, or where
    parts have been made, it goes on with what is missing. `on_bad`: what is done about items that cannot be read:
    "fail", or "skip": at most the share `max_bad` of them, 0.01 if None, is left out and listed in the manifest.

    Raises:
        RecipeError: a value is out of range.
        DataError: there are only copies of one image, some cannot be read (`skip`: too many), an image cannot be kept
            as it is, or `out` holds something else, is damaged, or cannot be written.
        BricsError: another process is preparing `out`, or its disk is full.
        InterruptedRun: Ctrl-C, with some shards finished, which are kept.
    """
    job = _job(out, listing, resolution=resolution, resize=resize, format=format, val_fraction=val_fraction,
               workers=workers, progress=progress, samples_per_shard=samples_per_shard, where=where, on_bad=on_bad,
               max_bad=max_bad)
    existing = _existing(out)
    if existing is None:
        with unfinished(out) as work:
            existing = _existing(out)  # another process may just have finished it
            if existing is None:
                share = make(job, work)
                return Prepared(ShardSet.open(out), resumed=share.resumed)
    remove_unfinished(out)
    return _same(existing, job)


def prepare_part(out: Path, listing: Listing, part: Part, *, command: Sequence[str] = (), **options: Any) -> Share:
    """Makes the shards of one part beside `out`, for `brics gather`; `options` as for `prepare`, which see.

    `command`: what was typed, without the part, for the advice of `brics gather`. Several processes, also of machines
    that share the disk, may make parts at a time, even the same. Every part names all items. Nothing is done where
    `out` is there.
    """
    job = _job(out, listing, part=part, command=command, **options)
    existing = _existing(out)
    if existing is None:
        with unfinished(out, shared=True) as work:
            existing = _existing(out)
            if existing is None:
                return make(job, work)
    _same(existing, job)
    return Share(0, 0, 0)


def _job(
    out: Path, listing: Listing, *, resolution: int, resize: str | None = DEFAULT, format: str = "png",
    val_fraction: float | None = None, workers: int | None = None, progress: Progress | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD, where: Path | None = None, on_bad: str = "fail",
    max_bad: float | None = None, part: Part = WHOLE, command: Sequence[str] = (),
) -> Job:
    _check_options(resolution, resize, format, {"val_fraction": val_fraction, "workers": workers, "on_bad": on_bad,
                                               "max_bad": max_bad})
    fixed = any(item.split is not None for item in listing.items)
    if fixed and val_fraction is not None:
        raise RecipeError(f"--val-fraction: does not go with {listing.source['name']}, which fixes the split itself.")
    share = None if fixed else VAL_FRACTION if val_fraction is None else val_fraction
    resize = None if format == ORIGINAL else resize
    settings = {
        "kind": "images",
        "source": listing.source | {"images": len(listing.items)},
        "resolution": resolution,
        "crop": RESIZES[resize].crop if resize else None,
        "resize": resize,
        "format": format,
        "val_fraction": share,
        **({} if listing.classes is None else {"classes": listing.classes}),
    }
    conversion = Conversion(resolution, resize, format, _extension(listing, format))
    return Job(out, str(where or listing.source["name"]), listing, conversion, settings, share, samples_per_shard,
               workers, progress or _silent, part, on_bad, MAX_BAD if max_bad is None else max_bad, command)


def prepare_source(source: str, path: Path | None, **options: Any) -> Prepared:
    """Prepares what the source of SOURCES finds at `path`, or at its own place if None; `options` as for `find_work`.

    Raises what `find_work` and `prepare` raise.
    """
    out, listing, others = find_work(source, path, **options)
    return prepare(out, listing, **others)


def find_work(
    source: str,
    path: Path | None,
    *,
    out: Path | None = None,
    resolution: int | None = None,
    resize: str | None = None,
    format: str = "png",
    options: Mapping[str, Any] | None = None,
    **others: Any,
) -> tuple[Path, Listing, dict[str, Any]]:
    """What `prepare` is given for what a source of SOURCES finds at `path`, or at its own place if None.

    `out`: None: under data/, by the collection's name, or the folder's. `resolution`: None: the collection's.
    `options`: for `open_source`.

    Raises:
        RecipeError: something must be said that was not, or an option is out of range.
        DataError: the collection is not there; says how to get it.
    """
    word = find_source(source)
    if format == ORIGINAL and resize is not None:
        raise RecipeError("--resize: does not go with --format original, which keeps the files as they are.")
    place = default_place(word)
    found = path or place
    if found is None:
        raise RecipeError(how_to_get(word))
    if resolution is None and (resolution := SOURCES[word].resolution) is None:
        raise RecipeError("--resolution: is missing. Choose the size of the prepared images in pixels, such as 64.")
    _check_options(resolution, resize, format, others)
    if path is None and not found.exists():
        raise DataError(how_to_get(word))
    if out is None:
        out = DATA_ROOT / (name_of(found) if place is None else word)
    listing = open_source(word, found, **(options or {}))
    return out, listing, {"resolution": resolution, "resize": resize or DEFAULT, "format": format, "where": found,
                          **others}


def name_of(path: Path) -> str:
    """Of a data set made of a folder or an archive: its name without the ending."""
    path = path.resolve()
    return path.name if path.is_dir() else path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".zip")


def prepare_toy(out: Path, **options: Any) -> Prepared:
    """Draws toy churches into the data set `out`; `options` as for `find_toy` and `prepare`."""
    listing, others = find_toy(**options)
    return prepare(out, listing, **others)


def find_toy(
    *, resolution: int = 32, count: int = 4096, seed: int = 0, format: str = "png", **options: Any
) -> tuple[Listing, dict[str, Any]]:
    """What `prepare` is given for `count` toy churches of `resolution` pixels. Raises RecipeError."""
    _check_options(resolution, None, format, options)
    if format == ORIGINAL:
        raise RecipeError("--format: `original` goes with the others; the pictures of `toy` have no files. Choose png.")
    if count < 2:
        raise RecipeError(f"--count: {count} is too few. Ask for 2 or more: one to train on and one to validate.")
    return list_toy(seed, count, resolution), {"resolution": resolution, "resize": None, "format": format, **options}


def prepare_folder(out: Path, *, folder: Path, resolution: int, classes: bool = False, **options: Any) -> Prepared:
    """Crops and resizes every image below `folder` into the data set `out`; see `prepare`.

    With `classes` the folders directly under `folder`, sorted by name, are the classes of the images in them.
    """
    _check_options(resolution, None, "png", options)
    return prepare(out, open_source("folder", folder, classes=classes), resolution=resolution, where=folder, **options)


def _check_options(resolution: int, resize: str | None, format: str, others: Mapping[str, Any]) -> None:
    val_fraction, workers, on_bad, max_bad = (others.get(name) for name in (
        "val_fraction", "workers", "on_bad", "max_bad"))
    problems = []
    if not 8 <= resolution <= 1024:
        problems.append(f"--resolution: {resolution} is out of range. Choose 8 to 1024 pixels.")
    if resize is not None and resize not in RESIZES:
        problems.append(f"--resize: `{resize}` is unknown. There are: {', '.join(RESIZES)}.")
    if format not in FORMATS:
        problems.append(f"--format: `{format}` is unknown. There are: {', '.join(FORMATS)}.")
    if val_fraction is not None and not 0 < val_fraction < 1:
        problems.append(f"--val-fraction: {val_fraction} is out of range. Choose more than 0 and less than 1.")
    if workers is not None and workers < 1:
        problems.append(f"--workers: {workers} is too few. Choose 1 or more.")
    if on_bad not in (None, *ON_BAD):
        problems.append(f"--on-bad: `{on_bad}` is unknown. There are: {', '.join(ON_BAD)}.")
    elif max_bad is not None and on_bad != "skip":
        problems.append("--max-bad: goes with --on-bad skip. Leave it out, or add that.")
    if max_bad is not None and not 0 <= max_bad < 1:
        problems.append(f"--max-bad: {max_bad} is out of range. Choose 0 or more and less than 1, such as 0.01.")
    if problems:
        raise RecipeError(*problems)


def _extension(listing: Listing, format: str) -> str:
    """Of the images' files: where the originals are kept, that of the first that can be told."""
    if format != ORIGINAL:
        return format
    for item in listing.items:
        try:
            kind = image_extension(item.read())
        except ImageError:
            continue
        if kind is None:
            raise DataError(f"{item.name}: is neither PNG nor WebP nor JPEG, which --format original needs. Use "
                            "--format png.")
        return kind
    raise DataError(f"{listing.source['name']}: none of its {len(listing.items)} images can be read. Give others.")


def _existing(out: Path) -> ShardSet | None:
    """The data set that is in `out`, or None where one can be written.

    Raises:
        DataError: something else is there, a damaged data set is there, or the place cannot be written.
    """
    if (out / MANIFEST).is_file():
        return ShardSet.open(out)
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out}: holds other files. Choose another --out.")
    if os.path.lexists(out) and not out.is_dir():
        raise DataError(f"{out}: is a file. Choose another --out, or delete it.")
    files.check_writable(out)
    return None


def _same(existing: ShardSet, job: Job) -> Prepared:
    """Raises DataError where the data set is not the one that is asked for."""
    if existing.header["kind"] != job.settings["kind"]:
        raise DataError(f"{existing.path}: holds {existing.header['kind']}. Choose another --out, or delete it.")
    found, wanted = ({"classes": None, **header, **header["source"]} for header in (existing.header, job.settings))
    differing = [key for key in wanted if key != "source" and found.get(key) != wanted[key]]
    facts = [f"{key} {_show_value(found.get(key))}, not {_show_value(wanted[key])}" for key in differing]
    if not facts:
        digests, _ = name_items(job, "comparing")
        if found.get("sha256") != digest_source(job.listing, digests):
            facts = ["made of other images"]
    if facts:
        raise DataError(f"{existing.path}: holds another data set ({'; '.join(facts)}). Choose another --out, or "
                        "delete it.")
    existing.verify()
    return Prepared(existing, already=True)


def _show_value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join([*value[:3], *["..."] * (len(value) > 3)])
    return "none" if value is None else str(value)


def _silent(iterable: Iterable[A], *_: object, **options: object) -> Iterable[A]:
    return iterable
