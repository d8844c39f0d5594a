"""Several processes: results in order, errors passed on, nobody left behind."""

import operator
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from bricscli.data.workers import map_in_order
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
