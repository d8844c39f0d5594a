"""The plot of use: a PNG of the size expected, the same every time, quiet about any name."""

import io
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bricscli.report.usage import draw_usage


def levels(count: int, groups: int, variation: float = 1.5) -> list[dict[str, Any]]:
    return [{"resolution": 4 + 2 * level,
             "groups": [{"hit_of_reachable": 1 - 0.02 * level, "variation": variation * (1 + group) * level}
                        for group in range(groups)]} for level in range(count)]


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.size) == ("PNG", (1080, 408))
        assert "Software" not in image.info, "the version of matplotlib is no result"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("count", "groups"), [(1, 1), (2, 4), (16, 16), (32, 33)])
def test_any_number_of_levels_and_groups(count: int, groups: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = draw_usage(levels(count, groups), "Use")
        assert draw_usage(levels(count, groups), "Use") == png, "same input, same bytes"
    image = pixels(png)
    edges = (image[:1], image[-1:], image[:, :1], image[:, -1:])
    assert all((edge == 255).all() for edge in edges), "nothing is cut off"
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20 * min(groups, 3)


def test_nothing_varies() -> None:
    """As where every entry is hit equally often, or none is: 0 is drawn, not complained about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat, steep = (draw_usage(levels(4, 2, variation), "Use") for variation in (0.0, 1.0))
    assert flat != steep


@pytest.mark.parametrize("title", ["$x_1", "a\x1b[31mb", "教会 église", "long " * 60, "unbroken" * 30])
def test_any_name(title: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = pixels(draw_usage(levels(3, 2), title))
    assert (image[:, :1] == 255).all() and (image[:, -1:] == 255).all(), "the title is not cut off"
    assert (image[:30] < 128).any()


def test_the_lines_are_the_numbers() -> None:
    """A higher share is drawn higher: the darkest colour, of the only group, in the left panel."""
    def height(share: float) -> float:
        level = {"groups": [{"hit_of_reachable": share, "variation": 1.0}]}
        image = pixels(draw_usage([{"resolution": 4} | level, {"resolution": 8} | level], "Use"))
        colour = np.abs(image[50:, :450].astype(int) - (68, 1, 84)).max(-1) < 8  # viridis at 0
        return float(np.nonzero(colour.any(1))[0].mean())

    low, middle, high = height(0.1), height(0.5), height(0.9)
    assert low > middle > high
    assert low - middle == pytest.approx(middle - high, abs=1.5)  # pixels
