"""The plot of use: a PNG of the size expected, the same every time, quiet about any name."""

import io
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bricscli.report.usage import draw_usage, usage_curves, usage_table


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


def test_on_the_page_every_group_has_a_line_or_their_range_is_drawn() -> None:
    few, many = usage_curves(levels(3, 2)), usage_curves(levels(20, 12))
    assert few[0].series == {f"group {i}": ([0, 1, 2], [1.0, 0.98, 0.96]) for i in (1, 2)}
    assert few[1].series["group 2"][1] == [0.0, 3.0, 6.0] and few[0].ticks == [(0, "4"), (1, "6"), (2, "8")]
    (mean,) = many[1].series
    assert many[1].areas[mean][0][1] == 1.5 and many[1].areas[mean][1][1] == 18.0
    assert many[1].series[mean][1][1] == pytest.approx(1.5 * 6.5)
    assert "12 groups" in many[0].text and len(many[0].ticks) <= 10


def test_level_by_level() -> None:
    sizes = {"entries": 4096, "reachable": 27}
    rows = usage_table([level | sizes for level in levels(2, 3)]).rows
    assert [(name, [cell.text for cell in cells]) for name, cells in rows] == [
        ("level 1, resolution 4", ["4,096", "27", "100.0%", "100.0%"]),
        ("level 2, resolution 6", ["4,096", "27", "98.0%", "98.0%"])]
