"""Killed at random moments and started again until it is done, sampling leaves the bytes of one that never was.

By hand, 2,000 images, ten kills and three batch sizes: `pytest -s -m slow tests/tasks/test_sample_killed.py`.
"""

import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from bricscli.data.samples import SampleFolder
from bricscli.data.shards import ShardSet
from bricscli.tasks.sample import sample_to_folder

Trained = Any  # tests/tasks/conftest.py
Start = Callable[..., ForkServerProcess]


@pytest.fixture
def start(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a process that samples; torch is loaded once, by a process of one thread that forks."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bricscli.tasks.sample", "torch._inductor"])  # the latter for determinism

    def start_one(out: Path, seeds: Sequence[int], **options: Any) -> ForkServerProcess:
        process = context.Process(target=sample_to_folder, args=(trained.diffusion, out),
                                  kwargs={"seeds": seeds, "device": torch.device("cpu"), **options})
        process.start()
        return process

    return start_one


def finish(process: ForkServerProcess) -> None:
    process.join(600)
    assert process.exitcode == 0


def listed(folder: Path) -> int:
    return len(SampleFolder.open(folder).seeds) if (folder / "manifest.json").exists() else 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("format", ["png", "shards"])
@pytest.mark.parametrize(("count", "every", "kills"),
                         [(96, 100, 3), pytest.param(2000, 20, 10, marks=pytest.mark.slow)])
def test_killed_at_random_moments(start: Start, tmp_path: Path, format: str, count: int, every: int,
                                  kills: int) -> None:
    """Seeds are `every` so many apart, so that there are several shards."""
    whole, killed, seeds, moments = tmp_path / "whole", tmp_path / "killed", range(0, count * every, every), []
    began = time.monotonic()
    finish(start(whole, seeds, batch_size=8, format=format))
    seconds, draw = time.monotonic() - began, random.Random(count)
    for number in range(kills):
        process = start(killed, seeds, batch_size=8, format=format)
        enough = count * (number + draw.random()) / (kills + 1)
        while process.is_alive() and listed(killed) < enough:
            time.sleep(0.002)
        time.sleep(draw.random() / 50)
        process.kill()
        process.join()
        moments.append(listed(killed))
        folder = SampleFolder.open(killed)
        assert all(folder.holds(seed) for seed in folder.seeds), "what is listed is there, whole"
    assert moments == sorted(moments) and len(set(moments) - {count}) > 1, "killed in the midst, and it went on"
    finish(start(killed, seeds, batch_size=8, format=format))
    assert contents(killed) == contents(whole)
    assert SampleFolder.open(killed).seeds == list(seeds)
    if format == "shards":
        ShardSet.open(killed).verify()
    if count > 1000:
        print(f"{format}: {count} images in {seconds:.0f} s; {kills} kills left {moments}")
        for batch_size in (1, 7, 64):
            began = time.monotonic()
            finish(start(tmp_path / str(batch_size), seeds, batch_size=batch_size, format=format))
            print(f"--batch-size {batch_size}: {time.monotonic() - began:.0f} s")
            assert contents(tmp_path / str(batch_size)) == contents(whole), batch_size
