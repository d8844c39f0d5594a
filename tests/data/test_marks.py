"""What a sample's PNG says of itself, and that nothing else passes for one."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from bricscli.data.images import decode_image, encode_png
from bricscli.data.marks import check_sample, digest_settings, encode_sample
from bricscli.data.samples import SampleFolder, strict_settings
from bricscli.errors import DataError

SETTINGS = {"format": "png", "resolution": 8, "denoiser": {"run": "toy", "digest": "a" * 64}, "ema": 0.9}
DIGEST = digest_settings(strict_settings(SETTINGS))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
PNG = encode_sample(PIXELS, 7, DIGEST)


def edited(change: int = 1, keep_text: bool = True) -> bytes:
    """As by another program, which may keep the text."""
    pixels, text = PIXELS.copy(), PngImagePlugin.PngInfo()
    pixels[0, 3, 3] ^= change
    if keep_text:
        with Image.open(io.BytesIO(PNG)) as image:
            text.add_text("brics", image.text["brics"])  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def test_a_sample_is_a_png_of_its_pixels_for_everybody() -> None:
    assert check_sample(PNG, 7, DIGEST, 8) is None and encode_sample(PIXELS, 7, DIGEST) == PNG
    assert np.array_equal(decode_image(PNG, 8), PIXELS)
    with Image.open(io.BytesIO(PNG)) as image:
        assert image.text["brics"].startswith(f"seed=7 settings={DIGEST} pixels=")  # type: ignore[attr-defined]
    assert len(PNG) - len(encode_png(PIXELS)) < 100


@pytest.mark.parametrize(("png", "reason"), [
    (encode_sample(PIXELS, 8, DIGEST), "is the sample of seed 8"),
    (encode_sample(PIXELS, 7, "0" * 16), "was drawn in another way"),
    (encode_png(PIXELS), "does not say what drew it"),
    (edited(), "has other pixels than were drawn"),
    (edited(keep_text=False), "does not say what drew it"),
    (encode_sample(np.zeros((3, 9, 9), np.uint8), 7, DIGEST), "is no whole PNG of 8x8 pixels"),
    (PNG[:-1], "is no whole PNG"), (PNG[:60], "is no whole PNG"), (b"", "is no whole PNG")])
def test_anything_else_is_none(png: bytes, reason: str) -> None:
    assert (check_sample(png, 7, DIGEST, 8) or "").startswith(reason)


def test_the_same_pixels_written_by_another_program_with_the_text_are_the_sample() -> None:
    assert check_sample(edited(change=0), 7, DIGEST, 8) is None


def test_every_flipped_bit_is_noticed() -> None:
    for i in range(len(PNG) * 8):
        data = bytearray(PNG)
        data[i // 8] ^= 1 << i % 8
        assert check_sample(bytes(data), 7, DIGEST, 8), i


def test_a_mark_with_its_crc_made_right_again_is_noticed() -> None:
    start = PNG.index(b"tEXt")
    length = int.from_bytes(PNG[start - 4 : start], "big") + 4
    for i in range(start + 10, start + length):
        text = bytearray(PNG[start : start + length])
        text[i - start] ^= 1
        assert check_sample(PNG[:start] + text + zlib.crc32(text).to_bytes(4, "big") + PNG[start + length + 4 :],
                            7, DIGEST, 8), i


def test_what_decides_no_pixel_is_not_in_the_mark() -> None:
    other = SETTINGS | {"format": "shards", "denoiser": {"run": "renamed", "digest": "a" * 64}}
    assert digest_settings(strict_settings(other)) == DIGEST
    assert digest_settings(strict_settings(SETTINGS | {"ema": 0.99})) != DIGEST


@pytest.mark.parametrize("format", ["png", "shards"])
def test_a_folder_notices_an_exchange(tmp_path: Path, format: str) -> None:
    folder = SampleFolder.create(tmp_path, SETTINGS | {"format": format}, {"torch": "2"})
    folder.add({seed: encode_sample(PIXELS, seed, DIGEST) for seed in (1, 2)})
    folder.finish()
    folder = SampleFolder.open(tmp_path)
    assert np.array_equal(folder.image(1), PIXELS) and folder.holds(1) and folder.holds(2)
    if format == "png":
        (tmp_path / "000001.png").write_bytes((tmp_path / "000002.png").read_bytes())
    else:
        folder.add({1: encode_sample(PIXELS, 2, DIGEST)})
        folder.finish()
        folder = SampleFolder.open(tmp_path)
    with pytest.raises(DataError, match=r"seed 1: is the sample of seed 2\. The same `brics sample` again"):
        folder.image(1)
    assert folder.holds(1) == (format == "shards"), "of a shard its SHA-256 is checked"
