"""What is being made in chunks: those that are finished, kept beside its place until all of them are there.

    .brics-part-NAME/lock              held by the process that makes all of it; shared by those that make parts
    .brics-part-NAME/DIGEST/plan.json  what is to be made: its kind, its chunks, what their end must know
    .brics-part-NAME/DIGEST/records/   train-00000.json: what is known of a chunk, written after it
    .brics-part-NAME/DIGEST/data/      train-00000.tar ...; in the end the manifest, then this folder becomes NAME
    .brics-part-NAME/DIGEST/tmp-RANDOM where one process writes what it then moves to data/ and records/

DIGEST names all that decides the bytes, so that nothing of another command, or of other images, is mixed in. A chunk
counts when its record is there and the SHA-256 of its files are the record's; so a process may be killed anywhere. And
since a chunk's bytes depend on nothing but DIGEST and its name, two processes, also of two machines that share the
disk, may make the same one at once: each moves its own into place, and the second replaces the first by an equal one.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from bricscli import files
from bricscli.data.shards import Sample, Shard, read_shard, write_manifest, write_tar
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.strict_json import read_json

_PREFIX = ".brics-part-"
_PLAN = "plan.json"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_FILE = re.compile(r"[A-Za-z0-9_-]{1,100}\.(png|tar)")


class Rejected(NamedTuple):
    """An image that could not be used; `path` is its name in the source."""

    path: str
    reason: str


class KeptError(DataError):
    """Data are at fault, but not those of the chunks that are finished: they stay."""


@dataclass(frozen=True)
class Record:
    """A finished chunk: its shard, if it is one that is not empty, or its `files` with their SHA-256; and `notes`."""

    shard: Shard | None = None
    files: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def sha256s(self) -> dict[str, str]:
        """Of all its files, by name."""
        return {self.shard.name: self.shard.sha256} if self.shard else self.files


class Unfinished:
    """What is to become `out` while it is being made; `finished` chunks are there, `resumed` of them were before."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out, self.folder = out, folder
        self.finished = self.resumed = 0
        self.plan: dict[str, Any] = {}
        self.keep_others = False  #: what other settings left, where the block ends well
        self._here = self._data = self._records = folder / "none"
        self._staging: Path | None = None

    @property
    def chunks(self) -> list[str]:
        return list(self.plan["chunks"])

    def begin(self, digest: str, plan: Mapping[str, Any]) -> None:
        """From here on it is what `digest` names; `plan` has a "kind", and "chunks", their names in order.

        Raises BricsError where the disk refuses.
        """
        self._enter(digest, dict(plan))
        self._staging = self._here / f"tmp-{secrets.token_hex(8)}"
        try:
            for folder in (self._data, self._records, self._staging):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.disk_error(self.out, error) from error
        self._put(_PLAN, plan, self._here)

    def reopen(self, digest: str) -> bool:
        """As `begin`, of what an earlier process has begun; whether it can go on: it may be moved already."""
        here = self.folder / digest
        try:
            plan = read_json(here / _PLAN)
            names = plan["chunks"]
            whole = isinstance(plan["kind"], str) and all(_NAME.fullmatch(name) for name in names)
        except (OSError, ValueError, TypeError, KeyError):
            return False
        if not whole or not (here / "data").is_dir():
            return False
        self._enter(digest, plan)
        return True

    def _enter(self, digest: str, plan: dict[str, Any]) -> None:
        self._here, self.plan, self.finished = self.folder / digest, plan, 0
        self.resumed = 0
        self._data, self._records = self._here / "data", self._here / "records"

    def begun(self) -> list[str]:
        """The digests of all that was begun here."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{_PLAN}"))

    def remove(self) -> None:
        """Removes what there is of it."""
        if self._here.is_dir():
            files.remove_directory(self._here)

    def remove_others(self) -> None:
        """Removes what commands with other settings, or on other images, left of the same `out`."""
        for other in sorted(self.folder.iterdir()):
            if other.is_dir() and other != self._here:
                files.remove_directory(other)

    def leave(self) -> None:
        """Removes what this process has not moved into place."""
        if self._staging is not None and self._staging.is_dir():
            files.remove_directory(self._staging)

    def sweep(self) -> None:
        """Removes what killed processes have not moved into place; only where nobody else is at work."""
        for left in sorted(self._here.glob("tmp-*")):
            if left != self._staging:
                files.remove_directory(left)

    def find(self, name: str) -> Record | None:
        """The chunk `name`, if it is finished and its bytes are what they were."""
        try:
            entry = read_json(self._records / f"{name}.json")
            record = Record(entry["shard"] and read_shard(entry["shard"]), dict(entry["files"]), dict(entry["notes"]))
            for file, sha256 in record.sha256s.items():
                if not _FILE.fullmatch(file) or files.sha256_file(self._data / file) != sha256:
                    return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        self.finished += 1
        self.resumed += 1
        return record

    def path(self, name: str) -> Path:
        """Where a finished chunk's file lies by now."""
        return self._data / name

    def write(self, name: str, split: str, samples: Iterator[Sample], notes: Callable[[], Mapping[str, Any]] = dict
              ) -> Record:
        """Writes a chunk that is a shard, or none if there are no samples; `notes` is asked when they are read.

        Raises BricsError where the disk refuses.
        """
        assert self._staging is not None
        first = next(samples, None)
        shard = None
        if first is not None:
            path = self._data / f"{name}.tar"
            with files.new_file(path, self._staging) as temporary:
                shard = replace(write_tar(temporary, split, _chain(first, samples)), name=path.name)
        return self._finish(name, Record(shard, notes=dict(notes())))

    def write_files(self, name: str, contents: Mapping[str, bytes], notes: Mapping[str, Any]) -> Record:
        """Writes a chunk of several files. Raises BricsError where the disk refuses."""
        assert self._staging is not None
        files.write_files(self._data, contents, self._staging)
        digests = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
        return self._finish(name, Record(files=digests, notes=dict(notes)))

    def _finish(self, name: str, record: Record) -> Record:
        self._put(f"{name}.json", {"shard": record.shard and record.shard.as_json(), "files": record.files,
                                   "notes": record.notes}, self._records)
        self.finished += 1
        return record

    def _put(self, name: str, value: Mapping[str, Any], folder: Path) -> None:
        assert self._staging is not None
        files.write_files(folder, {name: json.dumps(value).encode()}, self._staging)

    def publish(self, header: Mapping[str, Any], records: Sequence[Record], replaced: bool = False) -> None:
        """All chunks are there: they become `out`, in one step; `replaced`: instead of what is there."""
        listed = {name for record in records for name in record.sha256s}
        for stray in self._data.iterdir():
            if stray.name not in listed:
                stray.unlink()
        write_manifest(self._data, header, [record.shard for record in records if record.shard])
        if replaced and self.out.exists():
            files.remove_directory(self.out)
        files.rename_directory(self._data, self.out)


