"""Stages that run out of memory say what to change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bricscli.errors import BricsError
from bricscli.run.checkpoint import list_checkpoints
from bricscli.tasks.encode import encode
from bricscli.tasks.sample import sample_to_folder
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py


@pytest.mark.parametrize(("stage", "advice"), [
    ("train_ae", "is out of memory.*training.accumulate.*bf16"), ("encode", "is out of memory.*--device"),
    ("train_diffusion", "is out of memory.*--gradient-checkpointing.*training.accumulate.*bf16"),
    ("sample", "is out of memory.*--batch-size")])
def test_what_helps_is_said(copied: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, advice: str
                            ) -> None:
    def refuse(self: nn.Module, *arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(nn.Conv2d, "forward", refuse)
    run, trained = tmp_path / "run", copied.autoencoder
    with pytest.raises(BricsError, match=advice) as caught:
        if stage == "train_ae":
            train_autoencoder(copied.autoencoder_recipe, copied.data, run, device=CPU)
        elif stage == "encode":
            encode(trained, copied.data, device=CPU, checkpoint=list_checkpoints(trained.checkpoints)[0].name)
        elif stage == "train_diffusion":
            train_denoiser(copied.diffusion_recipe, trained.path, run, device=CPU)
        else:
            sample_to_folder(copied.diffusion, run, seeds=range(2), device=CPU)
    assert len(caught.value.lines) == 1
    assert not list(copied.root.rglob(".brics-tmp-*")) and not list(tmp_path.rglob("diverged-*"))
