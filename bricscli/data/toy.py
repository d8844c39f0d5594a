"""The embedded data set: small churches under changing skies, drawn so that nothing need be downloaded.

`draw(seed, index, resolution)` is a pure function. The scene depends on seed and index alone: another resolution shows
the same church. Lengths and positions are fractions of the picture's side, (0, 0) is the top left corner.
"""

import math
from dataclasses import dataclass

from PIL import Image

from bricscli.data.drawing import Canvas, Colour, Dice, Light

#: Counts up whenever the drawings change, so that data sets of two versions are not taken for one.
VERSION = 1

WHITE: Colour = (246, 244, 236)
SNOW: Colour = (250, 252, 255)
GLOW: Colour = (255, 212, 96)
GOLD: Colour = (238, 196, 84)
DOOR: Colour = (104, 62, 42)
TRUNK: Colour = (96, 70, 50)
FIR: Colour = (54, 96, 84)
WALLS: tuple[Colour, ...] = (WHITE, (238, 214, 166), (192, 94, 72), (172, 172, 170), (226, 172, 92), (160, 188, 204))
ROOFS: tuple[Colour, ...] = ((66, 78, 102), (182, 76, 50), (62, 122, 100), (104, 68, 52), (126, 48, 62))
LEAVES: tuple[Colour, ...] = ((44, 108, 62), (92, 142, 56), (28, 88, 78), (212, 132, 44))
GRASS: tuple[Colour, ...] = ((118, 168, 76), (150, 178, 84), (84, 146, 90), (202, 184, 106))
CAPS = ("spire", "spire", "pyramid", "onion", "battlement")
WORDS = ("AVE", "PAX", "LUX", "SING", "NOEL", "HOPE", "BELL", "OPEN", "1746", "1891", "1905", "REST")


#: (how often, light)
LIGHTS: tuple[tuple[float, Light], ...] = (
    (0.22, Light((66, 142, 218), (206, 232, 246))),
    (0.14, Light((124, 194, 226), (250, 240, 208))),
    (0.20, Light((84, 72, 142), (255, 160, 92), (0.86, 0.72, 0.72), GLOW, True, "dusk")),
    (0.18, Light((10, 16, 50), (58, 76, 132), (0.50, 0.54, 0.74), GLOW, True, "night")),
    (0.12, Light((92, 106, 122), (172, 184, 190), (0.74, 0.78, 0.82), (240, 204, 126), True, "rain")),
    (0.14, Light((158, 178, 202), (228, 234, 240), (0.92, 0.95, 1.0), (240, 196, 108), True, "snow")),
)


@dataclass(frozen=True)
class Site:
    """Where a church stands (the middle of its foot), how large it is, and what it is made of."""

    x: float
    foot: float
    size: float
    wall: Colour
    roof: Colour


def draw(seed: int, index: int, resolution: int) -> Image.Image:
    """Picture `index` of the endless series `seed`: RGB, (resolution, resolution)."""
    dice = Dice(seed, index)
    canvas = Canvas(resolution, dice.weighted(LIGHTS))
    horizon = dice.between(0.66, 0.78)
    _sky(canvas, dice, horizon)
    _hills(canvas, dice, horizon)
    canvas.box(0, horizon, 1, 1, SNOW if canvas.snowy else dice.pick(GRASS))
    for _ in range(dice.number(0, 2)):
        _tree(canvas, dice, dice.between(0.05, 0.95), horizon + 0.02, dice.between(0.14, 0.24))
    roof = dice.pick(ROOFS)
    site = Site(
        x=dice.between(0.36, 0.64),
        foot=horizon + dice.between(0.06, 0.13),
        size=dice.between(1.05, 1.40),
        wall=dice.pick(WALLS),
        roof=SNOW if canvas.snowy else roof,
    )
    _path(canvas, dice, site)
    dice.pick((_front, _long_side, _long_side, _two_towers))(canvas, dice, site)
    for _ in range(dice.number(0, 2)):
        aside = dice.between(0.28, 0.44) * dice.pick((-1, 1))
        _tree(canvas, dice, site.x + aside, site.foot + dice.between(0.02, 0.10), dice.between(0.22, 0.36))
    if dice.chance(0.12):
        _sign(canvas, dice)
    _falling(canvas, dice)
    return canvas.finish()


