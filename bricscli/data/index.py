"""The index of a data set: where in its shards every member lies, in one binary file beside the manifest.

    index-0123456789abcdef.bin    named by its SHA-256, so that a manifest and its index are replaced as one
      (samples, extensions) x (offset uint64, size uint32, CRC-32 uint32), little-endian
      (samples,) x key, ASCII, padded with zeros to "key_bytes"

Samples are in the order of the manifest's shards, so that those of a shard are a slice. The manifest's "index" has the
file's "name", "bytes" and "sha256", its "extensions" in the order of the tars, and "key_bytes". It is read as numbers
and text and nothing else, 16 bytes a member: three million samples of two files each are 120 MB.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

#: What the names of index files are like.
INDEX_NAME = re.compile(r"index-[0-9a-f]{16}\.bin")
#: The largest name, "key.extension", that a plain tar header holds.
MOST_NAME_BYTES = 100
#: A tar's unit; a member is one of headers, then its contents, padded.
BLOCK = 512
#: Of a table.
MEMBER = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")])

_NAME = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)")
_EXTENSION = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
_IN_KEYS = np.array([re.match(rb"[A-Za-z0-9_-]", bytes([byte])) is not None for byte in range(256)])


class Member(NamedTuple):
    """One file inside a shard: `size` bytes of contents at `offset`."""

    name: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, eq=False)
class Contents:
    """What is in a shard: `keys` ASCII (samples,); `table` (samples, extensions) of offset, size and CRC-32."""

    keys: npt.NDArray[np.bytes_]
    extensions: tuple[str, ...]
    table: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        return bytes(self.keys[row]).decode()

    def member(self, row: int, extension: str) -> Member:
        """Raises ValueError where there is no such extension."""
        name = f"{self.key(row)}.{extension}"
        return Member(name, *self.table[row, self.extensions.index(extension)].item())

    def members(self) -> list[Member]:
        """All of them, in the order of the shard."""
        names = (f"{key.decode()}.{extension}" for key in self.keys.tolist() for extension in self.extensions)
        return [Member(name, *facts) for name, facts in zip(names, self.table.reshape(-1).tolist(), strict=True)]

    def check(self, size: int) -> None:
        """Raises ValueError unless a tar of `size` bytes can hold just this, members one after another in order."""
        length = self.table["size"].reshape(-1).astype(np.uint64)
        after = BLOCK + (length + np.uint64(BLOCK - 1)) // np.uint64(BLOCK) * np.uint64(BLOCK)
        offset = np.cumsum(np.concatenate([np.array([BLOCK], np.uint64), after[:-1]]))
        wrong = np.flatnonzero(self.table["offset"].reshape(-1) != offset)
        if len(wrong):
            raise ValueError(f"{self.members()[wrong[0]].name!r} does not lie where it must")
        if int(offset[-1]) + int(length[-1]) + 2 * BLOCK > size:
            raise ValueError(f"{self.members()[-1].name!r} lies outside of it")


def is_member_name(name: str) -> bool:
    """Whether `name` is a key and an extension, and short enough."""
    return len(name) <= MOST_NAME_BYTES and _NAME.fullmatch(name) is not None


def gather_members(members: Iterable[Sequence[Any]]) -> Contents:
    """[name, offset, size, CRC-32] of each member of a shard -> its contents.

    Raises ValueError or TypeError where the names or numbers cannot be, a sample's files do not follow one another, or
    some samples lack files that others have.
    """
    samples: dict[str, list[tuple[str, int, int, int]]] = {}
    for key, group in itertools.groupby((Member(*member) for member in members), _key):
        if key in samples:
            raise ValueError(f"the files of {key!r} do not follow one another")
        samples[key] = [(member.name[len(key) + 1 :], *member[1:]) for member in group]
    if not samples:
        raise ValueError("a shard without samples")
    extensions = tuple(extension for extension, *_ in next(iter(samples.values())))
    for key, files in samples.items():
        if (found := tuple(extension for extension, *_ in files)) != extensions:
            twice = len(set(found)) < len(found)
            raise ValueError(f"{key!r} has a file twice" if twice else "some samples lack files that others have")
    if len(set(extensions)) < len(extensions):
        raise ValueError(f"{next(iter(samples))!r} has a file twice")
    numbers = [[_checked(facts) for _, *facts in files] for files in samples.values()]
    return Contents(np.array([key.encode() for key in samples]), extensions, np.array(numbers, MEMBER))


def _key(member: Member) -> str:
    if not is_member_name(member.name):
        raise ValueError(f"bad file name {member.name!r}")
    return member.name.partition(".")[0]


def _checked(facts: list[int]) -> tuple[int, ...]:
    limits = (1 << 63, 1 << 32, 1 << 32)
    if not all(type(value) is int and 0 <= value < limit for value, limit in zip(facts, limits, strict=True)):
        raise ValueError(f"bad numbers {facts}")
    return tuple(facts)


def pack(shards: Sequence[Contents]) -> tuple[dict[str, Any], bytes]:
    """The manifest's "index", and the file. Raises ValueError where shards have other files, or a key is there twice.

    The same contents give the same bytes.
    """
    if len({contents.extensions for contents in shards}) > 1:
        raise ValueError("some samples lack files that others have")
    width = max(contents.keys.dtype.itemsize for contents in shards)
    keys = np.concatenate([contents.keys.astype(f"S{width}") for contents in shards])
    _require_distinct(keys)
    data = b"".join([*(contents.table.tobytes() for contents in shards), keys.tobytes()])
    digest = hashlib.sha256(data).hexdigest()
    return {"name": f"index-{digest[:16]}.bin", "bytes": len(data), "sha256": digest,
            "extensions": list(shards[0].extensions), "key_bytes": width}, data


def unpack(about: dict[str, Any], data: bytes, samples: Sequence[int]) -> list[Contents]:
    """The contents of each shard, of so many samples each, without copying. Raises ValueError, KeyError or TypeError.

    The caller looks at the numbers: `Contents.check`.
    """
    if len(data) != about["bytes"] or hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise ValueError(f"{about['name']} is damaged: its SHA-256 is not the manifest's")
    extensions, width, total = tuple(about["extensions"]), about["key_bytes"], sum(samples)
    if not extensions or len(set(extensions)) < len(extensions) or not all(map(_EXTENSION.fullmatch, extensions)):
        raise ValueError("bad extensions")
    if type(width) is not int or not 1 <= width < MOST_NAME_BYTES:
        raise ValueError("bad key_bytes")
    rows = total * len(extensions)
    if len(data) != rows * MEMBER.itemsize + total * width:
        raise ValueError(f"{about['name']} is of another number of samples")
    table = np.frombuffer(data, MEMBER, rows).reshape(total, len(extensions))
    keys = np.frombuffer(data, f"S{width}", total, rows * MEMBER.itemsize)
    _require_keys(np.frombuffer(data, np.uint8, offset=rows * MEMBER.itemsize).reshape(total, width))
    _require_distinct(keys)
    ends = list(itertools.accumulate(samples))
    return [Contents(keys[end - count : end], extensions, table[end - count : end])
            for end, count in zip(ends, samples, strict=True)]


def _require_keys(text: npt.NDArray[np.uint8]) -> None:
    """Letters, digits, `_` and `-`, at least one, then nothing but padding."""
    padding = text == 0
    if padding[:, 0].any() or (padding[:, :-1] > padding[:, 1:]).any() or not (_IN_KEYS[text] | padding).all():
        raise ValueError("bad keys")


def _require_distinct(keys: npt.NDArray[np.bytes_]) -> None:
    ordered = np.sort(keys, kind="stable")  # of a few sorted runs: fast
    if len(twice := np.flatnonzero(ordered[1:] == ordered[:-1])):
        raise ValueError(f"sample {bytes(ordered[twice[0]]).decode()} is listed twice")
