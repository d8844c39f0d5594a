"""The words: `--devices N`, and the same command under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bricscli
from bricscli import copies
from bricscli.commands.processes import spread_over
from bricscli.errors import RecipeError
from bricscli.recipe.load import dump_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import list_checkpoints
from bricscli.run.directory import RunDirectory

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "WORLD_SIZE")} | {
    "PYTHONPATH": str(Path(bricscli.__file__).parents[1]), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def start(words: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=ENVIRONMENT, start_new_session=True)


def test_two_processes_stopped_then_one(
    tiny_autoencoder: Callable[..., AutoencoderRecipe], trainings: Any, processes: Any,
    differing: Callable[[Path, Path], list[str]], tmp_path: Path
) -> None:
    recipe = tiny_autoencoder(training={"images": 128, "batch_size": 8}, losses={"adversarial": 0})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    words = ["bricscli", "train-ae", "-r", str(tmp_path / "recipe.yaml"), "--data", str(trainings.root / "data"),
             "--run", str(tmp_path / "run"), "--determinism", "exact", "--device", "cpu"]
    first = start([*words, "--devices", "2"])
    log = tmp_path / "run" / "metrics.jsonl"
    while first.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)
    first.send_signal(signal.SIGTERM)
    said = first.communicate(timeout=60)
    assert first.returncode == 130, said
    assert said[1].splitlines()[-1].endswith("The same command again goes on from there.")
    assert "process 2" not in said[1]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["fingerprint"].items() >= {
        "determinism": "exact", "virtual_ranks": 8, "processes": 2, "sharded": False, "threads": 1}.items()
    (stopped,) = list_checkpoints(RunDirectory.open(tmp_path / "run").checkpoints)
    assert stopped.name < "step-0000016"
    second = start([*words, "--devices", "1"])
    said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert f"trained; weights in {tmp_path}/run/checkpoints/step-0000016" in said[0]
    processes.good(4, **trainings.job(tmp_path / "whole", recipe, exact=True))
    assert differing(tmp_path / "run", tmp_path / "whole") == []


@pytest.mark.slow
def test_torchrun(tiny_diffusion: Callable[..., DiffusionRecipe], trainings: Any, processes: Any,
                  differing: Callable[[Path, Path], list[str]], tmp_path: Path) -> None:
    recipe = tiny_diffusion(training={"images": 48, "batch_size": 8})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    # Without `--`, torchrun takes --run for one of its own options.
    words = ["torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "0", "--master-addr", "127.0.0.1",
             "-m", "--", "bricscli", "train-diffusion", "-r", str(tmp_path / "recipe.yaml"), "--autoencoder",
             str(trainings.codes.path), "--determinism", "exact", "--device", "cpu", "--run"]
    whole = start([*words, str(tmp_path / "run")])
    said = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    assert said[0].count("trained; weights in") == 1
    processes.good(1, **trainings.job(tmp_path / "whole", recipe, exact=True))
    assert differing(tmp_path / "run", tmp_path / "whole") == []
    refused = start([*words, str(tmp_path / "more"), "--set", "training.batch_size=9"])
    said = refused.communicate(timeout=120)
    assert refused.returncode == 1, "torchrun's"
    line = "brics: training.batch_size: a batch of 9 can be computed in exact mode on 1 process, not on 2"
    assert said[1].count(line) == 1


def test_without_devices_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "run_world", lambda *_: pytest.fail("started"))
    assert not spread_over(None, "cpu", 6, False) and not spread_over(1, "cpu", 6, False)


def test_as_many_as_asked_for_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, str]] = []
    monkeypatch.setattr(copies, "run_world", lambda *call: calls.append(call))
    assert spread_over(3, "cpu", 6, False) and calls == [(3, "--devices")]


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_more_than_there_are_gpus_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(RecipeError, match="--devices: 3 processes need a GPU each, and there are 2"):
        spread_over(3, device, 6, False)


def test_copies_do_not_start_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="--devices: this is one of several processes already"):
        spread_over(2, "cpu", 6, False)
