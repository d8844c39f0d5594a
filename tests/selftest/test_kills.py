"""The trials themselves: they count what happens, and they notice what must not."""

import os
import signal
import time
from pathlib import Path

import pytest

from bricscli import files
from bricscli.errors import DataError
from bricscli.selftest.children import BUG, EIO, KILL, Trap, run_child
from bricscli.selftest.commits import Commit, try_commits
from bricscli.selftest.kills import BUGS, _with_bug, try_kills
from bricscli.selftest.trials import Bench
from bricscli.selftest.workload import Undisturbed, differences, digest_tree


def test_a_child_tells_how_it_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def fail() -> None:
        raise DataError("there: nothing. Look elsewhere.")

    assert run_child(lambda: None, log).code == 0
    assert run_child(fail, log).code == 3 and "there: nothing" in log.read_text()
    assert run_child(lambda: 1 / 0, log).code == BUG and "ZeroDivisionError" in log.read_text()
    assert run_child(lambda: time.sleep(60), log, kill_after=0.01).killed
    assert run_child(lambda: os.kill(os.getpid(), signal.SIGTERM), log).code == -signal.SIGTERM


def test_a_trap_springs_once_at_its_call(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "x"

    def write() -> None:
        files.write_bytes(path, b"12345678")

    calls = run_child(write, log, trap=Trap()).calls
    assert calls >= 5
    path.unlink()
    assert run_child(write, log, trap=Trap(3, EIO)).code == 1
    ended = [run_child(write, log, trap=Trap(nth, KILL)) for nth in range(1, calls + 2)]
    assert [end.killed for end in ended] == [True] * calls + [False]


def test_kills_lose_nothing(bench: Bench, stages: dict[str, Undisturbed]) -> None:
    trials = try_kills(bench, stages, kills=1)
    assert trials.failures == []
    assert trials.count == sum(trials.kinds[stage] for stage in stages) >= len(stages)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(bench: Bench, stages: dict[str, Undisturbed], bug: str) -> None:
    stage = stages["train-ae"]
    assert differences(*(_with_bug(bug, bench, stage, kill) for kill in (0, stage.calls * 3 // 5)))


def test_commits_are_all_or_nothing(bench: Bench, stages: dict[str, Undisturbed]) -> None:
    trials = try_commits(bench, stages, every=80)
    assert trials.failures == [] and trials.count > 15


def test_a_torn_commit_is_noticed(bench: Bench, stages: dict[str, Undisturbed],
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written in place, as most programs do."""

    def begin(root: Path) -> None:
        root.mkdir()
        (root / "x").write_bytes(b"old" * 100)

    def make(root: Path) -> None:
        descriptor = os.open(root / "x", os.O_WRONLY | os.O_TRUNC)
        files.write_all(descriptor, b"new" * 100)

    def check(root: Path) -> None:
        assert (root / "x").read_bytes() in (b"old" * 100, b"new" * 100)

    monkeypatch.setattr("bricscli.selftest.commits.commits", lambda stages: [Commit("torn", begin, make, check)])
    failures = try_commits(bench, stages).failures
    assert any("SIGKILL" in failure and "torn" in failure for failure in failures)
    assert any("ENOSPC" in failure and "traceback" in failure for failure in failures)


def test_differences_name_what_is_missing_too_many_or_other(tmp_path: Path) -> None:
    for name, text in (("same", "1"), ("other", "2"), ("run.lock", "7")):
        (tmp_path / name).write_text(text)
    found = digest_tree(tmp_path)
    assert differences(found, found) == []
    assert differences(found, {"same": found["same"], "other": "0", "missing": "0"}) == ["missing", "other"]
    assert differences({**found, "more": "0"}, found) == ["more"]
