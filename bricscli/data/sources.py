"""Where images come from: the words that `brics prepare` accepts, and the images that a folder holds."""

import os
from dataclasses import dataclass
from pathlib import Path

from bricscli.data.images import raster_extensions
from bricscli.errors import DataError


@dataclass(frozen=True)
class Source:
    """A source of images. Unless told otherwise, `count` images of `resolution` pixels; None: there is no default."""

    description: str
    count: int | None = None
    resolution: int | None = None


SOURCES: dict[str, Source] = {
    "toy": Source(description="churches drawn by the program", count=4096, resolution=32),
    "folder": Source(description="your own images, see --from"),
}


@dataclass(frozen=True)
class Listing:
    """The image files below a folder, sorted by their relative names; `ignored` other files are there too."""

    paths: list[Path]
    names: list[str]
    ignored: int


def list_images(folder: Path) -> Listing:
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
    return Listing([path for _, path in found], [name.decode(errors="backslashreplace") for name, _ in found], ignored)


def _belongs(path: Path, root: Path) -> bool:
    return path.is_file() and (not path.is_symlink() or path.resolve().is_relative_to(root))


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}). Give yourself access, or move it elsewhere.")
