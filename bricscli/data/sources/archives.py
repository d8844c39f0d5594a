"""Images in a plain zip or tar archive, read where they lie: nothing is ever unpacked, no name becomes a path.

An item knows the place of its bytes in the archive, so that any process reads it without looking through the rest.
WebDataset's shards are such archives; what stands beside an image in them (.json, .cls) is not looked at.
"""

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from struct import error as StructError
from struct import unpack_from
from typing import Any

from bricscli import files
from bricscli.data.images import ImageError, raster_extensions
from bricscli.data.sources.listing import (
    MAX_MEMBER_BYTES,
    Listing,
    ReadsBytes,
    labels_by_folder,
    read_part,
    show_ignored,
)
from bricscli.data.sources.tar import read_tar
from bricscli.errors import DataError

#: What an archive says of its members, all together: three million have as much.
MAX_INDEX_BYTES = 1 << 28
#: No image file can be compressed so well: a member that can is made to fill the memory.
MAX_RATIO = 200
#: An archive in the archive: nobody looks into it, and it is not passed over in silence either.
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_LEADS_OUT = re.compile(r"^/|^[A-Za-z]:[/\\]|(^|[/\\])\.\.([/\\]|$)")
_LOCAL_HEADER = 30  # bytes before the name
#: Of the end of an archive: its last record, with the longest comment, and those of large archives before it.
_LONGEST_END = 22 + 65535 + 20 + 56
_NOT_HERE = 0xFFFFFFFF  # a number that is in the record of large archives


@dataclass(frozen=True)
class TarItem(ReadsBytes):
    """A member of a tar archive; see `listing.Item`. With `refused`, why it is not read."""

    path: str
    name: str
    offset: int
    size: int
    split: str | None = None
    label: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""

    def read(self) -> bytes:
        if self.refused:
            raise ImageError(self.refused)
        return read_part(self.path, self.offset, self.size)


@dataclass(frozen=True)
class ZipItem(ReadsBytes):
    """A member of a zip archive, `offset` being that of its local header; see `listing.Item`."""

    path: str
    name: str
    offset: int
    compressed: int
    size: int
    method: int
    crc: int
    split: str | None = None
    label: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""

    def read(self) -> bytes:
        if self.refused:
            raise ImageError(self.refused)
        header = read_part(self.path, self.offset, _LOCAL_HEADER)
        if header[:4] != b"PK\3\4":
            raise ImageError("damaged in the archive: it is not where the index says")
        name, extra = unpack_from("<HH", header, 26)
        data = read_part(self.path, self.offset + _LOCAL_HEADER + name + extra, self.compressed)
        if self.method == _DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
            except zlib.error:
                raise ImageError("damaged in the archive: it cannot be decompressed") from None
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise ImageError("damaged in the archive: it does not have its CRC-32")
        return data


def open_zip(path: Path, *, classes: bool = False) -> Listing:
    """Every image in a zip archive. Members that are encrypted, archives themselves, or bombs are refused when read.

    With `classes`, the first folders name them, below a single folder that holds everything if there is one.

    Raises:
        DataError: it is no zip archive, is damaged, or holds no images.
    """
    return _listing(path, "zip", *zip_items(path), classes)


def open_tar(path: Path, *, classes: bool = False) -> Listing:
    """Every image that is a regular file of an uncompressed tar archive (USTAR, PAX, GNU). Classes as in `open_zip`.

    Raises:
        DataError: it is no such archive, is damaged or ends early, or holds no images.
    """
    _check_file(path, "tar")
    items, ignored = [], 0
    for member in read_tar(path):
        if not member.regular:
            ignored += 1
        elif _passed_over(member.name):
            continue
        elif _wanted(member.name):
            refused = _refused(member.name, member.size)
            items.append(TarItem(str(path), member.name, member.offset, member.size, refused=refused))
        else:
            ignored += 1
    return _listing(path, "tar", *_unique(items, ignored), classes)