def _sky(canvas: Canvas, dice: Dice, horizon: float) -> None:
    light = canvas.light
    canvas.gradient(light.top, light.bottom, horizon + 0.02)
    x, y = dice.pick((dice.between(0.08, 0.26), dice.between(0.74, 0.92))), dice.between(0.10, 0.26)
    if light.weather == "clear" and dice.chance(0.6):
        canvas.disc(x, y, dice.between(0.05, 0.08), (255, 236, 150))
    if light.weather == "dusk":
        canvas.disc(x, horizon - dice.between(0.02, 0.16), dice.between(0.07, 0.10), (255, 222, 140), glows=True)
    if light.weather == "night":
        for _ in range(dice.number(14, 24)):
            canvas.disc(dice.between(0, 1), dice.between(0, horizon - 0.1), 0.009, (232, 236, 255), glows=True)
        radius = dice.between(0.06, 0.09)
        canvas.disc(x, y, radius, (250, 244, 214), glows=True)
        if dice.chance(0.5):  # a crescent: the sky covers the rest
            canvas.disc(x + 0.5 * radius, y - 0.25 * radius, 0.86 * radius, (18, 26, 64), glows=True)
    clouds = {"clear": dice.number(0, 3), "rain": 4}.get(light.weather, 0)
    colour = (118, 130, 144) if light.weather == "rain" else (255, 255, 255)
    for _ in range(clouds):
        _cloud(canvas, dice.between(0, 1), dice.between(0.06, 0.30), dice.between(0.05, 0.09), colour)


def _cloud(canvas: Canvas, x: float, y: float, size: float, colour: Colour) -> None:
    for aside, up, radius in ((-1.3, 0.0, 0.7), (0.0, 0.35, 1.0), (1.2, 0.05, 0.8)):
        canvas.disc(x + aside * size, y - up * size, radius * size, colour, flat=0.7)
    canvas.box(x - 1.5 * size, y, x + 1.5 * size, y + 0.48 * size, colour)


def _hills(canvas: Canvas, dice: Dice, horizon: float) -> None:
    colours: list[Colour] = [(196, 208, 222), (222, 230, 238)] if canvas.snowy else [(112, 142, 158), (98, 142, 112)]
    for layer in range(dice.number(0, 2)):
        height, shift, waves = dice.between(0.05, 0.16), dice.between(0, 7), dice.between(2.5, 6.5)
        ridge = [(i / 24, horizon - height * (0.6 + 0.4 * math.sin(shift + waves * i / 24))) for i in range(25)]
        canvas.polygon([*ridge, (1, horizon + 0.02), (0, horizon + 0.02)], colours[layer])


def _path(canvas: Canvas, dice: Dice, site: Site) -> None:
    """From the door towards us."""
    end, near, far = site.x + dice.between(-0.25, 0.25), dice.between(0.09, 0.15), 0.035
    start = site.foot - 0.01
    corners = ((site.x - far, start), (site.x + far, start), (end + near, 1), (end - near, 1))
    canvas.polygon(corners, (208, 214, 224) if canvas.snowy else (222, 206, 172))


