"""SIGKILL at any moment, the same command again: the bytes of a run that was never stopped.

Kills at random times hardly ever meet what is short and dangerous, so half of them are aimed: at the first
milliseconds of a process, when it reads what was left, and at the calls of commits, one of them at a time.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from unittest.mock import patch

from bricscli.selftest.children import Ended, Trap, run_child
from bricscli.selftest.trials import Bench, Trials
from bricscli.selftest.workload import STAGES, Undisturbed, compare, differences, digest_tree

#: After so many kills a trial is left to end, so that it does.
MOST_KILLS = 12
#: Seconds into a process that count as its start-up.
START_UP = 0.004, 0.05


def try_kills(bench: Bench, stages: dict[str, Undisturbed], kills: int) -> Trials:
    """At least so many kills of every stage."""
    trials = Trials("Killed at any moment and run again, every stage ends with the bytes of an undisturbed one")
    with trials.timed():
        for stage in stages.values():
            dice, done, number = bench.dice(f"kills {stage.stage}"), 0, 0
            while done < kills:
                bench.progress(f"{stage.stage}: {done} of {kills} kills")
                root = bench.folder / f"killed-{stage.stage}-{number}"
                done += _try_one(bench, trials, stage, root, dice)
                number += 1
            trials.tell(stage.stage, done)
    return trials


def _try_one(bench: Bench, trials: Trials, stage: Undisturbed, root: Path, dice: Random) -> int:
    """A stage, killed and run again until it ends; returns how often it was killed."""
    place, killed, attempts = stage.begin(root), 0, 0
    go = partial(STAGES[stage.stage], place)
    while True:
        ended, aim = _disturb(go, stage, bench.log, dice, attempts if killed < MOST_KILLS else None)
        attempts += 1
        if ended.killed:
            killed += 1
            trials.tell(aim)
            continue
        if ended.code != 0:
            trials.add(f"{stage.stage}: after {killed} kills it failed with exit code {ended.code} ({root})", killed)
            return max(killed, 1)
        break
    failure = compare(digest_tree(root), stage.after, f"{stage.stage} after {killed} kills ({root})")
    trials.add(failure, killed)
    if failure is None:
        shutil.rmtree(root)
    return killed


def _disturb(go: Callable[[], None], stage: Undisturbed, log: Path, dice: Random, attempt: int | None
             ) -> tuple[Ended, str]:
    """One attempt. By turns: at start-up, at a time during the work, at a call of a commit, at a time."""
    if attempt is None:
        return run_child(go, log), ""
    if attempt % 4 == 0:
        return run_child(go, log, kill_after=dice.uniform(*START_UP)), "at start-up"
    if attempt % 4 == 2:
        return run_child(go, log, trap=Trap(dice.randint(1, max(1, stage.calls)))), "at a commit's call"
    return run_child(go, log, kill_after=dice.uniform(0.1, 0.6) * stage.seconds), "at work"


# The trials tried: would they notice?

#: What a run may forget when it goes on.
BUGS = ("random numbers", "the position in the data", "the optimiser's state")


def try_planted_bugs(bench: Bench, stages: dict[str, Undisturbed]) -> Trials:
    """Three bugs, each in both trainings: a run that is killed must end otherwise than one that is not."""
    trials = Trials("The trial by kills notices a run that forgets something when it goes on")
    with trials.timed():
        for bug in BUGS:
            for name in ("train-ae", "train-diffusion"):
                bench.progress(f"{name} forgets {bug}")
                stage = stages[name]
                trees = [_with_bug(bug, bench, stage, kill) for kill in (0, stage.calls * 3 // 5)]
                trials.add(None if differences(*trees) else f"{name}: nobody noticed that it forgets {bug}")
    return trials


def _with_bug(bug: str, bench: Bench, stage: Undisturbed, kill: int) -> dict[str, str]:
    """What a stage with a bug leaves, killed once at that call; 0: never."""
    root = bench.folder / f"planted-{stage.stage}"
    place = stage.begin(root)

    def go() -> None:
        with planted(bug):
            STAGES[stage.stage](place)

    ended = run_child(go, bench.log, trap=Trap(kill))
    if kill and ended.killed:
        ended = run_child(go, bench.log)
    tree = digest_tree(root) if ended.code == 0 else {"exit code": str(ended.code)}
    shutil.rmtree(root)
    return tree


@contextlib.contextmanager
def planted(bug: str) -> Iterator[None]:
    """Inside, training forgets something when it goes on."""
    from bricscli.data.loader import BatchReader
    from bricscli.runtime import generator_for

    counter = iter(range(1_000_000))
    if bug == BUGS[0]:
        with patch("bricscli.training.steps.generator_for", lambda *_: generator_for(0, "since start", next(counter))):
            yield
    elif bug == BUGS[1]:
        batch = BatchReader.batch
        with patch.object(BatchReader, "batch", lambda reader, step: batch(reader, next(counter))):
            yield
    else:
        with patch("bricscli.training.learner.load_optimiser_tensors", lambda *_: None):
            yield
