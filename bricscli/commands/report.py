"""`brics report`."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options


def report(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Folders of runs (default: the one "
                                                                             "under runs/ that was trained last).")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page to write, as HTML (default: "
                                             "RUN/report.html of one run, report.html of several).")] = None,
    samples: Annotated[Path | None, typer.Option(metavar="DIR", help="Samples to show, drawn by one of the runs "
                                                 "(default: RUN/samples).")] = None,
) -> None:
    """One HTML page about a run, or about several side by side, with everything in it.

    Curves, previews and samples, what was measured and how, whether the recipe's expected values were reached, noise
    schedule, use of the feature grids, versions, commands and the recipe. Of several runs, numbers stand in one column
    only where the same thing was measured in the same way. The page asks the network for nothing; one that is there is
    replaced.

    Example: brics report runs/photos64
    """
    from bricscli.run.log import say
    from bricscli.tasks.reporting.report import report as write

    say(f"written to {write(runs or [], out, options.RUNS_ROOT, samples)}")
