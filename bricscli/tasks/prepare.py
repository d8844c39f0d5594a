"""`brics prepare`: images -> image shards.

Every sample is `<key>.png` and `<key>.json` ({"source", "sha256"}). With classes it has a label as well, `<key>.cls`,
which the JSON repeats ("label", "class"); the manifest names the classes. The same input gives the same bytes, whatever
the number of workers: results are taken in the order of the sources, and the split depends on the contents alone.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from bricscli import files
from bricscli.data import images, toy
from bricscli.data.labels import LABEL, encode_label
from bricscli.data.shards import MANIFEST, Sample, ShardSet, write_shards
from bricscli.data.sources.folder import list_images
from bricscli.data.workers import map_in_order
from bricscli.errors import DataError, RecipeError

A = TypeVar("A")

#: A larger file is no photograph.
MAX_FILE_BYTES = 1 << 29
#: At most this share of the image files may be unreadable.
MAX_REJECTED = 0.01


class Progress(Protocol):
    """Shows how far an iteration is, such as `bricscli.run.log.track`."""

    def __call__(self, iterable: Iterable[A], total: int, description: str, unit: str) -> Iterable[A]: ...


class Rejected(NamedTuple):
    """An image file that could not be used; `path` is relative to its folder."""

    path: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """The data set, and whether it was there already."""

    dataset: ShardSet
    already: bool = False

    @property
    def rejected(self) -> list[Rejected]:
        return [Rejected(**entry) for entry in self.dataset.header["rejected"]]

    @property
    def ignored(self) -> int:
        """Files in the folder that are not named like images, or are links out of it."""
        return int(self.dataset.header["ignored"])

    @property
    def duplicates(self) -> int:
        """Images whose file equals another's, byte for byte, the first of each kind not counted."""
        return int(self.dataset.header["duplicates"])


