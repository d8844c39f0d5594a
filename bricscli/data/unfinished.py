"""A data set that is being made: its finished shards, kept beside its place until all of them are there.

    .brics-part-NAME/lock              held by the process that is at work
    .brics-part-NAME/DIGEST/records/   train-00000.json: what is known of a shard, written after it
    .brics-part-NAME/DIGEST/data/      train-00000.tar ...; in the end the manifest, then this folder becomes NAME

DIGEST names all that decides the bytes, so that nothing of another command, or of other images, is mixed in. A shard
counts when its record is there and its SHA-256 is the record's; so a process may be killed anywhere.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from bricscli import files
from bricscli.data.shards import Sample, Shard, read_shard, write_manifest, write_tar
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.strict_json import read_json

_PREFIX = ".brics-part-"


class Rejected(NamedTuple):
    """An image that could not be used; `path` is its name in the source."""

    path: str
    reason: str


@dataclass(frozen=True)
class Record:
    """A finished part of a split: its shard, or None where all of its images were rejected."""

    shard: Shard | None
    rejected: list[tuple[int, Rejected]]  #: with their places in the source


class Unfinished:
    """The data set `out` while it is being made; `finished` parts of it are there."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out, self.folder = out, folder
        self.parts = self.finished = 0
        self._here = self._data = self._records = folder / "none"

    def begin(self, digest: str, parts: int) -> None:
        """From here on it is the data set that `digest` names, of so many parts."""
        self._here = self.folder / digest
        self.parts, self._data, self._records = parts, self._here / "data", self._here / "records"
        for folder in (self._data, self._records):
            folder.mkdir(parents=True, exist_ok=True)
            files.sweep(folder)

    def remove(self) -> None:
        """Removes what there is of this data set."""
        if self._here.is_dir():
            files.remove_directory(self._here)

    def remove_others(self) -> None:
        """Removes what commands with other settings, or on other images, left of the same `out`."""
        for other in sorted(self.folder.iterdir()):
            if other.is_dir() and other != self._here:
                files.remove_directory(other)

    def find(self, name: str) -> Record | None:
        """The part `name`, if it is finished and its bytes are what they were."""
        try:
            entry = read_json(self._records / f"{name}.json")
            shard = entry["shard"] and read_shard(entry["shard"])
            record = Record(shard, [(place, Rejected(*rest)) for place, *rest in entry["rejected"]])
            if shard and files.sha256_file(self._data / shard.name) != shard.sha256:
                return None
        except (OSError, ValueError, TypeError, KeyError):
            return None
        self.finished += 1
        return record

    def write(self, name: str, split: str, samples: Iterator[Sample], rejected: list[tuple[int, Rejected]]) -> Record:
        """Writes a part; `rejected` is filled while `samples` is read. Raises BricsError where the disk refuses."""
        first = next(samples, None)
        shard = None
        path = self._data / f"{name}.tar"
        if first is not None:
            with files.new_file(path) as temporary:
                shard = replace(write_tar(temporary, split, _chain(first, samples)), name=path.name)
        record = Record(shard, list(rejected))
        files.write_text(self._records / f"{name}.json", json.dumps({
            "shard": shard and shard.as_json(), "rejected": [[place, *entry] for place, entry in rejected]}))
        self.finished += 1
        return record

    def publish(self, header: Mapping[str, Any], shards: list[Shard]) -> None:
        """All parts are there: they become the data set, in one step."""
        listed = {shard.name for shard in shards}
        for stray in self._data.iterdir():
            if stray.name not in listed:
                stray.unlink()
        write_manifest(self._data, header, shards)
        files.rename_directory(self._data, self.out)


def _chain(first: Sample, rest: Iterator[Sample]) -> Iterator[Sample]:
    yield first
    yield from rest


@contextmanager
def unfinished(out: Path) -> Iterator[Unfinished]:
    """What there is of `out`, for this process alone.

    Where the block ends well all of it is removed. Where it is interrupted, or fails for a reason that may pass,
    finished parts stay; where the data are at fault they do not. What other settings left stays until `out` is there:
    a command may be mistyped. Raises BricsError where another process is at work on `out`.
    """
    folder = _folder(out)
    missing = [above for above in folder.parents if not above.exists()]
    files.sweep(folder.parent, folder.name)
    descriptor = _lock(out, folder)
    work, ended_well = Unfinished(out, folder), False
    try:
        yield work
        ended_well = True
    except (DataError, RecipeError):
        work.remove()
        raise
    finally:
        if ended_well or not any(folder.glob("*/records/*.json")):
            with suppress(OSError):
                files.remove_directory(folder)
            for above in missing:
                with suppress(OSError):  # it holds something, such as the data set
                    above.rmdir()
        os.close(descriptor)


def remove_unfinished(out: Path) -> None:
    """Removes what a process left that was killed just after it had finished `out`."""
    folder = _folder(out)
    files.sweep(folder.parent, folder.name)
    if folder.is_dir():
        with suppress(BricsError, OSError), unfinished(out):  # another process may be doing the same
            pass


def _folder(out: Path) -> Path:
    place = Path(os.path.abspath(out))
    return place.parent / f"{_PREFIX}{place.name}"


def _lock(out: Path, folder: Path) -> int:
    """The descriptor by which the folder is held; it is let go of with the process, if not before."""
    path = folder / "lock"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed by another process just now
            continue
        except OSError as error:
            raise files.disk_error(out, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise BricsError(f"{out}: is being prepared by another process. Wait until it ends, or stop it.") from None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # of a folder that its process has just removed
