"""Which numbers of `metrics.jsonl` are drawn together, and what is said of them. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bricscli.report.content import Curve

Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Plot:
    """`columns`: of metrics.jsonl -> the name on the page."""

    title: str
    text: str
    columns: Mapping[str, str]
    logarithmic: bool = True
    exact: bool = False
    limits: tuple[float, float] | None = field(default=None)


_SETBACKS = (
    Plot("Steps that were not finite", "In a row: they moved nothing; at four the run went back.",
         {"skipped": "in a row"}, logarithmic=False, exact=True),
    Plot("Returns", "Images seen by the weights that the run went back to.", {"rolled_back_to": "images seen"},
         logarithmic=False, exact=True),
)
PLOTS: Mapping[str, tuple[Plot, ...]] = {
    "autoencoder": (
        Plot("Loss", "What is minimised: the weighted sum of all terms.", {"loss": "weighted sum"}),
        Plot("Likeness", "How far reconstructions are from their originals, each term before its weight.",
             {"l1": "L1", "l2": "L2", "perceptual": "perceptual"}),
        Plot("Validation PSNR", "Of the images on the preview sheets, in dB: higher is better.",
             {"val_psnr": "PSNR"}, logarithmic=False, exact=True),
        Plot("Critic's scores", "Means over a batch; they should neither coincide for long nor run away.",
             {"real_score": "originals", "fake_score": "reconstructions"}, logarithmic=False),
        Plot("Adversarial losses", "Of the critic, and of the autoencoder that is to persuade it.",
             {"generator": "autoencoder", "critic": "critic"}, logarithmic=False),
        Plot("Gradient penalty", "Keeps the critic from being too steep.", {"penalty": "penalty"}),
        Plot("Weight of the adversarial loss", "As balanced by gradients at the last layer.",
             {"adversarial_weight": "weight"}),
        Plot("Gradient norms", "Before clipping.", {"gradient": "autoencoder", "critic_gradient": "critic"}),
        Plot("Spread of the code", "Standard deviation of its values; with KL also sigma, of their noise.",
             {"code_std": "code", "sigma": "sigma"}),
        Plot("KL divergence", "Before its weight.", {"kl": "KL"}),
        Plot("Quantisation", "Squared distance of codes from the codebook, before its weight.",
             {"codebook": "codebook", "commitment": "commitment"}),
        Plot("Codebook in use", "Perplexity of the entries chosen in a batch.", {"perplexity": "perplexity"}),
        Plot("Share of the codebook in use", "Entries that a batch chose at least once, 0 to 1.",
             {"entries_used": "entries used"}, logarithmic=False, limits=(0, 1.03)),
        Plot("Feature grid entries hit", "Share of those that a key can reach, by the images on the preview sheets.",
             {"entries_hit": "entries hit"}, logarithmic=False, exact=True, limits=(0, 1.03)),
        *_SETBACKS,
    ),
    "diffusion": (
        Plot("Loss", "Weighted squared error of what the denoiser predicts, and what is added to it.",
             {"loss": "sum", "denoising": "denoising"}),
        Plot("Latent perceptual loss", "On the decoder's features, before its weight.",
             {"latent_perceptual": "latent perceptual"}),
        Plot("Gradient norm", "Before clipping.", {"gradient": "denoiser"}),
        *_SETBACKS,
    ),
}


def plot_of_metrics(rows: Rows, plot: Plot) -> Curve:
    """The columns that `rows` have."""
    series = {name: column_of(rows, column) for column, name in plot.columns.items()}
    return Curve(plot.title, plot.text, {name: points for name, points in series.items() if points[0]},
                 plot.logarithmic, exact=plot.exact, limits=plot.limits)


def training_curves(rows: Rows, kind: str) -> list[Curve]:
    """Everything that a run of that kind logged; what nobody has words for goes last, under its own name."""
    known = {column for plot in PLOTS[kind] for column in plot.columns}
    others = sorted({column for row in rows for column in row} - known - {"images_seen"})
    plots = (*PLOTS[kind], *(Plot(column, "", {column: column}, logarithmic=False) for column in others))
    return [curve for plot in plots if (curve := plot_of_metrics(rows, plot)).series]


def overlaid_curves(runs: Mapping[str, Rows], kind: str) -> list[Curve]:
    """Run -> its metrics: a plot for each number that at least two of them logged, the same colour for the same run."""
    curves = []
    for plot in PLOTS[kind]:
        for column, name in plot.columns.items():
            series = {run: column_of(rows, column) for run, rows in runs.items()}
            if sum(bool(x) for x, _ in series.values()) > 1:
                title = plot.title if len(plot.columns) == 1 else f"{plot.title}: {name}"
                curves.append(Curve(title, plot.text, series, plot.logarithmic, exact=plot.exact, limits=plot.limits))
    return curves


def column_of(rows: Rows, column: str) -> tuple[list[float], list[float]]:
    """Images seen and the values, of the rows that have it."""
    points = [(row["images_seen"], row[column]) for row in rows if column in row]
    return [x for x, _ in points], [y for _, y in points]
