"""`brics gather`."""

from pathlib import Path
from typing import Annotated

import typer


def gather(
    place: Annotated[Path, typer.Argument(metavar="PATH", help="What the parts are of: a data set, a run with codes or "
                                          "samples, or a folder of samples.")],
) -> None:
    """Put together what `prepare`, `encode` or `sample` made with --part.

    Every chunk's SHA-256 is checked. Where one is missing or damaged nothing is moved, and the command that makes it is
    named. What comes out has the very bytes that one process without parts would have written.

    Example: brics gather data/photos
    """
    from bricscli.run.log import say
    from bricscli.tasks.gather import gather as run_gather

    for line in run_gather(place):
        say(line)
