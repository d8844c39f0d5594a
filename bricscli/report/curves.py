"""Curves as inline SVG in the page's colours. The same curve gives the same bytes. No torch at import."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bricscli.report.content import Curve, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Points drawn of a curve; longer ones are averaged in bins: the faint line, and the strong one.
CURVE_POINTS, SMOOTH_POINTS = 300, 40
#: More points of an exact curve have no marks.
MARKED_POINTS = 64
#: How many lines the page has colours for; a line further on takes one again, with other dashes.
COLOURS = 6
#: Colour alone does not tell lines apart for everybody: dashes and gaps, in multiples of the line's width.
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (1, 1.5), (6, 1.5, 1, 1.5))

#: Stand-ins that become CSS variables, so that a curve follows the page's light or dark colours.
_INK, _FAINT = "#010203", "#040506"
_LINES = tuple(f"#0a0b0{number}" for number in range(1, COLOURS + 1))
_WIDTH = 1.7


def line_of(number: int) -> tuple[str, tuple[float, ...]]:
    """The colour (a CSS variable) and the dashes of the line with this number, from 0 on."""
    return f"var(--line{number % COLOURS + 1})", DASHES[(number + number // COLOURS) % len(DASHES)]


def draw_curve(curve: Curve, salt: str = "") -> str:
    """Inline SVG without title and legend; `salt` keeps the ids of several drawings apart."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    salted = {"svg.fonttype": "none", "svg.hashsalt": f"brics{salt}", "font.size": 9, "text.parse_math": False}
    with matplotlib.rc_context(salted):  # type: ignore[arg-type]
        figure = Figure(figsize=(4.6, 2.7))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        _draw_lines(axes, curve)
        _draw_frame(axes, curve)
        figure.subplots_adjust(left=0.12, right=0.98, top=0.97, bottom=0.17)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), figure)


def describe_curve(curve: Curve) -> str:
    """In words, for those who cannot see it: where every line begins and ends."""
    parts = []
    for name, points in (*curve.series.items(), *curve.marks.items()):
        xs, ys = _finite(points, curve.logarithmic)
        if len(xs):
            ends = f"{ys[0]:.3g} at {xs[0]:.3g}" + (f" to {ys[-1]:.3g} at {xs[-1]:.3g}" if len(xs) > 1 else "")
            parts.append(f"{name}: {ends}")
    return f"{curve.title} over {curve.x_label}. {'; '.join(parts) or 'no points'}"


def _draw_lines(axes: "Axes", curve: Curve) -> None:
    width = _WIDTH - 0.1
    for number, (name, points) in enumerate(curve.series.items()):
        colour, dashes = _LINES[number % COLOURS], line_of(number)[1]
        style = (0, dashes) if dashes else "-"
        xs, ys = _finite(points, curve.logarithmic)
        if not len(xs):
            continue
        if name in curve.areas:
            axes.fill_between(points[0], *curve.areas[name], color=colour, alpha=0.18, linewidth=0)
        if curve.exact or len(xs) == 1:
            axes.plot(xs, ys, color=colour, linewidth=width, linestyle=style, markersize=3.2,
                      marker="o" if len(xs) <= MARKED_POINTS else "")
        else:
            axes.plot(*_binned(xs, ys, CURVE_POINTS), color=colour, linewidth=0.6, alpha=0.35)
            axes.plot(*_binned(xs, ys, SMOOTH_POINTS), color=colour, linewidth=width, linestyle=style)
    for number, points in enumerate(curve.marks.values(), len(curve.series)):
        axes.plot(*_finite(points, curve.logarithmic), linestyle="none", marker="o", markersize=4,
                  color=_LINES[number % COLOURS])


def _draw_frame(axes: "Axes", curve: Curve) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if curve.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if curve.limits:
        axes.set_ylim(*curve.limits)
    axes.set_xlabel(curve.x_label, color=_FAINT)
    axes.xaxis.set_major_formatter(_short)
    axes.yaxis.set_major_formatter(_short)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if curve.ticks:
        axes.set_xticks([x for x, _ in curve.ticks], [name for _, name in curve.ticks])
    for name, y in curve.levels:
        axes.axhline(y, color=_FAINT, linewidth=0.9, linestyle=(0, (5, 3)))
        axes.annotate(name, (0.99, y), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha="right", color=_FAINT, fontsize=8)
    if curve.borders:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.12 * (high - low))  # room for the names
    for name, low, high in curve.borders:
        axes.axvline(high, color=_FAINT, linewidth=0.7, linestyle=(0, (1, 2)))
        axes.annotate(name, ((low + high) / 2, 0.99), xycoords=("data", "axes fraction"), ha="center", va="top",
                      color=_FAINT, fontsize=8)
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


def _finite(points: Points, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = (np.asarray(values, dtype=float) for values in points)
    keep = np.isfinite(xs) & np.isfinite(ys) & (ys > 0 if positive else True)
    return xs[keep], ys[keep]


def _binned(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, bins: int) -> tuple[np.ndarray, ...]:
    """Means of at most `bins` runs of neighbours."""
    if len(x) <= bins:
        return np.asarray(x), np.asarray(y)
    return tuple(np.array([part.mean() for part in np.array_split(np.asarray(v), bins)]) for v in (x, y))


def _inline(svg: str, figure: "Figure") -> str:
    """From `<svg` on, sized by the page, in the page's colours and font; what it shows is said beside it."""
    width, height = (72 * side for side in figure.get_size_inches())
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    colors = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {c: f"var(--line{i})" for i, c in enumerate(_LINES, 1)}
    for stand_in, variable in colors.items():
        body = body.replace(stand_in, variable)
    return f'<svg viewBox="0 0 {width:g} {height:g}" aria-hidden="true" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'


def whole_dashes(dashes: Sequence[float]) -> str:
    """For SVG's stroke-dasharray of the legend's line, whose width is 2."""
    return " ".join(f"{2 * length:g}" for length in dashes)
