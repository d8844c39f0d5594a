"""Images that cannot be used, and some that only look like it: each with what `brics prepare` makes of it."""

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bricscli.data.images import ImageError, decode_image, load_image
from bricscli.errors import DataError, RecipeError
from bricscli.tasks.prepare import prepare_folder

PIXELS = np.random.default_rng(0).integers(1, 256, (64, 64, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def flipped(data: bytes) -> bytes:
    """One bit, in the middle of the pixels."""
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def png_of_rows(rows: int, interlaced: bool = False) -> bytes:
    """A PNG of 64x64 with rows of its own CRCs, whose data end, as a whole zlib stream, after some rows."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    heights = [8, 8, 8, 16, 16, 32, 32] if interlaced else [64]
    widths = [8, 8, 16, 16, 32, 32, 64] if interlaced else [64]
    lines = [b"\0" + bytes([200]) * 3 * width for width, height in zip(widths, heights, strict=True)
             for _ in range(height)]
    head = (64).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, int(interlaced)])
    data = zlib.compress(b"".join(lines[:rows]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(PICTURE, "PNG", exif=exif)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
WIDE = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
PALETTE = PICTURE.quantize(8)
RED, BLUE = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))

#: name -> contents, and why it is refused, or the colour (R, G, B) of the pixel at the upper left.
TABLE: dict[str, tuple[bytes, str | tuple[int, ...]]] = {
    "truncated.png": (saved(PICTURE, "PNG")[:-600], "image file is truncated"),
    "truncated.jpg": (saved(PICTURE, "JPEG")[:-600], "image file is truncated"),
    "truncated.webp": (saved(PICTURE, "WEBP", lossless=True)[:-600], "cannot be decoded|damaged"),
    "flipped.png": (flipped(saved(PICTURE, "PNG")), "cannot be decoded"),
    "one row.png": (png_of_rows(1), "the data end before the last row"),
    "no last row.png": (png_of_rows(63), "the data end before the last row"),
    "all rows.png": (png_of_rows(64), (200, 200, 200)),
    "interlaced, no last row.png": (png_of_rows(119, interlaced=True), "the data end before the last row"),
    "interlaced.png": (png_of_rows(120, interlaced=True), (200, 200, 200)),
    "empty.png": (b"", "not an image, or a damaged one"),
    "eps.jpg": (EPS, "not an image, or a damaged one"),
    "text.png": (b"this is a text", "not an image, or a damaged one"),
    "black.png": (saved(Image.new("RGB", (64, 64)), "PNG"), (0, 0, 0)),
    "cmyk.jpg": (saved(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
    "16 bits.png": (saved(WIDE, "PNG"), (int(PIXELS[0, 0, 0]),) * 3),
    "palette with alpha.png": (saved(PALETTE, "PNG", transparency=bytes(8)), (255, 255, 255)),
    "rotated.png": (rotated(), tuple(PIXELS[63, 0].tolist())),
    "animated.gif": (saved(RED, "GIF", save_all=True, append_images=[BLUE]), (255, 0, 0)),
    "animated.webp": (saved(RED, "WEBP", save_all=True, append_images=[BLUE], lossless=True), (255, 0, 0)),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_has_its_result(tmp_path: Path, name: str) -> None:
    contents, result = TABLE[name]
    path = tmp_path / name
    path.write_bytes(contents)
    for source in (path, contents):
        if isinstance(result, str):
            with pytest.raises(ImageError, match=result):
                load_image(source)
        else:
            assert load_image(source).getpixel((0, 0)) == result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All of the table, and 200 good ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(200):
        Image.fromarray(PIXELS[:8, :8] // 2 + np.uint8(i // 2)).save(folder / f"{i:03d}.png")
    for name, (contents, _) in TABLE.items():
        (folder / name).write_bytes(contents)
    return folder


BAD = {name for name, (_, result) in TABLE.items() if isinstance(result, str)}
OPTIONS: dict[str, Any] = {"resolution": 8, "samples_per_shard": 16, "workers": 1}


def test_prepare_stops_and_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        prepare_folder(tmp_path / "set", folder=folder, **OPTIONS)
    assert str(refused.value).startswith(f"{folder}: {len(BAD)} of {200 + len(TABLE)} image files cannot be read: ")
    assert "one row.png (cannot" in str(refused.value) or sorted(BAD)[0] in str(refused.value)
    assert str(refused.value).endswith("Repair them, or pass --on-bad skip, which lists them and goes on.")
    assert refused.value.exit_code == 3 and not (tmp_path / "set").exists()


def test_skip_lists_them_and_uses_what_is_finished(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepare_folder(tmp_path / "set", folder=folder, **OPTIONS)
    done = prepare_folder(tmp_path / "set", folder=folder, **OPTIONS, on_bad="skip", max_bad=0.1)
    assert done.resumed == len(done.dataset.shards) >= 13, "nothing was made again"
    listed = json.loads((tmp_path / "set" / "manifest.json").read_text())["rejected"]
    assert {entry["path"] for entry in listed} == BAD and all(entry["reason"] for entry in listed)
    assert sum(done.dataset.splits.values()) == 200 + len(TABLE) - len(BAD)
    for name in done.dataset.splits:
        split = done.dataset.split(name)
        for i in range(len(split)):
            assert json.loads(split.read(i, "json"))["source"] not in BAD
            decode_image(split.read(i), 8)


@pytest.mark.parametrize(("share", "fails"), [(len(BAD) / (200 + len(TABLE)), False), (0.04, True), (None, True)])
def test_skipping_is_bounded(folder: Path, tmp_path: Path, share: float | None, fails: bool) -> None:
    def make() -> object:
        return prepare_folder(tmp_path / "set", folder=folder, **OPTIONS, on_bad="skip", max_bad=share)

    if not fails:
        make()
        return
    bound = "4%" if share else "1%"
    with pytest.raises(DataError, match=rf"{len(BAD)} of \d+ image files cannot be read, more than {bound}: "):
        make()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_far_from_the_end_it_is_given_up_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bricscli.tasks.preparing.CHEAP", 20)
    (folder / "000.png").write_bytes(TABLE["flipped.png"][0])
    with pytest.raises(DataError, match=r": 1 of \d+ image files cannot be read so far: 000\.png \(cannot"):
        prepare_folder(tmp_path / "set", folder=folder, **OPTIONS)


@pytest.mark.parametrize(("options", "words"), [
    ({"on_bad": "ignore"}, r"--on-bad: `ignore` is unknown\. There are: fail, skip"),
    ({"max_bad": 0.1}, "--max-bad: goes with --on-bad skip"),
    ({"on_bad": "skip", "max_bad": 1.0}, "--max-bad: 1.0 is out of range")])
def test_what_does_not_fit(folder: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    make: Callable[..., object] = prepare_folder
    with pytest.raises(RecipeError, match=words):
        make(tmp_path / "set", folder=folder, **OPTIONS, **options)
