"""This command several times at once, on this machine: `--devices N`.

The copies are fresh processes of the same program with the same words, told apart by their environment. They are in a
process group of their own, so that Ctrl-C reaches this process alone, which passes it on; and each ends when this one
is gone, however that came. Only the first copy speaks; what the others have to say is heard where they fail first.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO

from bricscli.errors import BricsError

#: In a copy: the process that started it.
PARENT = "BRICS_PARENT"
#: In copies that work as one: the file in which they meet.
RENDEZVOUS = "BRICS_RENDEZVOUS"
#: So many processes for each core of the processor, and at least so many, are more than can be meant.
MOST_PER_CORE, MOST_ANYWHERE = 4, 8
#: Seconds that the others have for what they do, once one has failed.
GRACE = 10.0
#: Seconds between two looks at the copies.
_PAUSE = 0.05


class CopyFailed(BricsError):
    """A copy failed, and has said why; the exit code is its own."""

    def __init__(self, code: int, *problems: str) -> None:
        super().__init__(*problems)
        self.exit_code = code

    @property
    def lines(self) -> list[str]:
        return super().lines if str(self) else []


def most_copies() -> int:
    """How many processes without a GPU may be asked for here: each has some hundred megabytes of its own."""
    return max(MOST_ANYWHERE, MOST_PER_CORE * cores())


def cores() -> int:
    """Of the processor, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_copies(words: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]) -> None:
    """Runs `brics *words[i]` with `environments[i]` added to the environment, for each i, and waits for all of them.

    SIGINT and SIGTERM are passed on to all. Where one fails the others are given `GRACE` seconds, then killed. Raises
    CopyFailed with the exit code of the first that failed, and a line where nobody else has said what happened.
    """
    with tempfile.TemporaryDirectory(prefix="brics-") as folder:
        unheard = [open(os.path.join(folder, str(i)), "w+b") for i in range(len(words))]  # noqa: SIM115
        copies = [_start(list(some), environment, None if i == 0 else unheard[i])
                  for i, (some, environment) in enumerate(zip(words, environments, strict=True))]
        try:
            with _passed_on(copies) as stopped:
                failed = _wait(copies)
                if failed is not None:
                    _give_grace(copies)
        finally:
            for copy in copies:
                if copy.poll() is None:
                    copy.kill()
                copy.wait()
        if failed is not None:
            raise _describe(failed, copies[failed].returncode, len(copies), unheard[failed], stopped())


def run_world(count: int, option: str) -> None:
    """Runs this command as `count` processes that work as one, without the option that asked for it (`--devices`).

    They meet in a file and talk over the loopback interface: nothing listens to other machines. Each gets its share of
    the processor's cores. Raises CopyFailed.
    """
    words, loopback = typed(option), "lo0" if sys.platform == "darwin" else "lo"
    with tempfile.TemporaryDirectory(prefix="brics-") as folder:
        shared = {RENDEZVOUS: os.path.join(folder, "meeting"), "WORLD_SIZE": str(count),
                  "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback,
                  "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // count)))}
        run_copies([words] * count, [shared | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)])


def follow_parent() -> None:
    """In a copy: ends this process as soon as the one that started it is gone. Elsewhere nothing."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return

    def follow() -> None:
        while os.getppid() == int(parent):
            time.sleep(_PAUSE * 4)
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="brics-parent").start()


def typed(*without: str) -> list[str]:
    """The words of this command line, but for options that are named, with their values."""
    kept, rest = list[str](), iter(sys.argv[1:])
    for word in rest:
        if word in without:
            next(rest, None)
        elif word.partition("=")[0] not in without:
            kept.append(word)
    return kept


def _start(words: list[str], environment: Mapping[str, str], unheard: IO[bytes] | None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "bricscli", *words], stdin=subprocess.DEVNULL,
        stdout=None if unheard is None else subprocess.DEVNULL, stderr=unheard, start_new_session=True,
        env={**os.environ, PARENT: str(os.getpid()), **environment})


@contextmanager
def _passed_on(copies: Sequence["subprocess.Popen[bytes]"]) -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM go to the copies; yields whether one came."""
    came: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for copy in copies:
            if copy.poll() is None:
                copy.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(copies: Sequence["subprocess.Popen[bytes]"]) -> int | None:
    """Until all are done, or one has failed: which."""
    while True:
        codes = [copy.poll() for copy in copies]
        failed = [i for i, code in enumerate(codes) if code]
        if failed:
            return failed[0]
        if None not in codes:
            return None
        time.sleep(_PAUSE)


def _give_grace(copies: Sequence["subprocess.Popen[bytes]"]) -> None:
    until = time.monotonic() + GRACE
    while time.monotonic() < until and any(copy.poll() is None for copy in copies):
        time.sleep(_PAUSE)


def _describe(number: int, code: int, count: int, unheard: IO[bytes], stopped: bool) -> CopyFailed:
    who = f"process {number + 1} of {count}"
    if code < 0 and not stopped:
        name = signal.Signals(-code).name
        why = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
        return CopyFailed(1, f"{who}: was ended by {name}{why}. What is finished is kept: run the same command again.")
    if code < 0:
        return CopyFailed(130)
    if number == 0:
        return CopyFailed(code)  # it has been heard
    unheard.seek(0)
    lines = [line for line in unheard.read().decode(errors="replace").splitlines() if line.strip()]
    return CopyFailed(code, *(f"{who}: {line.removeprefix('brics: ')}" for line in lines[-20:]))