def _front(canvas: Canvas, dice: Dice, site: Site) -> None:
    """The gable faces us, with a tower before it or a belfry on the ridge."""
    x, size = site.x, site.size
    half, height, rise = (size * dice.between(*range_) for range_ in ((0.17, 0.22), (0.20, 0.26), (0.14, 0.20)))
    tower = size * dice.between(0.065, 0.085)
    if dice.chance(0.7):
        _gable(canvas, site, half, height, rise)
        _tower(canvas, dice, site, x, tower, height + rise + 0.05 * size)
    else:
        top = height + rise
        _tower(canvas, dice, site, x, 0.75 * tower, top + 0.14 * size, windows=1)
        _gable(canvas, site, half, height, rise)
        canvas.disc(x, site.foot - height - 0.12 * rise, 0.05 * size, canvas.light.window, canvas.light.lamps)
    for aside in (-0.66 * half, 0.66 * half):
        _window(canvas, x + aside, site.foot - 0.40 * height, 0.026 * size, 0.11 * size)
    _door(canvas, x, site.foot, 0.04 * size)


def _long_side(canvas: Canvas, dice: Dice, site: Site) -> None:
    """The long wall with its row of windows, and a tower at one end."""
    x, foot, size = site.x, site.foot, site.size
    half, height, rise = (size * dice.between(*range_) for range_ in ((0.19, 0.24), (0.15, 0.20), (0.12, 0.17)))
    side, tower = dice.pick((-1, 1)), size * dice.between(0.07, 0.095)
    canvas.box(x - half, foot - height, x + half, foot, site.wall)
    low, high, eaves, ridge = foot - height, foot - height - rise, half + 0.025 * size, half - 0.05
    canvas.polygon(((x - ridge, high), (x + ridge, high), (x + eaves, low), (x - eaves, low)), site.roof)
    count = dice.number(3, 4)
    for i in range(count):
        aside = 1.5 * half * (i / (count - 1) - 0.5) - 0.1 * side * half
        _window(canvas, x + aside, foot - 0.28 * height, 0.024 * size, 0.10 * size)
    end = x + side * (half + 0.3 * tower)
    _tower(canvas, dice, site, end, tower, height + rise + size * dice.between(0.04, 0.12))
    _door(canvas, end, foot, 0.036 * size)


def _two_towers(canvas: Canvas, dice: Dice, site: Site) -> None:
    """A west front: a gable with a rose window between two towers."""
    x, size = site.x, site.size
    half, height, tower = (size * dice.between(*range_) for range_ in ((0.13, 0.17), (0.24, 0.29), (0.055, 0.07)))
    rise = 0.13 * size
    _gable(canvas, site, half, height, rise)
    canvas.disc(x, site.foot - 0.80 * height, 0.055 * size, canvas.light.window, canvas.light.lamps)
    tall, cap = height + rise + size * dice.between(-0.02, 0.08), dice.pick(CAPS)
    for side in (-1, 1):
        _tower(canvas, dice, site, x + side * (half + 0.5 * tower), tower, tall, cap=cap)
    _door(canvas, x, site.foot, 0.045 * size)


def _tower(
    canvas: Canvas,
    dice: Dice,
    site: Site,
    x: float,
    half: float,
    height: float,
    windows: int = 2,
    cap: str | None = None,
) -> None:
    """A tower `2 * half` wide, lit from the left, with a cap and a cross on it."""
    top, shade = site.foot - height, x + 0.35 * half
    canvas.box(x - half, top, x + half, site.foot, site.wall)
    canvas.box(shade, top, x + half, site.foot, _darker(site.wall))
    for i in range(windows):
        _window(canvas, x, top + (0.9 + 2.3 * i) * half + 0.05, 0.30 * half, 0.9 * half)
    cap = cap or dice.pick(CAPS)
    if cap == "battlement":
        for merlon in (-0.88, 0.0, 0.88):
            canvas.box(x + (merlon - 0.32) * half, top - 0.5 * half, x + (merlon + 0.32) * half, top + 0.01, site.wall)
        return
    if cap == "onion":
        tip = top - 2.6 * half
        canvas.triangle(x, 0.62 * half, top - 1.2 * half, tip, site.roof)
        canvas.disc(x, top - 0.85 * half, 1.12 * half, site.roof, flat=0.82)
    else:
        tip = max(0.06, top - half * (dice.between(3.0, 4.2) if cap == "spire" else 1.5))
        canvas.triangle(x, 1.2 * half, top, tip, site.roof)
        canvas.polygon(((shade, top), (x, tip), (x + 1.2 * half, top)), _darker(site.roof))
    canvas.line(((x, tip - 0.055), (x, tip + 0.01)), 0.012, GOLD)
    canvas.line(((x - 0.02, tip - 0.038), (x + 0.02, tip - 0.038)), 0.012, GOLD)


