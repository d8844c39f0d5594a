"""Serves the page: on 127.0.0.1, behind the guard, until Ctrl-C."""

import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from typing import Any

from bricscli.page.desk import Choice, Desk
from bricscli.page.guard import MOST_BYTES, Guard
from bricscli.page.place import bind, private_folder
from bricscli.run.log import say
from bricscli.tasks.inpainting.inpainter import Inpainter


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
