"""Reading shards again from the first byte to the last, once, and naming all that is not as it was written."""

import hashlib
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from bricscli.data.index import BLOCK, Member
from bricscli.data.manifest import MANIFEST, Shard

#: Bytes that are read at a time, and names that a line says.
_PIECE, _NAMED = 1 << 20, 12
#: Of names in folders that brics takes no notice of: locks, what is being written.
_HIDDEN = "."


def iter_shard_problems(folder: Path, shard: Shard, *, quick: bool = False) -> Iterator[str]:
    """Where and what, for each thing that is wrong with a shard, naming files in it; quick: by its length alone."""
    path = folder / shard.name
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            state = "truncated" if size < shard.bytes else "too long"
            yield f"{path}: {state} ({size} bytes instead of {shard.bytes})"
        if not quick:
            with open(path, "rb", _PIECE) as file:
                found = list(_Walk(file).problems(shard))
            yield from (f"{path}: {problem}" for problem in found)
    except OSError as error:
        yield f"{path}: cannot be read ({error.strerror})"


def iter_strangers(folder: Path, listed: Collection[str]) -> Iterator[str]:
    """A line for each thing in a folder that its manifest does not know."""
    for entry in sorted(folder.iterdir()):
        if entry.name not in listed and not entry.name.startswith(_HIDDEN):
            yield f"{entry}: belongs to nothing in {MANIFEST}. Move it elsewhere."


class _Walk:
    """Reads a tar once, hashing all of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256 = file, hashlib.sha256()

    def problems(self, shard: Shard) -> Iterator[str]:
        damaged, headers, gaps = [], [], []
        for member in shard.contents.members():
            if not _is_header_of(self._read(BLOCK), member):
                headers.append(member.name)
            if self._crc32(member.size) != member.crc32:
                damaged.append(member.name)
            if any(self._read(-member.size % BLOCK)):
                gaps.append(member.name)
        blank = self._is_blank_to_the_end()
        if damaged:
            yield f"damaged: {_list(damaged)}"
        if headers:
            yield f"damaged headers: {_list(headers)}"
        if gaps:
            yield f"something lies behind {_list(gaps)}"
        if not blank:
            yield "something lies behind its last file, or its end is missing"
        if self._sha256.hexdigest() != shard.sha256:
            yield "its SHA-256 differs from the manifest's"

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        self._sha256.update(data)
        return data

    def _crc32(self, size: int) -> int | None:
        """None where so much is not there."""
        crc32 = 0
        while size > 0:
            piece = self._read(min(size, _PIECE))
            if not piece:
                return None
            crc32, size = zlib.crc32(piece, crc32), size - len(piece)
        return crc32

    def _is_blank_to_the_end(self) -> bool:
        """The two empty blocks that end a tar, and nothing else."""
        blank, length = True, 0
        while piece := self._read(_PIECE):
            blank, length = blank and not any(piece), length + len(piece)
        return blank and length >= 2 * BLOCK


def _is_header_of(block: bytes, member: Member) -> bool:
    """Whether a block of a tar is the header of a plain file of that name and size."""
    try:
        name, size, checksum = block[:100], block[124:136], block[148:156]
        return (len(block) == BLOCK and block[257:262] == b"ustar" and block[156:157] == b"0"
                and not any(block[345:500])  # what would go before the name
                and name.rstrip(b"\0").decode() == member.name and int(size.rstrip(b" \0"), 8) == member.size
                and int(checksum.rstrip(b" \0"), 8) == sum(block) - sum(checksum) + len(checksum) * ord(" "))
    except ValueError:
        return False


def _list(names: list[str]) -> str:
    """The first of them, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
