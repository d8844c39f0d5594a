"""Curves of the page: in its colours, of any series, small, and described in words."""

import re

import pytest

from bricscli.report.content import Curve
from bricscli.report.curves import COLOURS, describe_curve, draw_curve, line_of


def test_ids_of_several_curves_do_not_meet() -> None:
    curves = [Curve("c", "", {"a": ([1, 2], [1.0, float(i)])}) for i in range(3)]
    clips = [set(re.findall(r'<clipPath id="(\w+)"', draw_curve(curve, str(i)))) for i, curve in enumerate(curves)]
    assert all(clips)
    assert not clips[0] & clips[1]
    assert not clips[1] & clips[2]


def test_curves_take_the_pages_colours() -> None:
    svg = draw_curve(Curve("c", "", {"a": ([1, 2], [1.0, 2.0]), "b": ([1, 2], [2.0, 1.0])}))
    assert "var(--line1)" in svg
    assert "var(--line2)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}  # matplotlib's default, overridden beside it


def test_a_name_keeps_its_colour_where_another_has_no_points() -> None:
    svg = draw_curve(Curve("c", "", {"a": ([], []), "b": ([1, 2], [2.0, 1.0])}))
    assert "var(--line2)" in svg and "var(--line1)" not in svg


def test_lines_differ_in_more_than_colour() -> None:
    looks = [line_of(number) for number in range(3 * COLOURS)]
    assert len(set(looks)) == len(looks)
    assert all(line_of(i)[1] != line_of(i + 1)[1] for i in range(COLOURS - 1))


@pytest.mark.parametrize(
    "series",
    [{}, {"a": ([], [])}, {"a": ([1.0], [2.0])}, {"a": ([1.0, 2.0], [float("nan")] * 2)}, {"a": ([1, 2], [-1.0, 0.0])}],
)
@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_poor_curves_are_drawn_all_the_same(
    series: dict[str, tuple[list[float], list[float]]], logarithmic: bool, exact: bool
) -> None:
    assert draw_curve(Curve("c", "", series, logarithmic, exact=exact)).endswith("</svg>\n")


def test_what_a_logarithm_lacks_is_left_out() -> None:
    assert "var(--line1)" not in draw_curve(Curve("c", "", {"a": ([1, 2], [-1.0, 0.0])}, logarithmic=True))


def test_long_curves_are_averaged_and_stay_small() -> None:
    x = list(range(100_000))
    svg = draw_curve(Curve("c", "", {"a": (x, [1.0 + (i % 2) for i in x])}))
    assert len(svg) < 60_000


def test_ticks_bands_levels_and_areas_are_drawn() -> None:
    curve = Curve("c", "", {"a": ([0, 1], [1.0, 2.0])}, x_label="level", exact=True, ticks=[(0, "16"), (1, "64 & <b>")],
                  areas={"a": ([0.5, 1.5], [1.5, 2.5])}, levels=[("threshold", 1.5)], borders=[("low", 0, 0.5)],
                  limits=(0, 3), marks={"m": ([0.5], [1.0])})
    svg = draw_curve(curve)
    for words in (">level<", ">16<", ">64 &amp; &lt;b&gt;<", ">threshold<", ">low<"):
        assert words in svg
    assert "var(--line2)" in svg  # the marks come after the colours of the series


def test_in_words() -> None:
    curve = Curve("Loss", "", {"L2": ([8, 16, 24], [0.25, float("nan"), 0.125]), "none": ([], [])})
    assert describe_curve(curve) == "Loss over images seen. L2: 0.25 at 8 to 0.125 at 24"
    assert describe_curve(Curve("Loss", "", {})) == "Loss over images seen. no points"
