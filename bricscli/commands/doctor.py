"""`brics doctor`."""

import json
from typing import Annotated

import typer

from bricscli.commands import options


def doctor(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="With --fetch: the pretrained files to "
                                                      "download, or all (default: all that are missing).",
                                                      show_default=False)] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download pretrained files that are missing or damaged, with "
                                        "checksums, into $BRICS_WEIGHTS, else torch hub's cache.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the address and SHA-256 of every "
                                                         "file.")] = False,
) -> None:
    """What this machine has: device, versions, disk, and which pretrained files and statistics are here.

    Nothing is downloaded unless --fetch asks for it; a machine without a network is told what to copy where. Ends with
    exit code 3 where a file is here but damaged; files that are missing are no error.

    Example: brics doctor --fetch inception_fidelity alexnet
    """
    from bricscli.errors import RecipeError
    from bricscli.run.log import say

    if names and not fetch:
        raise RecipeError(f"NAME: `{names[0]}` goes with --fetch. Write `brics doctor --fetch {' '.join(names)}`.")
    if fetch:
        if as_json:
            raise RecipeError("--json: goes without --fetch. Fetch first, then ask again.")
        from bricscli.tasks.fetch import fetch as run_fetch

        run_fetch(names or [])
        return
    from bricscli.tasks.doctor import check, describe, examine

    report = examine({"data": options.DATA_ROOT, "runs": options.RUNS_ROOT})
    say(json.dumps(report, indent=2, ensure_ascii=False) if as_json else "\n".join(describe(report)))
    check(report)
