"""Windows: where they lie, what they show, and how what was filled goes back."""

import itertools

import numpy as np
import pytest

from bricscli.data.windows import (
    Window,
    depth,
    enlarge,
    extend,
    feather,
    next_tile,
    overlap,
    plan_crop,
    shrink,
    to_picture,
)


def hole(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Boxes of (top, left, bottom, right)."""
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("shape", "box", "wanted"), [
    ((100, 200), (40, 90, 50, 110), Window(29, 84, 32)),  # of 20 pixels, in the middle of 32
    ((100, 200), (0, 0, 5, 5), Window(0, 0, 32)),  # pushed inside
    ((100, 200), (95, 190, 100, 200), Window(68, 168, 32)),
    ((100, 200), (20, 50, 60, 110), Window(0, 35, 90)),  # 60 wide: 90 pixels, shrunk
    ((20, 200), (5, 100, 15, 110), Window(-6, 89, 32)),  # lower than the window: centred, mirrored
])
def test_plan_of_a_crop(shape: tuple[int, int], box: tuple[int, int, int, int], wanted: Window) -> None:
    assert plan_crop(hole(*shape, box), 32) == wanted


def test_a_crop_shows_the_whole_hole_with_what_is_beside() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        height, width = random.integers(16, 120, 2)
        top, left = random.integers(0, height - 1), random.integers(0, width - 1)
        bottom, right = random.integers(top + 1, height + 1), random.integers(left + 1, width + 1)
        mask = hole(height, width, (top, left, bottom, right))
        window = plan_crop(mask, 32)
        (rows, columns), _ = window.inside(mask.shape)
        assert mask[rows, columns].sum() == mask.sum() and window.side >= 32
        if window.side <= min(height, width):
            assert 0 <= window.top <= height - window.side and 0 <= window.left <= width - window.side


def test_cut_mirrors_at_the_border() -> None:
    picture = photo(5, 7)
    cut = Window(-3, -4, 14).cut(picture)
    padded = np.pad(picture, ((3, 14), (4, 14), (0, 0)), "symmetric")[:14, :14]
    assert np.array_equal(cut, padded)
    (rows, columns), (inner_rows, inner_columns) = Window(-3, -4, 14).inside(picture.shape)
    assert np.array_equal(cut[inner_rows, inner_columns], picture[rows, columns])


@pytest.mark.parametrize(("height", "width"), [(7, 9), (1, 5), (16, 16), (33, 20)])
def test_extend_keeps_what_is_known_and_never_looks_at_the_rest(height: int, width: int) -> None:
    picture, mask = photo(height, width), np.random.default_rng(2).random((height, width)) < 0.6
    other = picture.copy()
    other[mask] = 255 - other[mask]
    smooth = extend(picture, mask)
    assert np.array_equal(smooth, extend(other, mask)) and smooth.dtype == np.float32
    assert np.array_equal(smooth[~mask], picture[~mask].astype(np.float32))
    assert smooth.min() >= picture[~mask].min() - 1e-3 and smooth.max() <= picture[~mask].max() + 1e-3


def test_extend_continues_a_constant_and_a_slope() -> None:
    mask = hole(40, 40, (10, 10, 30, 30))
    assert np.allclose(extend(np.full((40, 40, 3), 77, np.uint8), mask), 77)
    slope = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None] * 5, (40, 40, 3))
    assert np.abs(extend(slope, mask) - slope).max() < 25, "of 195 from left to right"
    assert np.array_equal(extend(photo(4, 4), np.ones((4, 4), bool)), np.zeros((4, 4, 3), np.float32))


def test_shrink_leaves_no_part_of_the_hole_outside() -> None:
    picture, mask = photo(90, 90), hole(90, 90, (31, 31, 32, 60))
    small, touched = shrink(picture, mask, 32)
    assert small.shape == (32, 32, 3) and touched.dtype == bool
    cells = {(int(y * 32 / 90), int(x * 32 / 90)) for y, x in itertools.product([31], range(31, 60))}
    assert all(touched[cell] for cell in cells) and touched.sum() <= 2 * (len(cells) + 2)
    same = shrink(picture[:32, :32], mask[:32, :32], 32)
    assert same[0] is not None and np.array_equal(same[0], picture[:32, :32])


def test_enlarge_keeps_a_slope() -> None:
    slope = np.broadcast_to(np.linspace(-20, 300, 32, dtype=np.float32)[:, None, None], (32, 32, 3))
    large = enlarge(np.ascontiguousarray(slope), 96)
    wanted = np.interp((np.arange(96) + 0.5) / 3 - 0.5, np.arange(32), slope[:, 0, 0])
    assert large.shape == (96, 96, 3) and np.abs(large[8:-8, 5, 1] - wanted[8:-8]).max() < 1
    assert np.array_equal(enlarge(np.ascontiguousarray(slope), 32), slope)


def test_depth_is_the_chessboard_distance_to_the_outside() -> None:
    mask = hole(20, 24, (3, 4, 15, 24), (17, 0, 20, 5))
    outside = np.argwhere(~mask)
    wanted = np.zeros(mask.shape, int)
    for place in np.argwhere(mask):
        wanted[tuple(place)] = min(6, np.abs(outside - place).max(1).min())
    assert np.array_equal(depth(mask, 6), wanted)


def test_feather_closes_the_step_and_stays_inside_its_width() -> None:
    picture, mask = np.full((40, 40, 3), 100, np.uint8), hole(40, 40, (8, 8, 32, 32))
    filled = np.full((40, 40, 3), 130, np.float32)  # off by 30 everywhere, kept pixels too
    result = feather(filled, picture, mask, 8)
    inside = depth(mask, 24)
    assert np.allclose(result[inside > 8], 130), "unchanged deep inside"
    assert np.abs(result[inside == 1] - 100).max() < 0.1 * 30
    line = result[20, 8:20, 0]
    assert (np.diff(line) >= 0).all()
    secret = picture.copy()
    secret[mask] = 9
    assert np.array_equal(feather(filled, secret, mask, 8), result), "old pixels of the hole have no influence"
    right = filled.copy()
    right[~mask] = 100  # no difference on the kept side: nothing to close
    assert np.array_equal(feather(right, picture, mask, 8), right)


def test_tiles_cover_the_hole_from_its_border_inwards() -> None:
    mask = hole(200, 300, (20, 30, 180, 280), (190, 0, 200, 10))
    todo, seen = mask.copy(), []
    while (tile := next_tile(mask, todo, 32)) is not None:
        here, _ = tile.inside(mask.shape)
        assert todo[here].any() and tile.side == 32
        seen.append((tile, float(todo[here].mean())))
        todo[here] = False
    assert not todo.any() and len({tile for tile, _ in seen}) == len(seen)
    assert all(0 <= tile.top <= 168 and 0 <= tile.left <= 268 for tile, _ in seen)
    assert max(share for _, share in seen) < 0.9, "no window without something known"
    assert next_tile(mask, np.zeros_like(mask), 32) is None


def test_overlap_fades_into_what_is_filled_and_keeps_the_rest() -> None:
    old, new = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 200, np.float32)
    whole, todo = hole(32, 32, (0, 4, 32, 32)), hole(32, 32, (0, 16, 32, 32))
    line = overlap(new, old, todo, whole, 32)[5, :, 0]
    assert (line[16:] == 200).all() and (line[:4] == 0).all() and (line[4:11] == 0).all()
    assert line[12:16].tolist() == [25, 75, 125, 175]


def test_to_picture_rounds() -> None:
    values = np.array([[-3.0, 0.49, 0.5, 254.6, 300.0]], np.float32)
    assert to_picture(values).tolist() == [[0, 0, 1, 255, 255]]
