"""The folder that `brics sample` writes: the only place that knows what is in it and what it is called.

Format `png`: one file `<seed>.png` per seed, of six digits or more. Format `shards`: WebDataset shards such as
`samples-00041.tar`, each with the seeds from 1024 * 41 to 1024 * 42 - 1 as far as they were asked for, so that a shard
does not depend on how seeds were divided among commands.

Every PNG says which seed it is of, what drew it and what its pixels are (data/marks.py), in both formats the same.
manifest.json (data/shards.py) has the kind "samples" and says what drew them ("denoiser", "autoencoder", "sampling",
...), by which "versions", and "seeds": those that are there, as in `0-4095,5000`. It lists nothing before it is there
to stay. Files are replaced in one step and the manifest is merged under a lock, so that processes of one machine may
draw into one folder at a time, even the same seeds.
"""

import fcntl
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bricscli import files
from bricscli.data.images import ImageError, Pixels
from bricscli.data.manifest import RESERVED, remove_other_indexes
from bricscli.data.marks import check_sample, decode_sample, digest_settings
from bricscli.data.ranges import read_ranges, show_ranges, singles
from bricscli.data.shards import MANIFEST, Shard, Split, UnreadableShard, read_manifest, write_manifest, write_tar
from bricscli.errors import BricsError, DataError

SEEDS_PER_SHARD = 1024
#: More than this a folder does not hold.
MOST_SAMPLES = 100_000_000
#: What shards call the split, and begin with.
SPLIT = "samples"
#: Decides no pixel: a run may be renamed.
_MAY_DIFFER = {"denoiser.run"}
#: Of a manifest what says nothing about a single image.
_NOT_OF_PIXELS = {"kind", "format", "versions", "seeds", *RESERVED}
_LOCK, _KEPT = ".lock", ".before-"
_BEGINNING = re.compile(rb'\{\s*"schema": \d+,\s*"kind": "samples"')
_AGAIN = "The same `brics sample` again draws what is damaged."


def sample_key(seed: int) -> str:
    return f"{seed:06d}"


class SampleFolder(ABC):
    """Samples that one model drew in one way. `open` one that is there, or `create` or continue one."""

    def __init__(self, path: Path, header: dict[str, Any], shards: list[Shard]) -> None:
        self.path, self.header, self.resolution = path, header, int(header["resolution"])
        self.settings_digest = digest_settings(strict_settings(header))  #: what each sample says that drew it
        #: What the manifest listed when the folder was opened, ascending.
        self.seeds = [seed for part in read_ranges(header["seeds"]) for seed in part]

    @staticmethod
    def open(path: Path) -> "SampleFolder":
        """Raises DataError where there are no samples, or their manifest is damaged."""
        _settle(path)
        header, shards = _read(path)
        try:
            return FORMATS[header["format"]](path, header, shards)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise _damaged(path) from None

    @staticmethod
    def create(path: Path, settings: Mapping[str, Any], versions: Mapping[str, Any]) -> "SampleFolder":
        """Makes the folder, or opens one whose `settings` are equal; `versions` are added to those that drew before.

        `settings` are all that decides the pixels, with "format" and "resolution". Also removes what killed processes
        left behind. Raises DataError where the folder holds something else, saying what differs.
        """
        find_folder(path, settings)
        files.check_writable(path)
        path.mkdir(parents=True, exist_ok=True)
        files.sweep(path)
        with locked(path):
            new = {"kind": "samples", **settings, "versions": [], "seeds": ""}
            header, shards = find_folder(path, settings) or (new, [])
            if versions not in header["versions"]:
                header["versions"].append(dict(versions))
                write_manifest(path, header, shards)
            else:
                remove_other_indexes(path, header)
        return SampleFolder.open(path)

    @staticmethod
    def is_one(path: Path) -> bool:
        """By how its manifest begins: the whole, of a data set, takes seconds to read."""
        try:
            with open(path / MANIFEST, "rb") as file:
                return _BEGINNING.match(file.read(100)) is not None
        except OSError:
            return False

    def image(self, seed: int) -> Pixels:
        """uint8 (3, H, W). Raises DataError where it is missing or damaged."""
        try:
            return decode_sample(self.read(seed), seed, self.settings_digest, self.resolution)
        except ImageError as error:
            raise DataError(f"{self.path}: seed {seed}: {error}. {_AGAIN}") from error

    @abstractmethod
    def holds(self, seed: int) -> bool:
        """Whether the sample of a listed seed is there, undamaged."""

    @abstractmethod
    def read(self, seed: int) -> bytes:
        """The PNG of a listed seed. Raises DataError where it cannot be read."""

    @abstractmethod
    def add(self, pngs: Mapping[int, bytes]) -> None:
        """Takes the PNGs of some seeds; seeds come in ascending order. Raises BricsError where they cannot be written.

        All that was added is there to stay after `finish`.
        """

    @abstractmethod
    def finish(self) -> None:
        """Writes what `add` still holds back."""


