"""An item of a source -> the image file of a sample: what the worker processes of `brics prepare` do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from bricscli.data import images
from bricscli.data.images import ImageError
from bricscli.data.resize import RESIZES
from bricscli.data.sources.listing import Item
from bricscli.errors import DataError

#: How images are written: `--format`. "original" keeps the files that are there.
ENCODERS: dict[str, Callable[[Image.Image], bytes]] = {"png": images.encode_png, "webp": images.encode_webp}
ORIGINAL = "original"
FORMATS = (*ENCODERS, ORIGINAL)

_KINDS = {"png": "PNG", "webp": "WebP", "jpg": "JPEG", None: "something else"}

class Converted(NamedTuple):
    """The file, or why there is none: that is an empty text where there is one."""

    data: bytes
    reason: str = ""


@dataclass(frozen=True)
class Conversion:
    """Pictures of (resolution, resolution), by a preset of RESIZES (None: they have that size), in a format."""

    resolution: int
    resize: str | None
    format: str
    extension: str  #: of the files

    def __call__(self, item: Item) -> Converted:
        """Raises DataError where the originals are to be kept and this one cannot be."""
        try:
            if self.format == ORIGINAL:
                return Converted(self._original(item))
            image = item.load()
            if self.resize is not None:
                image = RESIZES[self.resize](image, self.resolution)
            return Converted(ENCODERS[self.format](image))
        except ImageError as error:
            return Converted(b"", str(error))

    def _original(self, item: Item) -> bytes:
        data = item.read()
        kind = images.image_extension(data)
        if kind != self.extension:
            raise _not_kept(item, f"is {_KINDS[kind]}, and others are {_KINDS[self.extension]}", self.resolution)
        with images.open_stored(data) as image:
            found = f"{image.mode} of {image.width}x{image.height} pixels"
            if image.mode != "RGB" or image.size != (self.resolution, self.resolution):
                raise _not_kept(item, f"is {found}", self.resolution)
            if getattr(image, "n_frames", 1) != 1:
                raise _not_kept(item, "has several frames", self.resolution)
        images.load_upright(data)
        if images.orientation(data) != 1:
            raise _not_kept(item, "is to be turned (EXIF)", self.resolution)
        return data


def _not_kept(item: Item, what: str, resolution: int) -> DataError:
    return DataError(f"{item.name}: {what}. --format original needs RGB images that are all {resolution}x{resolution}, "
                     "upright, and all PNG, all WebP or all JPEG; use --format png.")


def digest(item: Item) -> tuple[bytes, str]:
    """SHA-256 that names the item's content; or b"" and why it cannot be read."""
    try:
        return bytes.fromhex(item.digest()), ""
    except ImageError as error:
        return b"", str(error)
