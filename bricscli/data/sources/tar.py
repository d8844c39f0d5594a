"""Where the members of a tar archive lie, from its headers alone.

POSIX.1-2001 ("ustar" and pax) and the GNU extensions for long names and large sizes. `tarfile` of the standard
library would read a pax header of any size that the archive claims into the memory; this does not, and opens nothing
compressed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bricscli.errors import DataError

_BLOCK = 512
#: More is no name: the longest path of Linux has 4 KiB.
_MAX_EXTENSION = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_REGULAR = (b"0", b"\0", b"7")
#: Hard link, symbolic link, devices, folder, pipe: no bytes follow, whatever the size says.
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")


@dataclass(frozen=True)
class Member:
    """A file of the archive, `regular` or else a link, a device, a pipe or sparse. Folders are left out."""

    name: str
    offset: int
    size: int
    regular: bool


class _Damaged(Exception):
    """What is wrong, for people."""


def read_tar(path: Path) -> Iterator[Member]:
    """The members in the order of the archive. Raises DataError where it is none, is compressed, damaged or cut off."""
    try:
        with open(path, "rb") as file:
            yield from _members(file, os.fstat(file.fileno()).st_size)
    except _Damaged as problem:
        raise DataError(f"{path}: {problem}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Copy or download it again.") from None


def _members(file: BinaryIO, end: int) -> Iterator[Member]:
    _check_plain(file.read(8))
    position = 0
    extended: dict[str, str] = {}
    while True:
        header = _block(file, position, end)
        if header == bytes(_BLOCK):
            _check_end(file, position)
            return
        _check_header(header, position)
        kind, size = header[156:157], _number(header[124:136])
        position += _BLOCK
        if kind in b"xgLK":
            data = _extension(file, position, size, end)
            if kind == b"x":
                extended |= _pax(data)
            elif kind == b"L":
                extended["path"] = _text(data.rstrip(b"\0"))
            position += _padded(size)
            continue
        sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in extended)
        if kind == b"S":
            position = _after_sparse_map(file, header, position, end)
        size = 0 if kind in _WITHOUT_DATA else int(extended.get("size", size))
        name = extended.get("path") or _name(header)
        if kind != b"5" and not name.endswith("/"):
            yield Member(name, position, size, kind in _REGULAR and not sparse)
        position += _padded(size)
        extended = {}


def _check_plain(start: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise _Damaged(f"is compressed with {name}, and images in it cannot be found without reading all of it. "
                           "Decompress it first.")


def _check_header(header: bytes, position: int) -> None:
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if not header[148:156].strip(b"01234567\0 ") and _number(header[148:156]) == total:
        return
    if position == 0:
        raise _Damaged("is no tar archive. Give one that is plain and not compressed.")
    raise _Damaged(f"is damaged at byte {position:,}. Copy or download it again.")


def _check_end(file: BinaryIO, position: int) -> None:
    """After the mark of the end only zeros may follow: archives that were joined would lose images in silence."""
    file.seek(position)
    if file.read(1 << 20).strip(b"\0"):
        raise _Damaged(f"ends at byte {position:,}, but more follows: were archives joined? Give them one by one.")


def _block(file: BinaryIO, position: int, end: int) -> bytes:
    if position + _BLOCK > end:
        raise _cut_off()
    file.seek(position)
    return file.read(_BLOCK)


def _cut_off() -> _Damaged:
    return _Damaged("ends in the middle (a half-copied download?). Copy or download it again.")


def _extension(file: BinaryIO, position: int, size: int, end: int) -> bytes:
    if size > _MAX_EXTENSION:
        raise _Damaged(f"is damaged before byte {position:,}: a name of {size:,} bytes. Copy or download it again.")
    if position + size > end:
        raise _cut_off()
    file.seek(position)
    return file.read(size)


def _pax(data: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n`; what cannot be read ends them."""
    found, position = {}, 0
    while position < len(data):
        digits, space, _ = data[position : position + 24].partition(b" ")
        if not (space and digits.isdigit() and len(digits) + 3 < int(digits) <= len(data) - position):
            break
        length = int(digits)
        key, _, value = data[position + len(digits) + 1 : position + length - 1].partition(b"=")
        found[_text(key)] = _text(value)
        position += length
    if not found.get("size", "0").isascii() or not found.get("size", "0").isdigit() or len(found.get("size", "")) > 18:
        raise _Damaged("is damaged: a size that is no number. Copy or download it again.")
    return found


def _after_sparse_map(file: BinaryIO, header: bytes, position: int, end: int) -> int:
    """A sparse file's map may go on in blocks of its own, each of which says whether another follows."""
    more = header[482]
    while more:
        more = _block(file, position, end)[504]
        position += _BLOCK
    return position


def _name(header: bytes) -> str:
    name, prefix = (_text(field.split(b"\0")[0]) for field in (header[:100], header[345:500]))
    posix = header[257:263] == b"ustar\0"  # GNU's own format keeps other things in the prefix
    return f"{prefix}/{name}" if posix and prefix else name


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary form for what does not fit."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ") or b"0"
    if digits.strip(b"01234567"):
        raise _Damaged("is no tar archive, or a damaged one: a size that is no number. Copy or download it again.")
    return int(digits, 8)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