class PngSamples(SampleFolder):
    """A file per seed, written by `add` at once."""

    def holds(self, seed: int) -> bool:
        try:
            return check_sample(self._path(seed).read_bytes(), seed, self.settings_digest, self.resolution) is None
        except OSError:
            return False

    def read(self, seed: int) -> bytes:
        try:
            return self._path(seed).read_bytes()
        except OSError as error:
            raise DataError(f"{self._path(seed)}: cannot be read ({error.strerror}). {_AGAIN}") from None

    def add(self, pngs: Mapping[int, bytes]) -> None:
        files.write_files(self.path, {self._path(seed).name: png for seed, png in pngs.items()})
        with locked(self.path):
            header, _ = read_manifest(self.path)
            seeds = show_ranges([*read_ranges(header["seeds"]), *singles(pngs)])
            write_manifest(self.path, header | {"seeds": seeds}, [])

    def finish(self) -> None:
        pass

    def _path(self, seed: int) -> Path:
        return self.path / f"{sample_key(seed)}.png"


class ShardSamples(SampleFolder):
    """A tar file per 1024 consecutive seeds, written when `add` comes to the next: at most so many PNGs in memory.

    Shards may lack seeds that nobody asked for yet; then they are written again, with those and what they have.
    """

    def __init__(self, path: Path, header: dict[str, Any], shards: list[Shard]) -> None:
        super().__init__(path, header, shards)
        self._shards, self._split = {shard.name: shard for shard in shards}, Split(SPLIT, path, shards)
        self._positions = {int(key): i for i, key in enumerate(self._split.keys)}
        self._whole: dict[str, bool] = {}
        self._waiting: dict[int, bytes] = {}

    def holds(self, seed: int) -> bool:
        """Whether its shard is, down to the last byte."""
        name = _shard_name(seed)
        if name not in self._whole:
            whole = self._is_as_listed(self._shards[name])
            if not whole:
                with locked(self.path):  # another process may have extended it since
                    listed = {shard.name: shard for shard in read_manifest(self.path)[1]}
                    whole = name in listed and self._is_as_listed(listed[name])
            self._whole[name] = whole
        return self._whole[name]

    def _is_as_listed(self, shard: Shard) -> bool:
        try:
            return files.sha256_file(self.path / shard.name) == shard.sha256
        except OSError:
            return False

    def read(self, seed: int) -> bytes:
        try:
            return self._split.read(self._positions[seed])
        except DataError:
            raise DataError(f"{self.path / _shard_name(seed)}: seed {seed} is damaged. {_AGAIN}") from None

    def add(self, pngs: Mapping[int, bytes]) -> None:
        for seed, png in pngs.items():
            if _shard_name(seed) != _shard_name(next(iter(self._waiting), seed)):
                self.finish()
            self._waiting[seed] = png

    def finish(self) -> None:
        if not self._waiting:
            return
        name = _shard_name(next(iter(self._waiting)))
        with locked(self.path):
            header, shards = read_manifest(self.path)
            before = Split(SPLIT, self.path, [shard for shard in shards if shard.name == name
                                              and (self.path / name).exists()])
            pngs = dict(_intact(before)) | self._waiting
            samples = ((SPLIT, sample_key(seed), {"png": pngs[seed]}) for seed in sorted(pngs))
            with files.new_file(self.path / name) as temporary:
                written = replace(write_tar(temporary, SPLIT, samples), name=name)
                _keep(self.path / name)
            shards = sorted([written, *(shard for shard in shards if shard.name != name)], key=lambda shard: shard.name)
            seeds = show_ranges(singles(int(key) for shard in shards for key in shard.keys))
            write_manifest(self.path, header | {"seeds": seeds}, shards)
            with suppress(OSError):
                _kept(self.path / name).unlink(missing_ok=True)
        self._waiting = {}


FORMATS: dict[str, type[PngSamples | ShardSamples]] = {"png": PngSamples, "shards": ShardSamples}


def read_samples(path: Path, seeds: Sequence[int]) -> Pixels:
    """uint8 `(len(seeds), 3, H, W)`, while no other process may replace a shard. Raises as `SampleFolder.image`."""
    with locked(path):
        folder = SampleFolder.open(path)
        return np.stack([folder.image(seed) for seed in seeds])


def sheet_path(path: Path) -> Path:
    """The contact sheet's, beside the folder: programs that measure a folder of images take all that are in it."""
    path = path if path.name not in ("", "..") else Path(os.path.abspath(path))
    return path.parent / f"{path.name}-sheet.png"


def newest_samples(*roots: Path) -> Path:
    """The folder of samples that was drawn into last: `ROOT/*` or `ROOT/*/samples`. Raises DataError if none."""
    found = [path for root in roots for pattern in ("*", "*/samples") for path in root.glob(f"{pattern}/{MANIFEST}")]
    for manifest in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if SampleFolder.is_one(manifest.parent):
            return manifest.parent
    raise DataError("--samples: no folder of samples here or under runs/. Draw some with `brics sample`.")


