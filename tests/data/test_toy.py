"""The toy data set: the same drawings everywhere, of every size, all different, the signs as often as said."""

import hashlib
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from bricscli.data import toy
from bricscli.data.drawing import Canvas, Colour, Light


def pixels(seed: int, index: int, resolution: int = 32) -> npt.NDArray[np.float64]:
    return np.asarray(toy.draw(seed, index, resolution)).astype(float)


def test_the_drawing_depends_on_its_numbers_alone() -> None:
    code = (
        "import hashlib; from bricscli.data import toy;print(hashlib.sha256(toy.draw(3, 41, 48).tobytes()).hexdigest())"
    )
    ours = [hashlib.sha256(toy.draw(3, 41, 48).tobytes()).hexdigest() for _ in range(2)]
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert {*ours, other} == {ours[0]}


@pytest.mark.parametrize("resolution", [8, 32, 50, 64, 128, 129, 256])
def test_any_resolution(resolution: int) -> None:
    picture = toy.draw(0, 0, resolution)
    assert (picture.mode, picture.size) == ("RGB", (resolution, resolution))


def test_another_resolution_shows_the_same_scene() -> None:
    for index in range(12):
        small, large = pixels(0, index, 32), pixels(0, index, 128)
        reduced = large.reshape(32, 4, 32, 4, 3).mean((1, 3))
        same, other = np.abs(small - reduced).mean(), np.abs(small - pixels(0, index + 1)).mean()
        assert same < 6 < other


def test_no_two_pictures_are_alike() -> None:
    assert len({toy.draw(seed, index, 32).tobytes() for seed in (0, 1) for index in range(300)}) == 600


def test_pictures_vary_in_layout_and_are_never_blank() -> None:
    stack = np.stack([pixels(0, index) for index in range(200)])
    assert stack.std((1, 2)).mean(1).min() > 10  # within each picture
    assert stack[:, 20:28].std(0).mean() > 40  # where the church stands: from one picture to the next


def test_churches_stand_anywhere_in_any_size_and_material(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = []
    monkeypatch.setattr(toy, "_path", lambda canvas, dice, site: sites.append(site))
    for index in range(200):
        toy.draw(0, index, 8)
    assert {site.wall for site in sites} == set(toy.WALLS) and {site.roof for site in sites} == {*toy.ROOFS, toy.SNOW}
    for values, spread in (
        ([site.x for site in sites], 0.25),
        ([site.foot for site in sites], 0.15),
        ([site.size for site in sites], 0.3),
    ):
        assert max(values) - min(values) > spread


def test_the_sky_fills_the_picture_down_to_the_ground() -> None:
    for index in range(60):
        assert (pixels(0, index).sum(2) > 0).all()  # an unpainted pixel would be black


def test_every_light_and_the_signs_are_as_often_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    signs, lights = [], []

    class Counting(Canvas):
        def __init__(self, resolution: int, light: Light) -> None:
            super().__init__(resolution, light)
            lights.append(light)

        def text(self, x: float, y: float, height: float, word: str, colour: Colour) -> None:
            signs.append(word)
            assert word in toy.WORDS

    monkeypatch.setattr(toy, "Canvas", Counting)
    for index in range(1500):
        toy.draw(0, index, 8)
    assert 0.09 < len(signs) / 1500 < 0.15 and set(signs) == set(toy.WORDS)
    for share, light in toy.LIGHTS:
        assert abs(lights.count(light) / 1500 - share) < 0.04
    assert sum(share for share, _ in toy.LIGHTS) == pytest.approx(1)


def test_words_fit_on_their_boards_and_boards_into_the_picture() -> None:
    canvas = toy.Canvas(64, toy.LIGHTS[0][1])
    for word in toy.WORDS:
        assert 0.15 < canvas.text_width(0.15, word) / 2 + 0.05 < 0.32 + 0.03
