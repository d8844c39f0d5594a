"""What a run tells: result lines, warnings, progress on the console, and `metrics.jsonl`.

`metrics.jsonl` holds no clock times, so that an interrupted and resumed run leaves the very bytes of an uninterrupted
one. Lines are appended; the one rewrite, on resuming, is by a temporary file and rename.
"""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from bricscli import files
from bricscli.errors import DataError
from bricscli.strict_json import parse_json

if TYPE_CHECKING:
    from bricscli.run.directory import RunDirectory

Item = TypeVar("Item")
#: Between two progress lines where there is no terminal.
PLAIN_SECONDS = 10.0
#: An address in a text (a `Path` has lost one of its slashes): scheme, who asks, the place, and what comes after it but
#: the marks that end a sentence.
_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*:/{1,2})(?:[^\s/?#]*@)?([^\s?#'\"<>]*)"
                      r"([?#][^\s'\"<>]*?(?=[.,:;)\]}]*(?:[\s'\"<>]|$)))?", re.IGNORECASE)


def escape(text: str) -> str:
    """`text` with all but printable characters and line ends as escapes, so that no file name drives a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def redact(text: str) -> str:
    """`text` without what may be secret in an address: who asks (`user:password@`), its query, its fragment."""
    return _ADDRESS.sub(lambda found: found[1] + found[2] + ("?***" if found[3] else ""), text)


def clean(text: str) -> str:
    """`text` as it may leave this process: without secrets of addresses, and escaped."""
    return escape(redact(text))


def say(text: str) -> None:
    """Prints a result to stdout as it is: no markup, no wrapping, control characters escaped."""
    from rich.console import Console

    with _bars_hidden():
        Console().print(clean(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Prints `brics: warning: text` to stderr."""
    complain(f"warning: {text}")


def complain(text: str) -> None:
    """Prints `brics: text` to stderr; no work ends because that is full or gone."""
    with _bars_hidden(), suppress(OSError):
        print(f"brics: {clean(text)}", file=sys.stderr, flush=True)


def track(iterable: Iterable[Item], total: int, description: str, unit: str,
          size: Callable[[Item], int] = lambda item: 1, done: int = 0) -> Iterator[Item]:
    """Passes the items on and shows how many units have been; `unit` is a plural, such as `images`.

    `size(item)` is how many units an item stands for, such as the length of a batch; `done` had been before.
    """
    with Progress(total, description, unit, done) as progress:
        for item in iterable:
            yield item
            progress.show(progress.done + size(item))


class Progress:
    """A bar on a terminal, else a plain line every `PLAIN_SECONDS`; on stderr. A context manager."""

    def __init__(self, total: int, description: str, unit: str, done: int = 0) -> None:
        self.total, self.description, self.unit = total, description, unit
        self.started_at = self.shown = self.done = done
        self.started = self.last_line = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=description, unit=f" {unit}", initial=done, file=sys.stderr,
                            dynamic_ncols=True)

    def show(self, done: int, note: str = "") -> None:
        """`done` of `total` by now; `note` goes beside it."""
        self.done = done
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
        elif time.monotonic() - self.last_line >= PLAIN_SECONDS:
            self._print_line(note)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.done != self.shown:
            self._print_line("")

    def _print_line(self, note: str) -> None:
        self.last_line, self.shown = time.monotonic(), self.done
        seconds = max(self.last_line - self.started, 1e-9)
        rate = (self.done - self.started_at) / seconds
        parts = [f"{self.done} of {self.total} {self.unit}", f"{rate:.3g} {self.unit}/s"]
        if self.done < self.total and rate > 0:
            parts.append(f"{show_seconds((self.total - self.done) / rate)} left")
        parts += [clean(note)] if note else []
        with suppress(OSError):
            print(f"{self.description}: {', '.join(parts)}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class RunLog:
    """Appends to a run's `metrics.jsonl` and shows the newest numbers. A context manager.

    Opening it drops the lines beyond `resume_from` images seen, which the resumed run will write again. Every method
    raises BricsError where the disk is full or refuses.
    """

    def __init__(self, run: "RunDirectory", total_images: int, resume_from: int = 0) -> None:
        self.path = run.metrics_path
        _keep_until(self.path, resume_from)
        try:
            self.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise files.disk_error(self.path, error) from error
        self.progress = Progress(total_images, run.name, "images", done=resume_from)

    def log(self, images_seen: int, metrics: Mapping[str, float]) -> None:
        """Adds a line; a value that is not finite is written as null."""
        numbers = {name: float(value) for name, value in metrics.items()}
        line = {"images_seen": images_seen} | {n: v if math.isfinite(v) else None for n, v in numbers.items()}
        try:
            files.write_all(self.descriptor, (json.dumps(line, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise files.disk_error(self.path, error) from error
        self.show(images_seen, numbers)

    def show(self, images_seen: int, metrics: Mapping[str, float]) -> None:
        """Only the console's part of `log`, for the steps between."""
        self.progress.show(images_seen, ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))

    def sync(self) -> None:
        """Makes what was logged last; before a checkpoint, so that no checkpoint is ahead of its log."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise files.disk_error(self.path, error) from error

    def close(self) -> None:
        self.progress.close()
        try:
            self.sync()
        finally:
            os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, null as NaN; none where there is no file. A torn last line is left out.

    Raises DataError for any other line that is not a JSON object with `images_seen`.
    """
    if not path.is_file():
        return []
    return [{name: math.nan if value is None else value for name, value in metrics.items()}
            for _, metrics in _lines(path)]


def show_seconds(seconds: float) -> str:
    """A duration for people: `42 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Every whole line with what it says; a process killed while writing may leave a part of one at the end."""
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            metrics = parse_json(line)
            metrics["images_seen"] + 0
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path}:{number}: is not a line of metrics. Delete the line, or the file.") from None
        yield line, metrics


def _keep_until(path: Path, images_seen: int) -> None:
    if path.is_file():
        kept = b"".join(line for line, metrics in _lines(path) if metrics["images_seen"] <= images_seen)
        if kept != path.read_bytes():
            files.write_bytes(path, kept)


def _bars_hidden() -> AbstractContextManager[object]:
    """Takes bars off the terminal while something else is printed, and puts them back."""
    module = sys.modules.get("tqdm")
    return module.tqdm.external_write_mode() if module else nullcontext()