def prepare_toy(
    out: Path,
    *,
    resolution: int = 32,
    count: int = 4096,
    seed: int = 0,
    val_fraction: float = 0.05,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Draws `count` toy churches of `resolution` pixels into the data set `out`.

    The same command on a finished data set only verifies it. `workers`: processes; None: one per CPU core.

    Raises:
        RecipeError: a value is out of range.
        DataError: `out` holds something else or is damaged, or cannot be written.
    """
    _check_options(resolution, val_fraction, workers)
    if count < 2:
        raise RecipeError(f"--count: {count} is too few. Ask for 2 or more: one to train on and one to validate.")
    source = {"name": "toy", "version": toy.VERSION, "seed": seed, "count": count}
    settings = _settings(source, resolution, val_fraction, crop=None, resize=None)
    if existing := _existing(out):
        return _same(existing, settings)
    digests = [_sha256(f"{seed}:{i}".encode()) for i in range(count)]
    val = _val_samples(digests, val_fraction)
    numbers = _train_then_val(count, val)
    results = map_in_order(partial(_draw, seed, resolution), numbers, workers)
    drawn = _show(progress, results, count, "drawing", "images")

    def samples() -> Iterator[Sample]:
        for i, png in zip(numbers, drawn, strict=True):
            yield _sample(i, count, i in val, png, f"toy:{seed}:{i}", digests[i])

    return Prepared(write_shards(out, {**settings, **_findings(digests)}, samples()))


def prepare_folder(
    out: Path,
    *,
    folder: Path,
    resolution: int,
    classes: bool = False,
    val_fraction: float = 0.05,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Crops and resizes every image below `folder` into the data set `out`.

    With `classes` the folders directly under `folder`, sorted by name, are the classes of the images in them.

    The same command on a finished data set made of the same files only verifies it. Files that are named like images
    and cannot be read are listed in the manifest. `workers`: processes; None: one per CPU core.

    Raises:
        RecipeError: a value is out of range.
        DataError: there are no images or only copies of one, more than 1 % of them cannot be read, the folders make no
            classes, or `out` holds something else, is damaged, or cannot be written.
    """
    _check_options(resolution, val_fraction, workers)
    listing = list_images(folder)
    total = len(listing.paths)
    names = _class_names(folder, listing.names) if classes else []

    def settings(digests: Sequence[str]) -> dict[str, Any]:
        lines = [f"{digest} {name}\n" for digest, name in zip(digests, listing.names, strict=True)]
        source = {"name": "folder", "files": total, "sha256": _sha256("".join(lines).encode())}
        asked = _settings(source, resolution, val_fraction, crop="center", resize="lanczos")
        return asked | {"classes": names} if classes else asked

    if existing := _existing(out):
        digests = _show(progress, map_in_order(_digest, listing.paths, workers), total, "comparing", "files")
        return _same(existing, settings(list(digests)))
    with _Spool(out) as spool:
        results = map_in_order(partial(_convert, resolution), listing.paths, workers)
        converted = []
        for png, digest, reason in _show(progress, results, total, "reading", "images"):
            spool.append(png)
            converted.append((digest, reason))
        rejected = [Rejected(name, why) for name, (_, why) in zip(listing.names, converted, strict=True) if why]
        _check_rejected(folder, rejected, total)
        good = [i for i, (_, reason) in enumerate(converted) if not reason]
        digests = [converted[i][0] for i in good]
        _check_variety(folder, digests)
        val = _val_samples(digests, val_fraction)
        header = {
            **settings([digest for digest, _ in converted]),
            **_findings(digests, listing.ignored, rejected),
        }
        samples = (
            _sample(i, len(good), i in val, spool[good[i]], listing.names[good[i]], digests[i], names)
            for i in _train_then_val(len(good), val)
        )
        return Prepared(write_shards(out, header, samples))


def _check_options(resolution: int, val_fraction: float, workers: int | None) -> None:
    problems = []
    if not 8 <= resolution <= 1024:
        problems.append(f"--resolution: {resolution} is out of range. Choose 8 to 1024 pixels.")
    if not 0 < val_fraction < 1:
        problems.append(f"--val-fraction: {val_fraction} is out of range. Choose more than 0 and less than 1.")
    if workers is not None and workers < 1:
        problems.append(f"--workers: {workers} is too few. Choose 1 or more.")
    if problems:
        raise RecipeError(*problems)


def _settings(
    source: dict[str, Any], resolution: int, val_fraction: float, crop: str | None, resize: str | None
) -> dict[str, Any]:
    """The part of the manifest that says what was asked for: equal settings, equal data set."""
    return {
        "kind": "images",
        "source": source,
        "resolution": resolution,
        "crop": crop,
        "resize": resize,
        "val_fraction": val_fraction,
    }


def _findings(digests: Sequence[str], ignored: int = 0, rejected: Sequence[Rejected] = ()) -> dict[str, Any]:
    duplicates = len(digests) - len(set(digests))
    return {"duplicates": duplicates, "ignored": ignored, "rejected": [entry._asdict() for entry in rejected]}


def _existing(out: Path) -> ShardSet | None:
    """The data set that is in `out`, or None where one can be written.

    Raises:
        DataError: something else is there, a damaged data set is there, or the place cannot be written.
    """
    if (out / MANIFEST).is_file():
        return ShardSet.open(out)
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out}: holds other files. Choose another --out, or delete it.")
    if os.path.lexists(out) and not out.is_dir():
        raise DataError(f"{out}: is a file. Choose another --out, or delete it.")
    files.check_writable(out)
    return None


def _same(existing: ShardSet, settings: dict[str, Any]) -> Prepared:
    if existing.header["kind"] != settings["kind"]:
        raise DataError(f"{existing.path}: holds {existing.header['kind']}. Choose another --out, or delete it.")
    found, wanted = ({"classes": None, **header, **header["source"]} for header in (existing.header, settings))
    differing = [key for key in wanted if key not in ("source", "sha256") and found.get(key) != wanted[key]]
    if differing or found["source"] != wanted["source"]:
        facts = [f"{key} {_show_value(found.get(key))}, not {_show_value(wanted[key])}" for key in differing]
        what = "; ".join(facts) or "made of other images"
        raise DataError(f"{existing.path}: holds another data set ({what}). Choose another --out, or delete it.")
    existing.verify()
    return Prepared(existing, already=True)


def _show_value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join([*value[:3], *["..."] * (len(value) > 3)])
    return "none" if value is None else str(value)


