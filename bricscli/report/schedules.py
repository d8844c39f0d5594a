"""The plot of `brics plot schedules`: log SNR over t (BRICS Fig. 13).

No torch at import.
"""

import io
import math
from collections.abc import Mapping, Sequence

#: Colour alone does not tell lines apart for everybody.
STYLES = ("-", "--", "-.", ":")
#: Of log SNR; beyond, every line that has not ended is nearly upright.
LIMITS = (-15, 15)


def draw_schedules(t: Sequence[float], curves: Mapping[str, Sequence[float]], gamma: float) -> bytes:
    """PNG: a line for each of `curves` (name -> log SNR at `t`), and min-SNR's threshold. Same input, same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(7.5, 4.5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.axhline(math.log(gamma), color="0.4", linestyle=(0, (6, 4)), linewidth=0.9)
        axes.annotate(f"min-SNR's threshold, SNR = {gamma:g}", (0.99, math.log(gamma)), (0, 3),
                      textcoords="offset points", ha="right", fontsize=8, color="0.3")
        for number, (name, log_snr) in enumerate(curves.items()):
            axes.plot(t, log_snr, linestyle=STYLES[number % len(STYLES)], linewidth=1.6, color=f"C{number}", label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(*LIMITS)
        axes.set_xlabel("t (0: data, 1: noise)")
        axes.set_ylabel("log SNR")
        axes.grid(alpha=0.3, linewidth=0.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(loc="lower left", frameon=False, fontsize=8, handlelength=3.5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