def zip_items(path: Path) -> tuple[list[ZipItem], int]:
    """The images of a zip archive sorted by name, and how many other files it holds. Raises DataError."""
    _check_file(path, "zip")
    try:
        check_index(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, StructError) as error:
        reason = str(error) if isinstance(error, zipfile.BadZipFile) else "its index is damaged"
        raise DataError(f"{path}: cannot be read as a zip archive ({reason}). Copy or download it again.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Copy or download it again.") from None
    items, ignored = [], 0
    for member in members:
        name = member.filename
        if member.is_dir() or _passed_over(name):
            continue
        if stat.S_ISLNK(member.external_attr >> 16) or not _wanted(name):
            ignored += 1
            continue
        items.append(ZipItem(str(path), name, member.header_offset, member.compress_size, member.file_size,
                             member.compress_type, member.CRC, refused=_refused_member(member)))
    return _unique(items, ignored)


def check_index(path: Path) -> None:
    """Raises BadZipFile where a zip archive's index is said to be larger than MAX_INDEX_BYTES, OSError."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_END))
        end = file.read()
    position, wide = end.rfind(b"PK\5\6"), end.rfind(b"PK\6\6")
    told: list[int] = []
    with suppress(StructError):  # cut off: zipfile says so
        told = [unpack_from("<I", end, position + 12)[0] if position >= 0 else 0,
                unpack_from("<Q", end, wide + 40)[0] if wide >= 0 else 0]
    if any(MAX_INDEX_BYTES < number != _NOT_HERE for number in told):
        raise zipfile.BadZipFile("its index is said to have more bytes than three million members need")


def _refused_member(member: zipfile.ZipInfo) -> str:
    if member.flag_bits & 0x1:
        return "encrypted"
    if member.file_size > MAX_RATIO * max(1, member.compress_size):
        return f"compressed to less than 1/{MAX_RATIO}, as no image is"
    if member.compress_type not in (_STORED, _DEFLATED):
        return "compressed in a way that is not read: only stored and deflated members are"
    if member.compress_size > MAX_MEMBER_BYTES:
        return f"more than {files.show_bytes(MAX_MEMBER_BYTES)}"
    return _refused(member.filename, member.file_size)


def _refused(name: str, size: int) -> str:
    if name.lower().endswith(_ARCHIVES):
        return "an archive in the archive"
    if _LEADS_OUT.search(name):
        return "its name leads out of the archive"
    return f"more than {files.show_bytes(MAX_MEMBER_BYTES)}" if size > MAX_MEMBER_BYTES else ""


def _wanted(name: str) -> bool:
    return Path(name.lower()).suffix in raster_extensions() or name.lower().endswith(_ARCHIVES)


def _passed_over(name: str) -> bool:
    """Hidden files, and what macOS adds to archives."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


def _unique(items: Iterable[Any], ignored: int) -> tuple[list[Any], int]:
    """Sorted by name. Of members with one name the last counts, as it does when an archive is unpacked."""
    by_name: dict[str, Any] = {}
    for item in items:
        name = item.name.removeprefix("./").encode(errors="backslashreplace").decode()
        ignored += name in by_name
        by_name[name] = replace(item, name=name)
    return [by_name[name] for name in sorted(by_name)], ignored


def _listing(path: Path, kind: str, items: Sequence[Any], ignored: int, classes: bool) -> Listing:
    if not items:
        raise DataError(f"{path}: holds no images{show_ignored(ignored)}. Give an archive with .jpg, .png or other "
                        "image files in it.")
    names = None
    if classes:
        inside = [item.name for item in items]
        top = inside[0].split("/")[0] + "/"
        if all(name.startswith(top) and name.count("/") > 1 for name in inside):
            inside = [name.removeprefix(top) for name in inside]
        labels, names = labels_by_folder(path, inside)
        items = [replace(item, label=label) for item, label in zip(items, labels, strict=True)]
    return Listing(items, ignored, {"name": kind}, names)


def _check_file(path: Path, kind: str) -> None:
    if not path.is_file():
        state = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise DataError(f"{path}: {state}. Give a {kind} archive of images.")
