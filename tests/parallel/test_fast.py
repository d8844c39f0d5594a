"""Fast mode: the same data in the same order, and the same training but for rounding; on one process nothing new."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bricscli.data.loader import BatchReader
from bricscli.data.shards import ShardSet
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import load_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics

Recipe = AutoencoderRecipe | DiffusionRecipe
Make = Callable[..., Recipe]

#: For 200 steps that hardly notice in which order they sum: at large learning rates rounding grows.
CALM: dict[str, Any] = {"images": 1600, "batch_size": 8, "learning_rate": 1e-4, "ema": 0}


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(RunDirectory.open(run).metrics_path)]


@pytest.mark.parametrize(("kind", "steps"), [
    ("diffusion", 10), pytest.param("diffusion", 200, marks=pytest.mark.slow),
    pytest.param("autoencoder", 200, marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_does(tiny_autoencoder: Make, tiny_diffusion: Make, trainings: Any, processes: Any,
                                           tmp_path: Path, kind: str, steps: int) -> None:
    training = CALM | {"images": 8 * steps}
    recipe = tiny_diffusion(training=training) if kind == "diffusion" else tiny_autoencoder(
        losses={"adversarial": 0}, training=training)
    for size in (1, 2):
        processes.good(size, **trainings.job(tmp_path / f"{size}", recipe))
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(one) == steps and one != two
    assert two == pytest.approx(one, rel=5e-3), "a single step may notice more"
    assert np.mean(two[-20:]) == pytest.approx(np.mean(one[-20:]), rel=1e-3)


@pytest.mark.parametrize("changes", [
    {"training": {"accumulate": 8}},
    {"losses": {"l1": 1, "l2": 0, "adversarial_loss": "hinge", "adaptive": True, "gradient_penalty": 0}}])
def test_a_gan_goes_through_ddp(tiny_autoencoder: Make, trainings: Any, processes: Any, tmp_path: Path,
                                changes: dict[str, Any]) -> None:
    """Penalties that are differentiated twice, and weights that are gradients, inside of its forward pass: a step is
    that of one process."""
    training = changes.get("training", {}) | {"images": 8, "batch_size": 8}
    recipe = tiny_autoencoder(**changes | {"training": training})
    for size in (1, 2):
        processes.good(size, **trainings.job(tmp_path / f"{size}", recipe))
    one, two = (read_metrics(RunDirectory.open(tmp_path / f"{size}").metrics_path)[0] for size in (1, 2))
    assert len(one) > 8
    for name in one.keys() - {"code_std", "adversarial_weight", "loss", "entries_hit", "val_psnr"}:
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name


def test_processes_read_their_rows_of_the_same_batches(trainings: Any) -> None:
    split = ShardSet.open(trainings.root / "data").split("train")
    decode = lambda data: np.frombuffer(data[-16:], np.uint8)  # noqa: E731 (the ends of files differ)
    with BatchReader(split, decode, "png", 12, 3) as whole:
        for size in (2, 3, 4):
            world = [BatchReader(split, decode, "png", 12, 3, rows=range(12 // size * r, 12 // size * (r + 1)))
                     for r in range(size)]
            for step in (0, 1, 2, 7):
                read = [reader.batch(step) for reader in world]
                assert np.array_equal(np.concatenate([reader.indices(step) for reader in world]), whole.indices(step))
                for number in (0, 1):
                    assert np.array_equal(np.concatenate([batch[number] for batch in read]), whole.batch(step)[number])
            for reader in world:
                reader.close()


def test_a_second_command_on_the_run_is_refused_by_all(tiny_diffusion: Make, trainings: Any, processes: Any,
                                                       tmp_path: Path) -> None:
    job = trainings.job(tmp_path / "run", tiny_diffusion(training={"images": 8}))
    processes.good(1, **job)
    with RunDirectory.open(tmp_path / "run").lock():
        codes, said, _ = processes(2, **job)
    assert codes == [1, 1]
    assert "is in use by process" in said[0] and said[1] == ""
    assert json.loads((tmp_path / "run" / "run.json").read_text())["fingerprint"]["processes"] == 1


@pytest.mark.parametrize(("changes", "size", "exact", "said"), [
    ({"bottleneck": {"kind": "rq", "channels": 8, "entries": 16, "depth": 2}, "retrieval": {"kind": "none"},
      "decoder": {"kind": "conv", "channels": 8, "multipliers": [1, 2], "blocks": 1}}, 1, True,
     "bottleneck.kind: the codebook of `rq`"),
    ({"training": {"batch_size": 6}}, 4, False, "can be computed on 1, 2, 3, 6 processes, not on 4"),
    ({"training": {"batch_size": 32}}, 2, False, "2 processes need a batch of different samples, 32, and there are 28"),
])
def test_what_cannot_be_trained_so_is_said_before_there_is_a_run(
    tiny_autoencoder: Make, trainings: Any, processes: Any, tmp_path: Path, changes: dict[str, Any], size: int,
    exact: bool, said: str
) -> None:
    codes, words, _ = processes(size, exact=exact, **trainings.job(tmp_path / "run", tiny_autoencoder(**changes)))
    assert codes == [2] * size
    assert said in words[0] and "\n" not in words[0] and words[1:] == [""] * (size - 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("bad", "skipped"), [
    ("batch[0][0] = float('nan')", [None, None, 1, None]),
    ("next(self.generator.model.parameters()).register_hook(lambda g: g / 0)", [None, None, 1, 2])])
def test_what_is_not_finite_on_one_process_is_skipped_by_all_in_the_same_step(
    tiny_autoencoder: Make, trainings: Any, processes: Any, tmp_path: Path, exact: bool, bad: str,
    skipped: list[int | None]
) -> None:
    before = ("call = steps.AutoencoderStep.__call__\n"
              "def spoilt(self, step, *batch):\n"
              "    if step == 2 and world.rank == 1:\n"
              f"        {bad}\n"
              "    return call(self, step, *batch)\n"
              "steps.AutoencoderStep.__call__ = spoilt")
    recipe = tiny_autoencoder(training={"images": 32, "batch_size": 8})
    codes, _, _ = processes(2, before=before, exact=exact, **trainings.job(tmp_path / "run", recipe, save_every=0))
    assert codes == [0, 0]
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("skipped") for line in log] == skipped
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints" / "step-0000004", training=True)
    assert checkpoint.training is not None
    assert all(tensor.isfinite().all() for tensor in [*checkpoint.weights.values(), *checkpoint.training.values()])
