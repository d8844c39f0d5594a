"""Which trials are made, how many, and the table of what they came to."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bricscli.errors import RecipeError
from bricscli.run.log import Progress
from bricscli.run.provenance import describe_process
from bricscli.selftest.trials import Bench, Trials

if TYPE_CHECKING:
    from bricscli.selftest.workload import Undisturbed

#: What the trials say nothing about.
NOT_COVERED = (
    "power loss (only the order of fsync and rename is tried: what a process wrote survives its death in any case)",
    "network file systems whose locks or renames are not atomic",
    "errors of a GPU that it does not report; bytes on a GPU (only the CPU is tried)",
    "other processors or builds of torch than this machine's",
    "exact training on numbers of processes that do not divide 8",
    "somebody with an account on this machine who means harm",
)


@dataclass(frozen=True)
class Group:
    """Trials of one kind: `quick` and `faults` are how many, in the unit of `run`."""

    run: Callable[[Bench, "dict[str, Undisturbed]", int], Trials]
    quick: int
    faults: int


def run_plan(only: Sequence[str] | None, *, thorough: bool, seed: int) -> dict[str, Trials]:
    """Makes the trials of the groups that are named, or of all. Returns them by a short name.

    Raises RecipeError for an unknown name. Works in a temporary folder, which stays where something failed.
    """
    groups = _groups()
    for name in only or ():
        if name not in groups:
            close = get_close_matches(name, groups, n=1)
            hint = f"Did you mean `{close[0]}`?" if close else f"There are: {', '.join(groups)}."
            raise RecipeError(f"--only: `{name}` is unknown. {hint}")
    chosen = {name: group for name, group in groups.items() if not only or name in only}
    folder = Path(tempfile.mkdtemp(prefix="brics-selftest-"))
    results: dict[str, Trials] = {}
    from bricscli.runtime import one_thread
    from bricscli.selftest.workload import go_undisturbed

    # Children are forks of this process, so it must have no threads: torch gets one, before it makes others.
    with one_thread(), Progress(len(chosen), "selftest", "groups of trials") as progress:
        bench = Bench(folder, seed, lambda text: progress.show(progress.done, text))
        bench.progress("going the way once, undisturbed")
        stages = go_undisturbed(folder / "undisturbed", bench.log)
        for name, group in chosen.items():
            results[name] = group.run(bench, stages, group.faults if thorough else group.quick)
            progress.show(progress.done + 1)
    if not any(trials.failures for trials in results.values()):
        shutil.rmtree(folder)
    return results


def _groups() -> dict[str, Group]:
    from bricscli.selftest import commits, damage, independence, intruders, kills, worlds

    return {
        "kills": Group(kills.try_kills, quick=2, faults=60),
        "planted": Group(lambda bench, stages, _: kills.try_planted_bugs(bench, stages), quick=1, faults=1),
        "commits": Group(commits.try_commits, quick=60, faults=1),
        "damage": Group(damage.try_damage, quick=1, faults=25),
        "cuts": Group(lambda bench, _, cuts: damage.try_cuts(bench, cuts), quick=67, faults=335),
        "worlds": Group(worlds.try_worlds, quick=0, faults=6),
        "fast": Group(worlds.try_fast, quick=20, faults=200),
        "parts": Group(independence.try_parts, quick=2, faults=3),
        "hostile": Group(intruders.try_corpus, quick=10, faults=1),
    }


def describe(results: Mapping[str, Trials]) -> list[str]:
    """The table, as Markdown, what failed, and what was not tried."""
    rows = [("name", "guarantee", "trials", "failures", "seconds")]
    rows += [(name, trials.guarantee + _kinds(trials), f"{trials.count:,}", str(len(trials.failures)),
              f"{trials.seconds:.0f}") for name, trials in results.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    lines += [f"failed: {name}: {failure}" for name, trials in results.items() for failure in trials.failures[:20]]
    return [*lines, "", "Not tried here:", *(f"- {what}" for what in NOT_COVERED)]


def _kinds(trials: Trials) -> str:
    return f" ({', '.join(f'{kind} {count}' for kind, count in trials.kinds.items())})" if trials.kinds else ""


def as_json(results: Mapping[str, Trials], *, thorough: bool, seed: int) -> dict[str, Any]:
    """For --out: everything, and what it was tried on."""
    process = describe_process()
    return {"kind": "selftest", "thorough": thorough, "seed": seed, "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "versions": {name: process[name] for name in ("brics", "python", "torch", "numpy", "pillow")},
            "results": {name: {"guarantee": trials.guarantee, "trials": trials.count, "failures": trials.failures,
                               "kinds": trials.kinds, "seconds": round(trials.seconds, 1)}
                        for name, trials in results.items()}}