def _kept(path: Path) -> Path:
    """The name under which a shard that is being replaced stays until the manifest lists the new one."""
    return path.parent / f"{_KEPT}{path.name}"


def _keep(path: Path) -> None:
    """Gives a shard that is there its second name."""
    if path.exists():
        _kept(path).unlink(missing_ok=True)
        try:
            os.link(path, _kept(path))
        except OSError:  # a file system without links
            shutil.copyfile(path, _kept(path))
        files.fsync_folder(path.parent)


def _settle(path: Path) -> None:
    """Where a process was killed between a shard and the manifest, puts back what the manifest lists."""
    if not any(path.glob(f"{_KEPT}*")):
        return
    with suppress(BricsError, OSError), _locked_now(path):
        for shard in read_manifest(path)[1]:
            kept = _kept(path / shard.name)
            if kept.exists() and files.sha256_file(path / shard.name) != shard.sha256 == files.sha256_file(kept):
                os.replace(kept, path / shard.name)
            kept.unlink(missing_ok=True)


def _shard_name(seed: int) -> str:
    return f"{SPLIT}-{seed // SEEDS_PER_SHARD:05d}.tar"


def _intact(split: Split) -> Iterator[tuple[int, bytes]]:
    """Seed and PNG of every sample that has its CRC-32. Raises UnreadableShard."""
    for i, key in enumerate(split.keys):
        try:
            yield int(key), split.read(i)
        except UnreadableShard:
            raise
        except DataError:
            continue


def find_folder(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[Shard]] | None:
    """The manifest of a folder of samples that were drawn so, or None where one can be made.

    Raises DataError where these samples do not belong.
    """
    if (path / MANIFEST).is_file():
        header, shards = _read(path)
        if differing := differing_settings(header, settings):
            raise DataError(f"{path}: holds samples that were drawn in another way ({'; '.join(differing)}). "
                            "Choose another --out, or delete it.")
        return header, shards
    if os.path.lexists(path) and not path.is_dir():
        raise DataError(f"{path}: is not a folder. Choose another --out.")
    if path.is_dir() and any(any(path.glob(pattern)) for pattern in ("*.png", "*.tar")):
        raise DataError(f"{path}: holds images that brics did not draw. Choose another --out.")
    return None


def _read(path: Path) -> tuple[dict[str, Any], list[Shard]]:
    try:
        header, shards = read_manifest(path)
    except DataError:
        raise _damaged(path) from None
    if header["kind"] != "samples":
        raise DataError(f"{path}: holds {header['kind']}, not samples. Choose another folder.")
    try:
        whole = _is_whole(header, shards)
    except (KeyError, ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise _damaged(path)
    return header, shards


def _is_whole(header: dict[str, Any], shards: list[Shard]) -> bool:
    """Whether it can be what `brics sample` wrote. Raises nearly anything else where it is not."""
    parts = read_ranges(header["seeds"])
    listed = show_ranges(singles(int(key) for shard in shards for key in shard.keys))
    return (header["seeds"] == (listed if header["format"] == "shards" else show_ranges(parts))
            and all(parts) and sum(part.stop - part.start for part in parts) <= MOST_SAMPLES
            and isinstance(header["resolution"], int) and isinstance(header["versions"], list)
            and all(isinstance(entry["torch"], str) for entry in header["versions"]))


def _damaged(path: Path) -> DataError:
    return DataError(f"{path / MANIFEST}: is missing or damaged, and nothing else says what drew the images. "
                     "Choose another folder, or delete this one.")


def differing_settings(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """`sampling.steps 20, not 30` for every one of `wanted` that a manifest has otherwise."""
    there = _flat(found)
    return [f"{key} {_show(there.get(key))}, not {_show(value)}" for key, value in _flat(wanted).items()
            if key not in _MAY_DIFFER and there.get(key) != value]


def strict_settings(header: Mapping[str, Any]) -> dict[str, Any]:
    """Of a manifest, or of settings, all that decides a seed's pixels, as {"sampling.steps": 20}."""
    return {key: value for key, value in _flat(header).items()
            if key not in _MAY_DIFFER and key.partition(".")[0] not in _NOT_OF_PIXELS}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"sampling": {"steps": 20}} -> {"sampling.steps": 20}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _show(value: object) -> str:
    """A digest by its first digits, as everywhere."""
    return "none" if value is None else value[:8] if isinstance(value, str) and len(value) == 64 else str(value)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, for a moment; others wait."""
    with _lock(path, fcntl.LOCK_EX):
        yield


@contextmanager
def _locked_now(path: Path) -> Iterator[None]:
    """The same, at once: raises BlockingIOError where somebody is at work, this process too."""
    with _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def _lock(path: Path, how: int) -> Iterator[None]:
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:  # such as that of another user
        raise files.disk_error(path / _LOCK, error) from None
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise
        except OSError as error:
            raise BricsError(f"{path}: cannot be locked ({error.strerror}). Choose another --out, on a disk of this "
                             "machine.") from None
        yield
    finally:
        os.close(descriptor)
