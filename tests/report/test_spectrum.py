"""The plot of spectra: the same every time, quiet about any name, and its lines are the numbers."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from bricscli.report.spectrum import draw_spectrum, spectrum_curves

FREQUENCIES = [i / 64 for i in range(33)]
BANDS = {"low": (0.0, 0.146), "high": (0.146, 0.5)}


def draw(offset: float, name: str = "samples") -> np.ndarray:
    reference = [20 - 60 * frequency for frequency in FREQUENCIES]
    power = {"samples": [value + offset * FREQUENCIES[i] for i, value in enumerate(reference)], "reference": reference}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png, again = (draw_spectrum(FREQUENCIES, power, BANDS, {"samples": name, "reference": "real"}) for _ in "12")
    assert png == again, "same input, same bytes"
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.size) == ("PNG", (1080, 432)) and "Software" not in image.info
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("name", ["$x_1", "a\x1b[31mb", "教会 église", "long " * 60, "unbroken" * 30])
def test_any_name(name: str) -> None:
    image = draw(-10, name)
    assert all((edge == 255).all() for edge in (image[:1], image[-1:], image[:, :1], image[:, -1:]))


def test_a_loss_of_power_falls_and_a_gain_rises() -> None:
    def slope(offset: float) -> float:
        orange = np.abs(draw(offset)[60:-60, 560:] - (255, 127, 14)).max(-1) < 30  # C1, in the right panel
        rows, columns = np.nonzero(orange)
        return float(np.polyfit(columns, -rows, 1)[0])

    assert slope(-10) < -0.3 and slope(10) > 0.3


def test_the_page_has_the_same_panels() -> None:
    power, difference = spectrum_curves([0.0, 0.25, 0.5], {"samples": [9.0, 1.0, 2.0], "reference": [9.0, 3.0, 5.0]},
                                        {"low": (0.0, 0.3)}, {"samples": "drawn ones", "reference": "photos"})
    assert power.series == {"real: photos": ([0.25, 0.5], [3.0, 5.0]), "drawn: drawn ones": ([0.25, 0.5], [1.0, 2.0])}
    assert difference.series["difference"] == ([0.25, 0.5], [-2.0, -3.0])
    assert difference.borders == [("low", 0.0, 0.3)]
