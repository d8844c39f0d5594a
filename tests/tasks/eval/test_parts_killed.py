"""Killed anywhere and started again, an evaluation in parts ends with the bytes of one that was never stopped.

Every call that makes, renames, removes or syncs something is a point to be killed at: by hand all of them,
`pytest -m slow tests/tasks/eval/test_parts_killed.py`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bricscli
from bricscli.data.images import encode_png

#: Forks for every job: torch is loaded once. `kill`: at which of the calls; 0: never. `part`: "" for the result.
SERVER = r"""
import json, os, signal, sys
from pathlib import Path
import safetensors.torch
from bricscli.data.collection import open_folder
from bricscli.metrics.features import random as random_features
from bricscli.parts import parse_part
from bricscli.tasks.eval import collecting, generation
from bricscli.tasks.eval.references import ImageReference
from bricscli.tasks.eval.results import save_result

collecting.CHUNK = generation.CHUNK = 4

def count(kill):
    calls = 0
    def counted(call):
        def inner(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return inner
    for name in ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    return lambda: calls

def run(results, part):
    plan, extractors = generation.load_extractors(generation.Plan(None, generation.RANDOM, {}), "cpu")
    work = generation.Comparison(open_folder(Path("samples")), ImageReference(open_folder(Path("real"))), plan,
                                 extractors, results=results)
    if part:
        return work.keep_part(parse_part(part))[1]
    save_result(work.measure(), results)
    work.forget()
    return 0

os.chdir(sys.argv[1])
for line in sys.stdin:
    job = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        calls = count(job["kill"])
        there = run(Path(job["results"]), job["part"])
        os.write(write, json.dumps([calls(), there]).encode())
        os._exit(0)
    os.close(write)
    said = os.read(read, 1000)
    os.close(read)
    status = os.waitpid(child, 0)[1]
    print(json.dumps([os.waitstatus_to_exitcode(status), *(json.loads(said) if said else [0, 0])]), flush=True)
"""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(bricscli.__file__).parents[1])}


class Server:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)

    def __call__(self, results: Path, part: str = "", kill: int = 0) -> tuple[int, int, int]:
        """Exit code, calls that were counted, chunks that were there already."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"results": str(results), "part": part, "kill": kill}) + "\n")
        self.process.stdin.flush()
        code, calls, there = json.loads(self.process.stdout.readline())
        return code, calls, there


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for seed, (name, count) in enumerate((("samples", 10), ("real", 9))):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.random.default_rng(100 * seed + i).integers(0, 256, (3, 8, 8)).astype(np.uint8)
            (tmp_path / name / f"{i}.png").write_bytes(encode_png(pixels))
    server = Server(tmp_path)
    yield server
    assert server.process.stdin is not None and server.process.stdout is not None
    server.process.stdin.close()
    server.process.wait(30)
    server.process.stdout.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_point(server: Server, tmp_path: Path, every: int) -> None:
    assert server(tmp_path / "whole")[0] == 0
    whole = contents(tmp_path / "whole")
    assert len(whole) == 1
    calls = [server(tmp_path / "parts", part)[1] for part in ("1/2", "2/2", "")]
    assert contents(tmp_path / "parts") == whole and min(calls) > 10
    for step, part in enumerate(("1/2", "2/2", "")):
        for point in range(1 + step, calls[step] + 1, every):
            results = tmp_path / f"killed-{step}-{point}"
            for earlier in ("1/2", "2/2")[:step]:
                assert server(results, earlier)[0] == 0
            assert server(results, part, kill=point)[0] == -signal.SIGKILL
            if part:
                finished = [*results.glob(f"features/*/*/random-*{'' if step else '[02]'}.safetensors")]
                code, _, there = server(results, part)
                assert code == 0 and there == len([path for path in finished if int(path.stem[-5:]) % 2 == step])
                assert server(results, "2/2")[0] == 0
            assert server(results)[0] == 0
            assert contents(results) == whole, (part, point)
