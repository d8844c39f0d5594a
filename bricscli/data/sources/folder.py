"""Images in a folder and its sub-folders."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bricscli.data.images import raster_extensions
from bricscli.data.sources.listing import Listing, ReadsBytes, labels_by_folder, read_whole, show_ignored
from bricscli.errors import DataError


@dataclass(frozen=True)
class FileItem(ReadsBytes):
    """An image file; see `listing.Item`."""

    path: str
    name: str
    split: str | None = None
    label: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> bytes:
        return read_whole(self.path)


@dataclass(frozen=True)
class Files:
    """The files below a folder that have some endings, sorted by their relative names; `ignored` others are there."""

    paths: list[Path]
    names: list[str]
    ignored: int


def open_folder(path: Path, *, classes: bool = False) -> Listing:
    """Every image below a folder; with `classes` the folders directly under it name the classes.

    Raises:
        DataError: as `list_images`, or the folders make no classes.
    """
    found = list_images(path)
    labels, names = labels_by_folder(path, found.names) if classes else ([None] * len(found.names), None)
    items = [FileItem(str(file), name, label=label)
             for file, name, label in zip(found.paths, found.names, labels, strict=True)]
    return Listing(items, found.ignored, {"name": "folder"}, names)


def list_images(folder: Path) -> Files:
    """The files in `folder` and its sub-folders whose names end like an image's.

    Hidden files and folders are passed over. Links are followed to files below `folder` only.

    Raises:
        DataError: `folder` is missing, is no folder, cannot be read, or holds no such file.
    """
    found = list_files(folder, raster_extensions())
    if not found.paths:
        raise DataError(f"{folder}: holds no images{show_ignored(found.ignored)}. Give a folder with .jpg, .png or "
                        "other image files in it.")
    return found


def list_files(folder: Path, endings: Collection[str]) -> Files:
    """As `list_images`, of files with other endings; there may be none."""
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {state}. Give the folder that holds the images.")
    root = folder.resolve()
    found: list[tuple[bytes, Path]] = []
    ignored = 0
    for current, folders, names in os.walk(root, onerror=_unreadable):
        here = Path(current)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = here / name
            if name.startswith("."):
                continue
            if path.suffix.lower() in endings and belongs(path, root):
                found.append((os.fsencode(path.relative_to(root).as_posix()), path))
            else:
                ignored += 1
    found.sort()
    # A name need not be UTF-8; what is written of it must be.
    return Files([path for _, path in found], [name.decode(errors="backslashreplace") for name, _ in found], ignored)


def belongs(path: Path, root: Path) -> bool:
    """Whether it is a file, and, where it is a link, one to a file below the resolved folder `root`."""
    return path.is_file() and (not path.is_symlink() or path.resolve().is_relative_to(root))


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}). Give yourself access, or move it elsewhere.")
