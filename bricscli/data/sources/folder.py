"""A folder of image files, and of folders of them: found in one order, nothing from outside."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bricscli import files
from bricscli.data.images import ImageError, load_image, raster_extensions
from bricscli.data.sources.listing import Listing
from bricscli.errors import DataError

#: A larger file is no photograph.
MAX_FILE_BYTES = 1 << 29


@dataclass(frozen=True)
class FileItem:
    """An image file; `name` is its path below the folder."""

    path: Path
    name: str
    split: str | None = None
    label: str | None = None

    def digest(self) -> str:
        return hashlib.sha256(self.read()).hexdigest()

    def read(self) -> bytes:
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise ImageError(f"a file of more than {files.show_bytes(MAX_FILE_BYTES)}")
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from None

    def load(self) -> Image.Image:
        return load_image(self.read())


@dataclass(frozen=True)
class Found:
    """The image files below a folder, sorted by their relative names; `ignored` other files are there too."""

    paths: list[Path]
    names: list[str]
    ignored: int


def list_folder(folder: Path, classes: bool = False) -> Listing:
    """Every image below `folder`; with `classes` the folders directly under it, sorted, name the classes.

    Raises:
        DataError: there are no images, or the folders make no classes.
    """
    found = list_images(folder)
    names = _class_names(folder, found.names) if classes else None
    items = [FileItem(path, name, label=name.split("/")[0] if classes else None)
             for path, name in zip(found.paths, found.names, strict=True)]
    return Listing(items, found.ignored, {"name": "folder"}, names)


def list_images(folder: Path) -> Found:
    """The files in `folder` and its sub-folders whose names end like an image's.

    Hidden files and folders are passed over. Links are followed to files below `folder` only.

    Raises:
        DataError: `folder` is missing, is no folder, cannot be read, or holds no such file.
    """
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
            if path.suffix.lower() in raster_extensions() and _belongs(path, root):
                found.append((os.fsencode(path.relative_to(root).as_posix()), path))
            else:
                ignored += 1
    if not found:
        others = f", only {ignored} other file{'s' if ignored > 1 else ''}" if ignored else ""
        raise DataError(f"{folder}: holds no images{others}. Give a folder with .jpg, .png or other image files in it.")
    found.sort()
    # A name need not be UTF-8; what is written of it must be.
    return Found([path for _, path in found], [name.decode(errors="backslashreplace") for name, _ in found], ignored)


def _belongs(path: Path, root: Path) -> bool:
    return path.is_file() and (not path.is_symlink() or path.resolve().is_relative_to(root))


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}). Give yourself access, or move it elsewhere.")


def _class_names(folder: Path, files_below: Sequence[str]) -> list[str]:
    """The folders directly under `folder`, sorted. Raises DataError where an image lies in none, or all in one."""
    outside = next((name for name in files_below if "/" not in name), None)
    if outside is not None:
        raise DataError(f"{folder}: {outside} lies in none of the folders that name the classes. Move it into one, or "
                        "leave out --classes.")
    names = sorted({name.split("/")[0] for name in files_below})
    if len(names) < 2:
        raise DataError(f"{folder}: all images lie in one folder, {names[0]}, and a single class tells nothing. Add "
                        "another folder beside it, or leave out --classes.")
    return names
