"""`report.html`: one file with everything in it. Images are data URIs, curves inline SVG; it asks the network nothing.

The same report gives the same bytes. No torch at import.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bricscli import files
from bricscli.data.images import Pixels, encode_png
from bricscli.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Points drawn of a curve; longer ones are averaged in bins.
CURVE_POINTS = 300

#: Sides in CSS pixels: small images are shown larger, big ones smaller. 128 makes eight to a row of the page.
_TILE = 128

#: Stand-ins that become CSS variables, so that a curve follows the page's light or dark colours.
_INK, _FAINT = "#010203", "#040506"
_LINES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")


@dataclass(frozen=True)
class Sheet:
    """Images side by side. `layers`: name -> uint8 (N,3,H,W); image i of every layer stand above one another."""

    title: str
    text: str
    layers: Mapping[str, Pixels]
    captions: Sequence[str] = ()  #: one for each i, shown on hover; 1, 2, ... unless given


@dataclass(frozen=True)
class Curve:
    """Lines over images seen. `series`: name -> (x, y); points that are not finite are left out."""

    title: str
    text: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    logarithmic: bool = False


@dataclass(frozen=True)
class Number:
    """A row of the table of numbers."""

    label: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Command:
    """What was typed, and what it did."""

    text: str
    does: str


@dataclass(frozen=True)
class Report:
    """The content of the page, from top to bottom."""

    title: str
    summary: str
    highlights: Sequence[tuple[str, str]] = ()  #: (value, what it is), three or four
    sheets: Sequence[Sheet] = ()
    curves: Sequence[Curve] = ()
    numbers: Sequence[Number] = ()
    commands: Sequence[Command] = ()
    details: Mapping[str, str] = field(default_factory=dict)  #: title -> text, folded away


def write_report(path: Path, report: Report) -> None:
    """Writes the page, complete or not at all. Raises BricsError where it cannot be written."""
    files.write_text(path, render(report))


def render(report: Report) -> str:
    """The page as HTML. Every text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        report=report,
        sheets=[_tiles(sheet) for sheet in report.sheets],
        curves=[(curve, draw_curve(curve, salt=str(i))) for i, curve in enumerate(report.curves)],
    )


def curve_from_metrics(
    rows: Sequence[Mapping[str, float]],
    names: Mapping[str, str],
    *,
    title: str,
    text: str = "",
    logarithmic: bool = False,
) -> Curve:
    """A curve of some columns of `metrics.jsonl`. `names`: column -> name on the page; absent columns are left out."""
    series = {}
    for column, name in names.items():
        points = [(row["images_seen"], row[column]) for row in rows if column in row]
        if points:
            series[name] = ([x for x, _ in points], [y for _, y in points])
    return Curve(title, text, series, logarithmic)


def numbers_from_result(result: Mapping[str, Any]) -> list[Number]:
    """Rows of the table for what `brics eval` measured."""
    rows = []
    for name, entry in result["metrics"].items():
        metric = METRICS[name]
        if "mean" in entry:
            unit = f" {metric.unit}" if metric.unit else ""
            value = f"{entry['mean']:.4g} ± {entry['std']:.2g}{unit}"
            sides = f"{result['images']['images']:,} images"
        else:
            value = f"{entry['value']:.4g}"
            sides = f"{result['samples']['images']:,} samples against {result['reference']['images']:,} images"
        rows.append(Number(metric.label, value, f"{metric.meaning}; {metric.better} is better ({sides})"))
    return rows


def draw_curve(curve: Curve, salt: str = "") -> str:
    """Inline SVG, without title; colours are the page's variables. `salt` keeps the ids of several drawings apart."""
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    salted = {"svg.fonttype": "none", "svg.hashsalt": f"brics{salt}", "font.size": 9, "text.parse_math": False}
    with matplotlib.rc_context(salted):  # type: ignore[arg-type]
        figure = Figure(figsize=(4.6, 2.7))
        FigureCanvasSVG(figure)
        _draw(figure.add_subplot(), curve)
        figure.subplots_adjust(left=0.12, right=0.98, top=0.97, bottom=0.17)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), figure)


def _draw(axes: "Axes", curve: Curve) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    for color, (name, (x, y)) in zip(_LINES * 9, curve.series.items(), strict=False):
        xs, ys = _finite(x, y, positive=curve.logarithmic)
        if len(xs) == 0:
            continue
        axes.plot(*_binned(xs, ys, CURVE_POINTS), color=color, linewidth=0.6, alpha=0.35)
        axes.plot(*_binned(xs, ys, 40), color=color, linewidth=1.6, label=name, solid_capstyle="round")
    if curve.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if len(curve.series) > 1 and axes.lines:
        axes.legend(frameon=False, labelcolor=_INK, handlelength=1.2, borderaxespad=0.2, loc="upper right")
    axes.set_xlabel("images seen", color=_FAINT)
    axes.xaxis.set_major_formatter(_short)
    axes.yaxis.set_major_formatter(_short)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(colors=_FAINT, which="both", length=0, pad=4)
    axes.grid(axis="y", color=_FAINT, alpha=0.25, linewidth=0.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)


def _short(value: float, _: object) -> str:
    """20000 -> `20k`."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _finite(x: Sequence[float], y: Sequence[float], positive: bool) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(xs) & np.isfinite(ys) & (ys > 0 if positive else True)
    return xs[keep], ys[keep]


def _binned(x: np.ndarray, y: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of at most `bins` runs of neighbours."""
    if len(x) <= bins:
        return x, y
    return tuple(np.array([part.mean() for part in np.array_split(v, bins)]) for v in (x, y))  # type: ignore[return-value]


def _inline(svg: str, figure: "Figure") -> str:
    """From `<svg` on, sized by the page, in the page's colours and font."""
    width, height = (72 * side for side in figure.get_size_inches())
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    colors = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {c: f"var(--line{i})" for i, c in enumerate(_LINES, 1)}
    for stand_in, variable in colors.items():
        body = body.replace(stand_in, variable)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'


def _tiles(sheet: Sheet) -> dict[str, Any]:
    """What the template needs of a sheet: `columns`, one per i, of (layer, data URI), and the size on the page."""
    counts = {len(images) for images in sheet.layers.values()}
    if len(counts) > 1:
        raise ValueError(f"{sheet.title}: layers of different length {sorted(counts)}")
    resolution = max((images.shape[-1] for images in sheet.layers.values()), default=_TILE)
    scale = max(1, math.floor(_TILE / resolution))
    columns = [
        [(name, _data_uri(images[i])) for name, images in sheet.layers.items()] for i in range(max(counts, default=0))
    ]
    return {
        "sheet": sheet,
        "columns": columns,
        "captions": sheet.captions or range(1, len(columns) + 1),
        "tile": min(resolution * scale, 176),
        "pixelated": scale > 2,
    }


def _data_uri(image: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
