"""The plot of `brics eval spectrum`: power over frequency of samples and real images, and the difference (LPL Fig. 6).

No torch at import.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence

from bricscli.report.content import Curve


def draw_spectrum(frequencies: Sequence[float], power: Mapping[str, Sequence[float]],
                  bands: Mapping[str, tuple[float, float]], labels: Mapping[str, str]) -> bytes:
    """PNG: `power["samples"]` and `power["reference"]`, in decibels, and the first less the second, with the bands.

    Frequency 0 is left out. Same input, same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for (side, style), colour in zip((("reference", "-"), ("samples", "--")), ("0.25", "C1"), strict=True):
            name = textwrap.shorten(labels[side].encode("unicode_escape").decode(), 40, placeholder=" ...")
            left.plot(frequencies[1:], power[side][1:], style, linewidth=1.4, color=colour, label=name)
        left.set_title("power, dB", fontsize=9)
        left.legend(frameon=False, fontsize=8)
        difference = [a - b for a, b in zip(power["samples"], power["reference"], strict=True)]
        right.axhline(0, color="0.25", linewidth=0.9)
        right.plot(frequencies[1:], difference[1:], linewidth=1.4, color="C1", marker="o", markersize=2)
        right.set_title("samples - real, dB", fontsize=9)
        for axes in (left, right):
            axes.set_xlim(0, 0.5)
            axes.set_xlabel("cycles per pixel")
            axes.grid(alpha=0.3, linewidth=0.5)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        for name, (low, high) in bands.items():
            right.axvline(high, color="0.6", linewidth=0.7, linestyle=":")
            right.annotate(name, ((low + high) / 2, 0.98), xycoords=("data", "axes fraction"), ha="center", va="top",
                           fontsize=8, color="0.4")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def spectrum_curves(frequencies: Sequence[float], power: Mapping[str, Sequence[float]],
                    bands: Mapping[str, tuple[float, float]], labels: Mapping[str, str]) -> list[Curve]:
    """The same two panels for the page."""
    borders = [(name, float(low), float(high)) for name, (low, high) in bands.items()]
    sides = {f"real: {labels['reference']}": power["reference"], f"drawn: {labels['samples']}": power["samples"]}
    difference = [a - b for a, b in zip(power["samples"], power["reference"], strict=True)]
    x = list(map(float, frequencies[1:]))
    return [
        Curve("Power, dB", "Means over images, at every frequency but 0.",
              {name: (x, list(values[1:])) for name, values in sides.items()}, x_label="cycles per pixel", exact=True),
        Curve("Samples less real, dB", "Above 0 samples have too much of a frequency, below too little.",
              {"difference": (x, difference[1:])}, x_label="cycles per pixel", exact=True, borders=borders,
              levels=[("", 0.0)]),
    ]
