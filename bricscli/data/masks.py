"""Which part of a picture is replaced: masks that are drawn, and masks from files.

One polarity everywhere: True, 1, white = replace; False, 0, black = keep. Bool arrays (H, W).

The drawn kinds are LaMa's (arXiv:2109.07161; advimman/lama: saicinpainting/training/data/masks.py, and the numbers from
configs/data_gen/random_{thin,medium,thick}_256.yaml and, of `mixed`, configs/training/data/abl-04-256-mh-dist.yaml, the
data of its published models), all for pictures of 256 pixels, scaled here to the shorter side.
Differs from the paper: lengths and widths are scaled, theirs has another file for 512 pixels, with other numbers; ends
of strokes are drawn where they are, not at whole pixels, and strokes are at least one pixel wide; masks that replace
nothing or everything are drawn again; no masks of segmented objects, which need a network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bricscli.data.images import MAX_PIXELS, ImageError, load_upright
from bricscli.errors import DataError

BoolArray = npt.NDArray[np.bool_]

_UNIT = 256  #: the side that LaMa's numbers are for
_ATTEMPTS = 20  #: at one mask; only pictures of a few pixels need so many
_BLOCK = 512  #: random words that are drawn at a time

_NEAR = 8  #: a value so near to black or white is it: a JPEG's ringing
_GRAY_SHARE = 0.01  #: of pixels between: more is no antialiased edge
_STRIP = 256  #: rows that are looked at together
_COLOURED = 24  #: how far the channels of a gray pixel may be apart, after a JPEG's colours


class MaskError(DataError):
    """A file is not a mask that can be used: `where: what. What to do.`"""


class _Dice:
    """Uniform numbers that are a function of (seed, kind, index): NumPy promises Philox's words, not `Generator`'s."""

    def __init__(self, seed: int, use: int, index: int) -> None:
        self._bits = np.random.Philox(np.random.SeedSequence((seed, use, index)))
        self._words: list[int] = []

    def uniform(self) -> float:
        """In [0, 1)."""
        if not self._words:
            self._words = (self._bits.random_raw(_BLOCK) >> np.uint64(11)).tolist()
        return self._words.pop() / 2**53

    def whole(self, low: int, high: int) -> int:
        """low, ..., high."""
        return low + int(self.uniform() * (high - low + 1))


@dataclass(frozen=True)
class Strokes:
    """Polylines of 1 to 5 segments. Pixels of 256; `longest` and `widest` are LaMa's max_len and max_width.

    A segment is 10 to 9 + longest long and 5 to 4 + widest wide; there are between fewest and most + 1 polylines
    (LaMa's generator adds 1), and four directions (its angles are whole radians), which every second one mirrors.
    """

    longest: int
    widest: int
    fewest: int
    most: int

    def __call__(self, dice: _Dice, mask: BoolArray) -> None:
        height, width = mask.shape
        scale = min(height, width) / _UNIT
        for number in range(dice.whole(self.fewest, self.most + 1)):
            x, y = dice.uniform() * (width - 1), dice.uniform() * (height - 1)
            for _ in range(dice.whole(1, 5)):
                angle = 0.01 + dice.whole(0, 3)
                angle = angle if number % 2 else -angle
                length = scale * dice.whole(10, 9 + self.longest)
                thickness = scale * dice.whole(5, 4 + self.widest)
                end_x = min(max(_steady(x + length * math.sin(angle)), 0.0), width - 1.0)
                end_y = min(max(_steady(y + length * math.cos(angle)), 0.0), height - 1.0)
                _draw_segment(mask, (x, y), (end_x, end_y), max(thickness / 2, 0.75))
                x, y = end_x, end_y


@dataclass(frozen=True)
class Boxes:
    """`fewest` to `most` boxes with sides of `smallest` to `largest`, `margin` or more from the edge; pixels of 256."""

    margin: int
    smallest: int
    largest: int
    fewest: int
    most: int

    def __call__(self, dice: _Dice, mask: BoolArray) -> None:
        scale = min(mask.shape) / _UNIT
        for _ in range(dice.whole(self.fewest, self.most)):
            part = []
            for side in mask.shape:
                margin = round(self.margin * scale)
                room = max(1, side - 2 * margin)
                extent = min(room, max(1, round(scale * dice.whole(self.smallest, self.largest))))
                start = margin + dice.whole(0, room - extent)
                part.append(slice(start, start + extent))
            mask[tuple(part)] = True


def _draw_half(dice: _Dice, mask: BoolArray) -> None:
    """One of four sides, up to the middle or an eighth more or less. Not LaMa's."""
    side, share = dice.whole(0, 3), 3 / 8 + dice.uniform() / 4
    _side(mask, side, share)[...] = True


def _draw_outpaint(dice: _Dice, mask: BoolArray) -> None:
    """Each of four sides with probability 1/2 and at least one, 4 to 25 % of the picture: OutpaintingMaskGenerator."""
    chosen = [side for side in range(4) if dice.uniform() < 0.5] or [dice.whole(0, 3)]
    for side in chosen:
        _side(mask, side, 0.04 + 0.21 * dice.uniform())[...] = True


#: Kind -> what one mask is one of, each with its weight.
_Draw = Callable[[_Dice, BoolArray], None]
KINDS: dict[str, tuple[tuple[float, _Draw], ...]] = {
    "thin": ((1, Strokes(longest=40, widest=10, fewest=4, most=50)),),
    "medium": ((1, Strokes(longest=100, widest=50, fewest=4, most=5)),
               (0.3, Boxes(margin=0, smallest=10, largest=50, fewest=1, most=5))),
    "thick": ((1, Strokes(longest=200, widest=100, fewest=1, most=5)),
              (0.3, Boxes(margin=10, smallest=30, largest=150, fewest=1, most=3))),
    "mixed": ((1, Strokes(longest=200, widest=100, fewest=1, most=5)),
              (1, Boxes(margin=10, smallest=30, largest=150, fewest=1, most=4))),
    "box": ((1, Boxes(margin=10, smallest=30, largest=150, fewest=1, most=1)),),
    "half": ((1, _draw_half),),
    "outpaint": ((1, _draw_outpaint),),
}
#: LaMa's masks for evaluation replace at most half of a picture (max_tamper_area); others are drawn again.
_LARGEST = {"thin": 0.5, "medium": 0.5, "thick": 0.5}
#: What a kind's random numbers are for, apart from every other kind's: never renumber.
_USES = {"thin": 11, "medium": 12, "thick": 13, "mixed": 14, "box": 15, "half": 16, "outpaint": 17}


def draw_mask(kind: str, seed: int, index: int, height: int, width: int) -> BoolArray:
    """Mask `index` of an endless series, (height, width): a function of its arguments, never all False or all True.

    Raises ValueError for another kind than those of KINDS, and for pictures of less than two pixels.
    """
    if kind not in KINDS:
        raise ValueError(f"no masks of kind {kind!r}; there are {', '.join(KINDS)}")
    if height * width < 2 or min(height, width) < 1:
        raise ValueError(f"a picture of {width}x{height} has no part that could be kept")
    dice, choices = _Dice(seed, _USES[kind], index), KINDS[kind]
    most = _LARGEST.get(kind, 1.0) * height * width
    for _ in range(_ATTEMPTS):
        place = dice.uniform() * sum(weight for weight, _ in choices)
        draw = next(one for number, (_, one) in enumerate(choices)
                    if place < sum(weight for weight, _ in choices[:number + 1]) or number == len(choices) - 1)
        mask = np.zeros((height, width), bool)
        draw(dice, mask)
        if 0 < (area := int(mask.sum())) < height * width and area <= most:
            return mask
    mask = np.zeros((height, width), bool)  # a picture of a few pixels
    _side(mask, dice.whole(0, 1) if height >= width else 2, 0.5)[...] = True
    return mask


def draw_training_masks(kind: str, seed: int, step: int, batch_size: int, size: int, full: float) -> BoolArray:
    """Those of batch `step`: (batch_size, 1, size, size). A share `full` of them, by chance, replaces everything."""
    masks = np.ones((batch_size, 1, size, size), bool)
    for place in range(batch_size):
        index = step * batch_size + place
        if _Dice(seed, 10, index).uniform() >= full:
            masks[place, 0] = draw_mask(kind, seed, index, size, size)
    return masks


def _steady(value: float) -> float:
    """To a 1/1024 of a pixel: the last bits of a sine are not the same in every library."""
    return round(value * 1024) / 1024


def _side(mask: BoolArray, side: int, share: float) -> BoolArray:
    """The part of a mask at one side, 0 top, 1 bottom, 2 left, 3 right: a view, at least one row or column of it."""
    along = mask if side < 2 else mask.T
    count = min(max(1, round(share * len(along))), len(along))
    return along[:count] if side % 2 == 0 else along[len(along) - count:]


def _draw_segment(mask: BoolArray, start: tuple[float, float], end: tuple[float, float], radius: float) -> None:
    """Every pixel whose centre is at most `radius` from the segment between two points (x, y): its ends are round."""
    height, width = mask.shape
    left, right = sorted((start[0], end[0]))
    top, bottom = sorted((start[1], end[1]))
    rows = slice(max(0, math.floor(top - radius)), min(height, math.ceil(bottom + radius) + 1))
    columns = slice(max(0, math.floor(left - radius)), min(width, math.ceil(right + radius) + 1))
    y, x = np.mgrid[rows, columns].astype(np.float64)
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    length = along_x**2 + along_y**2
    place = ((x - start[0]) * along_x + (y - start[1]) * along_y) / length if length else np.zeros_like(x)
    place = np.clip(place, 0, 1)
    distance = (x - start[0] - place * along_x) ** 2 + (y - start[1] - place * along_y) ** 2
    mask[rows, columns] |= distance <= radius**2


def load_mask(source: Path | bytes, size: tuple[int, int] | None, *, invert: bool = False) -> BoolArray:
    """The mask in an image file: white is replaced, black is kept; with `invert` the other way round.

    `source` is a path, or the contents of a file; `size` is the picture's (height, width) or None for any. Turned
    upright by EXIF. Soft edges are cut in the middle. Gray, coloured and transparent masks could mean either.

    Raises:
        MaskError: it is not an image, is damaged, too large, not of `size`, not black and white, or all of it is kept
            or replaced.
    """
    where = _where(source)
    image = _load(source, where)
    if size is not None and (image.height, image.width) != tuple(size):
        raise MaskError(f"{where}: is {image.width}x{image.height}, the picture is {size[1]}x{size[0]}. "
                        "Make the mask on the picture itself, at its size.")
    if _alpha(image) is not None:
        raise MaskError(f"{where}: has transparent parts, and whether they are replaced or kept is not known. Save it "
                        "in black and white without transparency; white is replaced.")
    gray = _gray(image, where)
    white = gray >= 128
    between = float(np.mean((gray > _NEAR) & (gray < 255 - _NEAR)))
    if between > _GRAY_SHARE:
        shown = sorted(int(value) for value in np.unique(gray))
        values = f"{len(shown)} values from {shown[0]} to {shown[-1]}" if len(shown) > 5 else ", ".join(map(str, shown))
        raise MaskError(f"{where}: is not black and white ({between:.1%} of it is gray: {values}), so that it is not "
                        "known what to replace. Make that white and the rest black; or the other way, with --invert.")
    return _checked(~white if invert else white, where, "black" if invert else "white", int(gray.max()))


def mask_of_alpha(source: Path | bytes) -> BoolArray:
    """The transparent parts of an image file, which are to be replaced: those of alpha below 128.

    Raises MaskError where it is not an image, has no transparency, or is transparent all over.
    """
    where = _where(source)
    alpha = _alpha(_load(source, where))
    if alpha is None:
        raise MaskError(f"{where}: has no transparent parts, which would be replaced. Erase what is to be replaced, or "
                        "pass a mask.")
    mask = alpha < 128
    if not mask.any():
        raise MaskError(f"{where}: is nowhere more than half transparent. Erase wholly what is to be replaced.")
    if mask.all():
        raise MaskError(f"{where}: is transparent all over, so that nothing would be kept. Use `brics sample` for new "
                        "pictures, or erase less.")
    return mask


def pool_mask(mask: BoolArray, factor: int) -> BoolArray:
    """(H, W) -> (H / factor, W / factor): a cell is replaced where any of its pixels is. Raises ValueError."""
    height, width = mask.shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"a mask of {width}x{height} cannot be divided into cells of {factor}")
    return np.asarray(mask.reshape(height // factor, factor, width // factor, factor).any((1, 3)))


def grow_mask(mask: BoolArray, n: int) -> BoolArray:
    """The mask and all cells that are at most `n` rows and columns away from it: dilation by a square."""
    if n < 0:
        raise ValueError(f"a mask cannot grow by {n}")
    return _grow_rows(_grow_rows(mask, n).T, n).T


def _grow_rows(mask: BoolArray, n: int) -> BoolArray:
    """A cell is replaced where the count of replaced cells above it rises within n before and after it."""
    counts = np.vstack([np.zeros_like(mask[:1], np.int64), np.cumsum(mask, 0)])
    places = np.arange(len(mask))
    grown: BoolArray = counts[np.minimum(places + n + 1, len(mask))] > counts[np.maximum(places - n, 0)]
    return grown


def _where(source: Path | bytes) -> str:
    return "the mask" if isinstance(source, bytes) else str(source)


def _load(source: Path | bytes, where: str) -> Image.Image:
    try:
        return load_upright(source, MAX_PIXELS)
    except ImageError as error:
        raise MaskError(f"{where}: {error}. Save it again as a PNG.") from error


def _alpha(image: Image.Image) -> npt.NDArray[np.uint8] | None:
    """(H, W); None where all of it is opaque."""
    if not image.has_transparency_data:
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return None if alpha.min(initial=255) >= 255 - _NEAR else alpha


def _gray(image: Image.Image, where: str) -> npt.NDArray[np.uint8]:
    """(H, W) 0..255. Raises MaskError where it has colours."""
    coloured = 0
    for top in range(0, image.height, _STRIP):  # the whole would be in memory several times
        strip = np.asarray(image.crop((0, top, image.width, min(top + _STRIP, image.height))).convert("RGB"))
        red, green, blue = (strip[..., channel] for channel in range(3))
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        coloured += int(np.count_nonzero(spread > _COLOURED))
    if coloured > _GRAY_SHARE * image.width * image.height:
        raise MaskError(f"{where}: has colours, so that it is not known what to replace. Make that white and the rest "
                        "black; or the other way, with --invert.")
    return np.asarray(image.convert("L"))


def _checked(mask: BoolArray, where: str, colour: str, largest: int) -> BoolArray:
    """Raises MaskError where a mask replaces nothing, or everything."""
    if not mask.any():
        dim = f" (its largest value is {largest} of 255)" if colour == "white" and 0 < largest <= _NEAR else ""
        raise MaskError(f"{where}: has nothing {colour}{dim}, so that nothing would be replaced. Make {colour} what is "
                        "to be replaced.")
    if mask.all():
        raise MaskError(f"{where}: is {colour} all over, so that nothing would be kept. Use `brics sample` for new "
                        f"pictures, or make {colour} only what is to be replaced.")
    return mask
