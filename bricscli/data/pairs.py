"""Which pictures `brics inpaint` fills, and where: a picture or a folder of them, masks, or a table of pairs.

A mask is an image file, a folder with one of the same name (but for the ending) for every picture, or a word:
`alpha`, what is transparent in the picture; `thick:7`, one that `data.masks` draws, of that kind and seed, for every
picture its own, by the picture's name.
"""

import csv
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bricscli.data.images import raster_extensions
from bricscli.data.masks import KINDS, draw_mask, load_mask, mask_of_alpha
from bricscli.data.pictures import read_picture
from bricscli.data.sources.folder import belongs
from bricscli.data.windows import Mask
from bricscli.errors import DataError, RecipeError

ALPHA = "alpha"
_DRAWN = re.compile(r"([a-z]+):([0-9]{1,15})")
_COLUMNS = ("image", "mask", "seed")
#: Of a table; more is no table of pictures.
_LARGEST_TABLE = 100_000_000


@dataclass(frozen=True)
class Pair:
    """A picture and its mask, as the words name them; `where` is for messages."""

    image: Path
    mask: str
    seed: int
    where: str = ""

    @property
    def name(self) -> str:
        """What its filled pictures are called, but for the variant."""
        return self.image.stem

    def load(self, *, invert: bool = False) -> tuple[Image.Image, Mask]:
        """The picture and what is replaced of it. Raises DataError where they cannot be used."""
        image = read_picture(self.image, self._says(self.image))
        size = (image.height, image.width)
        try:
            if self.mask == ALPHA:
                mask = mask_of_alpha(self.image)
                mask = ~mask if invert else mask
            elif drawn := _DRAWN.fullmatch(self.mask):
                mask = draw_mask(drawn[1], int(drawn[2]), zlib.crc32(self.image.name.encode()), *size)
                mask = ~mask if invert else mask
            else:
                mask = load_mask(Path(self.mask), size, invert=invert)
        except DataError as error:
            raise (DataError(f"{self.where}: {error}") if self.where else error) from None
        assert mask.shape == size and mask.any() and not np.all(mask)
        return image, mask

    def _says(self, path: Path) -> str:
        return f"{self.where}: {path}" if self.where else str(path)


def find_pairs(image: Path | None, mask: str | None, table: Path | None, seed: int) -> list[Pair]:
    """By IMAGE and --mask, or by --pairs; in the order of their names, or of the table.

    Raises RecipeError for words that do not go together, DataError where a file is missing or two pictures share a
    name.
    """
    if table is not None:
        if image is not None or mask is not None:
            raise RecipeError("--pairs: names pictures and masks. Leave IMAGE and --mask out.")
        pairs = list(_read_table(table, seed))
    elif image is None:
        raise RecipeError("IMAGE: is missing. Name a picture, a folder of them, or a table with --pairs.")
    elif mask is None:
        raise RecipeError("--mask: is missing. Name an image in black and white (white is replaced), a folder of such, "
                          f"`{ALPHA}`, or a drawn one such as `thick:7`.")
    else:
        pairs = [Pair(path, _mask_for(path, mask), seed) for path in _pictures(image)]
    names: dict[str, Pair] = {}
    for pair in pairs:
        if (other := names.setdefault(pair.name, pair)) is not pair:
            where = f"{pair.where}: " if pair.where else ""
            raise DataError(f"{where}{pair.image}: has the name of {other.image}, and both would be filled into "
                            f"{pair.name}-1.png. Rename one.")
    return pairs


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such picture or folder. Name one that is there.")
        return [path]
    found = _images_in(path)
    if not found:
        raise DataError(f"{path}: holds no pictures. Choose a folder with image files.")
    return found


def _images_in(folder: Path) -> list[Path]:
    """By name; those of its sub-folders are not among them."""
    root = folder.resolve()
    return sorted(entry for entry in folder.iterdir()
                  if entry.suffix.lower() in raster_extensions() and belongs(entry, root) and entry.name[0] != ".")


def _mask_for(image: Path, mask: str) -> str:
    """The word, or the path of the file. Raises DataError where there is none, RecipeError for an unknown kind."""
    if mask == ALPHA:
        return mask
    if drawn := _DRAWN.fullmatch(mask):
        if drawn[1] not in KINDS:
            raise RecipeError(f"--mask: `{drawn[1]}` is no kind of mask that is drawn. There are: {', '.join(KINDS)}.")
        return mask
    path = Path(mask)
    if mask in KINDS and not path.exists():
        raise RecipeError(f"--mask: `{mask}` is drawn from a seed. Write {mask}:0.")
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such mask. Name a file, a folder, `{ALPHA}`, or a drawn one such as thick:7.")
        return mask
    found = [other for other in _images_in(path) if other.stem == image.stem]
    if len(found) != 1:
        what = "no mask of that name" if not found else f"both {found[0].name} and {found[1].name}"
        raise DataError(f"{path}: has {what} for {image}. A mask has the name of its picture, but for the ending.")
    return str(found[0])


def _read_table(path: Path, seed: int) -> Iterator[Pair]:
    """Raises DataError, with the line's number, for the first thing that is wrong."""
    rows = _rows(path)
    number, header = next(rows, (1, []))
    columns = [name.strip() for name in header]
    if columns[:2] != list(_COLUMNS[:2]) or columns[2:] not in ([], ["seed"]):
        raise DataError(f"{path}:{number}: does not begin with `image,mask` or `image,mask,seed`. Put that in "
                        "its first line.")
    count = 0
    for number, row in rows:
        where = f"{path}:{number}"
        if len(row) != len(columns):
            raise DataError(f"{where}: has {len(row)} values, not {len(columns)}. Put names with commas into quotes.")
        image, mask, *rest = (value.strip() for value in row)
        if rest and rest[0] and not re.fullmatch(r"[0-9]{1,15}", rest[0]):
            raise DataError(f"{where}: seed `{rest[0]}` is no whole number from 0 on. Write one, or nothing.")
        if not image or not mask:
            raise DataError(f"{where}: has no {'mask' if image else 'image'}. Name one in each line.")
        picture = path.parent / image
        if not picture.is_file():
            raise DataError(f"{where}: {picture}: no such picture. Names are relative to the table.")
        try:
            word = mask == ALPHA or _DRAWN.fullmatch(mask) or (mask in KINDS and not (path.parent / mask).exists())
            mask = _mask_for(picture, mask if word else str(path.parent / mask))
        except (DataError, RecipeError) as error:
            raise DataError(f"{where}: {error}") from None
        yield Pair(picture, mask, int(rest[0]) if rest and rest[0] else seed, where)
        count += 1
    if not count:
        raise DataError(f"{path}: names no pictures. Write a line for each.")


def _rows(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Line number and values of every row that is not empty."""
    try:
        if path.stat().st_size > _LARGEST_TABLE:
            raise DataError(f"{path}: is larger than {_LARGEST_TABLE / 1e6:g} MB. Choose another table.")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Choose another table.") from None
    except ValueError:
        raise DataError(f"{path}: is not text (UTF-8). Save it as CSV.") from None
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: is no CSV ({error}).") from None
        if any(value.strip() for value in row):
            yield reader.line_num, row