def _class_names(folder: Path, files_below: Sequence[str]) -> list[str]:
    """The folders directly under `folder`, sorted. Raises DataError where an image lies in none, or all in one."""
    outside = next((name for name in files_below if "/" not in name), None)
    if outside is not None:
        raise DataError(f"{folder}: {outside} lies in none of the folders that name the classes. Move it into one, or "
                        "leave out --classes.")
    names = sorted({name.split("/")[0] for name in files_below})
    if len(names) < 2:
        raise DataError(f"{folder}: all images lie in one folder, {names[0]}, and a single class tells nothing. Add "
                        "another folder beside it, or leave out --classes.")
    return names


def _check_rejected(folder: Path, rejected: Sequence[Rejected], total: int) -> None:
    few = "; ".join(f"{entry.path} ({entry.reason})" for entry in rejected[:3]) + ("; ..." if rejected[3:] else "")
    if len(rejected) == total:
        raise DataError(f"{folder}: none of its {total} image files can be read: {few}. Give a folder of images.")
    if len(rejected) > MAX_REJECTED * total:
        raise DataError(
            f"{folder}: {len(rejected)} of {total} image files cannot be read, more than {MAX_REJECTED:.0%}: {few}. "
            "Repair them, or move them elsewhere."
        )


def _check_variety(folder: Path, digests: Sequence[str]) -> None:
    if len(set(digests)) < 2:
        found = "holds a single image" if len(digests) < 2 else f"all its {len(digests)} images are copies of one file"
        raise DataError(f"{folder}: {found}. Add others: some to train on, some to validate.")


def _val_samples(digests: Sequence[str], val_fraction: float) -> set[int]:
    """The numbers of the validation samples: those with the smallest digests.

    Equal files are never split between train and val: where the cut would part them it moves behind them, or before
    them if nothing were left to train on. Needs two different digests.
    """
    in_order = sorted(range(len(digests)), key=lambda i: (digests[i], i))
    last = digests[in_order[max(1, round(len(digests) * val_fraction)) - 1]]
    if last == digests[in_order[-1]]:
        return {i for i in in_order if digests[i] < last}
    return {i for i in in_order if digests[i] <= last}


def _train_then_val(count: int, val: set[int]) -> list[int]:
    return [i for i in range(count) if i not in val] + sorted(val)


def _sample(
    i: int, count: int, val: bool, png: bytes, source: str, digest: str, classes: Sequence[str] = ()
) -> Sample:
    key = f"{i:0{max(6, len(str(count - 1)))}d}"
    origin: dict[str, Any] = {"source": source, "sha256": digest}
    contents = {"png": png}
    if classes:
        name = source.split("/")[0]
        origin |= {"label": classes.index(name), "class": name}
        contents[LABEL] = encode_label(origin["label"])
    contents["json"] = json.dumps(origin, ensure_ascii=False).encode()
    return "val" if val else "train", key, dict(sorted(contents.items()))


def _draw(seed: int, resolution: int, i: int) -> bytes:
    return images.encode_png(toy.draw(seed, i, resolution))


def _convert(resolution: int, path: Path) -> tuple[bytes, str, str]:
    """PNG, SHA-256 of the file, and why it was rejected: an empty text where it was not."""
    digest = ""
    try:
        data = _read(path)
        digest = _sha256(data)
        return images.encode_png(images.crop_and_resize(images.load_image(data), resolution)), digest, ""
    except images.ImageError as error:
        return b"", digest, str(error)


def _digest(path: Path) -> str:
    """SHA-256 as `_convert` has it."""
    try:
        return _sha256(_read(path))
    except images.ImageError:
        return ""


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise images.ImageError(f"a file of more than {files.show_bytes(MAX_FILE_BYTES)}")
        return path.read_bytes()
    except OSError as error:
        raise images.ImageError(f"cannot be read: {error.strerror}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _show(progress: Progress | None, items: Iterable[A], total: int, description: str, unit: str) -> Iterable[A]:
    return progress(items, total, description, unit) if progress else items


class _Spool:
    """The finished PNGs in a nameless file: which of them are for validation is known when all have been read."""

    def __init__(self, out: Path) -> None:
        self._out = out
        place = next(parent for parent in out.absolute().parents if parent.is_dir())
        self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 (closed by __exit__)
        self._ends = [0]

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise files.disk_error(self._out, error) from error
        self._ends.append(self._ends[-1] + len(data))

    def __getitem__(self, i: int) -> bytes:
        return os.pread(self._file.fileno(), self._ends[i + 1] - self._ends[i], self._ends[i])
