"""The plot of `brics eval usage`: how much of every feature grid is used, and how evenly (BRICS Fig. 3 (b), App. E).

No torch at import.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bricscli.report.content import Cell, Curve, Table
from bricscli.report.curves import COLOURS

PANELS = {
    "hit_of_reachable": "entries hit, share of those that a key can reach",
    "variation": "hits of an entry: standard deviation / mean",
}


def draw_usage(levels: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """PNG: one panel a figure, one line a group, over the resolutions of the levels. Same input, same bytes.

    `levels`: as `EntryUsage.summary` gives them.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(9, 3.4), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        printable = title.encode("unicode_escape").decode()  # the font does not know every script's letters
        figure.suptitle(textwrap.fill(printable, 90))
        groups = range(len(levels[0]["groups"]))
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(groups)))
        for axes, (name, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            for group, colour in zip(groups, colours, strict=True):
                values = [level["groups"][group][name] for level in levels]
                axes.plot(values, marker="o", markersize=3, linewidth=1.2, color=colour, label=f"group {group + 1}")
            ticks = range(0, len(levels), max(1, len(levels) // 8))
            axes.set_xticks(ticks, [str(levels[tick]["resolution"]) for tick in ticks])
            axes.set_xlabel("level, by its resolution")
            axes.set_title(label, fontsize=9)
            axes.set_ylim(0, 1.03 if name == "hit_of_reachable" else None)
            axes.grid(alpha=0.3, linewidth=0.5)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        figure.legend(handles=axes.lines, loc="outside right center", frameon=False, fontsize=8,
                      ncols=1 + len(groups) // 17)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def usage_curves(levels: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The same two panels for the page: a line a group, or their mean within their range where they are many."""
    groups, x = len(levels[0]["groups"]), list(range(len(levels)))
    ticks = [(i, str(levels[i]["resolution"])) for i in range(0, len(levels), max(1, len(levels) // 8))]
    curves = []
    for (figure, label), limits in zip(PANELS.items(), ((0, 1.03), None), strict=True):
        values = np.array([[float(group[figure]) for group in level["groups"]] for level in levels])
        if groups <= COLOURS:
            series = {f"group {i + 1}": (x, values[:, i].tolist()) for i in range(groups)}
            areas, text = {}, ""
        else:
            mean, text = "mean", f"The mean of {groups} groups, within the range of all of them."
            series = {mean: (x, values.mean(1).tolist())}
            areas = {mean: (values.min(1).tolist(), values.max(1).tolist())}
        curves.append(Curve(label[0].upper() + label[1:], text, series, x_label="level, by its resolution", exact=True,
                            areas=areas, ticks=ticks, limits=limits))
    return curves


def usage_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    """Level by level, over its groups."""
    rows = []
    for number, level in enumerate(levels, start=1):
        hit = [float(group["hit_of_reachable"]) for group in level["groups"]]
        rows.append((f"level {number}, resolution {level['resolution']}", [
            Cell(f"{level['entries']:,}"), Cell(f"{level['reachable']:,}"), Cell(f"{sum(hit) / len(hit):.1%}", "value"),
            Cell(f"{min(hit):.1%}", "value")]))
    return Table(("level", "entries", "reachable", "hit, mean of the groups", "hit, least of the groups"), rows)
