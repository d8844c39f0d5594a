"""What every source of images comes to: items that can be read one by one, in an order of their own.

Items are small and go to other processes as they are. Nothing is decoded before somebody asks.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from bricscli import files
from bricscli.data.images import MAX_FILE_BYTES, ImageError, load_image
from bricscli.errors import DataError

#: No photograph is a larger member of an archive or a database, whose size is what somebody wrote there.
MAX_MEMBER_BYTES = 1 << 26


class Item(Protocol):
    """One image of a source: a frozen, picklable description of where it is."""

    @property
    def name(self) -> str:
        """Unique within the source, relative, text that UTF-8 can hold. Nobody uses it as a path."""

    @property
    def split(self) -> str | None:
        """"train" or "val" where the source fixes it."""

    @property
    def label(self) -> str | None:
        """The class's name, where there are classes."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What else the source says of the image, for its JSON: at most `metadata.MAX_LINE_BYTES`, often nothing."""

    def digest(self) -> str:
        """SHA-256 that names the contents without decoding them. Raises ImageError where they cannot be read."""

    def read(self) -> bytes:
        """The image file's own bytes, at most MAX_FILE_BYTES; of a video's frame a PNG. Raises ImageError."""

    def load(self) -> Image.Image:
        """The first frame, decoded, upright, RGB. Raises ImageError."""


class ReadsBytes(ABC):
    """The part of an item that follows from the bytes of its image file."""

    @abstractmethod
    def read(self) -> bytes:
        """The image file's own bytes. Raises ImageError."""

    def digest(self) -> str:
        return sha256(self.read())

    def load(self) -> Image.Image:
        return load_image(self.read())


@dataclass(frozen=True)
class Listing:
    """The items of a source in an order that depends on the contents alone.

    `ignored`: files that are no images. `source` is for the manifest: {"name": "lsun-church", ...}, no paths.
    `classes`: the names of the classes, where items have labels.
    """

    items: Sequence[Item]
    ignored: int
    source: dict[str, Any]
    classes: list[str] | None = None


def labels_by_folder(place: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The label of every name, which is the first folder in it, and the classes, sorted.

    Raises:
        DataError: an image lies in no folder, or all lie in one.
    """
    outside = next((name for name in names if "/" not in name), None)
    if outside is not None:
        raise DataError(f"{place}: {outside} lies in none of the folders that name the classes. Move it into one, or "
                        "leave out --classes.")
    labels = [name.split("/")[0] for name in names]
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise DataError(f"{place}: all images lie in one folder, {classes[0]}, and a single class tells nothing. Add "
                        "another folder beside it, or leave out --classes.")
    return labels, classes


def read_part(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file. Raises ImageError where they are not all there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts, left = [], size
            while left and (part := os.pread(descriptor, left, offset + size - left)):
                parts.append(part)
                left -= len(part)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None
    if left:
        raise ImageError("the file ends before it")
    return b"".join(parts)


def read_whole(path: str) -> bytes:
    """A file's bytes. Raises ImageError where it cannot be read or has more than MAX_FILE_BYTES."""
    try:
        if os.stat(path).st_size > MAX_FILE_BYTES:
            raise ImageError(f"a file of more than {files.show_bytes(MAX_FILE_BYTES)}")
        with open(path, "rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def show_ignored(ignored: int) -> str:
    """For messages: nothing, or `, only 3 other files`."""
    return f", only {ignored} other file{'s' if ignored > 1 else ''}" if ignored else ""
