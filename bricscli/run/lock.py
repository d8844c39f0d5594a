"""One process at a time in a folder."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bricscli import files
from bricscli.errors import BricsError

LOCK = "run.lock"
#: Locks this process holds. A child made by fork must let go, or it would hold a dead parent's lock.
_locks: set[int] = set()


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps others out of `folder` for as long as the block or this process lives. Raises BricsError if one is in.

    Also removes what killed processes left behind in it. Raises BricsError where the disk is full or refuses as well.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise files.disk_error(folder / LOCK, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise BricsError(f"{folder}: is in use by {holder}. Wait until it ends, or stop it.") from None
    _locks.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S%z")
        with suppress(OSError):  # a full disk: the lock holds all the same, but without a name
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)
        files.sweep(folder)
        yield
    finally:
        if descriptor in _locks:  # not in a child made by fork
            _locks.discard(descriptor)
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


def _close_inherited_locks() -> None:
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_close_inherited_locks)