def _chain(first: Sample, rest: Iterator[Sample]) -> Iterator[Sample]:
    yield first
    yield from rest


@contextmanager
def unfinished(out: Path, shared: bool = False) -> Iterator[Unfinished]:
    """What there is of `out`, for this process alone, or `shared` with others that make parts of it.

    For this process alone: where the block ends well all of it is removed; where it is interrupted, or fails for a
    reason that may pass, finished chunks stay; where the data are at fault they do not, but for a KeptError. What other
    settings left stays until `out` is there: a command may be mistyped. Shared: finished chunks stay in any case.

    Raises BricsError where another process is at work on `out`, as far as the disk can tell: on some that machines
    share it cannot. Then too nothing is lost: who is too late fails.
    """
    folder = _folder(out)
    missing = [above for above in folder.parents if not above.exists()]
    files.sweep(folder.parent, folder.name)
    descriptor = _lock(out, folder, shared)
    work, ended_well, kept = Unfinished(out, folder), False, False
    try:
        yield work
        ended_well = True
    except KeptError:
        kept = any(folder.glob(f"*/{_PLAN}"))
        raise
    except FileNotFoundError:
        if shared and not folder.is_dir():
            raise BricsError(f"{out}: another process has finished it. There is nothing left to do.") from None
        raise
    except (DataError, RecipeError):
        if not shared:
            work.remove()
        raise
    finally:
        with suppress(OSError):
            work.leave()
        others = work.keep_others or not ended_well
        useless = not (others and (kept or any(folder.glob("*/records/*.json"))))
        if not any(folder.glob("*/")) if shared else useless:
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


def is_begun(out: Path) -> bool:
    """Whether there is anything unfinished beside `out`."""
    return _folder(out).is_dir()


def _folder(out: Path) -> Path:
    place = Path(os.path.abspath(out))
    return place.parent / f"{_PREFIX}{place.name}"


def _lock(out: Path, folder: Path, shared: bool) -> int:
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
            with _without_locks():
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise BricsError(f"{out}: is being made by another process. Wait until it ends, or stop it.") from None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # of a folder that its process has just removed


@contextmanager
def _without_locks() -> Iterator[None]:
    """A disk that knows no locks does without."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError:
        pass
