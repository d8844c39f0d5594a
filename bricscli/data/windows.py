"""Where in a picture a model of R x R pixels looks, and how what it filled goes back: arrays only.

`picture` is uint8 (H, W, 3) of any size, `hole` bool (H, W): True is replaced. A window is a square of the picture, R
pixels wide or, to be scaled, wider; where it reaches beyond the border, picture and hole are mirrored there.

What a hole covers is never looked at: before anything else `extend` continues the kept pixels into it, smoothly.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]
T = TypeVar("T", np.bool_, np.uint8)

#: A window shows at least this many times the hole's longer side.
CONTEXT = 1.5
#: A hole whose window would be shrunk more than so many times is tiled: what comes back would be too soft.
MOST_SHRINKING = 4.0
#: Part of a window that what neighbours filled fades over.
_FADE = 8


@dataclass(frozen=True)
class Window:
    """`side` pixels from (`top`, `left`), which may lie outside of the picture."""

    top: int
    left: int
    side: int

    def cut(self, array: npt.NDArray[T]) -> npt.NDArray[T]:
        """(side, side, ...) of an (H, W, ...), mirrored at the border."""
        rows = _mirrored(np.arange(self.top, self.top + self.side), array.shape[0])
        columns = _mirrored(np.arange(self.left, self.left + self.side), array.shape[1])
        return array[rows[:, None], columns[None]]

    def inside(self, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part of the picture that it shows, and the part of the window that shows it: without mirror images."""
        spans = [(max(0, start), min(start + self.side, end)) for start, end in
                 zip((self.top, self.left), shape, strict=False)]
        (top, bottom), (left, right) = spans
        return ((slice(top, bottom), slice(left, right)),
                (slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)))


