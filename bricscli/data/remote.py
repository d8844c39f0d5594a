"""Prepared data sets on a server: the manifest, then every shard once and whole, into a folder as any other.

What came lies in a cache under its SHA-256, so that data sets whose shards have equal names never mix, and a shard of
two data sets lies there once:

    shards/<SHA-256>                      contents, complete and right before they have that name
    sets/<SHA-256 of the manifest>/NAME/  manifest.json and links: what `ShardSet.open` reads

A manifest names files beside itself and no other place. Contents are compared with their SHA-256 when they come, and
all of them again when something is missing; where the folder is complete their sizes are, here and in `ShardSet.open`,
and every sample's CRC-32 when it is read.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bricscli import files
from bricscli.data.addresses import CheckedOpener, parse_address, shown
from bricscli.data.buckets import bucket_addresses
from bricscli.data.shards import MANIFEST
from bricscli.download import download, download_newest, part_path
from bricscli.errors import BricsError, DataError
from bricscli.strict_json import parse_json

#: Bytes of a manifest.
MOST = 1 << 29
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: Shards, and the index of their members.
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]+\.tar|index-[0-9a-f]{16}\.bin")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Listed(NamedTuple):
    """A file that a manifest names."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class RemoteSet:
    """A data set of which the manifest is here."""

    where: str  #: as it was named, for messages
    name: str  #: what a local copy is called
    manifest: bytes
    digest: str  #: SHA-256 of the manifest
    header: dict[str, Any]  #: the manifest without its shards; nothing of it was looked at
    listed: list[Listed]
    address_of: Callable[[str], str]  #: name of a file -> what to ask, secrets and all
    opener: CheckedOpener

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.listed)

    @property
    def folder(self) -> Path:
        return cache_root() / "sets" / self.digest / self.name

    @property
    def missing(self) -> list[Listed]:
        """What has to come first, by what lies in the cache under which size; each once."""
        here = {file.sha256 for file in self.listed if _size(_cached(file)) == file.bytes}
        return list({file.sha256: file for file in self.listed if file.sha256 not in here}.values())

    @property
    def is_here(self) -> bool:
        """Whether the folder is complete: the same manifest, and everything listed in full length."""
        try:
            same = (self.folder / MANIFEST).read_bytes() == self.manifest
        except OSError:
            return False
        return same and all(_size(self.folder / file.name) == file.bytes for file in self.listed)


def is_remote(where: object) -> bool:
    """Whether this names something on a server, `SCHEME://...`, and no path."""
    return isinstance(where, str) and _REMOTE.match(where) is not None


def cache_root() -> Path:
    """`$BRICS_CACHE`, else `brics` where caches go."""
    own = os.environ.get("BRICS_CACHE")
    return Path(own or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "brics")).expanduser()


def fetched_set(digest: str, name: str) -> Path | None:
    """A data set that was fetched before, by the SHA-256 of its manifest."""
    folder = cache_root() / "sets" / digest / name
    return folder if folder.is_dir() else None


def look_up(where: str, allowed: Iterable[str] = ()) -> RemoteSet:
    """Asks for the manifest of the data set at `https://HOST/PATH/` or `s3://BUCKET/PREFIX/`.

    `allowed`: hosts that need not be public (`CheckedOpener`). Raises DataError for another address or what is no
    manifest, RecipeError for a bad host, BricsError where nothing answers, or something else.
    """
    opener, address_of = CheckedOpener(allowed), _addresses(where)
    place = shown(where).rstrip("/")
    coming = cache_root() / "manifests" / hashlib.sha256(where.encode()).hexdigest()
    opener.check(url := address_of(MANIFEST))
    text = download_newest(url, coming, most=MOST, opener=opener, shown=f"{place}/{MANIFEST}")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", place.rpartition("/")[2]).lstrip(".-")[:100] or "data"
    header, listed = _read_manifest(f"{place}/{MANIFEST}", text)
    return RemoteSet(place, name, text, hashlib.sha256(text).hexdigest(), header, listed, address_of, opener)


