"""Downloads against a server on this machine that misbehaves in every way that real ones do."""

import errno
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bricscli import download as module
from bricscli import files
from bricscli.download import Unreachable, download, download_newest, part_path
from bricscli.errors import BricsError, DataError, InterruptedRun

BYTES = np.random.default_rng(0).bytes(200_000)
OTHER = np.random.default_rng(1).bytes(200_000)
RIGHT = hashlib.sha256(BYTES).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    content: bytes = BYTES
    etag: str | None = '"one"'
    drop_after: int | None = None  #: bytes of every answer after which the connection ends
    changes_at: int | None = None  #: the request at which the content and the ETag become others
    ignores_range: bool = False
    ignores_version: bool = False  #: If-Range
    wrong_length: int = 0  #: added to Content-Length
    codes: list[int] = field(default_factory=list)  #: answers of the first requests
    location: str | None = None
    says_length: bool = True
    asked: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Server:
    url: str
    does: Behaviour


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    does = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            does.asked.append(dict(self.headers))
            self.close_connection = True
            if does.changes_at == len(does.asked):
                does.content, does.etag = BYTES, '"two"'
            if does.codes and (code := does.codes.pop(0)) != 200:
                self.send_response(code)
                if does.location:
                    self.send_header("Location", does.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            same = self.headers["If-Range"] == does.etag or does.ignores_version
            if wanted and not does.ignores_range and same:
                start = int(wanted[1])
            if start >= len(does.content):
                self.send_error(416)
                return
            body = does.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(does.content) - 1}/{len(does.content)}")
            if does.says_length:
                self.send_header("Content-Length", str(len(body) + does.wrong_length))
            if does.etag:
                self.send_header("ETag", does.etag)
            self.end_headers()
            self.wfile.write(body if does.drop_after is None else body[: does.drop_after])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield Server(f"http://127.0.0.1:{http.server_address[1]}/weights.bin", does)
        http.shutdown()
        thread.join(10)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "deep" / "w.bin"
    assert download(server.url, path, sha256=RIGHT, size=len(BYTES), progress=lambda *now: seen.append(now)) == path
    assert path.read_bytes() == BYTES and names(path.parent) == ["w.bin"]
    assert seen[0] == (0, len(BYTES)) and seen[-1] == (len(BYTES), len(BYTES)) and seen == sorted(seen)
    download(server.url, path, sha256=RIGHT)
    assert len(server.does.asked) == 1, "what is there already is not asked for"
    path.write_bytes(OTHER)
    download(server.url, path, sha256=RIGHT)
    assert path.read_bytes() == BYTES, "and what is damaged is replaced"


