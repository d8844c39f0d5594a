"""A disk without room for a run's checkpoints is told of before the first step."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from bricscli.diffusion.denoiser import KEY_CODES
from bricscli.errors import BricsError
from bricscli.recipe.load import dump_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import save_checkpoint
from bricscli.training.space import check_room, checkpoint_bytes
from bricscli.training.steps import AutoencoderStep, DiffusionStep

CPU = torch.device("cpu")


class Usage(NamedTuple):
    free: int


@pytest.fixture
def step(tiny_diffusion: Callable[..., DiffusionRecipe]) -> DiffusionStep:
    return DiffusionStep(tiny_diffusion(training={"ema": [0.9, 0.5]}), CPU, KEY_CODES, channels=2, size=8)


@pytest.mark.parametrize("averages", [0, 1, 2])
def test_the_estimate_is_what_is_written(tmp_path: Path, tiny_diffusion: Callable[..., DiffusionRecipe],
                                         tiny_autoencoder: Callable[..., AutoencoderRecipe], averages: int) -> None:
    steps: list[AutoencoderStep | DiffusionStep] = [DiffusionStep(
        tiny_diffusion(training={"ema": [0.9, 0.5][:averages] or 0}), CPU, KEY_CODES, channels=2, size=8)]
    if averages < 2:
        steps.append(AutoencoderStep(tiny_autoencoder(training={"ema": 0.9 if averages else 0}), CPU, None))
    for number, made in enumerate(steps):
        before = checkpoint_bytes(made)
        made(0, torch.rand(4, 2, 8, 8) if isinstance(made, DiffusionStep) else torch.rand(4, 3, 16, 16))
        assert checkpoint_bytes(made) == before
        path = save_checkpoint(tmp_path, number, made.weights(), made.training_state(), {}, dump_recipe(made.recipe),
                               made.more_averages())
        tensors = sum(tensor.nbytes for part in (made.weights(), made.training_state(), *made.more_averages().values())
                      for tensor in part.values())
        counts = sum(tensor.nbytes for name, tensor in made.training_state().items() if name.endswith(".step"))
        assert tensors - counts <= before <= tensors
        assert sum(file.stat().st_size for file in path.iterdir()) < 1.2 * before + 40_000 + 150 * len(made.weights())


@pytest.mark.parametrize(("there", "missing"), [(0, 4), (1, 3), (3, 1), (5, 1)])
def test_room_for_what_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: DiffusionStep,
                                        there: int, missing: int) -> None:
    for number in range(there):
        (tmp_path / "run" / "checkpoints" / f"step-{number:07d}").mkdir(parents=True)
    needed = missing * checkpoint_bytes(step)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed))
    check_room(tmp_path / "run", step, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed - 1))
    with pytest.raises(BricsError, match=rf"run: needs about .*B for {missing} .*, .*B are free\. Delete") as caught:
        check_room(tmp_path / "run", step, 10)
    assert caught.value.exit_code == 1 and len(caught.value.lines) == 1
    assert (tmp_path / "run").exists() == bool(there)


def test_a_run_that_is_done_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: DiffusionStep) -> None:
    (tmp_path / "checkpoints" / "step-0000010").mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0))
    check_room(tmp_path, step, 10)
    with pytest.raises(BricsError):
        check_room(tmp_path, step, 11)
