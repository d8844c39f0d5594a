"""Exact mode: the same bytes on 1, 2, 4 and 8 processes, and after every change between them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe

Recipe = AutoencoderRecipe | DiffusionRecipe
Differing = Callable[[Path, Path], list[str]]

_CONV = {"kind": "conv", "channels": 8, "multipliers": [1, 2], "blocks": 1}
TRAINING = {"images": 24, "batch_size": 8}
FEW_STEPS = {"sampler": "dpmpp_2m", "steps": 2}
#: The paper's, with a penalty that is differentiated twice; noise of both kinds, in parts; a codebook, batch norm and a
#: weight that is a ratio of gradients; a denoiser, in parts, with two averages.
METHODS: dict[str, dict[str, Any]] = {
    "brics": {"training": TRAINING},
    "kl_key_code": {"bottleneck": {"kind": "kl_key_code", "channels": 2}, "losses": {"adversarial": 0},
                    "training": {"images": 32, "batch_size": 16, "accumulate": 16}},
    "vqgan": {"bottleneck": {"kind": "vq", "channels": 8, "entries": 16}, "retrieval": {"kind": "none"},
              "decoder": _CONV, "discriminator": {"kind": "patch", "channels": 4, "layers": 2}, "training": TRAINING,
              "losses": {"l1": 1, "l2": 0, "adversarial_loss": "hinge", "adaptive": True, "gradient_penalty": 0}},
    "diffusion": {"sampling": FEW_STEPS,
                  "training": {"images": 48, "batch_size": 16, "accumulate": 16, "ema": [0.9, 0.5]}},
}


@pytest.fixture
def make_recipe(tiny_autoencoder: Callable[..., Recipe], tiny_diffusion: Callable[..., Recipe]
                ) -> Callable[[str], Recipe]:
    return lambda method: (tiny_diffusion if method == "diffusion" else tiny_autoencoder)(**METHODS[method])


@pytest.mark.parametrize(("method", "sizes"), [
    ("brics", (1, 2, 4, 8)), ("diffusion", (1, 2, 4, 8)), ("vqgan", (1, 8)),
    pytest.param("vqgan", (1, 2, 4), marks=pytest.mark.slow),
    pytest.param("kl_key_code", (1, 2, 4, 8), marks=pytest.mark.slow)])
def test_every_number_of_processes_makes_the_same_bytes(
    make_recipe: Callable[[str], Recipe], method: str, sizes: tuple[int, ...], trainings: Any, processes: Any,
    differing: Differing, tmp_path: Path
) -> None:
    for size in sizes:
        processes.good(size, **trainings.job(tmp_path / f"{size}", make_recipe(method), exact=True))
    for size in sizes[1:]:
        assert differing(tmp_path / f"{size}", tmp_path / "1") == []


@pytest.mark.parametrize("mistake", [
    "reduction.tree_sum = lambda terms: sum(terms[1:], terms[0])",  # in the order of the processes
    "steps.Noise.part = lambda self, first: steps.Noise(self._generator)",  # drawn by each part for itself
    "worlds.World.cut = lambda self, tensor: tensor[:len(tensor) // self.size]",  # everybody draws the first rows
    "steps._stop_averages = lambda critic: None",
])
def test_mistakes_would_be_seen(
    tiny_autoencoder: Callable[..., Recipe], mistake: str, trainings: Any, processes: Any, differing: Differing,
    tmp_path: Path
) -> None:
    one_step = {"training": {"images": 8, "batch_size": 8}}
    recipe = tiny_autoencoder(**METHODS["vqgan" if "averages" in mistake else "brics"] | one_step)
    for size in (1, 4):
        processes.good(size, before=mistake, **trainings.job(tmp_path / f"{size}", recipe, exact=True))
    assert "checkpoints/step-0000001/training.safetensors" in differing(tmp_path / "4", tmp_path / "1")


def elastic(make_recipe: Callable[[str], Recipe], method: str, trainings: Any, processes: Any, path: Path, seed: int,
            kills: int) -> int:
    """Trains in worlds of changing size until done, a process killing itself up to `kills` times; how often one did."""
    dice, killed = random.Random(seed), 0
    for _ in range(kills):
        size = dice.choice((1, 2, 4) if kills < 4 else (1, 2, 4, 8))
        job = trainings.job(path, make_recipe(method), exact=True, save_every=0)
        victim = dice.randrange(size)
        killed += processes.killed(size, victim, dice.randint(1, 90 if victim == 0 else 30), **job)
    processes.good(dice.choice((1, 2)), **trainings.job(path, make_recipe(method), exact=True))
    return killed


@pytest.mark.parametrize("method", ["brics", pytest.param("diffusion", marks=pytest.mark.slow)])
def test_kills_and_changes_of_the_number_leave_the_same_bytes(
    make_recipe: Callable[[str], Recipe], method: str, trainings: Any, processes: Any, differing: Differing,
    tmp_path: Path
) -> None:
    processes.good(2, **trainings.job(tmp_path / "whole", make_recipe(method), exact=True))
    assert elastic(make_recipe, method, trainings, processes, tmp_path / "killed", seed=3, kills=3) >= 2
    assert differing(tmp_path / "killed", tmp_path / "whole") == []


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_many_kills(make_recipe: Callable[[str], Recipe], method: str, trainings: Any, processes: Any,
                    differing: Differing, tmp_path: Path) -> None:
    processes.good(1, **trainings.job(tmp_path / "whole", make_recipe(method), exact=True))
    killed = 0
    for trial in range(10):
        killed += elastic(make_recipe, method, trainings, processes, tmp_path / f"{trial}", trial, kills=6)
        assert differing(tmp_path / f"{trial}", tmp_path / "whole") == []
    assert killed >= 30


def test_a_stop_is_seen_by_all_in_the_same_step(
    make_recipe: Callable[[str], Recipe], trainings: Any, processes: Any, differing: Differing, tmp_path: Path
) -> None:
    """A signal to any one of them; the same command then goes on, in another number."""
    stop = ("call = steps.AutoencoderStep.__call__\n"
            "def stopping(self, step, *batch):\n"
            "    if step == 1 and world.rank == job['stopped']:\n"
            "        os.kill(os.getpid(), job['number'])\n"
            "    return call(self, step, *batch)\n"
            "steps.AutoencoderStep.__call__ = stopping")
    job = trainings.job(tmp_path / "stopped", make_recipe("brics"), exact=True)
    codes, said, _ = processes(2, before=stop, stopped=1, number=15, **job)
    assert codes == [130, 130]
    assert said == [f"{tmp_path}/stopped: stopped and saved after 16 of 24 images. The same command again goes on from "
                    "there.", ""]
    processes.good(1, **job)
    processes.good(4, **trainings.job(tmp_path / "whole", make_recipe("brics"), exact=True))
    assert differing(tmp_path / "stopped", tmp_path / "whole") == []
