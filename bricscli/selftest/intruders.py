"""The hostile corpus given to the commands that read such files: nothing gets in, and one line says so."""

import os
import re
import resource
import select
import socket
import sys
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

from bricscli.selftest.children import run_child
from bricscli.selftest.hostile import MARKER, Case, build_corpus
from bricscli.selftest.trials import Bench, Trials
from bricscli.selftest.workload import Place, Undisturbed

#: Of memory in bytes, and of a processor in seconds, for each; those that read a checkpoint load torch once more.
MOST_MEMORY, MOST_SECONDS = 512 << 20, 5.0
#: A command for people has ended long before.
PATIENCE = 60.0
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def try_corpus(bench: Bench, stages: dict[str, Undisturbed], every: int) -> Trials:
    """Every case, or one of `every`."""
    trials = Trials("No hostile file runs code, reaches an address, or costs memory or time; one line says what it is")
    with trials.timed(), socket.create_server(("127.0.0.1", 0)) as listening:
        run = Place(stages["eval"].before).diffusion
        folder = bench.folder / "hostile"
        cases = build_corpus(folder, address=f"127.0.0.1:{listening.getsockname()[1]}", run=run)
        for case in cases[::every]:
            bench.progress(f"{case.kind}: {case.name}")
            problems = _problems(case, bench, folder / MARKER, listening)
            trials.add(f"{case.kind}, {case.name}: {', '.join(problems)}" if problems else None)
            trials.tell(case.kind)
    return trials


def _problems(case: Case, bench: Bench, marker: Path, listening: socket.socket) -> list[str]:
    """What is not as it must be."""
    log, before = bench.folder / "hostile-said.txt", {*case.place.rglob("*")}
    log.unlink(missing_ok=True)
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    ended = run_child(partial(_command, case), log, kill_after=PATIENCE)
    text = log.read_text("utf-8", errors="backslashreplace")
    said = [line for line in text.splitlines() if line.startswith("brics: ") and "brics: warning:" not in line]
    found = {
        "a marker was made": marker.exists(), "it was connected to": _came(listening),
        f"exit code {ended.code}": ended.code not in case.codes, "a traceback": "Traceback" in text,
        "control characters": bool(_CONTROL.search(text)),
        f"{case.says!r} is not said": case.says not in " ".join(said),
        f"{(ended.memory - inherited) >> 20} MiB": ended.memory - inherited > MOST_MEMORY,
        f"{ended.processor:.1f} s": ended.processor > MOST_SECONDS,
        "something was left": {*case.place.rglob("*")} != before}
    return [what for what, wrong in found.items() if wrong]


def _command(case: Case) -> None:
    """`brics *words` in the case's folder; in a child."""
    os.chdir(case.place)
    os.environ |= {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    sys.argv = ["brics", *case.words]
    (command,) = entry_points(group="console_scripts", name="brics")
    command.load()()


def _came(listening: socket.socket) -> bool:
    return bool(select.select([listening], [], [], 0)[0])
