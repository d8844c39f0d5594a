"""Serves the page: on 127.0.0.1, behind the guard, with files in one private folder that is gone afterwards."""

import fcntl
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bricscli.errors import DataError, RecipeError
from bricscli.page.desk import Choice, Desk
from bricscli.page.guard import MOST_BYTES, Guard
from bricscli.run.log import say
from bricscli.tasks.inpainter import Inpainter

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


def serve(inpainter: Inpainter, words: Sequence[str], first: Choice, port: int) -> None:
    """Until Ctrl-C or SIGTERM. `words`: those of the command that chose the models. Raises as `bind` and `Desk`."""
    with private_folder() as folder, bind(port) as listening:
        desk, port = Desk(inpainter, words, folder, first), listening.getsockname()[1]
        try:
            _run(build_app(desk, port), desk, listening, port)
        finally:
            desk.close()


def build_app(desk: Desk, port: int) -> Guard:
    """The whole ASGI application; all files it makes or hands out are in the desk's folder."""
    os.environ.update(GRADIO_TEMP_DIR=str(desk.folder), GRADIO_ANALYTICS_ENABLED="False", GRADIO_SSR_MODE="False",
                      GRADIO_RUN_HISTORY="False", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")
    tempfile.tempdir = str(desk.folder)
    import fastapi
    import gradio as gr

    from bricscli.page import layout

    outside: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = gr.mount_gradio_app(
        fastapi.FastAPI(**outside), layout.build_page(desk), path="/", server_name="127.0.0.1", server_port=port,
        app_kwargs=outside, allowed_paths=[], show_error=False, max_file_size=MOST_BYTES, ssr_mode=False,
        footer_links=[], run_history=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=layout.THEME,
        css=layout.CSS)
    return Guard(app, port, desk.folder)


def _run(app: Guard, desk: Desk, listening: socket.socket, port: int) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(f"http://127.0.0.1:{port}/ is the page. Ctrl-C ends it.")

        def handle_exit(self, sig: int, frame: Any) -> None:
            for key in list(desk.guests):
                desk.stop(key)
            super().handle_exit(sig, frame)

    config = uvicorn.Config(app, log_level="critical", access_log=False, server_header=False, date_header=False,
                            proxy_headers=False, ws="none", timeout_graceful_shutdown=2, lifespan="on")
    # uvicorn raises the signal that ended it once more.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Server(config).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
