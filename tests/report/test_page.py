"""The report: whole in itself, true to its pixels, safe with any text, and the same every time."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bricscli.report.content import (
    Cell,
    Chapter,
    Command,
    Commands,
    Curve,
    Facts,
    Figures,
    Folded,
    Notes,
    Picture,
    Pictures,
    Report,
    Section,
    Table,
    Texts,
    Tiles,
)
from bricscli.report.page import render, write_report

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
NASTY = "<script>alert('&')</script> $x^2$ \"{{ 1 }}\""
Parse = Any  # the class `parse_page` of tests/conftest.py


def report(text: str = "A text.") -> Report:
    curve = Curve(text, text, {text: ([1, 2, 3], [3.0, float("nan"), 1.0]), "b": ([1, 2], [0.5, 0.25])})
    sections = [
        Section("Pairs", text, [Tiles({"original": IMAGES, "reconstruction": 255 - IMAGES}, [text] * 5)]),
        Section("Samples", text, [Tiles({"sample": IMAGES[:3]})]),
        Section("Sheet", "", [Pictures([Picture(text, IMAGES[4], text)])]),
        Section("Training", "", [Figures([curve])]),
        Section("Numbers", "", [Table((text, "value", text), [(text, [Cell("1.5", "value", text), Cell(text)])], text),
                                Folded(text, [Facts([(text, text)])]), Notes(text, [text], "fail")]),
        Section("Made by", "", [Commands([Command(text, text)]), Texts({text: text})]),
        Section("Empty"),
    ]
    return Report(text, text, [("24 dB", text)], sections, [Chapter(text, text, [Section("Inside", text)])])


def test_images_are_in_the_page_pixel_by_pixel(parse_page: Parse) -> None:
    sources = [str(image["src"]) for image in parse_page(render(report())).all("img")]
    decoded = []
    for source in sources:
        head, data = source.split(",")
        assert head == "data:image/png;base64"
        decoded.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).transpose(2, 0, 1))
    pairs = [layer[i] for i in range(5) for layer in (IMAGES, 255 - IMAGES)]
    assert np.array_equal(np.stack(decoded), np.stack([*pairs, *IMAGES[:3], IMAGES[4]]))


def test_nothing_is_asked_of_the_network(parse_page: Parse) -> None:
    html = render(report())
    parse_page(html).assert_self_contained()
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]{1,4})", html)) <= {"#" + c for c in re.findall(r"url\(#(.{3})", html)}


def test_any_text_is_text(parse_page: Parse) -> None:
    page = parse_page(render(report(NASTY)))
    assert page.all("script") == []
    assert page.text.count(NASTY) >= 20
    assert {image.get("title") for image in page.all("img")} >= {f"original {NASTY}", "sample 1"}
    assert all(image["alt"] for image in page.all("img"))


def test_every_part_is_on_the_page_and_absent_parts_leave_no_heading(parse_page: Parse) -> None:
    full, empty = parse_page(render(report("some words"))), parse_page(render(Report("title", "summary")))
    headings = re.findall(r"<h2>(.*?)</h2>", render(report("some words")))
    assert headings == ["Pairs", "Samples", "Sheet", "Training", "Numbers", "Made by", "Run by run"]
    assert len(full.all("h1")) == 1 and len(full.all("details")) == 3
    assert len([svg for svg in full.all("svg") if svg["viewbox"] != "0 0 24 8"]) == 1
    assert all(svg["aria-hidden"] == "true" for svg in full.all("svg"))  # the figure's label says it in words
    assert any("some words: 3 at 1 to 1 at 3" in str(figure.get("aria-label")) for figure in full.all("figure"))
    assert empty.all("h2") == empty.all("img") == empty.all("svg") == []
    assert [tag for tag, _ in empty.tags].count("section") == 0


def test_tables_have_headers_that_a_phone_can_repeat(parse_page: Parse) -> None:
    table = Table(("run", "PSNR"), [("a", [Cell("1", "pass", "why")])])
    page = parse_page(render(Report("t", "s", sections=[Section("x", "", [table])])))
    assert page.rows() == [["run", "PSNR"], ["a", "1why"]]
    assert [th["scope"] for th in page.all("th")] == ["col", "col", "row"]
    assert page.all("td") == [{"class": "pass", "data-label": "PSNR"}]
    with pytest.raises(ValueError, match="a: 0 cells"):
        render(Report("t", "s", sections=[Section("x", "", [Table(("run", "PSNR"), [("a", [])])])]))


def test_a_legend_names_what_is_drawn(parse_page: Parse) -> None:
    curve = Curve("c", "", {"one": ([1, 2], [1.0, 2.0]), "absent": ([], []), "three": ([1, 2], [2.0, 1.0])},
                  marks={"marks": ([1], [1.0])})
    html = render(Report("t", "s", sections=[Section("x", "", [Figures([curve])])]))
    legend = re.findall(r"<li><svg.*?(?:stroke|fill)=\"(var\(--line\d\))\".*?</svg>(.*?)</li>", html)
    assert legend == [("var(--line1)", "one"), ("var(--line3)", "three"), ("var(--line4)", "marks")]
    alone = Curve("c", "", {"one": ([1, 2], [1.0, 2.0])})
    assert 'class="legend"' not in render(Report("t", "s", sections=[Section("x", "", [Figures([alone])])]))


def test_the_same_report_has_the_same_bytes(tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", report())
    write_report(tmp_path / "b.html", report())
    text = (tmp_path / "a.html").read_bytes()
    assert text == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]
    assert str(Path.home()).encode() not in text


def test_layers_of_different_length_are_refused() -> None:
    tiles = Tiles({"a": IMAGES, "b": IMAGES[:2]})
    with pytest.raises(ValueError, match="different length"):
        render(Report("t", "s", sections=[Section("x", "", [tiles])]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(scheme: str) -> None:
    """WCAG's contrast of 4.5 for every colour of words; lines of plots 3."""
    html = render(Report("t", "s"))
    blocks = [dict(re.findall(r"--([a-z]+\d?): (#[0-9a-f]{6})", block))
              for block in re.findall(r":root \{(.*?)\}", html, re.S)]
    colours = blocks[0] if scheme == "light" else blocks[0] | blocks[1]
    for ground in ("paper", "card"):
        for name in ("ink", "soft", "faint", "accent", "good", "bad", "open"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for number in range(1, 7):
            assert contrast(colours[f"line{number}"], colours[ground]) >= 3, (number, ground)


def contrast(a: str, b: str) -> float:
    """Of two colours, 1 to 21 (WCAG 2.1)."""
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)
