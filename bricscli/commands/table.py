"""`brics table`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options


def table(
    number: Annotated[str, typer.Argument(metavar="N", help="2 to 10, as the paper numbers them, or K for its Appendix "
                                                            "K.")],
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where to look for runs that were evaluated.")]
        = options.RUNS_ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every digit.")] = False,
) -> None:
    """A table of the paper, row by row: its values, ours, and the difference.

    Parameters and operations are counted from the models. What needs training comes from `brics eval` on runs of the
    row's recipe, and is `not measured` where there is none.

    Example: brics table 3
    """
    from bricscli.errors import DataError
    from bricscli.paper.tables import find_table

    name, wanted = find_table(number)
    if runs != options.RUNS_ROOT and not runs.is_dir():
        raise DataError(f"--runs {runs}: no such folder. Name the one that holds the runs, such as runs.")

    from bricscli.run.log import say
    from bricscli.tasks.table import describe_table, fill_table

    filled = fill_table(name, wanted, runs)
    say(json.dumps(asdict(filled), indent=2, ensure_ascii=False) if as_json else "\n".join(describe_table(filled)))
