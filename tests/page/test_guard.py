"""Every request that the page did not make is refused, before anything else sees it."""

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from bricscli.page import guard
from bricscli.page.guard import MOST_BYTES, Guard, Receive, Send

PORT, FOLDER = 7860, Path("/private/folder")
HERE = {"host": f"127.0.0.1:{PORT}"}
JSON = {"content-type": "application/json"}


class Inner:
    """What is behind the guard: remembers who came, answers 200 with headers that must not get out."""

    def __init__(self) -> None:
        self.seen: list[MutableMapping[str, Any]] = []
        self.messages: list[MutableMapping[str, Any]] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        if scope["type"] == "http":
            if scope["method"] == "POST":
                self.messages.append(await receive())
            await send({"type": "http.response.start", "status": 200,
                        "headers": [(b"Access-Control-Allow-Origin", b"*"), (b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"secret"})


def ask(headers: dict[str, str] | list[tuple[str, str]], method: str = "GET", path: str = "/", kind: str = "http",
        silent: bool = False) -> tuple[int, dict[str, str], bytes, Inner]:
    """Status, headers and body of the answer, and what came through."""
    inner = Inner()
    sent: list[MutableMapping[str, Any]] = []
    pairs = list(headers.items()) if isinstance(headers, dict) else headers

    async def receive() -> MutableMapping[str, Any]:
        if silent:
            await asyncio.sleep(3600)
        return {"type": f"{kind}.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path,
             "headers": [(name.encode(), value.encode()) for name, value in pairs]}
    asyncio.run(Guard(inner, PORT, FOLDER)(scope, receive, send))
    start: MutableMapping[str, Any] = {"status": 0, "headers": []}
    start = next((message for message in sent if "status" in message), start)
    body = b"".join(message.get("body", b"") for message in sent)
    return start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, body, inner


WAYS = [("GET", "/"), ("GET", "/config"), ("GET", "/gradio_api/queue/data"), ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/upload"), ("GET", f"/gradio_api/file={FOLDER}/a/picture.png"), ("DELETE", "/"),
        ("OPTIONS", "/gradio_api/upload")]
FOREIGN = {
    "another name": {"host": "evil.example"},
    "another name, our port": {"host": f"evil.example:{PORT}"},
    "a name that begins like ours": {"host": f"localhost.evil.example:{PORT}"},
    "an address that begins like ours": {"host": f"127.0.0.1.evil.example:{PORT}"},
    "every address": {"host": f"0.0.0.0:{PORT}"},
    "another port": {"host": "127.0.0.1:7861"},
    "no port": {"host": "127.0.0.1"},
    "a user before the host": {"host": f"evil@127.0.0.1:{PORT}"},
    "no host": {},
    "an empty host": {"host": ""},
    "the origin of another site": HERE | {"origin": "https://evil.example"},
    "another origin that names us": HERE | {"origin": f"http://evil.example/127.0.0.1:{PORT}"},
    "the origin null": HERE | {"origin": "null"},
    "our name by https": HERE | {"origin": f"https://127.0.0.1:{PORT}"},
    "another port's origin": HERE | {"origin": "http://127.0.0.1:7861"},
    "an origin without its scheme": HERE | {"origin": f"127.0.0.1:{PORT}"},
    "an empty origin": HERE | {"origin": ""},
    "fetched by another site": HERE | {"sec-fetch-site": "cross-site"},
    "fetched from another port": HERE | {"sec-fetch-site": "same-site"},
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize(("method", "path"), WAYS)
def test_strangers_are_refused(what: str, method: str, path: str) -> None:
    status, headers, body, inner = ask(FOREIGN[what], method, path)
    assert status == 403 and inner.seen == [] and b"secret" not in body and body.endswith((b"name.", b"may."))
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_of_two_hosts_or_origins_neither_counts() -> None:
    ours, evil = ("host", HERE["host"]), ("host", "evil.example")
    mine, other = ("origin", f"http://{HERE['host']}"), ("origin", "https://evil.example")
    for headers in ([ours, evil], [evil, ours], [ours, ours], [ours, mine, other], [ours, other, mine]):
        assert ask(headers)[0] == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
def test_the_page_itself_is_answered(name: str) -> None:
    host = f"{name}:{PORT}"
    for method, path in WAYS[:6]:
        for more in ({}, {"origin": f"http://{host}", "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
            status, _, body, inner = ask({"host": host, "content-length": "5", **JSON, **more}, method, path)
            assert (status, body, len(inner.seen)) == (200, b"secret", 1)


def test_a_link_from_elsewhere_opens_the_page_and_nothing_else() -> None:
    link = HERE | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(link)[0] == 200
    assert {ask(link, path="/config")[0], ask(link, "POST", "/gradio_api/upload")[0]} == {403}


def test_websockets_are_refused_even_from_here() -> None:
    for headers in (HERE, FOREIGN["another name"]):
        assert ask(headers, kind="websocket")[3].seen == []


def test_only_what_the_page_asks_for_is_there() -> None:
    post = HERE | {"content-length": "1"}
    for path in ("/docs", "/openapi.json", "/monitoring", "/login", "/gradio_api/proxy=http://10.0.0.1/", "/assetsx",
                 "/gradio_api/file=http://10.0.0.1/", "/gradio_api/file=/etc/passwd", "/gradio_api/run/predict",
                 f"/gradio_api/file={FOLDER}/../x", f"/gradio_api/file={FOLDER}x/y", f"/gradio_api/file={FOLDER}",
                 f"/gradio_api/file={FOLDER}/%2e%2e/x", f"/gradio_api/file={FOLDER}/a/../../x", "/assets/../config",
                 "/gradio_api/file/etc/passwd"):
        assert ask(HERE, path=path)[0] == 404, path
    for path in ("/", "/login", "/gradio_api/vibe-edit/", "/gradio_api/run/fill", "/gradio_api/process_recording"):
        assert ask(post, "POST", path)[0] == 404, path
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"):
        assert ask(post, method)[0] == 405, method


def test_bodies_say_how_long_they_are_and_are_not_too_long() -> None:
    def upload(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(HERE | JSON | named, "POST", "/gradio_api/upload")[0]

    assert upload() == 411
    assert [upload(content_length=text) for text in ("-1", "1e3", "", "٣", "5, 5")] == [411] * 5
    assert upload(content_length="5", transfer_encoding="chunked") == 411
    assert upload(content_length=str(MOST_BYTES)) == 200
    assert [upload(content_length=text) for text in (str(MOST_BYTES + 1), "9" * 5000)] == [413, 413]


def test_bodies_are_what_the_page_sends() -> None:
    def send(*kinds: str) -> int:
        headers = [*HERE.items(), ("content-length", "5"), *(("content-type", kind) for kind in kinds)]
        return ask(headers, "POST", "/gradio_api/upload")[0]

    assert [send("application/json; charset=utf-8"), send("multipart/form-data; boundary=x")] == [200, 200]
    for kinds in ((), ("",), ("text/plain",), ("application/x-www-form-urlencoded",), ("image/png",), ("text/html",),
                  ("application/json", "text/plain"), ("x; application/json",)):
        assert send(*kinds) == 415, kinds


def test_a_sender_of_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_SECONDS", 0.05)
    inner = ask(HERE | JSON | {"content-length": "9"}, "POST", "/gradio_api/upload", silent=True)[3]
    assert [message["type"] for message in inner.messages] == ["http.disconnect"]


def test_answers_are_for_this_page_alone() -> None:
    for status, headers, _, _ in (ask(HERE), ask(HERE, path="/nothing")):
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy, status
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin" and headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_what_a_proxy_would_say_is_not_believed() -> None:
    inner = ask(HERE | {"x-forwarded-host": "evil.example", "X-Forwarded-Proto": "https", "forwarded": "host=e"})[3]
    assert [name for name, _ in inner.seen[0]["headers"]] == [b"host"]
