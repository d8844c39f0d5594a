"""`brics selftest`."""

from pathlib import Path
from typing import Annotated

import typer


def selftest(
    quick: Annotated[bool, typer.Option("--quick", help="A few trials of everything, in about two minutes "
                                                        "(the default).")] = False,
    faults: Annotated[bool, typer.Option("--faults", help="Hundreds of kills, a full disk, flipped bits, hostile "
                                                          "files, numbers of processes: six minutes.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="One group of trials; may be given "
                                                   "several times (see the first column).", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of chance: where kills and flips fall.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table here as well, as JSON.")] = None,
) -> None:
    """Try what this installation promises, here: that nothing is lost, nothing gets in, and any number of processes
    computes the same.

    Works in a temporary folder on a small way from pictures to numbers, on the CPU. Prints a table of guarantees, how
    often each was tried and how often it failed; ends with exit code 1 where any did, and then keeps the folder.

    Example: brics selftest --faults --only kills
    """
    from bricscli import files
    from bricscli.errors import BricsError, RecipeError
    from bricscli.run.log import say
    from bricscli.selftest.plan import as_json, describe, run_plan

    if quick and faults:
        raise RecipeError("--quick: does not go with --faults. Choose one.")
    if out is not None:
        files.check_writable(out.parent)
    results = run_plan(only, thorough=faults, seed=seed)
    say("\n".join(describe(results)))
    if out is not None:
        files.write_json(out, as_json(results, thorough=faults, seed=seed))
    failed = sum(len(trials.failures) for trials in results.values())
    if failed:
        raise BricsError(f"selftest: {failed} trials failed; see above.")