@pytest.mark.parametrize("size", [None, len(BYTES)])
def test_a_connection_that_drops_at_every_tenth(size: int | None, server: Server, tmp_path: Path) -> None:
    server.does.drop_after = len(BYTES) // 10
    download(server.url, tmp_path / "w.bin", sha256=RIGHT, size=size)
    assert (tmp_path / "w.bin").read_bytes() == BYTES and names(tmp_path) == ["w.bin"]
    starts = [int((asked.get("Range") or "bytes=0-")[6:-1]) for asked in server.does.asked]
    assert starts == [i * len(BYTES) // 10 for i in range(10)], "nothing was sent twice"


def test_a_file_that_changes_meanwhile_starts_again(server: Server, tmp_path: Path) -> None:
    server.does.content, server.does.drop_after, server.does.changes_at = OTHER, len(BYTES) // 2 + 1, 2
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert (tmp_path / "w.bin").read_bytes() == BYTES and names(tmp_path) == ["w.bin"]
    assert [asked.get("If-Range") for asked in server.does.asked] == [None, '"one"', '"two"']


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_server_that_continues_another_file(more: bytes, server: Server, tmp_path: Path) -> None:
    """Its ETag or its length gives it away."""
    server.does.content, server.does.drop_after, server.does.changes_at = OTHER, len(BYTES) // 2 + 1, 2
    server.does.ignores_version = True
    right = hashlib.sha256(BYTES).hexdigest()
    if more:
        server.does.content, server.does.etag = OTHER + more, None
        part_path(tmp_path / "w.bin").write_bytes(OTHER[:1000])
        files.write_json(tmp_path / "w.bin.part.json", {"url": server.url, "version": "a date", "total": 200_004})
        server.does.changes_at, server.does.drop_after = 1, None
    download(server.url, tmp_path / "w.bin", sha256=right)
    assert (tmp_path / "w.bin").read_bytes() == BYTES and names(tmp_path) == ["w.bin"]


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
def test_a_server_that_cannot_continue(etag: str | None, server: Server, tmp_path: Path) -> None:
    """It sends the whole again, which is taken from the beginning; without a version nothing else is asked for."""
    server.does.ignores_range, server.does.etag = True, etag
    server.does.drop_after = len(BYTES) // 2
    with pytest.raises(Unreachable, match=r"connection ended after 100000 of 200000 bytes; 100\.0 kB are kept"):
        download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert ("Range" in server.does.asked[-1]) == (etag == '"one"')
    server.does.drop_after = None
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert (tmp_path / "w.bin").read_bytes() == BYTES


def test_interrupted_and_resumed(server: Server, tmp_path: Path) -> None:
    """The second call asks for the rest only; the SHA-256 is of the whole, so a changed beginning is found."""
    path, part = tmp_path / "w.bin", tmp_path / "w.bin.part"

    def stop(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    for _ in range(2):
        server.does.drop_after = 50_000
        with pytest.raises(InterruptedRun, match=r"w\.bin: interrupted; .* are kept") as caught:
            download(server.url, path, sha256=RIGHT, progress=stop)
        assert caught.value.exit_code == 130 and names(tmp_path) == ["w.bin.part", "w.bin.part.json"]
        kept, server.does.drop_after = part.stat().st_size, None
        asked = len(server.does.asked)
        download(server.url, path, sha256=RIGHT)
        assert server.does.asked[asked]["Range"] == f"bytes={kept}-" and path.read_bytes() == BYTES
        path.unlink()
    with pytest.raises(InterruptedRun):
        download(server.url, path, sha256=RIGHT, progress=stop)
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(BricsError, match="has SHA-256"):
        download(server.url, path, sha256=RIGHT)
    assert names(tmp_path) == []


def test_all_came_but_the_name_was_not_given(server: Server, tmp_path: Path) -> None:
    part = part_path(tmp_path / "w.bin")
    part.write_bytes(BYTES)
    files.write_json(Path(f"{part}.json"), {"url": server.url, "version": '"one"', "total": len(BYTES)})
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert names(tmp_path) == ["w.bin"] and server.does.asked == []


@pytest.mark.parametrize("about", ["{", "[]", '{"url": 1}', '{"url": "URL", "version": 3}',
                                   '{"url": "https://else.where/", "version": "\\"one\\"", "total": 200000}'])
def test_a_part_of_something_else_is_not_continued(about: str, server: Server, tmp_path: Path) -> None:
    part_path(tmp_path / "w.bin").write_bytes(OTHER[:1000])
    (tmp_path / "w.bin.part.json").write_text(about.replace("URL", server.url))
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert (tmp_path / "w.bin").read_bytes() == BYTES and "Range" not in server.does.asked[0]


def test_a_part_longer_than_the_file(server: Server, tmp_path: Path) -> None:
    part_path(tmp_path / "w.bin").write_bytes(BYTES + b"more")
    files.write_json(tmp_path / "w.bin.part.json", {"url": server.url, "version": '"one"', "total": None})
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert (tmp_path / "w.bin").read_bytes() == BYTES and len(server.does.asked) == 2


def test_the_bytes_are_on_the_disk_before_the_name_is_there(server: Server, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    download(server.url, tmp_path / "other", sha256=RIGHT)
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        calls.append(f"-> {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert calls[-3:] == ["w.bin.part", "-> w.bin", tmp_path.name]


def test_other_bytes_are_deleted(server: Server, tmp_path: Path) -> None:
    server.does.content = OTHER
    with pytest.raises(BricsError) as caught:
        download(server.url, tmp_path / "w.bin", sha256=RIGHT, size=len(BYTES))
    (line,) = caught.value.lines
    assert RIGHT in line and hashlib.sha256(OTHER).hexdigest() in line and server.url in line
    assert names(tmp_path) == []


def test_another_size_is_not_even_downloaded(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BricsError, match="has 200000 bytes, expected 200001"):
        download(server.url, tmp_path / "w.bin", sha256=RIGHT, size=len(BYTES) + 1)
    server.does.says_length = False  # then it shows while the bytes come
    with pytest.raises(BricsError, match="has more than 1000 bytes, expected 1000"):
        download(server.url, tmp_path / "w.bin", sha256=RIGHT, size=1000)
    assert names(tmp_path) == []


@pytest.mark.parametrize("more", [7, -7])
def test_a_wrong_content_length(more: int, server: Server, tmp_path: Path) -> None:
    """Too long: the right bytes are known by their digest. Too short: what came is not them."""
    server.does.wrong_length = more
    if more > 0:
        download(server.url, tmp_path / "w.bin", sha256=RIGHT)
        assert names(tmp_path) == ["w.bin"]
        return
    with pytest.raises(BricsError, match="has SHA-256"):
        download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    with pytest.raises(BricsError, match="has 199993 bytes, expected 200000"):
        download(server.url, tmp_path / "w.bin", sha256=RIGHT, size=len(BYTES))
    assert names(tmp_path) == []


def test_without_a_length(server: Server, tmp_path: Path) -> None:
    server.does.says_length = False
    seen: list[int | None] = []
    download(server.url, tmp_path / "w.bin", sha256=RIGHT, progress=lambda done, total: seen.append(total))
    assert (tmp_path / "w.bin").read_bytes() == BYTES and set(seen) == {None}


def test_answers_other_than_the_file(server: Server, tmp_path: Path) -> None:
    server.does.codes = [500, 503, 429]
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert (tmp_path / "w.bin").read_bytes() == BYTES and len(server.does.asked) == 4
    server.does.codes = [404] + 9 * [500]
    with pytest.raises(BricsError, match=rf"the server said 404 .*copy it to .*x\.bin \(SHA-256 {RIGHT}\)") as caught:
        download(server.url, tmp_path / "x.bin", sha256=RIGHT)
    assert len(server.does.asked) == 5 and caught.value.exit_code == 1
    with pytest.raises(Unreachable, match="500"):
        download(server.url, tmp_path / "x.bin", sha256=RIGHT)
    assert len(server.does.asked) == 9, "as often as there are pauses, and once"
    assert names(tmp_path) == ["w.bin"]


@pytest.mark.parametrize("location", ["http://example.invalid/w", "http://example.invalid/w?secret",
                                      "file:///etc/passwd", "ftp://example.invalid/w", "data:,x"])
def test_redirects_go_to_https_alone(location: str, server: Server, tmp_path: Path) -> None:
    server.does.codes, server.does.location = [302], location
    told = f"leads to {location.removesuffix('?secret')}, where brics does not follow"
    with pytest.raises(BricsError, match=re.escape(told)):
        download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert names(tmp_path) == []


def test_redirects_keep_the_range_and_end(server: Server, tmp_path: Path) -> None:
    server.does.drop_after, server.does.codes, server.does.location = 120_000, [302, 200, 307], "/elsewhere"
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert (tmp_path / "w.bin").read_bytes() == BYTES and server.does.asked[-1]["Range"] == "bytes=120000-"
    server.does.codes = 30 * [302]
    with pytest.raises(BricsError, match="leads to /elsewhere"):
        download(server.url, tmp_path / "x.bin", sha256=RIGHT)


@pytest.mark.parametrize(("url", "target", "followed"), [
    ("https://a.org/w", "https://b.org/w", True), ("https://a.org/w", "http://a.org/w", False),
    ("https://a.org/w", "http://127.0.0.1/w", False), ("http://127.0.0.1/w", "http://localhost/w", True)])
def test_which_redirects(url: str, target: str, followed: bool) -> None:
    from email.message import Message
    from urllib.error import HTTPError
    from urllib.request import Request

    def ask() -> Request | None:
        return module._Redirects().redirect_request(Request(url), None, 302, "Found", Message(), target)

    if followed:
        assert (request := ask()) is not None and request.full_url == target
    else:
        with pytest.raises(HTTPError):
            ask()


@pytest.mark.parametrize("url", ["http://example.org/w", "ftp://example.org/w", "file:///etc/passwd", "w.bin", "",
                                 "http://127.0.0.1.example.org/w", "http://127.0.0.1@example.org/w"])
def test_other_addresses_than_https(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only https"):
        download(url, tmp_path / "w.bin", sha256=RIGHT)
    assert names(tmp_path) == []


def test_nothing_without_a_digest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SHA-256 is not known\. Copy it to .*by hand"):
        download("https://example.org/w", tmp_path / "w.bin", sha256=None)


def test_without_a_network_one_line_says_what_to_copy(tmp_path: Path) -> None:
    for url in ("https://example.invalid/w.bin", "http://127.0.0.1:1/w.bin"):
        with pytest.raises(Unreachable) as caught:
            download(url, tmp_path / "w.bin", sha256=RIGHT)
        (line,) = caught.value.lines
        assert line.startswith(f"{url}: cannot be downloaded (") and line.endswith(
            f"copy the file to {tmp_path / 'w.bin'} (SHA-256 {RIGHT}).")
    assert names(tmp_path) == []


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    with open(part_path(tmp_path / "w.bin"), "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BricsError, match=r"w\.bin: is being downloaded by another process"):
            download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert server.does.asked == []
    download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert names(tmp_path) == ["w.bin"]


def test_waiting_for_another_process(server: Server, tmp_path: Path) -> None:
    """What it fetched is not asked for again; what it gave up goes on."""
    path = tmp_path / "w.bin"
    for ends in (lambda other: (path.write_bytes(BYTES), other.close()), lambda other: other.close()):
        other = open(part_path(path), "wb")  # noqa: SIM115
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=download, args=(server.url, path), kwargs={"sha256": RIGHT, "wait": True})
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and server.does.asked == []
        ends(other)
        thread.join(10)
        assert path.read_bytes() == BYTES and names(tmp_path) == ["w.bin"]
        path.unlink()
    assert len(server.does.asked) == 1


class Plain:
    """Opens whatever it is given."""

    def open(self, request: Any, *, timeout: float) -> Any:
        from urllib.request import urlopen

        return urlopen(request, timeout=timeout)


def newest(server: Server, folder: Path, most: int = 1 << 20) -> bytes:
    return download_newest(server.url, folder / "n", most=most, opener=Plain(), shown="the file")


def test_a_file_of_no_known_digest(server: Server, tmp_path: Path) -> None:
    server.does.drop_after = 70_000
    assert newest(server, tmp_path) == BYTES and names(tmp_path) == []
    assert [asked.get("Range") for asked in server.does.asked] == [None, "bytes=70000-", "bytes=140000-"]
    part_path(tmp_path / "n").write_bytes(OTHER)  # of an earlier call, and whole: it may be an older one
    files.write_json(tmp_path / "n.part.json", {"url": "the file", "version": '"one"', "total": len(BYTES)})
    assert newest(server, tmp_path) == BYTES and names(tmp_path) == []


def test_a_file_of_no_known_digest_that_does_not_come(server: Server, tmp_path: Path) -> None:
    for length in (True, False):
        server.does.says_length = length
        with pytest.raises(BricsError, match=r"^the file: has .*1?00000 bytes, which is too long"):
            newest(server, tmp_path, most=100_000)
    server.does.codes = 9 * [500]
    with pytest.raises(Unreachable, match=r"^the file: cannot be downloaded \(.*500.*\)\. Run the command again l"):
        newest(server, tmp_path)
    server.does.codes = [403]
    with pytest.raises(BricsError, match=r"^the file: the server said 403 Forbidden\. See whether"):
        newest(server, tmp_path)
    assert names(tmp_path) == []


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before the first byte where the size is known, and else at the byte for which there is no room."""
    def full(descriptor: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5}))
        with pytest.raises(BricsError, match=r"w\.bin: could not be written: No space left .*200\.0 kB needed, 5 B"):
            download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", full)
        with pytest.raises(BricsError, match=r"w\.bin(\.part\.json)?: could not be written: No space left"):
            download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert names(tmp_path) == []


def test_where_nothing_can_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    for path in (tmp_path / "file" / "w.bin", tmp_path / ("x" * 300), Path("/proc/sys/w.bin")):
        with pytest.raises(BricsError, match="could not be written") as caught:
            download(server.url, path, sha256=RIGHT)
        assert len(caught.value.lines) == 1
    assert server.does.asked == [] and names(tmp_path) == ["file"]


def test_a_link_in_the_place_of_the_part_is_not_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("1")
    part_path(tmp_path / "w.bin").symlink_to(tmp_path / "precious")
    with pytest.raises(BricsError, match="could not be written"):
        download(server.url, tmp_path / "w.bin", sha256=RIGHT)
    assert (tmp_path / "precious").read_text() == "1"
