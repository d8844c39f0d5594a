"""Files from the network: resumed where they were cut off, and under their final name only when complete and right.

What has come so far is in `<name>.part`, and which version of the file that is of in `<name>.part.json`. A dropped
connection is taken up again by a range request (RFC 9110, sections 13.1.5 and 14.2: If-Range with the ETag, or else the
date), so that a file that was changed meanwhile starts again. The SHA-256 is of all bytes, the resumed beginning too.

urllib and no other library: all that is needed beyond a range request is what would have to be written with any of
them. Proxies are those of the environment, as urllib reads them, unless an `opener` decides. No torch at import.
"""

import errno
import fcntl
import hashlib
import http.client
import os
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from bricscli import files
from bricscli.errors import BricsError, DataError, InterruptedRun
from bricscli.strict_json import read_json

#: Seconds before the first, second, ... try again where nothing came; more tries are not made.
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)
#: A connection may drop so often altogether, if every time something came.
MOST_DROPS = 100
#: Seconds without a byte after which a connection counts as dropped.
TIMEOUT = 30.0
#: Read at once at most, bytes.
CHUNK = 1 << 20
#: Answers that may be others a little later: time-out, too many requests, and 500 to 599.
_LATER = {408, 429, *range(500, 600)}
#: The part that is there cannot be continued: it is as long as the file, or longer.
_RANGE_REFUSED = 416
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Unreachable(BricsError):
    """The network or the server does not answer: what to copy by hand instead (exit code 1)."""


class Opener(Protocol):
    """What asks a server: it decides which addresses, and whether to follow where they lead."""

    def open(self, request: Request, *, timeout: float) -> Any:
        """The answer, as urllib's. Raises HTTPError for any but 200 and 206, OSError, BricsError where it refuses."""


def download(url: str, path: Path, *, sha256: str | None, size: int | None = None,
             progress: Callable[[int, int | None], None] = lambda done, total: None,
             opener: Opener | None = None, shown: str | None = None, wait: bool = False, patient: bool = False) -> Path:
    """Puts the file at `url` (https) to `path`, where it appears only whole and with this SHA-256; returns `path`.

    Nothing is asked for where it is already. `size`: bytes, where known. `progress(done, total)` is called with bytes;
    total is None where nobody knows it. What came stays for the next call when this one is interrupted or fails.
    `shown`: what an address is called that holds a secret, in messages and beside the part. `wait`: until another
    process has downloaded to `path`. `patient`: the server answered just now, so its silence is no reason to give up at
    once.

    Raises DataError without a digest and for other addresses than https (or http to this very machine), Unreachable
    where nothing answers, BricsError for any other answer than the file, for other bytes than expected, where another
    process is downloading to `path`, and where the disk is full or refuses.
    """
    path = Path(path)
    if sha256 is None:
        raise DataError(f"{url}: is not downloaded, since its SHA-256 is not known. Copy it to {path} by hand.")
    if opener is None and not _allowed(url):
        raise DataError(f"{url}: is not downloaded, since only https is. Copy the file to {path} by hand.")
    if _is_there(path, sha256):
        return path
    with files.parents_removed_on_failure(path), _opened_part(path, shown or url, wait, sha256) as part:
        if wait and _is_there(path, sha256):  # by the process that was waited for
            part.delete()
            return path
        part.patient = patient
        _receive_or_tidy(part, url, opener or build_opener(_Redirects), size, progress)
        found = part.sha256
        if found != sha256:
            part.delete()
            raise BricsError(f"{path}: what came from {part.shown} has SHA-256 {found}, expected {sha256}; it was "
                             "deleted. Run the command again; if that does not help, the file there is another one.")
        part.finish()
    return path


def download_newest(url: str, path: Path, *, most: int, opener: Opener, shown: str) -> bytes:
    """What is at `url` now, at most so many bytes: for a file whose digest nobody knows beforehand.

    Until all has come it lies beside `path`, and nothing stays; another process at it is waited for. Raises as
    `download`.
    """
    with files.parents_removed_on_failure(path), _opened_part(path, shown, True, None) as part:
        part.start_again(None, None)  # what an earlier call left may be of an older file
        part.most = most
        _receive_or_tidy(part, url, opener, None, lambda done, total: None)
        with _local(path):
            text = part.path.read_bytes()
        part.delete()
    return text


