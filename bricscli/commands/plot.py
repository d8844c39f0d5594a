"""`brics plot`: schedules."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options

app = typer.Typer(help="Draw what needs no run.", no_args_is_help=True)


def schedules(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture to write, as PNG.")] = Path("schedules.png"),
) -> None:
    """Log SNR over t of every noise schedule that a recipe can name, as in the paper's Figure 13.

    Each has its defaults; the dashed line is where min-SNR begins to weigh less. A file that is there is replaced.

    Example: brics plot schedules --out schedules.png
    """
    from bricscli.run.log import say
    from bricscli.tasks.plot import plot_schedules

    plot_schedules(out)
    say(f"written to {out}")


app.command(help=options.manual(schedules))(schedules)
