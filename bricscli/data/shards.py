"""ShardSet: WebDataset tar shards, read by the manifest and its index.

A sample is a key and its files: `000041.png`, `000041.json` ("key.extension"; an extension may hold dots). Shards are
written by webdataset's writer and any WebDataset loader reads them. We read them by the offsets of the index instead
(data/manifest.py), so that sample i costs one `pread`, the order is ours, and a short or altered shard is an error,
never a short epoch.
"""

import bisect
import functools
import hashlib
import itertools
import operator
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bricscli import files
from bricscli.data.index import Member, gather_members, is_member_name
from bricscli.data.manifest import AGAIN, MANIFEST, RESERVED, Shard, read_manifest_text, write_manifest
from bricscli.data.manifest import read_manifest as read_manifest
from bricscli.data.manifest import read_shard as read_shard
from bricscli.errors import DataError

#: Of the images in shards.
IMAGE_EXTENSIONS = ("png", "webp", "jpg")

_OPEN_FILES = 256

#: (split, key, {extension: contents})
Sample = tuple[str, str, Mapping[str, bytes]]


class UnreadableShard(DataError):
    """The disk refuses to read a shard: what is in it may be whole (exit code 3)."""


class Split:
    """The samples of one split, by number. Safe to read from several threads, and after a fork."""

    def __init__(self, name: str, folder: Path, shards: list[Shard]) -> None:
        self.name = name
        self._folder, self._shards = folder, shards
        self._ends = list(itertools.accumulate(shard.samples for shard in shards))
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(_OpenFile)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def keys(self) -> list[str]:
        return [key for shard in self._shards for key in shard.keys]

    def key(self, i: int) -> str:
        shard, row = self._find(i)
        return shard.contents.key(row)

    @property
    def extensions(self) -> list[str]:
        """What each sample has, sorted."""
        return sorted(self._shards[0].contents.extensions) if self._shards else []

    def where(self, i: int, extension: str) -> str:
        """Words for messages: which shard, which file in it."""
        shard, row = self._find(i)
        return f"{self._folder / shard.name}: {shard.contents.key(row)}.{extension}"

    def crc32s(self, extension: str) -> list[int]:
        """Of each sample's file, as the index has it. Raises DataError where the samples have no such file."""
        if extension not in self.extensions:
            raise self._lacks(0, extension)
        column = self._shards[0].contents.extensions.index(extension)
        return [crc32 for shard in self._shards for crc32 in shard.contents.table["crc32"][:, column].tolist()]

    def read(self, i: int, extension: str = "png") -> bytes:
        """The contents of sample i's file, checked.

        Raises:
            DataError: the bytes are not those that were written.
        """
        shard, row = self._find(i)
        if extension not in shard.contents.extensions:
            raise self._lacks(i, extension)
        member = shard.contents.member(row, extension)
        try:
            data = self._open(self._folder / shard.name).read(member)
        except OSError as error:
            raise UnreadableShard(f"{self.where(i, extension)}: cannot be read ({error.strerror}). {AGAIN}") from None
        if len(data) != member.size or zlib.crc32(data) != member.crc32:
            raise DataError(f"{self.where(i, extension)}: damaged (its CRC-32 differs from the manifest's). {AGAIN}")
        return data

    def _find(self, i: int) -> tuple[Shard, int]:
        """The shard of sample i, and which of its samples it is."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        number = bisect.bisect_right(self._ends, i)
        return self._shards[number], i - (self._ends[number - 1] if number else 0)

    def _lacks(self, i: int, extension: str) -> DataError:
        return DataError(f"{self.where(i, extension)}: no such file; there is {', '.join(self.extensions)}.")


class _OpenFile:
    """A descriptor that is closed when the last reader lets go of it, and not when the cache does."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, member: Member) -> bytes:
        return os.pread(self._descriptor, member.size, member.offset)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class ShardSet:
    """A prepared data set: a folder with shards and their manifest."""

    def __init__(self, path: Path, header: dict[str, Any], shards: list[Shard], digest: str) -> None:
        self.path = path
        self.header = header  #: the manifest without its shards
        self.shards = shards
        self.digest = digest  #: SHA-256 of manifest.json: names the data set with all its contents

    @classmethod
    def open(cls, path: Path) -> "ShardSet":
        """Reads the manifest and checks that the shards are there in full length (contents: `verify`, `Split.read`).

        Raises:
            DataError: there is no data set, or it is not complete.
        """
        path = Path(path)
        text, header, shards = read_manifest_text(path)
        _check_files(path, shards)
        return cls(path, header, shards, hashlib.sha256(text).hexdigest())

    @property
    def splits(self) -> dict[str, int]:
        """Samples in each split."""
        return dict(self.header["splits"])

    @property
    def preparation(self) -> dict[str, Any]:
        """How images were made of their source: what a distance between two sets must have the same on both sides."""
        source = self.header.get("source")
        return {"source": source.get("name") if isinstance(source, dict) else None,
                **{key: self.header.get(key) for key in ("crop", "resize", "resolution", "format")}}

    @property
    def image_extension(self) -> str:
        """What the files of its images end with: "png", "webp" or "jpg". Raises DataError where there are none."""
        found = self.shards[0].contents.extensions if self.shards else ()
        for extension in IMAGE_EXTENSIONS:
            if extension in found:
                return extension
        raise DataError(f"{self.path}: holds no images. Choose a data set made by `brics prepare`.")

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise DataError(f"{self.path}: has no split `{name}`; there is {', '.join(self.splits) or 'none'}.")
        return Split(name, self.path, [shard for shard in self.shards if shard.split == name])

    def verify(self) -> None:
        """Reads every shard again and compares its SHA-256. Raises DataError naming the first that differs."""
        for shard in self.shards:
            where = self.path / shard.name
            try:
                found = files.sha256_file(where)
            except OSError as error:
                raise DataError(f"{where}: cannot be read ({error.strerror}). {AGAIN}") from None
            if found != shard.sha256:
                raise DataError(f"{where}: damaged (its SHA-256 differs from the manifest's). {AGAIN}")


