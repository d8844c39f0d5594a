"""Image files <-> uint8 (3, H, W) <-> float [-1, 1].

Every image of this project is RGB. On disk and in shards it is a PNG (prepared ones may be WebP or JPEG); as an array
uint8 (3, H, W); as a tensor that a network sees float (B, 3, H, W) in [-1, 1].
"""

import functools
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bricscli.data.png_rows import lacks_rows

if TYPE_CHECKING:
    from torch import Tensor

Pixels = npt.NDArray[np.uint8]

#: A larger file is no photograph: MAX_PIXELS of RGB are 150 MB, uncompressed.
MAX_FILE_BYTES = 1 << 28
#: Largest picture that is decoded, in pixels: a small file can hold a picture that fills the memory.
MAX_PIXELS = 50_000_000
#: Of WebP, whose decoder keeps four copies of a picture.
MAX_WEBP_PIXELS = 30_000_000
#: Scans of a JPEG times its pixels. Each scan of a progressive one goes over all of them, and a small file can hold
#: thousands; of what cameras and programs write there are about ten.
MAX_SCANNED_PIXELS = 1_000_000_000

#: What people's pictures are in, each decoded by Pillow and the libraries in its wheel. It knows forty others, which
#: start other programs (EPS), need plug-ins, or are read by nobody else.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: Rows that are converted at a time: whole pictures would be in memory four times.
_ROWS = 256

#: zlib's, as zlib-ng has it in Pillow's wheels: photographs of 256 pixels become 2 % smaller than at the usual 6, in
#: 0.4 of the time (tests/benchmarks/prepare.py).
PNG_LEVEL = 3

#: How the images of shards are opened, by their ending.
_STORED: dict[str, type[ImageFile.ImageFile]] = {"png": PngImageFile, "webp": WebPImageFile, "jpg": JpegImageFile}

#: The last chunk of every PNG: no bytes, its name, its CRC-32.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class ImageError(ValueError):
    """A file is not an image that can be used; the message is the reason, for people."""