class _Part:
    """The beginning of a file: its bytes, their running digest, and the version of the file that they are of."""

    def __init__(self, path: Path, shown: str, descriptor: int, expected: str | None) -> None:
        self.final, self.path, self.descriptor, self.shown = path, part_path(path), descriptor, shown
        self.expected = expected  #: SHA-256, where known
        self.most: int | None = None  #: bytes
        self.patient = False
        self.about = Path(f"{self.path}.json")
        self.size = self.received = 0
        self.total: int | None = None
        self.version: str | None = None  #: what If-Range takes
        self._digest = hashlib.sha256()
        about = self._read_about()
        if about.get("url") == shown and isinstance(about.get("version"), str):
            self.version, total = about["version"], about.get("total")
            self.total = total if isinstance(total, int) else None
            with _local(path):
                while chunk := os.read(descriptor, CHUNK):
                    self._digest.update(chunk)
                    self.size += len(chunk)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def start_again(self, version: str | None, total: int | None) -> None:
        """Forgets what came; before the version is written, so that no bytes pass for another's."""
        self.size, self.version, self.total, self._digest = 0, version, total, hashlib.sha256()
        with _local(self.final):
            os.ftruncate(self.descriptor, 0)
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            files.write_json(self.about, {"url": self.shown, "version": version, "total": total})

    def append(self, data: bytes) -> None:
        with _local(self.final, None if self.total is None else self.total - self.size):
            files.write_all(self.descriptor, data)
        self._digest.update(data)
        self.size += len(data)
        self.received += len(data)

    def delete(self) -> None:
        with suppress(OSError):
            self.path.unlink()
        with suppress(OSError):
            self.about.unlink()

    def finish(self) -> None:
        """The bytes are on the disk before the name is there."""
        with _local(self.final):
            os.fsync(self.descriptor)
            os.replace(self.path, self.final)
            files.fsync_folder(self.final.absolute().parent)
        with suppress(OSError):
            self.about.unlink()

    def _read_about(self) -> dict[str, Any]:
        try:
            about = read_json(self.about, 1 << 16)
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}


def part_path(path: Path) -> Path:
    """Where the beginning of `path` is kept."""
    return path.with_name(f"{path.name}.part")


def _is_there(path: Path, sha256: str) -> bool:
    with _local(path):
        return path.is_file() and files.sha256_file(path) == sha256


def _receive_or_tidy(part: _Part, url: str, opener: Opener, size: int | None,
                     progress: Callable[[int, int | None], None]) -> None:
    """`_receive`; where that fails, a part without a byte goes."""
    try:
        _receive(part, url, opener, size, progress)
    except KeyboardInterrupt:
        if part.expected is None:
            part.delete()
            raise
        raise InterruptedRun(f"{part.final}: interrupted; {files.show_bytes(part.size)} are kept. "
                             "The same command goes on from there.") from None
    except BricsError:
        if not part.size or part.expected is None:
            part.delete()
        raise


def _receive(part: _Part, url: str, opener: Opener, size: int | None, progress: Callable[[int, int | None], None]
             ) -> None:
    """Until all bytes have come, over as many connections as that takes."""
    fruitless = drops = 0
    while part.sha256 != part.expected and (part.size == 0 or part.size != (size or part.total)):
        received = part.received
        try:
            _ask(part, url, opener, size, progress)
            return
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()
                if error.code == _RANGE_REFUSED and part.size:
                    part.start_again(None, None)
                elif error.code not in _LATER:
                    raise _answered(part, error) from None
            fruitless = 0 if part.received > received else fruitless + 1
            drops += 1
            if part.sha256 == part.expected:
                return  # whole, whatever length was promised
            if fruitless > len(PAUSES) or drops > MOST_DROPS or not (part.received or part.patient or _may_pass(error)):
                raise _unreachable(part, error) from error
            time.sleep(PAUSES[max(fruitless - 1, 0)])


