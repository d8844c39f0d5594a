"""Where the values of an LMDB database lie in its file, read page by page; no library, no memory map.

LMDB maps its file into memory and trusts what is written there: a file that was copied by half ends the process with
SIGBUS, a page that is damaged with SIGSEGV. Here every number is compared with the file before it is used, and what is
wrong is an error. Only what LSUN's databases have is read: format 1 of a 64-bit little-endian machine, one unnamed
database without duplicates.

The file is a row of pages. The first two are meta pages, of which the one with the larger transaction counts; it names
the root of a B+ tree. A page begins with its number (u64), a pad (u16), flags (u16) and then either two bounds (u16) of
the free space in it, or, where a large value begins, the number of its pages (u32). Nodes follow as u16 offsets.
"""

import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bricscli.data.images import ImageError
from bricscli.data.sources.listing import MAX_MEMBER_BYTES, read_part
from bricscli.errors import DataError

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_HEADER_BYTES = _HEADER.size
_META = struct.Struct("<IIQQ 48s IHHQQQQQ QQ")  # magic ... free database, main database, last page, transaction
_NODE = struct.Struct("<HHHH")  # low and high half of the size (or page), flags, length of the key
_NODE_BYTES = _NODE.size
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 0x01, 0x02, 0x04, 0x08
_LARGE, _SUB_DATABASE, _DUPLICATES = 0x01, 0x02, 0x04
_NO_PAGE = (1 << 64) - 1
_MAX_DEPTH = 32
_BLOCK = 4096
_AGAIN = "a half-copied download? Copy or download it again."


class _Damaged(Exception):
    """What is wrong with the file, for people."""


@dataclass(frozen=True)
class Meta:
    """What the valid meta page says: bytes a page, pages in use, entries, depth and root of the tree."""

    page_size: int
    pages: int
    entries: int
    depth: int
    root: int


class Table:
    """Keys and places of all values, in the order of the keys: 20 bytes an entry and the key. Picklable."""

    def __init__(self, path: Path, page_size: int) -> None:
        self.path, self.page_size = str(path), page_size
        self._keys, self._ends = bytearray(), array("Q")
        self._places, self._sizes = array("Q"), array("I")

    def __len__(self) -> int:
        return len(self._places)

    def add(self, key: bytes, place: int, size: int) -> None:
        self._keys += key
        self._ends.append(len(self._keys))
        self._places.append(place)
        self._sizes.append(size)

    def key(self, i: int) -> bytes:
        return bytes(self._keys[self._ends[i - 1] if i else 0 : self._ends[i]])

    def value(self, i: int) -> tuple[int, int, int]:
        """Offset in the file, bytes, and the page whose header stands before them; 0: there is none."""
        place = self._places[i]
        if place & 1:  # a page's number, of a value that has pages of its own
            return (place >> 1) * self.page_size + _HEADER_BYTES, self._sizes[i], place >> 1
        return place >> 1, self._sizes[i], 0


def read_table(path: Path) -> Table:
    """Finds every value of a `data.mdb`.

    Raises:
        DataError: the file cannot be read, is no such database, is shorter than it says, or a page is damaged.
    """
    try:
        with open(path, "rb") as file:
            return _Reader(path, file.fileno()).table()
    except _Damaged as problem:
        raise DataError(f"{path}: {problem}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Give yourself access, or copy it again.") from None


def read_value(path: str, offset: int, size: int, page: int) -> bytes:
    """A value that `Table.value` places. Raises ImageError where it is not there."""
    if size > MAX_MEMBER_BYTES:
        raise ImageError(f"a value of {size:,} bytes")
    if not page:
        return read_part(path, offset, size)
    data = read_part(path, offset - _HEADER_BYTES, _HEADER_BYTES + size)
    number, _, flags, _, _ = _HEADER.unpack_from(data)
    # Later pages of a value have no header; but no image is empty for a whole block of the disk.
    blocks = (data[at : at + _BLOCK] for at in range(0, len(data) - _BLOCK + 1, _BLOCK))
    if number != page or flags & 0x0F != _OVERFLOW or any(not block.strip(b"\0") for block in blocks):
        raise ImageError("its pages in the database are damaged: a half-copied download?")
    return data[_HEADER_BYTES:]


