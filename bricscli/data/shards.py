"""ShardSet: WebDataset tar shards and `manifest.json`, the index by which they are read.

A sample is a key and its files: `000041.png`, `000041.json` ("key.extension"; an extension may hold dots). Shards are
written by webdataset's writer and any WebDataset loader reads them. We read them by the manifest's offsets instead, so
that sample i costs one `pread`, the order is ours, and a short or altered shard is an error, never a short epoch.

manifest.json: {"schema": 1, <header: "kind", ...>, "splits": {"train": samples, ...}, "shards": [{"name", "split",
"samples", "bytes", "sha256", "members": [[file name, offset, bytes, CRC-32], ...]}, ...]}. Same samples, same bytes.
"""

import functools
import hashlib
import itertools
import json
import operator
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bricscli import files
from bricscli.errors import DataError

SCHEMA = 1
MANIFEST = "manifest.json"

#: Of the images in shards.
IMAGE_EXTENSIONS = ("png", "webp", "jpg")

_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+\.tar")
_MEMBER_NAME = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OPEN_FILES = 256

#: (split, key, {extension: contents})
Sample = tuple[str, str, Mapping[str, bytes]]


class Member(NamedTuple):
    """One file inside a shard: `size` bytes of contents at `offset`."""

    name: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True)
class Shard:
    """One tar file as the manifest describes it."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    members: list[Member] = field(repr=False)

    @functools.cached_property
    def by_key(self) -> dict[str, dict[str, Member]]:
        """key -> extension -> member, in the order of the shard."""
        groups: dict[str, dict[str, Member]] = {}
        for member in self.members:
            match = _MEMBER_NAME.fullmatch(member.name)
            if match is None or match[2] in groups.setdefault(match[1], {}):
                raise ValueError(f"bad or repeated file name {member.name!r} in {self.name}")
            groups[match[1]][match[2]] = member
        return groups


class Split:
    """The samples of one split, by number. Safe to read from several threads, and after a fork."""

    def __init__(self, name: str, folder: Path, shards: list[Shard]) -> None:
        self.name = name
        self._folder = folder
        self._samples: list[tuple[str, str, dict[str, Member]]] = []
        for shard in shards:
            for key, members in shard.by_key.items():
                self._samples.append((key, shard.name, members))
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(_OpenFile)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def keys(self) -> list[str]:
        return [key for key, _, _ in self._samples]

    def key(self, i: int) -> str:
        return self._samples[i][0]

    @property
    def extensions(self) -> list[str]:
        """What each sample has, sorted."""
        return sorted(self._samples[0][2]) if self._samples else []

    def where(self, i: int, extension: str) -> str:
        """Words for messages: which shard, which file in it."""
        key, shard, _ = self._samples[i]
        return f"{self._folder / shard}: {key}.{extension}"

    def crc32s(self, extension: str) -> list[int]:
        """Of each sample's file, as the manifest has it. Raises DataError where the samples have no such file."""
        if extension not in self.extensions:
            raise DataError(f"{self.where(0, extension)}: no such file; there is {', '.join(self.extensions)}.")
        return [members[extension].crc32 for _, _, members in self._samples]

    def read(self, i: int, extension: str = "png") -> bytes:
        """The contents of sample i's file, checked.

        Raises:
            DataError: the bytes are not those that were written.
        """
        _, shard, members = self._samples[i]
        if extension not in members:
            raise DataError(f"{self.where(i, extension)}: no such file; there is {', '.join(members)}.")
        member = members[extension]
        try:
            data = self._open(self._folder / shard).read(member)
        except OSError as error:
            raise DataError(f"{self.where(i, extension)}: cannot be read ({error.strerror}). {_AGAIN}") from None
        if zlib.crc32(data) != member.crc32:
            raise DataError(f"{self.where(i, extension)}: damaged (its CRC-32 differs from the manifest's). {_AGAIN}")
        return data


_AGAIN = "Delete the data set and make it again."


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
        text = _read_text(path)
        header, shards = _parse(path, text)
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
        first = next((sample for shard in self.shards for sample in shard.by_key.values()), {})
        for extension in IMAGE_EXTENSIONS:
            if extension in first:
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
                raise DataError(f"{where}: cannot be read ({error.strerror}). {_AGAIN}") from None
            if found != shard.sha256:
                raise DataError(f"{where}: damaged (its SHA-256 differs from the manifest's). {_AGAIN}")


def write_shards(
    out: Path, header: Mapping[str, Any], samples: Iterable[Sample], samples_per_shard: int = 1024,
    findings: Callable[[], Mapping[str, Any]] = dict,
) -> ShardSet:
    """Writes a data set to the new folder `out`: all of it, or nothing.

    `header` goes into the manifest and needs a "kind". `samples` is read once and not held; the samples of a split
    follow one another. `findings` is asked at the end for what the header could not know before.
    """
    if "kind" not in header or {"schema", "splits", "shards"} & set(header):
        raise ValueError("header needs `kind`, and leaves `schema`, `splits` and `shards` to write_shards")
    with files.new_directory(out) as folder:
        shards = list(_write_tars(folder, samples, samples_per_shard))
        _require_whole_samples(shards)
        write_manifest(folder, {**header, **findings()}, shards)
    return ShardSet.open(out)


