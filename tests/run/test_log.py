import errno
import io
import json
import math
import os
import sys
from pathlib import Path

import pytest

from bricscli.errors import BricsError, DataError
from bricscli.recipe.load import recipe_from_dict
from bricscli.run.directory import RunDirectory
from bricscli.run.log import Progress, RunLog, read_metrics, redact, say, show_seconds, track, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    recipe = recipe_from_dict({"kind": "diffusion", "autoencoder": "toy", "training": {"images": 10}})
    return RunDirectory.create(tmp_path / "churches", recipe, {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds since the start, moved by hand."""
    now = [100.0]
    monkeypatch.setattr("bricscli.run.log.time.monotonic", lambda: now[0])
    return now


def test_say_prints_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]a[/red] :smile: \\ data/[x] " + "word " * 60 + "é"
    say(text)
    say("a\x1b[31mb\rc\nd\u202ee")
    assert capsys.readouterr().out == text + "\na\\x1b[31mb\\rc\nd\\u202ee\n"


def test_warn_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    warn("x\x07: is odd.")
    assert capsys.readouterr() == ("", "brics: warning: x\\x07: is odd.\n")


SIGNED = "https://user:pw@host.org/x/y.tar?X-Amz-Signature=5ec7e7&b=c#pw"


@pytest.mark.parametrize(("text", "left"), [
    (SIGNED, "https://host.org/x/y.tar?***"),
    (f"{SIGNED}: is gone. See {SIGNED}.", "https://host.org/x/y.tar?***: is gone. See https://host.org/x/y.tar?***."),
    (f"a '{SIGNED}' (or {SIGNED}), [{SIGNED}]", "a 'https://host.org/x/y.tar?***' (or https://host.org/x/y.tar?***), "
                                                "[https://host.org/x/y.tar?***]"),
    ("HTTPS://KEY@HOST/X", "HTTPS://HOST/X"), ("s3://id:p@ss@bucket/a", "s3://bucket/a"),
    ("https://host/a@b/c", "https://host/a@b/c"), ("https://host/x#token", "https://host/x?***"),
    ("https://host?sig=1", "https://host?***"), ("--data=https://u:p@h/x", "--data=https://h/x"),
    ("https://host/x.", "https://host/x."), ("a@b.org asks: really?", "a@b.org asks: really?"),
    ("https:/u:p@h/x?s: no such run", "https:/h/x?***: no such run"), ("in a/b:/c", "in a/b:/c"),
    ("file:///data/x?y", "file:///data/x?***")])
def test_secrets_of_addresses(text: str, left: str) -> None:
    assert redact(text) == left
    assert redact(left) == left


def test_nothing_said_holds_a_secret(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    say(SIGNED)
    warn(SIGNED)
    with Progress(3, "reading", "files") as progress:
        clock[0] += 99
        progress.show(1, SIGNED)
    said = "".join(capsys.readouterr())
    assert said.count("https://host.org/x/y.tar?***") == 3
    assert "pw" not in said and "5ec7e7" not in said and "user" not in said


def test_track_passes_on_and_is_silent_when_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), 3, "reading", "files")) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines()[-1].startswith("reading: 3 of 3 files")


def test_track_prints_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    for _ in track(range(100), 100, "reading", "files"):
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "reading: 10 of 100 files, 1 files/s, 2 min left"
    assert lines[-1] == "reading: 100 of 100 files, 1 files/s"


def test_track_ends_its_bar_when_the_items_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(ZeroDivisionError):
        for _ in track((1 // n for n in (1, 1, 0)), 3, "reading", "files"):
            pass
    assert "reading:  67%" in terminal.getvalue() and "files" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_log_writes_lines_without_times(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(run, 100) as logged:
        logged.log(12, {"l2": 0.1, "count": 3})
        logged.log(24, {"l2": 1e-7, "bad": float("inf")})
    assert run.metrics_path.read_text() == (
        '{"images_seen": 12, "l2": 0.1, "count": 3.0}\n{"images_seen": 24, "l2": 1e-07, "bad": null}\n')
    first, second = read_metrics(run.metrics_path)
    assert first == {"images_seen": 12, "l2": 0.1, "count": 3.0}
    assert math.isnan(second["bad"])


def test_resumed_log_has_the_bytes_of_an_uninterrupted_one(run: RunDirectory) -> None:
    def steps(first: int, last: int, resume_from: int) -> None:
        with RunLog(run, 100, resume_from) as logged:
            for seen in range(first, last + 1, 10):
                logged.log(seen, {"l2": seen / 7})

    steps(10, 100, 0)
    whole = run.metrics_path.read_bytes()
    steps(10, 60, 0)  # starting again drops the old lines
    with open(run.metrics_path, "ab") as file:
        file.write(b'{"images_seen": 70, "l')  # killed while writing
    assert len(read_metrics(run.metrics_path)) == 6
    steps(50, 100, 40)
    assert run.metrics_path.read_bytes() == whole


def test_nothing_is_rewritten_when_nothing_is_dropped(run: RunDirectory) -> None:
    with RunLog(run, 100) as logged:
        logged.log(10, {})
    inode = run.metrics_path.stat().st_ino
    with RunLog(run, 100, resume_from=10):
        pass
    assert run.metrics_path.stat().st_ino == inode


def test_a_damaged_log_is_refused(run: RunDirectory) -> None:
    run.metrics_path.write_text('{"images_seen": 1}\nnonsense\n{"images_seen": 3}\n')
    for action in (lambda: read_metrics(run.metrics_path), lambda: RunLog(run, 100, 1)):
        with pytest.raises(DataError, match=r"metrics\.jsonl:2: is not a line of metrics"):
            action()
    for line in ("[1]\n", "3\n", '{"loss": 1}\n', '{"images_seen": "x"}\n'):
        run.metrics_path.write_text(line)
        with pytest.raises(DataError, match=r"metrics\.jsonl:1"):
            read_metrics(run.metrics_path)


def test_no_log_is_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_console_without_a_terminal(run: RunDirectory, capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with RunLog(run, 1000, resume_from=500) as logged:
        for step in range(25):
            clock[0] += 1
            logged.log(500 + 10 * (step + 1), {"l2": 0.12345})
            logged.show(500 + 10 * (step + 1), {"l2": 0.12345})
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["churches: 600 of 1000 images, 10 images/s, 40 s left, l2 0.123",
                     "churches: 700 of 1000 images, 10 images/s, 30 s left, l2 0.123",
                     "churches: 750 of 1000 images, 10 images/s, 25 s left"]
    assert len(read_metrics(run.metrics_path)) == 25


def test_console_on_a_terminal_and_lines_between(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with RunLog(run, 100) as logged:
        logged.log(50, {"l2": 0.5})
        warn("the sky falls")
    shown = terminal.getvalue()
    assert "churches:  50%" in shown and "l2 0.5" in shown and "images/s" in shown
    before = shown[: shown.index("brics: warning: the sky falls\n")]
    assert before.rstrip(" ").endswith("\r"), "the bar is taken away first"


def test_each_line_is_there_at_once(run: RunDirectory) -> None:
    logged = RunLog(run, 100)
    logged.log(10, {"l2": 1})
    assert json.loads(run.metrics_path.read_text()) == {"images_seen": 10, "l2": 1.0}
    logged.close()


def test_what_the_disk_refuses_is_one_line(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    logged = RunLog(run, 100)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        for action in (logged.sync, logged.close):
            with pytest.raises(BricsError, match=r"metrics\.jsonl: could not be written: Input/output error"):
                action()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(logged.descriptor)
    run.metrics_path.unlink()
    run.metrics_path.mkdir()
    with pytest.raises(BricsError, match=r"metrics\.jsonl: could not be written: Is a directory"):
        RunLog(run, 100)


def test_show_seconds() -> None:
    assert [show_seconds(s) for s in (0, 89, 90, 5399, 9000)] == ["0 s", "89 s", "2 min", "90 min", "2.5 h"]