def _ask(part: _Part, url: str, opener: Opener, size: int | None, progress: Callable[[int, int | None], None]
         ) -> None:
    """One request, for all or for the rest. Raises OSError or HTTPException where the connection ends too early."""
    headers = {"User-Agent": "brics", "Accept-Encoding": "identity"}
    if part.size and part.version:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.version}
    with opener.open(Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            part.start_again(_version(response.headers), _number(response.headers["Content-Length"]))
        elif not _continues(part, response.headers):
            part.start_again(None, None)
            raise ConnectionError("the server continued another file")
        _check_total(part, size)
        progress(part.size, size or part.total)
        while data := response.read1(CHUNK):
            part.append(data)
            limit = part.most if size is None else size
            if limit is not None and part.size > limit:
                part.delete()
                raise _other_size(part, f"more than {limit}", size)
            progress(part.size, size or part.total)
    expected = size or part.total
    if expected is not None and part.size < expected:
        raise ConnectionError(f"the connection ended after {part.size} of {expected} bytes")


def _check_total(part: _Part, size: int | None) -> None:
    total, most = part.total, size if part.most is None else part.most
    if total is not None and most is not None and (total > most or size not in (None, total)):
        part.delete()
        raise _other_size(part, str(total), size)
    missing = (size or part.total or part.size) - part.size
    with _local(part.final, missing):
        if missing > shutil.disk_usage(part.final.absolute().parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _continues(part: _Part, headers: Any) -> bool:
    """Whether an answer begins where the part ends, and is of the same version of the file."""
    unit, _, rest = (headers["Content-Range"] or "").partition(" ")
    span, _, total = rest.partition("/")
    return (unit == "bytes" and _number(span.partition("-")[0]) == part.size
            and (part.total is None or _number(total) in (None, part.total))
            and (headers["ETag"] is None or not part.version or not part.version.startswith('"')
                 or headers["ETag"] == part.version))


def _version(headers: Any) -> str | None:
    """What If-Range takes: the ETag, unless weak, or the date. None: the file cannot be continued."""
    tag = headers["ETag"]
    return tag if tag and tag.startswith('"') else headers["Last-Modified"]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _allowed(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or _is_loopback(url)


def _is_loopback(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in _LOOPBACK


class _Redirects(HTTPRedirectHandler):
    """To https alone. An address that is refused comes back as the answer that named it."""

    max_redirections = 5

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
                         ) -> Request | None:
        if not _allowed(newurl) or (_is_loopback(newurl) and not _is_loopback(req.full_url)):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _may_pass(error: Exception) -> bool:
    """Whether to try again though nothing came yet: not where nobody answers, and not against a false certificate."""
    reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    if isinstance(reason, ssl.SSLCertVerificationError | ConnectionRefusedError):
        return False
    return isinstance(reason, HTTPError | ConnectionError | ssl.SSLError | http.client.HTTPException)


def _unreachable(part: _Part, error: Exception) -> Unreachable:
    reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    text = " ".join((getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).split())
    kept = f"; {files.show_bytes(part.size)} are kept" if part.size and part.expected else ""
    by_hand = f", or copy the file to {part.final} (SHA-256 {part.expected})" if part.expected else ""
    return Unreachable(f"{part.shown}: cannot be downloaded ({text}{kept}). Run the command again later{by_hand}.")


def _answered(part: _Part, error: HTTPError) -> BricsError:
    place = error.headers["Location"] if 300 <= error.code < 400 else None
    what = (f"leads to {place.partition('?')[0]}, where brics does not follow" if place
            else f"the server said {error.code} {error.reason}")
    advice = (f"Get the file elsewhere and copy it to {part.final} (SHA-256 {part.expected})" if part.expected
              else "See whether the address is right, and whether you may read it")
    return BricsError(f"{part.shown}: {what}. {advice}.")


def _other_size(part: _Part, found: str, size: int | None) -> BricsError:
    if size is None:
        return BricsError(f"{part.shown}: has {found} bytes, which is too long for what it should be. See whether the "
                          "address is right.")
    return BricsError(f"{part.shown}: has {found} bytes, expected {size}: it is another file, or a page in its place. "
                      f"Get the file elsewhere and copy it to {part.final}.")


@contextmanager
def _opened_part(path: Path, shown: str, wait: bool, sha256: str | None) -> Iterator[_Part]:
    """The part, kept from other processes as long as the block lasts; `wait`: until they let go of it."""
    while True:
        with _local(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part_path(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(descriptor), os.stat(part_path(path))):
                break
        except FileNotFoundError:
            pass  # finished or deleted by another process just now
        except BlockingIOError:
            os.close(descriptor)
            raise BricsError(f"{path}: is being downloaded by another process. Wait until it ends, or stop it."
                             ) from None
        except OSError as error:
            os.close(descriptor)
            raise BricsError(f"{part_path(path)}: cannot be locked ({error.strerror}). Choose another folder, on a "
                             "disk of this machine.") from None
        except BaseException:  # Ctrl-C while it waits
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield _Part(path, shown, descriptor, sha256)
    finally:
        os.close(descriptor)


@contextmanager
def _local(path: Path, needed: int | None = None) -> Iterator[None]:
    """Errors of the disk, told apart from those of the network: one line."""
    try:
        yield
    except OSError as error:
        raise files.disk_error(path, error, needed) from error