def read_manifest(folder: Path) -> tuple[dict[str, Any], list[Shard]]:
    """What the manifest says, whether its shards are there or not: its header, and them.

    Raises:
        DataError: there is none, or it is damaged.
    """
    return _parse(folder, _read_text(folder))


def write_manifest(folder: Path, header: Mapping[str, Any], shards: list[Shard]) -> None:
    """Replaces the manifest; the header's "schema" and "splits" are what they must be."""
    head = {"schema": SCHEMA, **header, "splits": _count_samples(shards)}
    files.write_text(folder / MANIFEST, _manifest(head, shards))


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
                if not _MEMBER_NAME.fullmatch(name) or name in written:
                    raise ValueError(f"bad or repeated file name {name!r}")
                written[name] = zlib.crc32(data)
            tar.write({"__key__": key, **contents})
            count += 1
    with tarfile.open(path, "r:") as finished:
        members = [Member(m.name, m.offset_data, m.size, written[m.name]) for m in finished]
    assert len(members) == len(written)
    return Shard(path.name, split, count, path.stat().st_size, files.sha256_file(path), members)


def _manifest(header: Mapping[str, Any], shards: list[Shard]) -> str:
    """JSON with one line per member: half as long as one line per number, and readable."""
    blocks = []
    for shard in shards:
        facts = {key: getattr(shard, key) for key in ("name", "split", "samples", "bytes", "sha256")}
        members = ",\n".join(json.dumps(member) for member in shard.members)
        blocks.append(f'{json.dumps(facts)[:-1]}, "members": [\n{members}\n]}}')
    head = json.dumps(header, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    return head + ',\n "shards": [\n' + ",\n".join(blocks) + "\n]\n}\n"


def _read_text(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no prepared data set (no {MANIFEST}). Make one with `brics prepare`.") from None
    except OSError as error:
        raise DataError(f"{path / MANIFEST}: cannot be read ({error.strerror}).") from None


def _parse(path: Path, text: bytes) -> tuple[dict[str, Any], list[Shard]]:
    where = path / MANIFEST
    try:
        header = json.loads(text)
        schema = header["schema"]
        if schema != SCHEMA:
            raise DataError(f"{where}: has schema {schema!r}; this version of brics reads {SCHEMA}. {_AGAIN}")
        shards = [read_shard(entry) for entry in header.pop("shards")]
        _require(header["splits"] == _count_samples(shards), "its splits do not add up")
        _require(isinstance(header["kind"], str), "its kind is not a text")
        _require(len({shard.name for shard in shards}) == len(shards), "a shard is listed twice")
        _require_whole_samples(shards)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise DataError(f"{where}: not a manifest that brics wrote ({reason}). {_AGAIN}") from None
    return header, shards


def read_shard(entry: dict[str, Any]) -> Shard:
    """A shard as JSON has it. Raises ValueError, TypeError or KeyError where it cannot be one."""
    members = [Member(*member) for member in entry["members"]]
    shard = Shard(**{**entry, "members": members})
    _require(_SHARD_NAME.fullmatch(shard.name), f"bad shard name {shard.name!r}")
    _require(_SHA256.fullmatch(shard.sha256), f"bad SHA-256 of {shard.name}")
    _require(isinstance(shard.split, str) and shard.split.isidentifier(), f"bad split of {shard.name}")
    for member in members:
        _require(all(type(value) is int and value >= 0 for value in member[1:]), f"bad numbers of {member.name!r}")
        _require(member.offset + member.size <= shard.bytes, f"{member.name!r} lies outside of {shard.name}")
    _require(len(shard.by_key) == shard.samples, f"{shard.name} lists another number of samples")
    return shard


def _count_samples(shards: list[Shard]) -> dict[str, int]:
    splits: dict[str, int] = {}
    for shard in shards:
        splits[shard.split] = splits.get(shard.split, 0) + shard.samples
    return splits


def _require_whole_samples(shards: list[Shard]) -> None:
    keys = [key for shard in shards for key in shard.by_key]
    _require(len(set(keys)) == len(keys), "a sample is listed twice")
    kinds = {tuple(sorted(sample)) for shard in shards for sample in shard.by_key.values()}
    _require(len(kinds) <= 1, "some samples lack files that others have")


def _require(condition: Any, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def _check_files(path: Path, shards: list[Shard]) -> None:
    for shard in shards:
        try:
            size = (path / shard.name).stat().st_size
        except OSError as error:
            raise DataError(f"{path / shard.name}: listed in {MANIFEST}, but {error.strerror}. {_AGAIN}") from None
        if size != shard.bytes:
            state = "truncated" if size < shard.bytes else "too long"
            raise DataError(f"{path / shard.name}: {state} ({size} bytes instead of {shard.bytes}). {_AGAIN}")
    strangers = sorted({file.name for file in path.glob("*.tar")} - {shard.name for shard in shards})
    if strangers:
        raise DataError(f"{path / strangers[0]}: not listed in {MANIFEST}. Move it elsewhere.")
