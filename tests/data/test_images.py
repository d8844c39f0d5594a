"""Image files <-> arrays: what is read, how, and what is refused."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bricscli.data import images
from bricscli.data.images import ImageError, Pixels
from bricscli.data.resize import RESIZES


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG of the given size whose pixels are all missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP"])
def test_common_formats_are_read(kind: str) -> None:
    loaded = images.load_image(encoded(Image.new("RGB", (6, 4), (200, 40, 90)), kind))
    assert loaded.mode == "RGB" and loaded.size == (6, 4)
    assert np.abs(np.asarray(loaded).astype(int) - (200, 40, 90)).max() <= 6


def test_a_path_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    data = encoded(noise(5, 7))
    (tmp_path / "a.png").write_bytes(data)
    from_path, from_bytes = images.load_image(tmp_path / "a.png"), images.load_image(data)
    assert from_path.tobytes() == from_bytes.tobytes() == noise(5, 7).tobytes()


def test_exif_orientation_is_applied() -> None:
    picture = Image.new("RGB", (8, 4), "white")
    picture.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: the top left corner belongs to the top right
    loaded = images.load_image(encoded(picture, "PNG", exif=exif))
    assert loaded.size == (4, 8)
    assert loaded.getpixel((3, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "transparent",
    [
        Image.new("RGBA", (2, 2), (0, 0, 0, 0)),
        Image.new("LA", (2, 2), (0, 0)),
    ],
    ids=lambda image: image.mode,
)
def test_transparency_lies_over_white(transparent: Image.Image) -> None:
    assert images.load_image(encoded(transparent)).getpixel((0, 0)) == (255, 255, 255)


def test_half_transparency_and_palettes() -> None:
    half = images.load_image(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert half.getpixel((0, 0)) == (127, 127, 127)
    palette = images.load_image(encoded(Image.new("P", (1, 1), 0), transparency=0))
    assert palette.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    gray = np.array([[0, 257, 32768, 65535]], np.uint16)
    assert np.asarray(images.load_image(encoded(gray, kind)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_pixels_need_a_known_range() -> None:
    gray = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert np.asarray(images.load_image(encoded(gray, "TIFF")))[0, :, 1].tolist() == [0, 128, 255]
    with pytest.raises(ImageError, match="black and white are not known"):
        images.load_image(encoded(gray - 1, "TIFF"))


def test_cmyk_becomes_rgb() -> None:
    assert images.load_image(encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF")).getpixel((0, 0)) == (
        255,
        0,
        0,
    )


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert images.load_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all\n" * 99,
        bytes(4096),
        encoded(noise(64, 64), "JPEG")[:900],
        encoded(noise(64, 64), "PNG")[:9000],
    ],
    ids=["empty", "text", "zeros", "short JPEG", "short PNG"],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError) as refused:
        images.load_image(data)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        images.load_image(tmp_path / "none.png")


@pytest.mark.parametrize("size", [(11_000, 10_000), (20_000, 20_000)], ids=["over ours", "over Pillow's limit"])
def test_a_decompression_bomb_is_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="more than 50 megapixels"):
        images.load_image(png_header(*size))
    with pytest.raises(ImageError, match="more than 5e-06 megapixels"):
        images.load_image(encoded(noise(2, 3)), max_pixels=5)


def test_webp_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noise(5, 7), "WEBP", lossless=True)
    monkeypatch.setattr(images, "MAX_WEBP_PIXELS", 34)
    for load in (images.load_image, images.decode_image):
        with pytest.raises(ImageError, match=r"more than 3\.4e-05 megapixels"):
            load(data)
    assert images.load_image(encoded(noise(5, 7))).size == (7, 5)


def test_a_jpeg_of_a_thousand_scans_is_refused_before_decoding() -> None:
    data = encoded(noise(64, 64), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    assert scans > 5 and images.load_image(data).size == (64, 64)
    end = data.rindex(b"\xff\xda")
    many = data[:end] + data[end:-2] * (images.MAX_SCANNED_PIXELS // 64**2) + data[-2:]
    with pytest.raises(ImageError, match="more scans than a picture has"):
        images.load_image(many)
    with pytest.raises(ImageError, match="more scans than a picture has"):
        images.decode_image(many)


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noise(5, 7))
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data))
    assert images.load_image(tmp_path / "a.png").size == (7, 5)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match="a file of more than"):
        images.load_image(tmp_path / "a.png")


def test_rows_are_converted_in_portions_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    seen = encoded(Image.fromarray(random.integers(0, 256, (9, 5, 4), np.uint8), "RGBA"))
    wide = encoded(Image.fromarray(random.integers(0, 65536, (9, 5), np.uint16)))
    whole = [images.load_image(data).tobytes() for data in (seen, wide)]
    monkeypatch.setattr(images, "_ROWS", 2)
    assert [images.load_image(data).tobytes() for data in (seen, wide)] == whole


def test_loading_is_silent_and_leaves_the_warnings_alone() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ImageError):
            images.load_image(png_header(9_700, 9_700))  # Pillow warns of this size
    assert not seen
    assert warnings.filters == before


def test_an_eps_by_any_name_is_not_even_opened() -> None:
    with pytest.raises(ImageError, match=r"^not an image"):
        images.load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


def test_formats_that_start_programs_are_left_out() -> None:
    assert {"PNG", "JPEG", "TIFF", "WEBP"} <= set(images.raster_formats())
    assert not {"EPS", "WMF", "FITS", "HDF5", "PSD", "ICO"} & set(images.raster_formats())
    assert {".jpg", ".jpeg", ".png", ".webp"} <= images.raster_extensions()
    assert not {".eps", ".ps", ".pdf", ".txt", ".tar", ".json"} & images.raster_extensions()


@pytest.mark.parametrize(("width", "height"), [(9, 5), (5, 9), (8, 5)])
def test_the_crop_is_centred(width: int, height: int) -> None:
    picture = noise(height, width)
    cropped = np.asarray(RESIZES["lanczos"](Image.fromarray(picture), 5))
    top, left = (height - 5) // 2, (width - 5) // 2
    assert (cropped == picture[top : top + 5, left : left + 5]).all()


def test_the_resize_is_antialiased_and_upscales() -> None:
    # Facts: white noise shrunk 4 times keeps a deviation of 16.5 of 73 by Lanczos, 36.8 without antialiasing.
    small = np.asarray(RESIZES["lanczos"](Image.fromarray(noise(512, 512)), 128))
    assert small.shape == (128, 128, 3)
    assert 15.5 < small.std() < 17.5
    large = RESIZES["lanczos"](Image.new("RGB", (3, 4), (9, 8, 7)), 16)
    assert large.size == (16, 16) and large.getpixel((0, 15)) == (9, 8, 7)


def test_png_keeps_every_pixel_and_nothing_else() -> None:
    picture = Image.fromarray(noise(6, 6))
    picture.info["icc_profile"] = b"profile"
    pixels = images.to_pixels(picture)
    assert pixels.shape == (3, 6, 6) and pixels[2, 0, 1] == noise(6, 6)[0, 1, 2]
    assert images.encode_png(picture) == images.encode_png(pixels)
    assert (images.decode_image(images.encode_png(pixels)) == pixels).all()


@pytest.mark.parametrize("bad", [np.zeros((3, 4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)])
def test_only_uint8_chw_is_encoded(bad: Any) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        images.encode_png(bad)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(noise(4, 5)), "found RGB 5x4"),
        (encoded(noise(4, 4)[:, :, 0]), "found L 4x4"),
        (encoded(noise(4, 4), "BMP"), "neither PNG nor WebP nor JPEG"),
        (encoded(noise(4, 4))[:60], "cannot"),
        (png_header(12000, 12000), "more than 50 megapixels"),
    ],
)
def test_a_member_of_a_shard_is_what_it_should_be(data: bytes, reason: str) -> None:
    with warnings.catch_warnings(), pytest.raises(ImageError, match=reason):
        warnings.simplefilter("error")
        images.decode_image(data, 4)


def test_every_damage_of_a_png_is_noticed() -> None:
    """Every bit and every length: decoding alone would overlook some."""
    data = images.encode_png(np.arange(192, dtype=np.uint8).reshape(3, 8, 8))
    assert images.is_whole_png(data, 8) and not images.is_whole_png(data, 9)
    for i in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[i // 8] ^= 1 << i % 8
        assert not images.is_whole_png(bytes(flipped), 8), i
    assert not any(images.is_whole_png(data[:length], 8) for length in range(len(data)))
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    assert not images.is_whole_png(buffer.getvalue(), 8)


def test_floats_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = images.to_float(every)
    assert floats.dtype == torch.float32 and (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(images.to_uint8(floats), every)
    assert images.to_uint8(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0, 128, 255]
    quarter = 0.26 / 127.5  # less than half a level: rounding, not truncation
    assert torch.equal(images.to_uint8(floats - quarter), every) and torch.equal(
        images.to_uint8(floats + quarter), every
    )


def test_the_sheet_is_filled_row_by_row() -> None:
    pictures = np.stack([np.full((3, 4, 6), i, np.uint8) for i in range(5)])
    sheet = images.sheet(pictures, columns=3, gap=1)
    assert sheet.shape == (3, 2 * 5 + 1, 3 * 7 + 1)
    centres = sheet[0, 3::5, 4::7]
    assert centres.tolist() == [[0, 1, 2], [3, 4, 255]]
    assert (sheet[:, 0] == 255).all() and (sheet[:, :, 0] == 255).all()
