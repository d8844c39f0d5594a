"""A run that stops because its numbers are no numbers: the command that it names fails in its first step."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bricscli.app import app
from bricscli.errors import BricsError
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.tasks.reporting.report import report
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser
from bricscli.training import recovery, steps

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were taken; the loss of those from 1 on is NaN, and there is no way back."""
    seen: list[int] = []

    def spoil(player: type) -> None:
        call = player.__call__

        def spoilt(self: Any, step: int, batch: Tensor, *rest: Tensor | None) -> dict[str, float]:
            seen.append(step)
            return dict(call(self, step, batch * torch.nan if step else batch, *rest))

        monkeypatch.setattr(player, "__call__", spoilt)

    spoil(steps.AutoencoderStep)
    spoil(steps.DiffusionStep)
    monkeypatch.setattr(recovery, "ROLLBACKS", 0)
    return seen


@pytest.mark.parametrize("kind", ["autoencoder", "diffusion"])
def test_the_command_that_is_named_fails_at_once(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[int], kind: str,
    tiny_autoencoder: Callable[..., AutoencoderRecipe], tiny_diffusion: Callable[..., DiffusionRecipe]
) -> None:
    run = tmp_path / "the run"
    with pytest.raises(BricsError) as caught:
        if kind == "autoencoder":
            train_autoencoder(tiny_autoencoder(), trained.data, run, device=CPU)
        else:
            train_denoiser(tiny_diffusion(), trained.autoencoder.path, run, device=CPU)
    said = str(caught.value)
    assert taken == [0, 1, 2, 3, 4] and "not finite at step 4" in said
    about = json.loads((run / "diverged-4" / "bundle.json").read_text())
    assert len(about["keys"]) == 4 and about["seeds"] == {"training.seed": 3}
    name, *words = shlex.split(said.partition("at once: ")[2])
    assert name == "brics"
    taken.clear()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BricsError, match=r"is not finite at step 4 .*what this run was kept for"):
        app(words, standalone_mode=False)
    assert taken == [4]
    report([run], tmp_path / "report.html")
    assert "Steps that were not finite" in (tmp_path / "report.html").read_text()
