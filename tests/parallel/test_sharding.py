"""A denoiser of which every process has a part: learns what it learns whole, and is saved whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bricscli.recipe.recipes import DiffusionRecipe
from bricscli.run.checkpoint import list_checkpoints, load_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics

Make = Callable[..., DiffusionRecipe]
TRAINING = {"images": 24, "batch_size": 8, "ema": [0.9, 0.5], "accumulate": 4, "learning_rate": 1e-4}


def test_it_learns_what_it_learns_whole(tiny_diffusion: Make, trainings: Any, processes: Any, tmp_path: Path) -> None:
    recipe = tiny_diffusion(training=TRAINING, sampling={"sampler": "ddim", "steps": 1})
    processes.good(2, **trainings.job(tmp_path / "whole", recipe))
    memory = "\nresult['here'] = sum(p.to_local().numel() for p in job['step'].denoiser.model.parameters())"
    memory += ("\nsaved = job['step'].weights() | job['step'].training_state()"
               "\nresult['saves'] = sum(tensor.numel() for tensor in saved.values())")
    before = ("shard = steps.DiffusionStep.shard\n"
              "steps.DiffusionStep.shard = lambda self: (job.update(step=self), shard(self))")
    sharded = trainings.job(tmp_path / "sharded", recipe, sharded=True, before=before)
    results = processes.good(2, trainings.code + memory, **sharded)
    here = [result["here"] for result in results]
    logs = [read_metrics(RunDirectory.open(tmp_path / name).metrics_path) for name in ("whole", "sharded")]
    for whole, parts in zip(*logs, strict=True):
        assert parts == pytest.approx(whole, rel=1e-3)
    last = [load_checkpoint(list_checkpoints(RunDirectory.open(tmp_path / name).checkpoints)[-1], training=True)
            for name in ("whole", "sharded")]
    for kind in ("weights", "training"):
        whole, parts = (getattr(checkpoint, kind) for checkpoint in last)
        assert whole.keys() == parts.keys()
        for name, tensor in whole.items():
            torch.testing.assert_close(parts[name], tensor, rtol=0.02, atol=2e-4)
    assert last[1].averages.keys() == {0.5}
    total = sum(tensor.numel() for tensor in last[1].weights.values())
    assert sum(here) == total and max(here) < 0.6 * total
    assert last[1].training is not None
    saved = last[1].weights | last[1].training
    assert results[0]["saves"] == sum(tensor.numel() for tensor in saved.values())
    steps = sum(name.endswith(".step") for name in saved)
    assert results[1]["saves"] == steps, "the whole is in the memory of the process that writes it, and of no other"
    assert len(list((tmp_path / "sharded" / "sheets").iterdir())) == 3


@pytest.mark.parametrize("then", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_another_number_of_processes_goes_on(tiny_diffusion: Make, trainings: Any, processes: Any, tmp_path: Path,
                                             then: int) -> None:
    """Stopped after two steps of three by a signal to one process; saved whole, so that one process may go on."""
    stop = ("call = steps.DiffusionStep.__call__\n"
            "def stopping(self, step, *batch):\n"
            "    if step == 1 and world.rank == 0:\n"
            "        os.kill(os.getpid(), signal.SIGINT)\n"
            "    return call(self, step, *batch)\n"
            "steps.DiffusionStep.__call__ = stopping")
    recipe = tiny_diffusion(training=TRAINING, sampling={"sampler": "ddim", "steps": 1})
    processes.good(1, **trainings.job(tmp_path / "whole", recipe))
    codes, said, _ = processes(2, **trainings.job(tmp_path / "run", recipe, sharded=True, before=stop))
    assert codes == [130, 130], said
    processes.good(then, **trainings.job(tmp_path / "run", recipe, sharded=then > 1))
    whole, moved = (read_metrics(RunDirectory.open(tmp_path / name).metrics_path) for name in ("whole", "run"))
    assert [line["loss"] for line in moved] == pytest.approx([line["loss"] for line in whole], rel=1e-3)


def test_alone_there_is_nothing_to_divide(tiny_diffusion: Make, trainings: Any, processes: Any, tmp_path: Path) -> None:
    codes, said, _ = processes(1, **trainings.job(tmp_path / "run", tiny_diffusion(), sharded=True))
    assert codes == [2] and said[0].startswith("--shard: divides the denoiser among several processes.")
