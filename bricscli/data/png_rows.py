"""Whether a PNG has all the rows that its head promises: decoders leave those black that its data end before."""

import io
import zlib
from pathlib import Path

from PIL import Image

#: Of the seven passes of an interlaced PNG: first column and row, steps to the next.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Values of a pixel, by colour type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def lacks_rows(image: Image.Image, source: Path | bytes) -> bool:
    """Of a PNG that was decoded without an error, from a file or its contents. Raises OSError where that is gone.

    The data are inflated once more, and counted, only where one of the last two rows is black, as missing ones are: the
    data of an interlaced PNG end with one of these.
    """
    if image.format != "PNG":
        return False
    blank = [image.crop((0, row, image.width, row + 1)).getbbox() is None
             for row in range(max(0, image.height - 2), image.height)]
    if not any(blank):
        return False
    return _missing(source if isinstance(source, bytes) else source.read_bytes())


def _missing(data: bytes) -> bool:
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, interlaced = data[24] * _CHANNELS[data[25]], data[28]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    wanted = 0
    for left, top, across, down in passes:
        columns, rows = max(0, -(-(width - left) // across)), max(0, -(-(height - top) // down))
        wanted += rows * (1 + -(-columns * bits // 8)) if columns else 0
    inflate, place, left_over = zlib.decompressobj(), 8, wanted
    while left_over > 0 and place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"IDAT":
            stream = io.BytesIO(data[place + 8 : place + 8 + length])
            while left_over > 0 and (some := inflate.unconsumed_tail or stream.read(1 << 16)):
                left_over -= len(inflate.decompress(some, 1 << 20))
        place += 12 + length
    return left_over > 0
