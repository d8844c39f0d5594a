"""Who may ask the page's server, and for what: an ASGI application in front of everything else.

A server on loopback can be reached by every web page that the person has open: by a form or a script of that page
(its Origin says so), or under a name of its own that it lets point at 127.0.0.1 (DNS rebinding; the Host says so).
Both are refused, and so is all that the page itself never asks for. Only the standard library is used.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: Bytes of a request's body: a picture file.
MOST_BYTES = 40_000_000
#: Without a byte of a body that was announced.
MOST_SECONDS = 30.0

_FILES = "/gradio_api/file="
#: What the page asks for; those that end in / are followed by a name.
_GET = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/", "/static/",
        "/gradio_api/queue/data", "/gradio_api/heartbeat/", "/gradio_api/upload_progress", "/gradio_api/startup-events",
        "/gradio_api/info")
_POST = ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset",
         "/gradio_api/component_server", "/gradio_api/component_server/")

#: What the page sends: its words, and files. A form of another site cannot send the first without asking before.
_BODIES = ("application/json", "multipart/form-data")

#: A browser that knows these asks nobody else for anything, and shows the page in nobody's frame. Gradio's canvas makes
#: functions of strings ('unsafe-eval'), and its page has scripts in it ('unsafe-inline').
_HEADERS = {
    "content-security-policy":
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' data: blob:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """Passes on to `app` what the page at `port` of this machine asks for; `folder` holds all the files it may get."""

    def __init__(self, app: App, port: int, folder: Path) -> None:
        self.app, self.folder = app, str(folder)
        names = ("127.0.0.1", "localhost", "[::1]")
        self.hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":  # the page has no use for websockets; uvicorn makes 403 of it
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            try:
                self._check(scope)
            except _Refused as refused:
                await _answer(send, refused)
                return
            # What a proxy would say; there is none, and gradio would believe it.
            scope = {**scope, "headers": [header for header in scope["headers"]
                                          if not header[0].lower().startswith((b"x-forwarded", b"forwarded"))]}
            await self.app(scope, _patient(receive) if scope["method"] == "POST" else receive, _hardened(send))

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        """Raises _Refused."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())
        method, path = scope["method"], scope["path"]
        host, origin = headers.get("host", []), headers.get("origin", [])
        if len(host) != 1 or host[0].lower() not in self.hosts:
            raise _Refused(403, "This page is for this machine alone, and was asked for under another name.")
        if len(origin) > 1 or any(value.lower().removeprefix("http://") not in self.hosts or "://" not in value
                                  for value in origin):
            raise _Refused(403, "Another web page asked for this. Only the page itself may.")
        site = headers.get("sec-fetch-site", ["none"])
        followed = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == ["navigate"]  # a link
        if site not in (["none"], ["same-origin"]) and not followed:
            raise _Refused(403, "Another web page asked for this. Only the page itself may.")
        if method not in ("GET", "HEAD", "POST"):
            raise _Refused(405, "There is nothing here for this method.")
        if not (_known(path, _POST) if method == "POST" else _known(path, _GET) or self._holds(path)):
            raise _Refused(404, "There is nothing here of that name.")
        if method == "POST":
            _check_length(headers)
            kind = headers.get("content-type", [""])
            if len(kind) != 1 or kind[0].partition(";")[0].strip().lower() not in _BODIES:
                raise _Refused(415, "The page sends no such thing.")

    def _holds(self, path: str) -> bool:
        """Whether it names a file in the folder."""
        name = path.removeprefix(_FILES)
        return path.startswith(_FILES) and name.startswith(f"{self.folder}/") and ".." not in unquote(name)


def _known(path: str, paths: Iterable[str]) -> bool:
    return ".." not in path and any(path == known or (known[-1] == "/" != known and path.startswith(known))
                                    for known in paths)


def _check_length(headers: dict[str, list[str]]) -> None:
    length = headers.get("content-length", [])
    if len(length) != 1 or not (length[0].isascii() and length[0].isdigit()) or "transfer-encoding" in headers:
        raise _Refused(411, "How much is being sent was not said.")
    if len(length[0]) > 15 or int(length[0]) > MOST_BYTES:
        raise _Refused(413, f"That is more than {MOST_BYTES / 1e6:g} MB. Choose a smaller file.")


async def _answer(send: Send, refused: _Refused) -> None:
    body = refused.reason.encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **_HEADERS}
    await send({"type": "http.response.start", "status": refused.status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()]})
    await send({"type": "http.response.body", "body": body})


def _patient(receive: Receive) -> Receive:
    """Of a body of which nothing more comes it says that the sender has gone."""
    whole = False

    async def wait() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), MOST_SECONDS)
        except TimeoutError:
            message = {"type": "http.disconnect"}
        whole = not message.get("more_body", False)
        return message

    return wait


def _hardened(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", [])
                    if not name.lower().startswith(b"access-control-") and name.lower().decode() not in _HEADERS]
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": kept + added}
        await send(message)

    return answer
