"""A command several times at once: what the copies are told, what is heard of them, and that none outlives another."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import bricscli
from bricscli import copies
from bricscli.copies import CopyFailed, run_copies, run_world

Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(line, ...)`: shell lines as copies, instead of `brics` with words."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nshift 2\nexec sh -c "$1"\n')  # without `-m bricscli`
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)

    def run(*lines: str, environments: list[dict[str, str]] | None = None) -> None:
        run_copies([[line] for line in lines], environments or [{}] * len(lines))

    return run


def test_each_has_its_words_and_its_environment(run: Run, tmp_path: Path) -> None:
    run("echo $NAME > a", "echo $NAME $BRICS_PARENT > b", environments=[{"NAME": "first"}, {"NAME": "second"}])
    assert (tmp_path / "a").read_text() == "first\n"
    assert (tmp_path / "b").read_text() == f"second {os.getpid()}\n"


def test_only_the_first_speaks(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("echo one; echo problem one >&2", "echo two; echo problem two >&2")
    assert capfd.readouterr() == ("one\n", "problem one\n")


@pytest.mark.parametrize(("lines", "code", "said"), [
    (["exit 3", "sleep 30"], 3, []),  # it has said why
    (["sleep 30", "echo 'brics: data: is damaged.' >&2; exit 3"], 3, ["process 2 of 2: data: is damaged."]),
    (["sleep 30", "exit 4"], 4, []),
    (["sleep 30", "kill -KILL $$"], 1, ["process 2 of 2: was ended by SIGKILL, perhaps for lack of memory. What is "
                                        "finished is kept: run the same command again."]),
    (["kill -SEGV $$", "sleep 30"], 1, ["process 1 of 2: was ended by SIGSEGV. What is finished is kept: run the same "
                                        "command again."]),
])
def test_one_that_fails_ends_all(run: Run, monkeypatch: pytest.MonkeyPatch, lines: list[str], code: int,
                                 said: list[str]) -> None:
    monkeypatch.setattr(copies, "GRACE", 0.2)
    with pytest.raises(CopyFailed) as caught:
        run(*lines)
    assert caught.value.exit_code == code and caught.value.lines == said


def test_the_others_may_finish_what_they_do(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CopyFailed):
        run("exit 1", "sleep 0.5; echo done > done")
    assert (tmp_path / "done").exists()


def test_one_that_does_not_listen_is_killed(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that is stopped, for example: nobody waits for it."""
    monkeypatch.setattr(copies, "GRACE", 0.2)
    with pytest.raises(CopyFailed):
        run("while ! test -s id; do sleep 0.05; done; exit 1", "echo $$ > id; kill -STOP $$")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_all(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    """And mean what they meant before, afterwards."""
    before = [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)]
    name = number.name.removeprefix("SIG")
    line = f"trap 'echo heard > {{0}}.heard; exit 130' {name}; echo > {{0}}.ready; while :; do sleep 0.05; done"

    def send() -> None:
        while len(list(tmp_path.glob("*.ready"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(CopyFailed) as caught:
        run(line.format("a"), line.format("b"))
    sender.join()
    assert caught.value.exit_code == 130 and caught.value.lines == []
    assert len(list(tmp_path.glob("*.heard"))) == 2
    assert [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_world_meets_in_a_file_on_the_loopback_interface(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                           ) -> None:
    line = "echo $RANK $LOCAL_RANK $WORLD_SIZE $GLOO_SOCKET_IFNAME $OMP_NUM_THREADS $BRICS_RENDEZVOUS > $RANK"
    monkeypatch.setattr(sys, "argv", ["brics", "--devices", "3", line])
    monkeypatch.setattr("bricscli.copies.cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_world(3, "--devices")
    told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    assert [words[:5] for words in told] == [[str(rank), str(rank), "3", loopback, "2"] for rank in range(3)]
    assert len({words[5] for words in told}) == 1 and not Path(told[0][5]).parent.exists()


@pytest.mark.parametrize("words", [["--devices", "2", "-r", "a"], ["-r", "a", "--devices=2"], ["-r", "a"]])
def test_what_asked_for_copies_is_not_passed_on(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["brics", *words])
    assert copies.typed("--devices") == ["-r", "a"]


def test_a_copy_ends_when_the_process_that_started_it_is_gone(tmp_path: Path) -> None:
    """Killed, so that it can tell nobody."""
    copy = (f"import os, sys, time; sys.path.insert(0, {str(Path(bricscli.__file__).parents[1])!r})\n"
            "from bricscli.copies import follow_parent\n"
            "follow_parent()\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    parent = ("import os, subprocess, sys, time\n"
              "os.environ['BRICS_PARENT'] = str(os.getpid())\n"
              f"subprocess.Popen([sys.executable, '-c', {copy!r}])\n"
              "time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        identity = int(process.stdout.readline())
        process.kill()
        until = time.monotonic() + 20
        while time.monotonic() < until and _lives(identity):
            time.sleep(0.05)
        assert not _lives(identity)


def _lives(identity: int) -> bool:
    try:
        state = Path(f"/proc/{identity}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_nobody_is_followed_by_a_process_that_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(copies.PARENT, raising=False)
    before = threading.active_count()
    copies.follow_parent()
    assert threading.active_count() == before
