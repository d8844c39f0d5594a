"""Drawing tools of the toy data set: dice that fall the same way everywhere, and a canvas under a light."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Light:
    """An hour and its weather: the sky's gradient, and the factor (red, green, blue) on every colour under it."""

    top: Colour
    bottom: Colour
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    window: Colour = (62, 76, 104)
    lamps: bool = False  #: the windows shine
    weather: str = "clear"  #: clear | dusk | night | rain | snow


class Dice:
    """Choices made from `random.Random.random` alone, whose numbers Python promises not to change."""

    def __init__(self, seed: int, index: int) -> None:
        self._random = random.Random(f"{seed}:{index}").random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int((high - low + 1) * self._random())

    def pick(self, options: Sequence[T]) -> T:
        return options[int(len(options) * self._random())]

    def weighted(self, options: Sequence[tuple[float, T]]) -> T:
        """One of the (share, option); the shares add up to 1."""
        left = self._random()
        for share, option in options:
            left -= share
            if left < 0:
                return option
        return options[-1][1]


class Canvas:
    """Draws in fractions of the side, at several times the final resolution, in the colours that the light leaves."""

    def __init__(self, resolution: int, light: Light) -> None:
        self.light = light
        self.scale = 4 if resolution <= 128 else 2
        self.side = resolution * self.scale
        self.image = Image.new("RGB", (self.side, self.side))
        self.snowy = light.weather == "snow"
        self._draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Sequence[Point], colour: Colour, glows: bool = False) -> None:
        self._draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=self._lit(colour, glows))

    def triangle(self, x: float, half: float, foot: float, top: float, colour: Colour) -> None:
        """Standing on `foot`, `2 * half` wide, with its tip at (x, top)."""
        self.polygon(((x - half, foot), (x, top), (x + half, foot)), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, glows: bool = False) -> None:
        self.polygon(((left, top), (right, top), (right, bottom), (left, bottom)), colour, glows)

    def disc(self, x: float, y: float, radius: float, colour: Colour, glows: bool = False, flat: float = 1.0) -> None:
        """A disc, or an ellipse whose height is `flat` times its width."""
        box = (x - radius, y - radius * flat, x + radius, y + radius * flat)
        self._draw.ellipse([value * self.side for value in box], fill=self._lit(colour, glows))

    def line(self, points: Sequence[Point], width: float, colour: Colour, glows: bool = False) -> None:
        pixels = max(1, round(width * self.side))
        self._draw.line([(x * self.side, y * self.side) for x, y in points], self._lit(colour, glows), pixels)

    def text(self, x: float, y: float, height: float, word: str, colour: Colour) -> None:
        """Bold letters around (x, y)."""
        place = (x * self.side, y * self.side)
        stroke = max(1, round(0.045 * height * self.side))
        self._draw.text(place, word, self._lit(colour), self._font(height), "mm", stroke_width=stroke)

    def text_width(self, height: float, word: str) -> float:
        return self._font(height).getlength(word) / self.side

    def gradient(self, top: Colour, bottom: Colour, height: float) -> None:
        """The whole width, from the upper edge down to `height`."""
        column = Image.new("RGB", (1, 2))
        column.putdata([top, bottom])
        pixels = round(height * self.side)
        # Half of the resized column lies beyond the two pixels' centres, where it is flat: cut that away.
        self.image.paste(column.resize((self.side, pixels), Image.Resampling.BILINEAR, (0, 0.5, 1, 1.5)), (0, 0))

    def finish(self) -> Image.Image:
        return self.image.reduce(self.scale)

    def _font(self, height: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(height * 1.36 * self.side)

    def _lit(self, colour: Colour, glows: bool = False) -> Colour:
        if glows:
            return colour
        red, green, blue = (round(value * factor) for value, factor in zip(colour, self.light.tint, strict=True))
        return red, green, blue
