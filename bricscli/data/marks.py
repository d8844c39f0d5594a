"""What a sample's PNG says of itself: a text chunk `brics`, behind the head, with three facts that can be checked.

    seed=17 settings=0123456789abcdef pixels=0123456789abcdef

`settings`: the first digits of the SHA-256 of all that decides a seed's pixels; `pixels`: of that of the raw pixels,
(H, W, 3) bytes. A file that was exchanged, drawn in another way, or changed by another program is then no sample.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from bricscli.data.images import ImageError, Pixels, decode_image, encode_png, is_whole_png

_DIGITS = 16
#: Of a PNG: its signature and its first chunk, IHDR.
_HEAD = 33
_MARK = re.compile(rb"brics\0seed=(\d{1,15}) settings=([0-9a-f]{16}) pixels=([0-9a-f]{16})")


def digest_settings(settings: Mapping[str, Any]) -> str:
    """16 digits that name what a seed's pixels depend on, whatever the order of the keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def encode_sample(image: Pixels, seed: int, settings_digest: str) -> bytes:
    """uint8 (3, H, W) -> a PNG with its mark: same arguments, same bytes."""
    png = encode_png(image)
    pixels = _digest(image.transpose(1, 2, 0).tobytes())
    text = b"tEXt" + f"brics\0seed={seed} settings={settings_digest} pixels={pixels}".encode()
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    return png[:_HEAD] + chunk + png[_HEAD:]


def check_sample(png_bytes: bytes, seed: int, settings_digest: str, resolution: int) -> str | None:
    """Why a PNG is not the sample of this seed, drawn with these settings, of (resolution, resolution); None: it is."""
    try:
        decode_sample(png_bytes, seed, settings_digest, resolution)
    except ImageError as error:
        return str(error)
    return None


def decode_sample(png_bytes: bytes, seed: int, settings_digest: str, resolution: int) -> Pixels:
    """uint8 (3, H, W) of the sample of this seed, drawn with these settings. Raises ImageError where it is not."""
    if not is_whole_png(png_bytes, resolution):
        raise ImageError(f"is no whole PNG of {resolution}x{resolution} pixels")
    start = _HEAD + 8
    length = int.from_bytes(png_bytes[_HEAD : _HEAD + 4], "big")
    mark = _MARK.fullmatch(png_bytes[start : start + length]) if png_bytes[start - 4 : start] == b"tEXt" else None
    if mark is None:
        raise ImageError("does not say what drew it, as samples of brics do")
    if int(mark[1]) != seed:
        raise ImageError(f"is the sample of seed {int(mark[1])}")
    if mark[2].decode() != settings_digest:
        raise ImageError("was drawn in another way")
    image = decode_image(png_bytes, resolution)
    if _digest(image.transpose(1, 2, 0).tobytes()) != mark[3].decode():
        raise ImageError("has other pixels than were drawn")
    return image


def _digest(pixels: bytes) -> str:
    return hashlib.sha256(pixels).hexdigest()[:_DIGITS]
