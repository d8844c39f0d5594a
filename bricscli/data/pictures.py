"""Pictures of people, of any size: read so that what is not replaced comes out as it went in.

A picture is an upright RGB or RGBA image of 8 bits a channel. Files that hold more than that, or other colours, are
refused: their kept pixels could not be kept.
"""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from bricscli.data.images import MAX_PIXELS, ImageError, load_upright, raster_formats, read_file
from bricscli.data.windows import Mask, Picture
from bricscli.errors import DataError
from bricscli.strict_json import parse_json

#: Of the shorter side: of less there is nothing to see.
FEWEST_PIXELS = 16
#: The key of the PNG's text that says what made it.
ABOUT = "brics"

_HELD = {"RGB", "RGBA", "L", "LA", "P", "PA", "1", "La", "RGBa", "RGBX", "YCbCr"}
_OTHER = {"CMYK": "has the colours of a printer (CMYK)", "LAB": "has CIELAB colours", "HSV": "has HSV colours"}


def read_picture(source: Path | bytes, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame, upright (EXIF), RGB, or RGBA where some of it is transparent; with its colour profile.

    Raises DataError where it is not an image, is damaged, larger than `max_pixels`, narrower than FEWEST_PIXELS, or has
    CMYK colours or 16 bits a channel.
    """
    try:
        data = source if isinstance(source, bytes) else read_file(source)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror}). Choose another picture.") from None
    except ImageError as error:
        raise DataError(f"{where}: {error}. Choose another picture.") from None
    try:
        image = _held(load_upright(data, max_pixels), _mode(data))
    except ImageError as error:
        remedy = "Make it smaller" if "megapixels" in str(error) else "Save it anew as PNG with 8 bits of RGB"
        raise DataError(f"{where}: {error}. {remedy}, or choose another.") from error
    if min(image.size) < FEWEST_PIXELS:
        raise DataError(f"{where}: is {image.width}x{image.height}, too narrow to fill. Choose a picture of at least "
                        f"{FEWEST_PIXELS} pixels each way.")
    return image


def _mode(data: bytes) -> str:
    """Pillow's, of the file itself; of a 16-bit PNG, of which Pillow would drop half of the bits, its own."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[24:25] == b"\x10":
        return "PNG;16"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), "r", raster_formats()) as image:
            return image.mode


def _held(image: Image.Image, mode: str) -> Image.Image:
    profile = image.info.get("icc_profile")
    if mode not in _HELD:
        what = _OTHER.get(mode, "has more than 8 bits a channel")
        raise ImageError(f"{what}, and what is kept could not be kept so")
    picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
    picture.info = {"icc_profile": profile} if profile and mode in ("RGB", "RGBA") else {}
    return picture


def colours_of(image: Image.Image) -> Picture:
    """What a model sees: uint8 (H, W, 3), transparency over white."""
    if image.mode == "RGB":
        return np.asarray(image)
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


def put_back(image: Image.Image, filled: Picture, changed: Mask) -> Image.Image:
    """The picture with the `changed` pixels, and no others, replaced, and opaque."""
    pixels = np.array(image)
    pixels[changed, :3] = filled[changed]
    if image.mode == "RGBA":
        pixels[changed, 3] = 255
    result = Image.fromarray(pixels, image.mode)
    result.info = dict(image.info)
    return result


def encode_picture(image: Image.Image, about: Mapping[str, Any]) -> bytes:
    """A PNG with its pixels, its colour profile, and `about` as text (JSON): same picture, same bytes."""
    text, buffer = PngInfo(), io.BytesIO()
    text.add_text("Software", f"brics {about['brics']}" if "brics" in about else "brics")
    text.add_text(ABOUT, json.dumps(dict(about), sort_keys=True))
    image.save(buffer, "PNG", pnginfo=text, compress_level=6, icc_profile=image.info.get("icc_profile"))
    return buffer.getvalue()


def read_about(data: bytes) -> dict[str, Any]:
    """What `encode_picture` wrote; empty where it did not."""
    try:
        with PngImageFile(io.BytesIO(data)) as image:
            return dict(parse_json(image.text[ABOUT]))
    except (KeyError, ValueError, OSError, SyntaxError, TypeError):
        return {}
