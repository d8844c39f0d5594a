"""The plot of the schedules: a PNG of the size expected, the same every time, whose lines are the numbers."""

import io
import math
import warnings

import numpy as np
import pytest
from PIL import Image

from bricscli.report.schedules import LIMITS, draw_schedules, schedule_curve

T = np.linspace(0, 1, 101).tolist()
BLUE = (31, 119, 180)  # the first line's


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.size) == ("PNG", (900, 540))
        assert "Software" not in image.info, "the version of matplotlib is no result"
        return np.asarray(image.convert("RGB")).astype(int)


def heights(png: bytes) -> tuple[float, float]:
    """Where a flat first line and the threshold, which is grey, are in pixels from the top; beside all words."""
    image = pixels(png)[:480, 300:400]
    blue = np.abs(image - BLUE).max(-1) < 8
    grey = (np.ptp(image, axis=-1) < 4) & (image.max(-1) < 200)  # the grid is lighter
    return tuple(float(np.nonzero(found.any(1))[0].mean()) for found in (blue, grey))  # type: ignore[return-value]


@pytest.mark.parametrize("count", [1, 6, 13])
def test_any_number_of_lines(count: int) -> None:
    curves = {f"$schedule_{i}": [i - 20 * t for t in T] for i in range(count)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = draw_schedules(T, curves, 5.0)
        assert draw_schedules(T, curves, 5.0) == png, "same input, same bytes"
    image = pixels(png)
    assert all((edge == 255).all() for edge in (image[:1], image[-1:], image[:, :1], image[:, -1:])), "all is in it"
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20 * min(count, 5)


def test_the_lines_are_the_numbers() -> None:
    """Heights are linear in log SNR, and the threshold's is that of log gamma."""
    def drawn(level: float, gamma: float = 5.0) -> bytes:
        return draw_schedules(T, {"flat": [level] * len(T)}, gamma)

    high, middle, low = (heights(drawn(level))[0] for level in (10.0, 0.0, -10.0))
    assert high < middle < low and middle - high == pytest.approx(low - middle, abs=1.5)
    for gamma in (1.0, 5.0, math.exp(10)):
        wanted = middle - (middle - high) * math.log(gamma) / 10
        assert heights(drawn(-12.0, gamma))[1] == pytest.approx(wanted, abs=1.5)
    assert not (np.abs(pixels(drawn(2 * LIMITS[1]))[:, 300:400] - BLUE).max(-1) < 8).any(), "beyond what is shown"


def test_the_page_shows_where_sampling_steps() -> None:
    t, line, steps = [0.0, 1.0], [20.0, -20.0], ([0.9, 0.1], [-16.0, 16.0])
    curve = schedule_curve("linear", t, line, steps, 0.9, 5.0)
    assert curve.series == {"linear": (t, line)} and curve.limits == LIMITS
    assert curve.marks == {"2 noise levels of sampling, from t = 0.9 on": steps}
    assert curve.levels == [("min-SNR's threshold, SNR = 5", math.log(5.0))]
    assert schedule_curve("linear", t, line, ([], []), 0.9, None).marks == {}
