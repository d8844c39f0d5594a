"""What happens behind the page: the command's files byte for byte, kind words for what cannot be, nothing left."""

import io
import os
import shlex
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bricscli.data.masks import load_mask
from bricscli.data.pairs import find_pairs
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.page.desk import MOST_OFTEN, Choice, Desk, Guest, Painting, Stopped
from bricscli.tasks.choices import Asked
from bricscli.tasks.inpainting.inpaint import inpaint_to_folder
from bricscli.tasks.inpainting.inpainter import Inpainter

CHOICE = Choice("blended", "asymmetric", variants=2, seed=5)


@pytest.fixture
def desk(inpainter: Inpainter, tmp_path: Path) -> Desk:
    (tmp_path / "private").mkdir()
    return Desk(inpainter, ["--run", "runs/toy-diffusion", "--steps", "2"], tmp_path / "private")


def paint(desk: Desk, guest: Guest, *edges: float, size: tuple[int, int] | None = None, name: str = "a") -> Painting:
    """A layer with a rectangle, in shares of the view: left, top, right, bottom."""
    width, height = size or guest.view_size
    pixels = np.zeros((height, width, 4), np.uint8)
    left, top, right, bottom = edges
    pixels[round(top * height):round(bottom * height), round(left * width):round(right * width)] = (255, 0, 170, 255)
    folder = desk.folder / (name * 64)[:64]
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels, "RGBA").save(folder / "layer_0.png")
    return Painting([folder / "layer_0.png"])


def ignore(share: float) -> None:
    pass


def test_the_pages_files_are_the_commands(desk: Desk, photo: Path, tmp_path: Path) -> None:
    choice = replace(CHOICE, decoder="plain", blend="paste", seed=0)
    shares: list[float] = []
    guest = desk.open("me", photo.name, photo.read_bytes())
    filled = desk.fill("me", paint(desk, guest, 0.25, 0.25, 0.5, 0.75), choice, shares.append)
    expected = np.zeros((40, 60), bool)
    expected[10:30, 15:30] = True
    assert np.array_equal(load_mask(filled.mask, (40, 60)), expected)
    pairs = find_pairs(photo, str(filled.mask), None, choice.seed)
    inpaint_to_folder(replace(desk.inpainter, decoder=None), pairs, tmp_path / "out", variants=2, method=choice.method,
                      blend=choice.blend)
    assert [path.name for path in filled.pictures] == ["photo-1.png", "photo-2.png"]
    first, second = (path.read_bytes() for path in filled.pictures)
    assert first == (tmp_path / "out" / "photo-1.png").read_bytes() and first != second
    assert second == (tmp_path / "out" / "photo-2.png").read_bytes()
    assert shares == sorted(shares) and shares[-1] == 1
    assert [Image.open(path).size for path in (filled.before, *filled.views)] == [guest.view_size] * 3


