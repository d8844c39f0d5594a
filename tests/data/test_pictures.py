"""Pictures of people: what is kept stays bit for bit, and what could not be kept is refused."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bricscli.data import images
from bricscli.data.pictures import colours_of, encode_picture, put_back, read_about, read_picture
from bricscli.errors import DataError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "becomes"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "RGB"), ("LA", "RGBA"),
                                               ("1", "RGB"), ("P", "RGB")])
def test_modes_that_are_held(mode: str, becomes: str) -> None:
    image = Image.fromarray(noise(20, 30, len(becomes)), becomes).convert(mode)
    picture = read_picture(saved(image), "x")
    assert picture.mode == becomes and np.array_equal(np.asarray(picture), np.asarray(image.convert(becomes)))


@pytest.mark.parametrize(("data", "says"), [
    (saved(Image.fromarray(noise(20, 30, 4), "CMYK"), "TIFF"), "printer"),
    (saved(Image.fromarray(noise(20, 30, 3), "RGB").convert("LAB"), "TIFF"), "CIELAB"),
    (saved(Image.fromarray(np.full((20, 30), 999, np.uint16))), "more than 8 bits"),
    (saved(Image.fromarray(np.full((20, 30), 999, np.uint16)), "TIFF"), "more than 8 bits"),
    (saved(Image.fromarray(np.full((20, 30), 0.5, np.float32)), "TIFF"), "more than 8 bits"),
    (saved(Image.new("RGB", (100_000, 1))), "is 100000x1, too narrow to fill"),
    (saved(Image.new("RGB", (64, 64)))[:60], "x: "),
    (b"GIF89a and then a letter", "not an image"),
    (b"", "not an image"),
])
def test_what_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_picture(data, "x")
    assert len(caught.value.lines) == 1


def test_a_png_of_16_bits_in_three_channels_is_refused() -> None:
    """Pillow reads it as 8 bits without a word, and writes none: made by hand."""
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + bytes(20 * 6) for _ in range(20))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
    with pytest.raises(DataError, match="more than 8 bits a channel, and what is kept could not be kept so"):
        read_picture(data, "x")


def test_two_hundred_megapixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the header: of a PNG of 200 megapixels that has no pixels at all."""
    data = bytearray(saved(Image.new("RGB", (64, 64))))
    data[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    monkeypatch.setattr(images.Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="more than 50 megapixels"):
        read_picture(bytes(data), "x")


def test_upright_with_its_profile(tmp_path: Path) -> None:
    image = Image.fromarray(noise(20, 30, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    path.write_bytes(saved(image, exif=exif.tobytes(), icc_profile=b"a profile"))
    picture = read_picture(path, str(path))
    assert picture.size == (20, 30) and np.array_equal(np.asarray(picture), np.rot90(np.asarray(image), -1))
    with Image.open(io.BytesIO(encode_picture(picture, {}))) as written:
        assert written.info["icc_profile"] == b"a profile" and written.getexif().get(0x0112) is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_put_back_changes_the_hole_only(mode: str) -> None:
    image = Image.fromarray(noise(20, 30, len(mode)), mode)
    hole = noise(20, 30) < 90
    result = put_back(image, filled := noise(20, 30, 3)[::-1], hole)
    pixels, before = np.asarray(result), np.asarray(image)
    assert result.mode == mode and np.array_equal(pixels[~hole], before[~hole])
    assert np.array_equal(pixels[hole, :3], filled[hole])
    assert mode == "RGB" or (pixels[hole, 3] == 255).all(), "what was transparent is not any more"


def test_transparency_is_seen_over_white() -> None:
    seen = colours_of(Image.fromarray(np.array([[[0, 0, 0, 0], [10, 20, 30, 255]]], np.uint8), "RGBA"))
    assert seen.tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_a_png_says_what_made_it_in_the_same_bytes() -> None:
    image, about = Image.fromarray(noise(20, 30, 3)), {"brics": "1.2", "seed": 7, "sampling": {"steps": 3}}
    data = encode_picture(image, about)
    assert data == encode_picture(image, dict(reversed(about.items())))
    assert read_about(data) == about and read_about(saved(image)) == {} and read_about(b"no") == {}
    with Image.open(io.BytesIO(data)) as written:
        assert np.array_equal(np.asarray(written), np.asarray(image)) and written.info["Software"] == "brics 1.2"
