"""Children of this process that are killed, or refused by the disk, at a moment that is chosen."""

import errno
import os
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bricscli.errors import BricsError

#: What a commit is made of, as `os` calls it.
CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
KILL, ENOSPC, EIO = "SIGKILL", "ENOSPC", "EIO"
#: Exit code of a child that failed in a way that no command may.
BUG = 99


@dataclass(frozen=True)
class Trap:
    """What happens instead of the `nth` of those calls, counted from 1; 0: nothing, they are only counted."""

    nth: int = 0
    fault: str = KILL

    def set(self) -> Callable[[], int]:
        """Watches the calls of this process from now on; returns how many there were."""
        lock, calls = threading.Lock(), 0

        def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def replacement(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                with lock:
                    calls += 1
                    now = calls == self.nth
                if now:
                    self._spring(name, call, arguments)
                return call(*arguments, **options)

            return replacement

        for name in CALLS:
            setattr(os, name, watched(name, getattr(os, name)))
        return lambda: calls

    def _spring(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if self.fault == KILL:
            if name == "write":  # torn in the middle
                call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        number = getattr(errno, self.fault)
        raise OSError(number, os.strerror(number))


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, negative for a signal; its calls, where it lived to tell; what it took.

    `seconds` by the clock, `processor` of a processor; `memory` at the most, bytes.
    """

    code: int
    calls: int
    seconds: float
    processor: float
    memory: int

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def run_child(action: Callable[[], object], log: Path, *, trap: Trap | None = None, kill_after: float | None = None
              ) -> Ended:
    """Runs `action` in a fork of this process, which must not have threads; what it says is added to `log`.

    `kill_after`: seconds until it gets SIGKILL, if it has not ended by then.
    """
    read, write = os.pipe()
    started = time.monotonic()
    child = _fork()
    if child == 0:
        os.close(read)
        _live(action, log, trap, write)
    os.close(write)
    code, used = _wait(child, None if kill_after is None else started + kill_after)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Ended(code, int(said or 0), time.monotonic() - started, used.ru_utime + used.ru_stime, memory)


def start_child(action: Callable[[], object], log: Path) -> int:
    """Like `run_child`, but does not wait: returns the process id, for `finish_child`."""
    child = _fork()
    if child == 0:
        _live(action, log, None, None)
    return child


def finish_child(child: int, timeout: float) -> int:
    """Waits so many seconds, then kills. Returns the exit code, negative for a signal."""
    return _wait(child, time.monotonic() + timeout)[0]


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads: torch's, which are idle
        return os.fork()


def _live(action: Callable[[], object], log: Path, trap: Trap | None, tell: int | None) -> None:
    """The life of a child."""
    code = BUG
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        write = os.write
        count = trap.set() if trap else lambda: 0
        try:
            action()
            code = 0
        except BricsError as error:
            print(*error.lines, sep="\n", file=sys.stderr)
            code = error.exit_code
        except SystemExit as end:  # of a whole command
            code = end.code if isinstance(end.code, int) else 0
        if tell is not None:
            write(tell, str(count()).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, until: float | None) -> tuple[int, resource.struct_rusage]:
    while until is not None:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), used
        left = until - time.monotonic()
        if left <= 0:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(min(left, 0.002))
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used