@functools.cache
def raster_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, such as "JPEG"."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@functools.cache
def raster_extensions() -> frozenset[str]:
    """Endings of file names, in lower case and with the dot, that say "this is an image"."""
    formats = raster_formats()
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def load_image(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an image file, fully decoded, upright (EXIF), RGB, transparency over white.

    `source` is a path, or the contents of a file. 16-bit values are scaled to 8 bits. Colour profiles are not applied.

    Raises:
        ImageError: it is not an image, is damaged, or has more than `max_pixels` pixels.
    """
    return _to_rgb(load_upright(source, max_pixels))


def load_upright(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`load_image` of the file's own mode, with its transparency; only wide values become 8 bits. Raises ImageError."""
    try:
        with warnings.catch_warnings():
            # Pillow's own limit is a warning, ours is the error below; its notes on odd metadata concern nobody.
            warnings.simplefilter("ignore")
            data = source if isinstance(source, bytes) else read_file(source)
            with Image.open(io.BytesIO(data), "r", raster_formats()) as image:
                _check_size(image, data, max_pixels)
                image.load()
                if lacks_rows(image, data):
                    raise ImageError("cannot be decoded: the data end before the last row")
                ImageOps.exif_transpose(image, in_place=True)
                return _to_8_bits(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError("not an image, or a damaged one") from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {max_pixels / 1e6:g} megapixels") from None
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged input
        raise ImageError(_reason(error)) from error


def read_file(path: Path) -> bytes:
    """A picture file's bytes. Raises ImageError where there are more than MAX_FILE_BYTES, OSError."""
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"a file of more than {MAX_FILE_BYTES / 1e6:.0f} MB")
    return data


def _check_size(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Before anything is decoded. Raises ImageError."""
    pixels = image.width * image.height
    if image.format == "WEBP":
        max_pixels = min(max_pixels, MAX_WEBP_PIXELS)
    if pixels > max_pixels:
        raise ImageError(f"more than {max_pixels / 1e6:g} megapixels")
    # Inside a scan, 0xff is always followed by something else; thumbnails have a few of their own.
    if data.startswith(b"\xff\xd8") and pixels * data.count(b"\xff\xda") > MAX_SCANNED_PIXELS:
        raise ImageError("more scans than a picture has")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    first_line = str(error).strip().split("\n")[0]
    return f"cannot be decoded: {first_line or type(error).__name__}"


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_wide_gray(np.asarray(image), 65535.0)
    if image.mode == "F":
        values = np.asarray(image)
        return _from_wide_gray(values, 1.0 if values.max(initial=0.0) <= 1.0 else 255.0)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        result = Image.new("RGB", image.size)
        for top in range(0, image.height, _ROWS):
            colours = image.crop((0, top, image.width, min(top + _ROWS, image.height))).convert("RGBA")
            white = Image.new("RGBA", colours.size, "white")
            result.paste(Image.alpha_composite(white, colours).convert("RGB"), (0, top))
        return result
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_wide_gray(values: npt.NDArray[Any], white: float) -> Image.Image:
    """Gray values 0..white, (H, W). Pillow's own conversion would clip them at 255."""
    if not (np.isfinite(values).all() and values.min(initial=0) >= 0 and values.max(initial=0) <= white):
        raise ImageError(f"gray values outside 0..{white:g}, so that black and white are not known")
    gray = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):
        gray[top : top + _ROWS] = values[top : top + _ROWS].astype(np.float64) * (255.0 / white) + 0.5
    return Image.fromarray(gray).convert("RGB")


def to_pixels(image: Image.Image) -> Pixels:
    """RGB image -> uint8 (3, H, W)."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def encode_png(image: Pixels | Image.Image) -> bytes:
    """uint8 (3, H, W), or an RGB image -> a PNG with the pixels and nothing else: same pixels, same bytes."""
    return _encode(image, "PNG", compress_level=PNG_LEVEL)


def encode_webp(image: Pixels | Image.Image) -> bytes:
    """uint8 (3, H, W), or an RGB image -> a lossless WebP with the pixels and nothing else: same pixels, same bytes."""
    return _encode(image, "WEBP", lossless=True, method=1, quality=20)


def _encode(image: Pixels | Image.Image, format: str, **options: Any) -> bytes:
    if isinstance(image, Image.Image):
        plain = image.convert("RGB")  # a copy
        plain.info = {}  # nothing of it is to be written
    else:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"expected uint8 (3, H, W), got {image.dtype} {image.shape}")
        plain = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    plain.save(buffer, format, **options)
    return buffer.getvalue()


def image_extension(data: bytes) -> str | None:
    """"png", "webp" or "jpg" by the first bytes of a file; None: it is none of these."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def open_stored(data: bytes) -> ImageFile.ImageFile:
    """A PNG, WebP or JPEG, opened and not decoded. Raises ImageError for anything else, or too many pixels."""
    kind = image_extension(data)
    if kind is None:
        raise ImageError("neither PNG nor WebP nor JPEG")
    try:
        image = _STORED[kind](io.BytesIO(data))  # Image.open would try other formats, and warn of the size
    except Exception as error:
        raise ImageError(_reason(error)) from error
    _check_size(image, data, MAX_PIXELS)
    return image


def orientation(data: bytes) -> int:
    """How a PNG, WebP or JPEG is to be turned (EXIF): 1 is upright."""
    with open_stored(data) as image:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def decode_image(data: bytes, resolution: int | None = None) -> Pixels:
    """The PNG, WebP or JPEG of a shard -> uint8 (3, H, W).

    Raises:
        ImageError: it is no RGB image of these formats, is damaged, or is not (resolution, resolution).
    """
    with open_stored(data) as image:
        if image.mode != "RGB" or (resolution is not None and image.size != (resolution, resolution)):
            found = f"{image.mode} {image.width}x{image.height}"
            raise ImageError(f"expected an RGB image of {resolution or 'any size'}, found {found}")
        try:
            return to_pixels(image)
        except Exception as error:  # Pillow's decoders raise nearly everything on damaged input
            raise ImageError(_reason(error)) from error


def is_whole_png(data: bytes, resolution: int) -> bool:
    """Whether `data` is a PNG of (resolution, resolution), every part of which has its CRC-32 and the end its mark.

    Nothing is decoded: that costs 25 times as much at 256 pixels, and does not notice every bit that has flipped.
    """
    try:
        with PngImageFile(io.BytesIO(data)) as image:
            fits = image.mode == "RGB" and image.size == (resolution, resolution)
            image.verify()
    except Exception:  # Pillow raises nearly everything on damaged input
        return False
    return fits and data.endswith(_PNG_END)


def to_float(images: "Tensor") -> "Tensor":
    """uint8 0..255 -> float32 [-1, 1], any shape."""
    return images.float() / 127.5 - 1


def to_uint8(images: "Tensor") -> "Tensor":
    """float [-1, 1] -> uint8 0..255, rounded to the nearest; values outside are clamped. Inverse of `to_float`."""
    return ((images.float() + 1) * 127.5 + 0.5).clamp(0, 255).floor().byte()


def sheet(images: npt.NDArray[Any], columns: int, gap: int = 2, background: int = 255) -> Pixels:
    """Contact sheet: uint8 (N, 3, H, W) -> uint8 (3, H', W'), row by row, `gap` pixels between and around."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.full((channels, gap + rows * (height + gap), gap + columns * (width + gap)), background, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas
