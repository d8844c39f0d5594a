"""`brics verify`."""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A data set, codes, a run, a checkpoint, a folder of "
                                         "samples, or results and statistics.")],
    quick: Annotated[bool, typer.Option("--quick", help="Only manifests, names and lengths: shards, samples and "
                                        "weights are not read.")] = False,
) -> None:
    """Reads again what brics wrote, and names everything that is not as it was written.

    Shards, codes, samples and checkpoints carry digests, so that not a bit of them can have changed unnoticed: contents
    are named by their keys, and what is missing, cut, exchanged or added is too. Recipes, logs and results carry none;
    of them it is checked that they can be read. Nothing is changed or repaired. Ends with exit code 3 where something
    is wrong.

    Example: brics verify runs/photos64
    """
    from bricscli.errors import DataError
    from bricscli.files import show_bytes
    from bricscli.run.log import say
    from bricscli.tasks.verify import verify as check

    problems: list[str] = []
    for checked in check(path, quick=quick):
        wrong = f": {len(checked.problems)} PROBLEMS" if checked.problems else ""
        say(f"{checked.path}: {checked.found}, {show_bytes(checked.bytes)}{wrong}")
        problems += checked.problems
    if problems:
        raise DataError(*problems)
    say("all lengths and names as written; contents were not read" if quick else "all as written")
