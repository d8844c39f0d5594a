"""Every hostile file of the corpus is given to the command that reads such files: nothing gets in, one line says so.

No code runs (a marker would show it), nobody is connected to, nothing is left behind, memory and time have an end, and
what is printed drives no terminal.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bricscli.selftest.hostile import MARKER, Case, build_corpus

MOST_MEMORY = 512 << 20
#: Of processor; those that read a checkpoint load torch once more, which takes two of them.
MOST_SECONDS = 5.0

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="session")
def corpus(folder: Path, listener: tuple[str, list[Any]], diffusion_run: Path) -> list[Case]:
    return build_corpus(folder, address=listener[0], run=diffusion_run)


def check(case: Case, run: Run, marker: Path, came: list[Any], baseline: int) -> list[str]:
    """What is not as it must be."""
    before = {*case.place.rglob("*")}
    done = run(case.place, *case.words)
    said = [line for line in done.err.splitlines() if line.startswith("brics: ") and "brics: warning:" not in line]
    control = re.findall(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", done.err + done.out)
    left = {*case.place.rglob("*")} - before
    problems = {
        "a marker": marker.exists(), "a connection": bool(came), f"exit code {done.code}": done.code not in case.codes,
        f"{len(said)} lines": not 1 <= len(said) <= 52 or any(said.count(line) > 1 for line in said),
        "a traceback": "Traceback" in done.err, f"control characters {control}": bool(control),
        f"{case.says!r} is not said": case.says not in " ".join(said) or not case.says,
        f"{(done.memory - baseline) >> 20} MiB": done.memory - baseline > MOST_MEMORY,
        f"{done.seconds:.1f} s": done.seconds > MOST_SECONDS,
        f"left {sorted(left)}": bool(left), "a file elsewhere": any(marker.parent.parent.glob("**/evil*")),
    }
    return [f"{case.kind}/{case.name}: {what}: {done.err[-600:]}" for what, wrong in problems.items() if wrong]


KINDS = {"recipe": 14, "manifest": 14, "metadata": 9, "run": 7, "statistics": 8, "tar": 16, "zip": 11, "lmdb": 9,
         "image": 16, "mask": 8, "video": 11, "checkpoint": 20}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_gets_in(kind: str, corpus: list[Case], run: Run, folder: Path,
                         listener: tuple[str, list[Any]]) -> None:
    baseline = run(folder, "--version").memory
    problems = [problem for case in corpus if case.kind == kind
                for problem in check(case, run, folder / MARKER, listener[1], baseline)]
    assert problems == [], "\n\n".join(problems)


def test_the_corpus_is_as_large_as_it_is_said_to_be(corpus: list[Case]) -> None:
    assert dict(Counter(case.kind for case in corpus)) == KINDS and len(corpus) >= 60
