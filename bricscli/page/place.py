"""What the page needs of this machine: its components, a port of loopback, and a private folder gone afterwards."""

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from bricscli.errors import DataError, RecipeError

PREFIX = "brics-page-"


def check_installed() -> None:
    """Raises DataError where the page's components are not installed."""
    if find_spec("gradio") is None:
        raise DataError("--ui: the page is made of gradio, which is not installed. Install it with "
                        "`pip install 'brics[ui]'`.")


def bind(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 is any that is free. Raises RecipeError where it is taken."""
    if not 0 <= port <= 65535:
        raise RecipeError(f"--port: {port} is out of range. Choose 1024 to 65535, or 0 for any that is free.")
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        raise RecipeError(f"--port: {port} cannot be used ({error.strerror}). Choose another, or 0 for any that is "
                          "free.") from None
    return listening


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of mode 0700 that is removed at the end; those of killed processes are removed now.

    A process holds a lock on its folder while it lives, so that another one's is known to be left behind.
    """
    remove_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    handle, before = os.open(folder, os.O_RDONLY), tempfile.tempdir
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_left_behind() -> None:
    """Removes this person's folders that no process holds."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)
