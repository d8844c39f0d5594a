"""A server of files on this machine that misbehaves as real ones do, and one that nobody must ask."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Site:
    """What a server has, does, and was asked."""

    port: int
    folder: Path
    asked: list[tuple[str, str | None]] = field(default_factory=list)  #: path, Range
    drop_after: float | None = None  #: share of a body after which the connection ends
    stalls: int = 0  #: so many bodies stall after half, and do not end
    codes: list[int] = field(default_factory=list)  #: of the first answers
    location: str | None = None
    etag: Callable[[int], str] = lambda number: '"one"'  #: by the number of the request
    body: Callable[[str, bytes], bytes] = lambda path, body: body
    gate: threading.Event | None = None  #: every shard waits for it
    released: threading.Event = field(default_factory=threading.Event)  #: lets go of what stalls

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def shards(self) -> list[str]:
        return [path for path, _ in self.asked if path.endswith(".tar")]


def handler_of(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            site.asked.append((self.path, self.headers["Range"]))
            etag = site.etag(len(site.asked))
            if site.gate is not None and self.path.endswith(".tar"):
                site.gate.wait(20)
            if site.codes and (code := site.codes.pop(0)) != 200:
                self.send_response(code)
                if site.location:
                    self.send_header("Location", site.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            try:
                whole = site.body(self.path, (site.folder / self.path.partition("?")[0].lstrip("/")).read_bytes())
            except OSError:
                self.send_error(404)
                return
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            start = int(wanted[1]) if wanted and self.headers["If-Range"] == etag else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
            self.send_header("Content-Length", str(len(whole) - start))
            self.send_header("ETag", etag)
            self.end_headers()
            most = len(whole) if site.drop_after is None else int(len(whole) * site.drop_after)
            if site.stalls:
                site.stalls -= 1
                self.wfile.write(whole[start : start + len(whole) // 2])
                site.released.wait(60)
            else:
                self.wfile.write(whole[start : start + most])

    return Handler


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    """`serve("name")` is a server of the folder of that name."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread, Site]] = []

    def start(name: str) -> Site:
        http = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        site = Site(http.server_address[1], tmp_path / name)
        site.folder.mkdir(exist_ok=True)
        http.RequestHandlerClass = handler_of(site)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        running.append((http, thread, site))
        return site

    yield start
    for http, thread, site in running:
        site.released.set()
        http.shutdown()
        http.server_close()
        thread.join(10)


@pytest.fixture
def fast_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pauses, no proxies, no settings of this machine, and a cache that is new."""
    from bricscli import download

    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("BRICS_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
                 "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
                 "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                 "AWS_CONTAINER_CREDENTIALS_FULL_URI", "BRICS_ALLOW_HOSTS"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