def test_the_command_that_is_shown_makes_the_same(desk: Desk, runs: Path, photo: Path, tmp_path: Path) -> None:
    guest = desk.open("me", "my photo; $(true).png", photo.read_bytes())
    filled = desk.fill("me", paint(desk, guest, 0, 0, 0.5, 0.5), CHOICE, ignore)
    (tmp_path / guest.name).write_bytes(photo.read_bytes())
    (tmp_path / filled.mask.name).write_bytes(filled.mask.read_bytes())
    os.symlink(runs, tmp_path / "runs")
    words = shlex.split(filled.command)
    assert words[0] == "brics"
    subprocess.run([sys.executable, "-m", "bricscli", *words[1:], "--device", "cpu"], check=True, cwd=tmp_path,
                   capture_output=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    for path in filled.pictures:
        assert (tmp_path / "filled" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("size", "view"), [((16, 16), (640, 640)), ((60, 40), (660, 440)), ((639, 100), (1278, 200)),
                                            ((900, 700), (900, 700)), ((4000, 3000), (1280, 960))])
def test_masks_fit_whatever_is_shown(desk: Desk, size: tuple[int, int], view: tuple[int, int]) -> None:
    """The left half that is painted is the left half that is replaced, up to a pixel of the view."""
    data = io.BytesIO()
    Image.new("RGB", size).save(data, "PNG")
    guest = desk.open("me", "a.png", data.getvalue())
    assert guest.view_size == view == Image.open(guest.view).size

    class Seen(Exception):
        pass

    def fill(self: object, image: Image.Image, mask: np.ndarray, **settings: object) -> None:
        raise Seen(mask)

    desk.inpainter = type("Fake", (), {"fill": fill, "describe": lambda self, method: {}})()
    with pytest.raises(Seen) as seen:
        desk.fill("me", paint(desk, guest, 0, 0, 0.5, 1), CHOICE, ignore)
    mask = seen.value.args[0]
    assert mask.shape == size[::-1] and (mask == mask[:1]).all()
    assert abs(int(mask[0].sum()) - size[0] / 2) <= max(1, size[0] / view[0] / 2 + 0.5) and mask[0, 0]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(side: int) -> bytes:
    """A PNG of side x side grey pixels in a few kilobytes."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" * (side + 1)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(kind: str, size: tuple[int, int] = (40, 40), mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, size).save(data, kind)
    return data.getvalue()


TEXT_BOMB = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 0, 0, 0, 0))
             + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000), 9)) + chunk(b"IEND", b""))
WRONG = {
    "nothing": (b"", "not an image"),
    "text": (b"hello", "not an image"),
    "cut off": (encoded("PNG")[:-30], "cannot be decoded"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='40'/>", "not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EOF\n", "not an image"),
    "html": (b"<script>alert(1)</script>", "not an image"),
    "17 megapixels": (encoded("PNG", (17_000, 1000)), "more than 16 megapixels"),
    "200 megapixels": (bomb(14_143), "more than 16 megapixels"),
    "texts that fill the memory": (TEXT_BOMB, "cannot be decoded"),
    "a thread": (encoded("PNG", (10_000, 1)), "too narrow to fill"),
    "a ribbon": (encoded("PNG", (1600, 40)), "too narrow to paint on"),
    "tiny": (encoded("PNG", (8, 8)), "too narrow to fill"),
    "printer's colours": (encoded("JPEG", mode="CMYK"), "CMYK"),
    "16 bits": (encoded("PNG", mode="I;16"), "more than 8 bits"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_files_are_refused_in_words_and_the_picture_stays(desk: Desk, photo: Path, what: str) -> None:
    data, words = WRONG[what]
    guest = desk.open("me", photo.name, photo.read_bytes())
    with pytest.raises(DataError, match=words) as caught:
        desk.open("me", "new.png", data)
    assert str(caught.value).startswith("new.png: ") and len(caught.value.lines) == 1
    assert desk.guests["me"] is guest and guest.view.is_file()


def test_what_cannot_be_filled_is_said_kindly(desk: Desk, photo: Path) -> None:
    with pytest.raises(DataError, match=r"Open a picture first\."):
        desk.fill("me", Painting([]), CHOICE, ignore)
    guest = desk.open("me", photo.name, photo.read_bytes())
    some = paint(desk, guest, 0, 0, 0.5, 0.5)
    broken = desk.folder / "broken.png"
    broken.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    for painting, words in ((Painting([]), "Nothing is painted yet"),
                            (paint(desk, guest, 0, 0, 0, 0, name="b"), "Nothing is painted yet"),
                            (paint(desk, guest, 0, 0, 1, 1, name="c"), "Erase a part of it"),
                            (paint(desk, guest, 0, 0, 0.5, 1, size=(30, 20), name="d"), "Open the picture again"),
                            (Painting([broken]), "Open the picture again"),
                            (Painting([desk.folder / "missing.png"]), "Open the picture again"),
                            (Painting([photo]), "Open the picture again"),
                            (Painting(some.layers, [desk.folder / ".." / "x.png"]), "Open the picture again")):
        with pytest.raises(DataError, match=words):
            desk.fill("me", painting, CHOICE, ignore)
    for change in ({"variants": 9}, {"variants": 0}, {"seed": -1}, {"blend": "glue"}, {"method": "concat"},
                   {"decoder": "other"}, {"method": None}):
        with pytest.raises(RecipeError):
            desk.fill("me", some, replace(CHOICE, **change), ignore)
    assert desk.fill("me", some, CHOICE, ignore).pictures


def test_a_page_begins_with_what_the_command_says_and_what_goes_with_it(inpainter: Inpainter, tmp_path: Path) -> None:
    assert Desk(inpainter, [], tmp_path).first == Choice("blended", "asymmetric")
    plain = Desk(replace(inpainter, decoder=None), [], tmp_path, Choice(variants=4, seed=7))
    assert plain.decoders == ["plain"] and plain.first == Choice("blended", "plain", 4, 7)
    resampled = Desk(replace(inpainter, resamplings=2), [], tmp_path)
    assert resampled.methods == ["repaint"] and resampled.first.method == "repaint"
    for wrong in (Choice("concat"), Choice(blend="glue"), Choice(variants=100), Choice(seed=-1)):
        with pytest.raises(BricsError, match="--"):
            Desk(inpainter, [], tmp_path, wrong)


def test_stopping_ends_it_within_a_step(desk: Desk, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bricscli.page.desk.MOST_OFTEN", 0)
    shares: list[float] = []
    guest = desk.open("me", photo.name, photo.read_bytes())
    painting = paint(desk, guest, 0, 0, 0.5, 0.5)

    def stop(share: float) -> None:
        shares.append(share)
        desk.stop("me")

    with pytest.raises(Stopped):
        desk.fill("me", painting, CHOICE, stop)
    assert len(shares) == 1 and shares[0] < 1
    assert desk.fill("me", painting, CHOICE, ignore).pictures  # and again, if asked

    def leave(share: float) -> None:
        desk.leave("me")

    with pytest.raises(Stopped):
        desk.fill("me", painting, CHOICE, leave)


def test_a_page_is_not_told_of_every_step(inpainter: Inpainter, photo: Path, tmp_path: Path) -> None:
    desk = Desk(replace(inpainter, asked=Asked(steps=200)), [], tmp_path)
    guest, shares, started = desk.open("me", photo.name, photo.read_bytes()), list[float](), time.monotonic()
    desk.fill("me", paint(desk, guest, 0, 0, 0.5, 0.5), replace(CHOICE, variants=1), shares.append)
    assert 1 <= len(shares) <= 1 + (time.monotonic() - started) / MOST_OFTEN and shares[-1] == 1


def test_nothing_of_a_guest_stays(desk: Desk, photo: Path) -> None:
    for key in ("me", "you"):
        guest = desk.open(key, photo.name, photo.read_bytes())
        assert guest.folder.stat().st_mode & 0o777 == 0o700
        desk.fill(key, paint(desk, guest, 0, 0, 0.5, 0.5, name=key[0]), CHOICE, ignore)
    yours = desk.guests["you"].folder
    old = desk.folder / ("0" * 64)
    old.mkdir()
    (old / "picture.png").touch()
    desk.leave("me")
    assert old.exists() and {path.name[0] for path in desk.folder.iterdir()} == {"0", "y", yours.name[0]}
    desk.fill("you", paint(desk, desk.guests["you"], 0, 0, 0.5, 0.5, name="z"), CHOICE, ignore)
    assert not (desk.folder / ("y" * 64)).exists() and [path.name for path in yours.iterdir() if path.is_dir()] == ["2"]
    desk.close()
    assert list(desk.folder.iterdir()) == []