class _Reader:
    """One reading of one file; every method raises _Damaged or OSError."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.bytes = os.fstat(descriptor).st_size
        self.meta = self._meta()

    def table(self) -> Table:
        meta, table = self.meta, Table(self.path, self.meta.page_size)
        if meta.root != _NO_PAGE:
            seen: set[int] = set()
            for leaf, page in self._leaves(meta.root, meta.depth, seen):
                self._add_leaf(table, leaf, page)
                if len(table) > meta.entries:
                    break
        if len(table) != meta.entries:
            raise _Damaged(f"holds {len(table):,} entries or more where its head speaks of {meta.entries:,}: damaged, "
                           f"or {_AGAIN}")
        return table

    def _meta(self) -> Meta:
        first = self._parse_meta(os.pread(self.descriptor, _HEADER_BYTES + _META.size, 0))
        if first is None:
            raise _Damaged(f"is no LMDB database of a 64-bit machine, or its head is damaged: {_AGAIN}")
        transaction, meta = first
        second = self._parse_meta(os.pread(self.descriptor, _HEADER_BYTES + _META.size, meta.page_size))
        if second is not None and second[0] > transaction and second[1].page_size == meta.page_size:
            meta = second[1]
        if self.bytes < meta.pages * meta.page_size:
            raise _Damaged(f"has {self.bytes:,} bytes where its head speaks of {meta.pages * meta.page_size:,}: "
                           f"{_AGAIN}")
        return meta

    def _parse_meta(self, data: bytes) -> tuple[int, Meta] | None:
        if len(data) < _HEADER_BYTES + _META.size or not _HEADER.unpack_from(data)[2] & _META_PAGE:
            return None
        (magic, version, _, _, free, _, flags, depth, _, _, _, entries, root, last,
         transaction) = _META.unpack_from(data, _HEADER_BYTES)
        page_size = int.from_bytes(free[:4], "little")  # the first field of the free database, used for this
        if (magic, version) != (_MAGIC, _VERSION) or page_size not in {1 << n for n in range(8, 17)}:
            return None
        if flags & _DUPLICATES:
            raise _Damaged("holds several values for one key, which LSUN does not. Give LSUN's database.")
        return transaction, Meta(page_size, last + 1, entries, depth, root)

    def _page(self, number: int, kind: int) -> bytes:
        if not 2 <= number < self.meta.pages:
            raise self._bad_page(number)
        page = os.pread(self.descriptor, self.meta.page_size, number * self.meta.page_size)
        if len(page) != self.meta.page_size:
            raise self._bad_page(number)
        found, _, flags, lower, upper = _HEADER.unpack_from(page)
        if found != number or flags & 0x2F != kind or not _HEADER_BYTES <= lower <= upper <= self.meta.page_size:
            raise self._bad_page(number)
        return page

    def _bad_page(self, number: int) -> _Damaged:
        return _Damaged(f"page {number:,} of {self.meta.pages:,} is damaged: {_AGAIN}")

    def _leaves(self, number: int, depth: int, seen: set[int]) -> Iterator[tuple[int, bytes]]:
        """Number and contents of every leaf below a page, in order. No page is visited twice."""
        if number in seen or not 1 <= depth <= _MAX_DEPTH:
            raise self._bad_page(number)
        seen.add(number)
        if depth == 1:
            yield number, self._page(number, _LEAF)
            return
        page = self._page(number, _BRANCH)
        for offset in self._nodes(number, page):
            low, high, top, _ = _NODE.unpack_from(page, offset)
            yield from self._leaves(low | high << 16 | top << 32, depth - 1, seen)

    def _nodes(self, number: int, page: bytes) -> tuple[int, ...]:
        lower = _HEADER.unpack_from(page)[3]
        offsets = struct.unpack_from(f"<{(lower - _HEADER_BYTES) // 2}H", page, _HEADER_BYTES)
        if offsets and not (min(offsets) >= lower and max(offsets) <= len(page) - _NODE_BYTES):
            raise self._bad_page(number)
        return offsets

    def _add_leaf(self, table: Table, number: int, page: bytes) -> None:
        left = len(page)  # nodes that lie over one another would make a small file a large table
        for offset in self._nodes(number, page):
            low, high, flags, length = _NODE.unpack_from(page, offset)
            start, size = offset + _NODE_BYTES + length, low | high << 16
            if flags & (_SUB_DATABASE | _DUPLICATES):
                raise _Damaged("holds databases of its own, which LSUN does not. Give LSUN's database.")
            left -= _NODE_BYTES + length + (8 if flags & _LARGE else size)
            if start + (8 if flags & _LARGE else size) > len(page) or left < 0:
                raise self._bad_page(number)
            key = page[offset + _NODE_BYTES : start]
            if flags & _LARGE:
                place = int.from_bytes(page[start : start + 8], "little")
                if not 2 <= place < self.meta.pages:
                    raise self._bad_page(number)
                table.add(key, place << 1 | 1, size)
            else:
                table.add(key, number * self.meta.page_size + start << 1, size)