def fetch(remote: RemoteSet, progress: Callable[[int], None] = lambda done: None) -> Path:
    """The folder of the data set, after all that is missing has come; `progress` is told the bytes that are there.

    Another process that fetches the same is waited for. Raises as `look_up`, InterruptedRun on Ctrl-C; then the same
    call goes on from there.
    """
    with _alone(remote.folder.parent):
        if remote.is_here:
            return remote.folder
        _check_space(remote)
        done = 0
        for file in remote.listed:
            _fetch_file(remote, file, partial(_add, progress, done))
            done += file.bytes
            progress(done)
        if not remote.is_here:
            _make_folder(remote)
    return remote.folder


def _addresses(where: str) -> Callable[[str], str]:
    if where.lower().startswith("s3:"):
        return bucket_addresses(where)
    address = parse_address(where)
    if "?" in address.path:
        raise DataError(f"{shown(where)}: is to be a folder's address, to which names of files are added: without ?.")
    base = address.url.rstrip("/")
    return lambda name: f"{base}/{name}"


def _read_manifest(where: str, text: bytes) -> tuple[dict[str, Any], list[Listed]]:
    """The header of a manifest, and all files that it names: plain names, so that nothing else is asked for or written.

    Whatever else it must be is looked at by `ShardSet.open`. Raises DataError.
    """
    try:
        header = dict(parse_json(text))
        shards = header.pop("shards")
        entries = [*shards, header["index"]] if shards and "index" in header else shards
        found = [Listed(entry["name"], entry["bytes"], entry["sha256"]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        header, found = {}, []
    if not found or len({file.name for file in found}) < len(found) or not all(map(_is_plain, found)):
        raise DataError(f"{where}: is no manifest of a data set that brics wrote. Name the folder that `brics prepare` "
                        "made, with all that is in it.")
    return header, found


def _is_plain(file: Listed) -> Any:
    return (isinstance(file.name, str) and _FILE_NAME.fullmatch(file.name) and type(file.bytes) is int
            and file.bytes > 0 and isinstance(file.sha256, str) and _SHA256.fullmatch(file.sha256))


def _fetch_file(remote: RemoteSet, file: Listed, progress: Callable[[int, int | None], None]) -> None:
    download(remote.address_of(file.name), _cached(file), sha256=file.sha256, size=file.bytes, progress=progress,
             opener=remote.opener, shown=f"{remote.where}/{file.name}", wait=True, patient=True)


def _make_folder(remote: RemoteSet) -> None:
    if remote.folder.exists():
        files.remove_directory(remote.folder)
    with files.new_directory(remote.folder) as folder:
        files.write_bytes(folder / MANIFEST, remote.manifest)
        for file in remote.listed:
            try:
                (folder / file.name).symlink_to(Path("../../../shards", file.sha256))
            except OSError as error:  # some file systems have no links
                raise files.disk_error(folder / file.name, error) from error


def _add(progress: Callable[[int], None], before: int, done: int, total: int | None) -> None:
    progress(before + done)


def _cached(file: Listed) -> Path:
    return cache_root() / "shards" / file.sha256


def _size(path: Path) -> int:
    """Of a file, or of what a link leads to; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _check_space(remote: RemoteSet) -> None:
    needed = sum(file.bytes - max(_size(part_path(_cached(file))), 0) for file in remote.missing)
    free = files.free_bytes(cache_root())
    if needed > free:
        raise BricsError(f"{cache_root()}: {files.show_bytes(needed)} are needed there for {remote.where}, "
                         f"{files.show_bytes(free)} are free. Make room there, or set BRICS_CACHE to a folder on "
                         "another disk.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from the data sets of one manifest; waits where another does so."""
    lock = Path(f"{folder}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise files.disk_error(lock, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise BricsError(f"{lock}: cannot be locked ({error.strerror}). Set BRICS_CACHE to a folder on a disk of "
                             "this machine.") from None
        yield
    finally:
        os.close(descriptor)
