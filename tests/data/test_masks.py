"""Masks: the same for the same numbers, of LaMa's sizes; files that say what is replaced, and those that do not."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bricscli.data import masks
from bricscli.data.masks import (
    KINDS,
    MaskError,
    draw_mask,
    draw_training_masks,
    grow_mask,
    load_mask,
    mask_of_alpha,
    pool_mask,
)

HALF = np.zeros((6, 8), bool)
HALF[:, 4:] = True


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def drawn(kind: str, count: int = 120, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.stack([draw_mask(kind, seed, index, size, size) for index in range(count)])


@pytest.mark.parametrize(("kind", "low", "high"), [
    ("thin", 0.2, 0.35), ("medium", 0.18, 0.32), ("thick", 0.2, 0.35), ("mixed", 0.25, 0.42), ("box", 0.09, 0.16),
    ("half", 0.47, 0.53), ("outpaint", 0.22, 0.34)])
def test_how_much_is_replaced(kind: str, low: float, high: float) -> None:
    """At 64 pixels as at 160: the numbers follow the size."""
    shares = drawn(kind).mean((1, 2))
    assert low < shares.mean() < high
    assert drawn(kind, 40, 160).mean() == pytest.approx(shares.mean(), rel=0.25)
    assert len({mask.tobytes() for mask in drawn(kind)}) > (5 if kind == "half" else 60)
    if kind in ("thin", "medium", "thick"):
        assert shares.max() <= 0.5, "LaMa's largest for evaluation"


def test_strokes_are_as_thick_as_their_names() -> None:
    """Twice the mean distance of replaced pixels to what is kept, at 256 pixels: about the width."""
    widths = {kind: np.mean([4 * ndimage.distance_transform_edt(mask)[mask].mean() for mask in drawn(kind, 30, 256)])
              for kind in ("thin", "medium", "thick")}
    assert 8 < widths["thin"] < 25 < widths["medium"] < 50 < widths["thick"] < 110


def test_a_mask_follows_from_seed_and_index() -> None:
    """On every machine: one that changes makes a resumed run another run, and two evaluations not comparable."""
    found = {kind: hashlib.sha256(np.packbits(drawn(kind, 4, 48, seed=5)).tobytes()).hexdigest()[:8] for kind in KINDS}
    assert found == HASHES
    assert not np.array_equal(draw_mask("mixed", 0, 1, 64, 64), draw_mask("mixed", 1, 1, 64, 64))
    assert not np.array_equal(draw_mask("mixed", 0, 1, 64, 64), draw_mask("mixed", 0, 2, 64, 64))


@pytest.mark.parametrize("kind", KINDS)
def test_something_is_kept_and_something_replaced(kind: str) -> None:
    for height, width in ((1, 2), (2, 1), (2, 2), (3, 5), (1, 300), (40, 24)):
        for index in range(3):
            mask = draw_mask(kind, 0, index, height, width)
            assert mask.shape == (height, width) and mask.dtype == bool and mask.any() and not mask.all()
    with pytest.raises(ValueError, match="no part that could be kept"):
        draw_mask(kind, 0, 0, 1, 1)
    with pytest.raises(ValueError, match="'thinn'; there are thin, medium"):
        draw_mask("thinn", 0, 0, 8, 8)


def test_a_stroke_is_a_line_with_round_ends() -> None:
    """Two half discs and the strip between them."""
    mask = np.zeros((200, 300), bool)
    masks._draw_segment(mask, (60.0, 50.0), (220.0, 130.0), 20.0)
    length = np.hypot(160, 80)
    assert mask.sum() == pytest.approx(np.pi * 400 + 40 * length, rel=0.01)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (40, 240, 30, 150)


def test_sides() -> None:
    for kind, largest in (("half", 5 / 8), ("outpaint", 1.0)):
        kept = [~mask for mask in drawn(kind, 60, 40)]
        for mask in kept:
            rows, columns = np.nonzero(mask)
            assert mask.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "what is kept is one rectangle"
            assert 1 - mask.mean() <= largest + 0.02
        touched = np.mean([[mask[0].any(), mask[-1].any(), mask[:, 0].any(), mask[:, -1].any()] for mask in kept], 0)
        assert (touched > 0.2).all() and (touched < 0.95).all(), "every side now and then"


def test_masks_of_a_batch() -> None:
    """A function of step and place: the same images in batches of other sizes have the same masks."""
    batch = draw_training_masks("mixed", 3, 2, 40, 16, 0.5)
    assert batch.shape == (40, 1, 16, 16)
    whole = batch.all((1, 2, 3))
    assert 8 < whole.sum() < 32
    assert np.array_equal(batch[:8], draw_training_masks("mixed", 3, 10, 8, 16, 0.5))
    first = int(np.flatnonzero(~whole)[0])
    assert np.array_equal(batch[first, 0], draw_mask("mixed", 3, 80 + first, 16, 16))
    assert draw_training_masks("box", 3, 0, 4, 16, 1.0).all()
    assert not draw_training_masks("box", 3, 0, 40, 16, 0.0).all((1, 2, 3)).any()


@pytest.mark.parametrize("data", [
    encoded(HALF), encoded(HALF.astype(np.uint8) * 255), encoded(HALF.astype(np.uint16) * 65535),
    encoded(np.repeat(HALF[..., None] * np.uint8(255), 3, 2)), encoded(HALF.astype(np.uint8) * 247 + 4),
    encoded(Image.fromarray(HALF).convert("P")), encoded(Image.fromarray(HALF).convert("RGBA")),
    encoded(HALF.astype(np.uint8) * 255, "JPEG", quality=90), encoded(Image.fromarray(HALF).convert("RGB"), "WEBP"),
    encoded(HALF.astype(np.float32), "TIFF"), encoded(HALF, "GIF"), encoded(HALF, "BMP")])
def test_files_of_many_kinds(data: bytes, tmp_path: Path) -> None:
    assert np.array_equal(load_mask(data, (6, 8)), HALF)
    assert np.array_equal(load_mask(data, None, invert=True), ~HALF)
    (tmp_path / "m").write_bytes(data)
    assert np.array_equal(load_mask(tmp_path / "m", (6, 8)), HALF)


def test_a_mask_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = encoded(HALF.astype(np.uint8) * 255, exif=exif)
    assert np.array_equal(load_mask(data, (8, 6)), np.rot90(HALF, -1))


def test_soft_edges_are_cut_in_the_middle() -> None:
    values = np.zeros((100, 200), np.uint8)
    values[:, 100:] = 255
    values[10:40, 99], values[50:90, 100] = 120, 130
    mask = load_mask(encoded(values), None)
    assert mask[:, 100:].all() and not mask[:, :100].any()


def gray(*values: int) -> np.ndarray:
    return np.resize(np.array(values, np.uint8), (6, 8))


CLEAR = np.dstack([np.zeros((6, 8, 3), np.uint8), (~HALF).astype(np.uint8) * 255])


@pytest.mark.parametrize(("data", "says"), [
    (gray(0, 128, 255), "is not black and white .* gray: 0, 128, 255.* --invert"),
    (gray(0, 128), "is not black and white"),
    (gray(*range(0, 255, 7)), ".* gray: 37 values from 0 to 252"),
    (gray(0), r"has nothing white, so that nothing would be replaced"),
    (gray(0, 1), r"has nothing white \(its largest value is 1 of 255\)"),
    (gray(255), "is white all over, so that nothing would be kept"),
    (np.dstack([gray(255, 0), gray(0), gray(0)]), "has colours.* --invert"),
    (CLEAR, "has transparent parts"),
    (HALF[:, :7], r"is 7x6, the picture is 8x6"),
    (HALF.T, r"is 6x8, the picture is 8x6"),
])
def test_masks_that_could_mean_either(data: np.ndarray, says: str, tmp_path: Path) -> None:
    """Each in one line: where, what, what to do."""
    (tmp_path / "m.png").write_bytes(encoded(data))
    with pytest.raises(MaskError, match=f"m.png: {says}") as error:
        load_mask(tmp_path / "m.png", (6, 8))
    assert len(error.value.lines) == 1 and str(error.value).endswith(".") and error.value.exit_code == 3
    with pytest.raises(MaskError, match=f"^the mask: {says}"):
        load_mask(encoded(data), (6, 8))


def test_inverted_all_over() -> None:
    with pytest.raises(MaskError, match="is black all over, so that nothing would be kept"):
        load_mask(encoded(gray(0)), None, invert=True)
    with pytest.raises(MaskError, match="has nothing black, so that nothing would be replaced"):
        load_mask(encoded(gray(255)), None, invert=True)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    whole = encoded(np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8) * 255)
    huge = encoded(Image.new("1", (20_000, 10_000)))
    for data, says in ((b"", "not an image"), (b"hello", "not an image"), (whole[:100], "cannot be decoded|damaged"),
                       (huge, "more than 50 megapixels")):
        for read in (lambda data: load_mask(data, None), mask_of_alpha):
            with pytest.raises(MaskError, match=says):
                read(data)
    with pytest.raises(MaskError, match=r"none\.png: cannot be read: No such file"):
        load_mask(tmp_path / "none.png", None)


def test_what_is_transparent_is_replaced() -> None:
    assert np.array_equal(mask_of_alpha(encoded(CLEAR)), HALF)
    palette = Image.fromarray(HALF).convert("P")
    assert np.array_equal(mask_of_alpha(encoded(palette, transparency=255)), HALF)
    for image, says in ((CLEAR[..., :3], "has no transparent parts"), (np.full((6, 8, 4), 255, np.uint8), "has no tra"),
                        (np.full((6, 8, 4), 200, np.uint8), "nowhere more than half"),
                        (np.zeros((6, 8, 4), np.uint8), "transparent all over")):
        with pytest.raises(MaskError, match=says):
            mask_of_alpha(encoded(image))


def test_a_code_is_replaced_where_any_of_its_pixels_is() -> None:
    mask = draw_mask("thin", 0, 0, 32, 48)
    pooled = pool_mask(mask, 4)
    assert pooled.shape == (8, 12)
    assert all(pooled[y, x] == mask[4 * y:4 * y + 4, 4 * x:4 * x + 4].any() for y in range(8) for x in range(12))
    assert np.array_equal(pool_mask(mask, 1), mask)
    with pytest.raises(ValueError, match="48x32 cannot be divided into cells of 5"):
        pool_mask(mask, 5)


@pytest.mark.parametrize("n", [0, 1, 3, 40])
def test_growing_is_dilation_by_a_square(n: int) -> None:
    mask = draw_mask("thin", 0, 1, 20, 33)
    wanted = ndimage.binary_dilation(mask, np.ones((2 * n + 1, 2 * n + 1), bool))
    assert np.array_equal(grow_mask(mask, n), wanted)


#: SHA-256 of four masks of 48 pixels of seed 5.
HASHES = {"thin": "b44d28e6", "medium": "141e66e0", "thick": "04177e12", "mixed": "166fd6ce", "box": "95ee9841",
          "half": "df81c02d", "outpaint": "3570a557"}