def _gable(canvas: Canvas, site: Site, half: float, height: float, rise: float) -> None:
    """A wall with a pointed top, and the two slopes of the roof seen from their edge."""
    x, low, high = site.x, site.foot - height, site.foot - height - rise
    canvas.polygon(
        ((x - half, site.foot), (x - half, low), (x, high), (x + half, low), (x + half, site.foot)), site.wall
    )
    lower = ((x - half - 0.025, low + 0.02), (x, high - 0.012), (x + half + 0.025, low + 0.02))
    upper = ((x + half, low - 0.045), (x, high - 0.07), (x - half, low - 0.045))
    canvas.polygon((*lower, *upper), site.roof)


def _window(canvas: Canvas, x: float, foot: float, half: float, height: float) -> None:
    """A round-arched window standing on `foot`."""
    canvas.box(x - half, foot - height + half, x + half, foot, canvas.light.window, canvas.light.lamps)
    canvas.disc(x, foot - height + half, half, canvas.light.window, canvas.light.lamps)


def _door(canvas: Canvas, x: float, foot: float, half: float) -> None:
    canvas.box(x - half, foot - 2 * half, x + half, foot, DOOR)
    canvas.disc(x, foot - 2 * half, half, DOOR)


def _tree(canvas: Canvas, dice: Dice, x: float, foot: float, height: float) -> None:
    leaves = dice.pick(LEAVES)
    canvas.box(x - 0.06 * height, foot - 0.3 * height, x + 0.06 * height, foot, TRUNK)
    if canvas.snowy or dice.chance(0.5):  # a conifer
        for low, high, half in ((0.15, 0.65, 0.30), (0.42, 1.0, 0.23)):
            colour = FIR if canvas.snowy else leaves
            canvas.triangle(x, half * height, foot - low * height, foot - high * height, colour)
        if canvas.snowy:
            canvas.triangle(x, 0.1 * height, foot - 0.75 * height, foot - height, SNOW)
    else:
        canvas.disc(x, foot - 0.62 * height, 0.30 * height, leaves, flat=1.2)


def _sign(canvas: Canvas, dice: Dice) -> None:
    """A board in the foreground with a short word in large letters."""
    x, y, word = dice.between(0.32, 0.68), dice.between(0.85, 0.88), dice.pick(WORDS)
    half, tall = canvas.text_width(0.15, word) / 2 + 0.05, 0.10
    dark, board = (56, 40, 34), dice.pick((WHITE, (250, 220, 110)))
    canvas.box(x - half - 0.015, y - tall - 0.015, x + half + 0.015, y + tall + 0.015, dark)
    canvas.box(x - half, y - tall, x + half, y + tall, board)
    canvas.text(x, y, 0.15, word, dark)


def _falling(canvas: Canvas, dice: Dice) -> None:
    """Snowflakes or rain before everything else."""
    if canvas.snowy:
        for _ in range(40):
            canvas.disc(dice.between(0, 1), dice.between(0, 1), dice.between(0.007, 0.012), SNOW, glows=True)
    if canvas.light.weather == "rain":
        for _ in range(26):
            x, y = dice.between(-0.05, 1), dice.between(-0.1, 1)
            canvas.line(((x + 0.03, y), (x, y + 0.10)), 0.007, (206, 216, 226), glows=True)


def _darker(colour: Colour) -> Colour:
    red, green, blue = (round(0.82 * value) for value in colour)
    return red, green, blue