def plan_crop(hole: Mask, resolution: int) -> Window:
    """One window around the whole hole, with what is beside it; inside the picture where it fits."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    spans = (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)
    longest = max(end - start for start, end in spans)
    side = max(resolution, int(np.ceil(CONTEXT * longest)))
    top, left = (_place((start + end - side) // 2, side, size)
                 for (start, end), size in zip(spans, hole.shape, strict=True))
    return Window(top, left, side)


def next_tile(hole: Mask, todo: Mask, resolution: int) -> Window | None:
    """Of the windows half a window apart the one with the largest share known of those that show something `todo`.

    The hole is so filled from its border inwards. Of equals the first from the top, then from the left. None: all done.
    """
    rows, columns = np.flatnonzero(todo.any(1)), np.flatnonzero(todo.any(0))
    if not len(rows):
        return None
    stride = max(1, resolution // 2)
    tops, lefts = ({_place(start, resolution, size) for start in range(
        (int(lines[0]) // stride - 1) * stride, int(lines[-1]) + 1, stride)}
        for lines, size in zip((rows, columns), hole.shape, strict=True))
    sums = np.zeros((todo.shape[0] + 1, todo.shape[1] + 1), np.int64)
    sums[1:, 1:] = todo.cumsum(0, dtype=np.int64).cumsum(1)
    best: tuple[int, Window] | None = None
    for window in (Window(top, left, resolution) for top in sorted(tops) for left in sorted(lefts)):
        (down, right), _ = window.inside(todo.shape)
        missing = int(sums[down.stop, right.stop] - sums[down.start, right.stop] - sums[down.stop, right.start]
                      + sums[down.start, right.start])
        if missing and (best is None or missing < best[0]):
            best = missing, window
    assert best is not None
    return best[1]


def shrink(picture: Picture, hole: Mask, resolution: int) -> tuple[Picture, Mask]:
    """A window's pixels at the model's size: antialiased Lanczos; a pixel that touches the hole belongs to it."""
    if picture.shape[0] == resolution:
        return picture, hole
    size = (resolution, resolution)
    small = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    touched = Image.fromarray(hole.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return np.asarray(small), np.asarray(touched) > 1e-6


def enlarge(values: Values, side: int) -> Values:
    """(R, R, 3) -> (side, side, 3), any values: Lanczos."""
    if values.shape[0] == side:
        return values
    channels = [Image.fromarray(np.ascontiguousarray(values[..., i])).resize((side, side), Image.Resampling.LANCZOS)
                for i in range(values.shape[2])]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def extend(values: npt.NDArray[np.generic], hole: Mask) -> Values:
    """(H, W, C) with the hole's values replaced by smooth ones that continue those around it: float32.

    Means of what is known, of 2x2 pixels, 4x4 and so on, until nothing is missing; then back, filling in. All of it a
    hole: zeros.
    """
    weight = (~hole).astype(np.float32)[..., None]
    known = np.where(hole[..., None], np.float32(0), values.astype(np.float32))
    if hole.shape == (1, 1) or not hole.any():
        return known
    height, width = hole.shape
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    weights, sums = (_sum_2x2(np.pad(array, pad)) for array in (weight, known))
    coarse = extend(sums / np.maximum(weights, 1), weights[..., 0] == 0)
    fine = _double(coarse)[:height, :width]
    return np.where(hole[..., None], fine, known)


def _sum_2x2(array: Values) -> Values:
    return array[::2, ::2] + array[1::2, ::2] + array[::2, 1::2] + array[1::2, 1::2]


def _double(array: Values) -> Values:
    """Twice as large, linear between the centres."""
    for axis in (0, 1):
        ends = np.concatenate([array.take([0], axis), array, array.take([-1], axis)], axis)
        count = array.shape[axis]
        before, after = ends.take(range(count), axis), ends.take(range(2, count + 2), axis)
        three, one = np.float32(0.75), np.float32(0.25)
        pairs = np.stack([three * array + one * before, three * array + one * after], axis + 1)
        array = pairs.reshape((*array.shape[:axis], 2 * count, *array.shape[axis + 1 :])).astype(np.float32)
    return array


def depth(mask: Mask, most: int) -> npt.NDArray[np.int32]:
    """How deep inside `mask` a pixel lies, 1 at its edge, at most `most`; 0 outside. A border is no edge."""
    total, inner = mask.astype(np.int32), mask
    for _ in range(most - 1):
        padded = np.pad(inner, 1, constant_values=True)
        rows = padded[:-2] & padded[1:-1] & padded[2:]
        inner = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
        total += inner
    return total


def feather(filled: Values, picture: Picture, hole: Mask, width: int) -> Values:
    """`filled` without the step at the hole's edge: what kept pixels differ by there fades out over `width` pixels.

    Inside the hole only, and without its old pixels: the difference between picture and `filled` on the kept side is
    continued into the hole (`extend`), and subtracted less and less.
    """
    difference = extend(picture.astype(np.float32) - filled, hole)
    share = np.clip(1 - (depth(hole, width + 1) - 0.5) / width, 0, 1).astype(np.float32)
    return filled + difference * share[..., None]


def overlap(new: Values, old: Picture, todo: Mask, hole: Mask, side: int) -> Values:
    """A tile beside what neighbours filled: all of it where nothing was filled yet, fading into theirs beyond."""
    reach = max(1, side // _FADE)
    share = np.clip(1 - (depth(~todo, reach + 1) - 0.5) / reach, 0, 1).astype(np.float32)
    share = np.where(todo, np.float32(1), np.where(hole, share, np.float32(0)))[..., None]
    return new * share + old.astype(np.float32) * (1 - share)


def to_picture(values: Values) -> Picture:
    """Rounded to the nearest of 0..255."""
    return np.floor(np.clip(values, 0, 255) + 0.5).clip(0, 255).astype(np.uint8)


def _place(start: int, side: int, size: int) -> int:
    """Inside of 0..size where it fits, else centred."""
    return min(max(start, 0), size - side) if side <= size else -((side - size) // 2)


def _mirrored(positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """... 1 0 | 0 1 ... size - 1 | size - 1 ...: every position inside."""
    turned = positions % (2 * size)
    return np.where(turned < size, turned, 2 * size - 1 - turned)