def write_shards(
    out: Path, header: Mapping[str, Any], samples: Iterable[Sample], samples_per_shard: int = 1024
) -> ShardSet:
    """Writes a data set to the new folder `out`: all of it, or nothing.

    `header` goes into the manifest and needs a "kind". `samples` is read once and not held; the samples of a split
    follow one another.
    """
    if "kind" not in header or RESERVED & set(header):
        raise ValueError(f"header needs `kind`, and leaves {', '.join(sorted(RESERVED))} to write_shards")
    with files.new_directory(out) as folder:
        shards = list(_write_tars(folder, samples, samples_per_shard))
        write_manifest(folder, header, shards)
    return ShardSet.open(out)


def _write_tars(folder: Path, samples: Iterable[Sample], samples_per_shard: int) -> Iterator[Shard]:
    finished: set[str] = set()
    for split, group in itertools.groupby(samples, operator.itemgetter(0)):
        if split in finished:
            raise ValueError(f"the samples of split {split} do not follow one another")
        finished.add(split)
        left = iter(group)
        for number, first in enumerate(left):
            shard = itertools.chain([first], itertools.islice(left, samples_per_shard - 1))
            yield write_tar(folder / f"{split}-{number:05d}.tar", split, shard)


def write_tar(path: Path, split: str, samples: Iterable[Sample]) -> Shard:
    """Writes one shard to `path`, where nothing may be, and says what a manifest must know of it."""
    from webdataset.writer import TarWriter  # imports torch

    written: dict[str, int] = {}
    count = 0
    with open(path, "xb") as file, TarWriter(file, user="", group="", compress=False, encoder=False, mtime=0) as tar:
        for _, key, contents in samples:
            if not contents:
                raise ValueError(f"{key}: a sample with no files")
            for extension, data in contents.items():
                name = f"{key}.{extension}"
                if not is_member_name(name) or name in written:
                    raise ValueError(f"bad or repeated file name {name!r}")
                written[name] = zlib.crc32(data)
            tar.write({"__key__": key, **contents})
            count += 1
    with tarfile.open(path, "r:") as finished:
        found = gather_members((m.name, m.offset_data, m.size, written[m.name]) for m in finished)
    assert found.table.size == len(written) and len(found) == count
    found.check(path.stat().st_size)
    return Shard(path.name, split, count, path.stat().st_size, files.sha256_file(path), found)


def _check_files(path: Path, shards: list[Shard]) -> None:
    for shard in shards:
        try:
            size = (path / shard.name).stat().st_size
        except OSError as error:
            raise DataError(f"{path / shard.name}: listed in {MANIFEST}, but {error.strerror}. {AGAIN}") from None
        if size != shard.bytes:
            state = "truncated" if size < shard.bytes else "too long"
            raise DataError(f"{path / shard.name}: {state} ({size} bytes instead of {shard.bytes}). {AGAIN}")
    strangers = sorted({file.name for file in path.glob("*.tar")} - {shard.name for shard in shards})
    if strangers:
        raise DataError(f"{path / strangers[0]}: not listed in {MANIFEST}. Move it elsewhere.")
