"""Images to measure: a prepared data set or a folder of image files, read in a fixed order.

No torch at import.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bricscli import files
from bricscli.data.images import ImageError, Pixels, decode_image, load_image, raster_extensions, to_pixels
from bricscli.data.loader import order
from bricscli.data.samples import SampleFolder, sample_key
from bricscli.data.shards import MANIFEST, ShardSet, Split
from bricscli.data.sources.folder import belongs
from bricscli.errors import DataError
from bricscli.strict_json import parse_json

#: Where `brics prepare` puts data sets unless told otherwise.
DATA_ROOT = Path("data")

#: Formats that never keep the pixels, whatever their settings.
_LOSSY = {".jpg", ".jpeg", ".jfif", ".jpe"}


@dataclass
class ImageCollection:
    """Images of one resolution, read one by one in a fixed order. `read(i)` gives uint8 (3,H,W)."""

    name: str
    count: int
    read: Callable[[int], Pixels]
    shape: tuple[int, int]
    digest: str
    split: str | None = None
    lossy: bool = False  #: some are JPEG files
    preparation: dict[str, Any] | None = None  #: how they were, or of samples the training images; None: not known
    drawn: dict[str, Any] | None = None  #: by which model, how; None: not by `brics sample`
    folder: Path | None = None  #: of a prepared data set, where what is computed of it can be kept
    about: Callable[[int], dict[str, str]] = lambda i: {"name": str(i)}  #: "name" and, where known, "source"

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Pixels]:
        """uint8 (B,3,H,W). With a limit, a fixed random choice: the first ones may all be of one kind."""
        chosen = self.chosen(limit)
        for start in range(0, len(chosen), batch_size):
            yield np.stack([self.read(i) for i in chosen[start : start + batch_size]])

    def chosen(self, limit: int | None) -> Sequence[int]:
        """The numbers of the images that `batches` gives."""
        if limit is None:
            return range(self.count)
        return sorted(order(0, self.count, 0, np.arange(self.used(limit))).tolist())

    def used(self, limit: int | None) -> int:
        """How many images `batches` gives."""
        return self.count if limit is None else min(limit, self.count)

    @property
    def size(self) -> str:
        """Width x height, for messages."""
        return show_size(self.shape)

    def describe(self, limit: int | None) -> dict[str, Any]:
        """For the result."""
        height, width = self.shape
        split = {} if self.split is None else {"split": self.split}
        count = {"images": self.used(limit), "of": self.count}
        more: dict[str, Any] = {"lossy": True} if self.lossy else {}
        more |= {"drawn": self.drawn} if self.drawn else {}
        return {"name": self.name, **split, **count, "width": width, "height": height, "sha256": self.digest, **more,
                "preparation": self.preparation}


def find_images(
    where: str | Path, split: str | None = None, data_root: Path = DATA_ROOT, default: str = "all"
) -> ImageCollection:
    """A prepared data set (path, name under `data_root`, or any unique part of the name), samples, or other images.

    `split` ("train", "val", "all"; None: `default`) chooses from a data set; a folder has none. Raises DataError.
    """
    prepared = _find_prepared(where, data_root)
    if prepared is not None and not SampleFolder.is_one(prepared):
        return open_prepared(prepared, split or default)
    if split is not None and Path(where).is_dir():
        raise DataError(f"{where}: is a plain folder, which has no split `{split}`. Leave --split out.")
    if not Path(where).is_dir():
        known = ", ".join(_prepared_names(data_root)) or "none yet; make one with `brics prepare`"
        raise DataError(f"{where}: neither a folder nor a prepared data set. Data sets under {data_root}/: {known}.")
    return open_folder(Path(where))


def open_prepared(path: Path, split: str = "all") -> ImageCollection:
    """The images of a data set that `brics prepare` made."""
    data = ShardSet.open(path)
    if data.header["kind"] != "images":
        raise DataError(f"{path}: holds {data.header['kind']}, not images. Choose a data set made by `brics prepare`.")
    names = sorted(data.splits) if split == "all" else [split]
    samples = [(part, i) for part in map(data.split, names) for i in range(len(part))]
    resolution, extension = int(data.header["resolution"]), data.image_extension

    def read(i: int) -> Pixels:
        return _read_sample(*samples[i], resolution, extension)

    if not samples:
        raise DataError(f"{path}: has no images in split {split}. Choose another split.")
    return ImageCollection(path.absolute().name, len(samples), read, (resolution, resolution), data.digest, split,
                           lossy=extension == "jpg", preparation=data.preparation, folder=path,
                           about=lambda i: _about_sample(*samples[i]))


def open_folder(folder: Path) -> ImageCollection:
    """The samples that `brics sample` drew into a folder, exactly those; else all images of it and its sub-folders.

    By name; all of one size, all readable.
    """
    if SampleFolder.is_one(folder):
        return _open_samples(folder)
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder / MANIFEST}: is no manifest of samples or of a data set, or damaged. Draw the "
                        "samples again, or move it elsewhere.")
    root = folder.resolve()
    paths = sorted(
        (p for p in folder.rglob("*") if p.suffix.lower() in raster_extensions() and belongs(p, root)),
        key=lambda p: p.relative_to(folder).as_posix(),
    )
    paths = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not paths:
        raise DataError(f"{folder}: holds no images. Choose a folder with PNG files.")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path.relative_to(folder)) + f"\0{files.sha256_file(path)}\n".encode())
    shape = _read_file(paths[0]).shape[1:]

    def read(i: int) -> Pixels:
        pixels = _read_file(paths[i])
        if pixels.shape[1:] != shape:
            raise DataError(
                f"{paths[i]}: is {show_size(pixels.shape[1:])}, but {paths[0].name} is {show_size(shape)}."
                " Make all of one size with `brics prepare folder`."
            )
        return pixels

    lossy = any(p.suffix.lower() in _LOSSY for p in paths)
    return ImageCollection(
        folder.absolute().name, len(paths), read, (shape[0], shape[1]), digest.hexdigest(), lossy=lossy,
        # A name need not be UTF-8; what is written of it must be.
        about=lambda i: {"name": os.fsencode(paths[i].relative_to(folder)).decode(errors="backslashreplace")},
    )


def _open_samples(folder: Path) -> ImageCollection:
    """Both formats with the digest that a plain folder of the PNG files has."""
    samples = SampleFolder.open(folder)
    if not samples.seeds:
        raise DataError(f"{folder}: holds no samples yet. Draw some with `brics sample`.")
    seeds, digest = sorted(samples.seeds, key=sample_key), hashlib.sha256()
    for seed in seeds:
        digest.update(f"{sample_key(seed)}.png\0{hashlib.sha256(samples.read(seed)).hexdigest()}\n".encode())
    shape = (samples.resolution, samples.resolution)
    return ImageCollection(
        folder.absolute().name, len(seeds), lambda i: samples.image(seeds[i]), shape, digest.hexdigest(),
        preparation=samples.header.get("data", {}).get("preparation"),
        drawn={key: samples.header.get(key) for key in ("denoiser", "sampling", "ema", "class")},
        about=lambda i: {"name": sample_key(seeds[i])},
    )


def show_size(shape: Sequence[int]) -> str:
    """(height, width) -> `640x480`."""
    return f"{shape[1]}x{shape[0]}"


def _read_sample(split: Split, i: int, resolution: int, extension: str) -> Pixels:
    try:
        return decode_image(split.read(i, extension), resolution)
    except ImageError as error:
        raise DataError(f"{split.where(i, extension)}: {error}. Delete the data set and make it again.") from error


def _about_sample(split: Split, i: int) -> dict[str, str]:
    """Its key, and where `brics prepare` had it from: a file's name in the source."""
    about = {"name": split.key(i)}
    if "json" in split.extensions:
        try:
            origin = parse_json(split.read(i, "json"))
        except ValueError:
            origin = None
        if isinstance(origin, dict) and isinstance(origin.get("source"), str):
            about["source"] = origin["source"]
    return about


def _read_file(path: Path) -> Pixels:
    try:
        return to_pixels(load_image(path))
    except ImageError as error:
        raise DataError(f"{path}: {error}. Remove it, or make the samples again.") from error


def _prepared_names(data_root: Path) -> list[str]:
    return sorted(manifest.parent.name for manifest in data_root.glob(f"*/{MANIFEST}"))


def _find_prepared(where: str | Path, data_root: Path) -> Path | None:
    for path in (Path(where), data_root / where):
        if (path / MANIFEST).is_file():
            return path
    if Path(where).exists():
        return None
    matches = [name for name in _prepared_names(data_root) if str(where) in name]
    if len(matches) > 1:
        raise DataError(f"{where}: could be {' or '.join(matches)} under {data_root}/. Write more of the name.")
    return data_root / matches[0] if matches else None
