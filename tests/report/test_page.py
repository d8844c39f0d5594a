"""The report: whole in itself, true to its pixels, safe with any text, and the same every time."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bricscli.metrics import METRICS
from bricscli.report.page import (
    Command,
    Curve,
    Number,
    Report,
    Sheet,
    curve_from_metrics,
    draw_curve,
    numbers_from_result,
    render,
    write_report,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
NASTY = "<script>alert('&')</script> $x^2$ \"{{ 1 }}\""


def report(text: str = "A text.") -> Report:
    return Report(
        title=text,
        summary=text,
        highlights=[("24 dB", text)],
        sheets=[
            Sheet("Pairs", text, {"original": IMAGES, "reconstruction": 255 - IMAGES}, [text] * 5),
            Sheet("Samples", text, {"sample": IMAGES[:3]}),
        ],
        curves=[Curve(text, text, {text: ([1, 2, 3], [3.0, float("nan"), 1.0]), "b": ([1, 2], [0.5, 0.25])})],
        numbers=[Number(text, "1.5", text)],
        commands=[Command(text, text)],
        details={text: text},
    )


class Page(HTMLParser):
    """Collects tags with attributes, and checks that they close in order."""

    VOID = ("meta", "img", "link", "br", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_images_are_in_the_page_pixel_by_pixel() -> None:
    sources = [str(image["src"]) for image in Page(render(report())).all("img")]
    decoded = []
    for source in sources:
        head, data = source.split(",")
        assert head == "data:image/png;base64"
        decoded.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).transpose(2, 0, 1))
    pairs = [layer[i] for i in range(5) for layer in (IMAGES, 255 - IMAGES)]
    assert np.array_equal(np.stack(decoded), np.stack([*pairs, *IMAGES[:3]]))


def test_nothing_is_asked_of_the_network() -> None:
    html = render(report())
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset"):
                assert str(value).startswith(("data:", "#"))
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]{1,4})", html)) <= {"#" + c for c in re.findall(r"url\(#(.{3})", html)}
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'")


def test_any_text_is_text() -> None:
    page = Page(render(report(NASTY)))
    assert page.all("script") == []
    assert page.text.count(NASTY) >= 10
    assert {image["title"] for image in page.all("img")} >= {f"original {NASTY}", "sample 1"}


def test_every_part_is_on_the_page_and_absent_parts_leave_no_heading() -> None:
    full, empty = Page(render(report("some words"))), Page(render(Report("title", "summary")))
    assert len(full.all("h2")) == 2 + 4
    assert len(full.all("svg")) == 1
    assert full.text.count("some words") >= 10
    assert empty.all("h2") == empty.all("img") == empty.all("svg") == []
    assert [tag for tag, _ in empty.tags].count("section") == 0


def test_the_same_report_has_the_same_bytes(tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", report())
    write_report(tmp_path / "b.html", report())
    text = (tmp_path / "a.html").read_bytes()
    assert text == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]
    assert str(Path.home()).encode() not in text


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
    assert ">a<" in svg.replace("\n", "")


@pytest.mark.parametrize(
    "series",
    [{}, {"a": ([], [])}, {"a": ([1.0], [2.0])}, {"a": ([1.0, 2.0], [float("nan")] * 2)}, {"a": ([1, 2], [-1.0, 0.0])}],
)
@pytest.mark.parametrize("logarithmic", [False, True])
def test_poor_curves_are_drawn_all_the_same(
    series: dict[str, tuple[list[float], list[float]]], logarithmic: bool
) -> None:
    assert draw_curve(Curve("c", "", series, logarithmic)).endswith("</svg>\n")


def test_what_a_logarithm_lacks_is_left_out() -> None:
    assert "var(--line1)" not in draw_curve(Curve("c", "", {"a": ([1, 2], [-1.0, 0.0])}, logarithmic=True))


def test_long_curves_are_averaged_and_stay_small() -> None:
    x = list(range(100_000))
    svg = draw_curve(Curve("c", "", {"a": (x, [1.0 + (i % 2) for i in x])}))
    assert len(svg) < 60_000


def test_curve_of_metrics() -> None:
    rows = [{"images_seen": 8.0, "l2": 2.0}, {"images_seen": 16.0, "l2": 1.0, "critic": 5.0}]
    curve = curve_from_metrics(rows, {"l2": "L2", "critic": "critic", "gone": "gone"}, title="t")
    assert curve.series == {"L2": ([8.0, 16.0], [2.0, 1.0]), "critic": ([16.0], [5.0])}


def test_numbers_of_results() -> None:
    reconstruction = {"metrics": {"psnr": {"mean": 24.318, "std": 2.149}}, "images": {"images": 1234}}
    frechet = {"metrics": {"fd_random": {"value": 0.41234}}, "samples": {"images": 64}, "reference": {"images": 205}}
    (first,) = numbers_from_result(reconstruction)
    assert (first.label, first.value) == ("PSNR", "24.32 ± 2.1 dB")
    assert "higher is better (1,234 images)" in first.meaning
    (second,) = numbers_from_result(frechet)
    assert (second.label, second.value) == (METRICS["fd_random"].label, "0.4123")
    assert "lower is better (64 samples against 205 images)" in second.meaning


def test_layers_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="different length"):
        render(Report("t", "s", sheets=[Sheet("x", "", {"a": IMAGES, "b": IMAGES[:2]})]))
