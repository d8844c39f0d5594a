"""The plot of `brics plot schedules`: log SNR over t (BRICS Fig. 13).

No torch at import.
"""

import io
import math
from collections.abc import Mapping, Sequence

from bricscli.report.content import Curve, Points

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


def schedule_curve(name: str, t: Sequence[float], log_snr: Sequence[float], steps: Points, start: float,
                   gamma: float | None) -> Curve:
    """For the page: one schedule, and the times and log SNRs at which sampling asks the denoiser.

    `gamma`: min-SNR's threshold, of a denoiser that is trained with it.
    """
    levels = [(f"min-SNR's threshold, SNR = {gamma:g}", math.log(gamma))] if gamma else []
    count = len(steps[0])
    marks = {f"{count} noise levels of sampling, from t = {start:g} on": steps} if count else {}
    return Curve("log SNR over t", "0 is data and 1 is noise.", {name: (t, log_snr)}, x_label="t (0: data, 1: noise)",
                 exact=True, marks=marks, limits=LIMITS, levels=levels)
