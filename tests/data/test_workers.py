"""Several processes, or a thread: results in order, errors passed on, nobody left behind."""

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bricscli.data.workers import map_behind, map_in_order
from bricscli.errors import BricsError


# The functions are the standard library's: a worker process must be able to import them, and not every way of running
# pytest lets it import this file.
@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    assert list(map_in_order(operator.neg, range(100), workers)) == [-number for number in range(100)]


def test_little_work_is_done_here() -> None:
    here: list[int] = []
    list(map_in_order(here.append, range(10)))
    assert here == list(range(10))


def test_an_error_of_the_function_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(partial(operator.truediv, 1), range(-20, 44), 2))


def test_a_killed_worker_is_an_error_and_no_hang() -> None:
    signals = [signal.SIGCHLD] * 64  # which a process ignores
    assert list(map_in_order(signal.raise_signal, signals, 2)) == [None] * 64
    signals[20] = signal.SIGKILL
    with pytest.raises(BricsError, match="workers: one was killed"):
        list(map_in_order(signal.raise_signal, signals, 2))


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from bricscli.data.workers import map_in_order\n"
        "def pid(_):\n    time.sleep(0.01)\n    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    for process in map_in_order(pid, range(100_000), 2):\n        print(process, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:  # a zombie that nobody has collected is dead as well
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_behind_while_the_next_is_made() -> None:
    """In order, in one other thread, and never more than two items ahead of what was handed back."""
    made, done = list[int](), list[int]()

    def make() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    def work(number: int) -> tuple[int, int]:
        time.sleep(0.002)
        done.append(number)
        return number, threading.get_ident()

    results = []
    for result in map_behind(work, make()):
        results.append(result)
        assert len(made) - len(results) <= 2
    assert [number for number, _ in results] == made == done == list(range(20))
    assert {thread for _, thread in results} - {threading.get_ident()} == {results[0][1]}
    assert list(map_behind(work, [])) == []


def test_behind_works_while_the_next_is_made() -> None:
    """The making of item 1 waits for the work on item 0: it would wait for ever if one came after the other."""
    worked = threading.Event()

    def make() -> Iterator[int]:
        yield 0
        assert worked.wait(30)
        yield 1

    def work(number: int) -> int:
        worked.set()
        return number

    assert list(map_behind(work, make())) == [0, 1]


def test_errors_behind_come_up_with_the_next_item_and_nothing_is_lost() -> None:
    made, done = list[int](), list[int]()

    def make() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    def work(number: int) -> None:
        if number == 3:
            raise OSError("full")
        done.append(number)

    with pytest.raises(OSError, match="full"):
        list(map_behind(work, make()))
    assert len(made) == 5 and done == [0, 1, 2, 4]

    def interrupted() -> Iterator[int]:
        yield 7
        yield 8
        raise KeyboardInterrupt

    done.clear()
    with pytest.raises(KeyboardInterrupt):
        list(map_behind(work, interrupted()))
    assert done == [7, 8]
