"""Training to inpaint: the right images beside the right codes, masks of the step alone, and a start that is gentle."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bricscli.data.images import decode_image, to_float
from bricscli.data.manifest import read_manifest, write_manifest
from bricscli.data.masks import draw_mask, pool_mask
from bricscli.data.shards import ShardSet
from bricscli.diffusion.inpainting import Surrounded
from bricscli.errors import DataError, InterruptedRun, MismatchError
from bricscli.recipe.recipes import DiffusionRecipe
from bricscli.run.checkpoint import list_checkpoints, load_checkpoint
from bricscli.runtime import generator_for
from bricscli.tasks import train_diffusion as task
from bricscli.tasks.models import load_autoencoder, load_denoiser
from bricscli.tasks.sample import sample_to_folder
from bricscli.tasks.train_diffusion import train_denoiser

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py
MakeDiffusion = Callable[..., DiffusionRecipe]


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Codes and surroundings of every step from now on."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Step(task.DiffusionStep):
        def __call__(self, step: int, latent: Tensor, *more: Tensor | None) -> dict[str, float]:
            assert more[1] is not None
            seen.append((latent.clone(), more[1].clone()))
            return super().__call__(step, latent, *more)

    monkeypatch.setattr(task, "DiffusionStep", Step)
    return seen


@pytest.mark.parametrize("flip", [True, False])
def test_codes_and_what_is_beside_them(trained: Trained, tmp_path: Path, tiny_diffusion: MakeDiffusion,
                                       monkeypatch: pytest.MonkeyPatch, flip: bool) -> None:
    """Of the same image, mirrored alike; the hole is grey to the encoder, and a cell that it touches is replaced."""
    seen = recorded(monkeypatch)
    recipe = tiny_diffusion(conditioning={"masks": "thick"}, training={"flip": flip, "images": 24, "seed": 3})
    train_denoiser(recipe, trained.autoencoder.path, tmp_path / "run", device=CPU, data=trained.data)
    assert len(seen) == 6
    model = load_autoencoder(trained.autoencoder, CPU).model
    split = ShardSet.open(trained.data).split("train")
    images = to_float(torch.from_numpy(np.stack([decode_image(split.read(i)) for i in range(len(split))])))
    both = torch.cat([images, images.flip(-1)])
    codes = model.latent(both).half().float()
    mirrored = 0
    for step, (latent, surroundings) in enumerate(seen):
        for place in range(4):
            number = int((codes - latent[place]).abs().flatten(1).sum(1).argmin())
            assert (codes[number] - latent[place]).abs().max() < 2e-3
            mirrored += number >= len(images)
            mask = draw_mask("thick", 3, step * 4 + place, 16, 16)
            gray = torch.where(torch.from_numpy(mask), torch.zeros(3, 16, 16), both[number])
            torch.testing.assert_close(surroundings[place, :2], 2 * model.latent(gray[None])[0] - 1, rtol=0, atol=1e-5)
            assert np.array_equal(surroundings[place, 2].numpy() > 0, pool_mask(mask, 2))
    assert (mirrored > 4) == flip


def test_resumed_training_is_the_same_to_the_bit(trained: Trained, filling: Any, tmp_path: Path,
                                                 tiny_diffusion: MakeDiffusion,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, run, stops = tiny_diffusion(conditioning={}), tmp_path / "toy-inpaint-diffusion", iter([False] * 2 + [True])

    class Stopped(task.DiffusionStep):
        def __call__(self, step: int, latent: Tensor, *more: Tensor | None) -> dict[str, float]:
            if next(stops, False):
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(step, latent, *more)

    with monkeypatch.context() as patched:
        patched.setattr(task, "DiffusionStep", Stopped)
        with pytest.raises(InterruptedRun):
            train_denoiser(recipe, trained.autoencoder.path, run, device=CPU, data=trained.data)
    assert len(list_checkpoints(run / "checkpoints")) == 1
    train_denoiser(recipe, trained.autoencoder.path, run, device=CPU, data=trained.data)
    (newest, whole) = (list_checkpoints(path / "checkpoints")[-1] for path in (run, filling.concat.path))
    for name in ("weights.safetensors", "training.safetensors"):
        assert (newest / name).read_bytes() == (whole / name).read_bytes()


def test_a_start_from_an_unconditional_denoiser(trained: Trained, tmp_path: Path,
                                                tiny_diffusion: MakeDiffusion) -> None:
    """Zeros for what is new: before it has learned anything it answers as the first, whatever surrounds the hole."""
    recipe = tiny_diffusion(conditioning={}, training={"images": 4, "learning_rate": 1e-12})
    run = train_denoiser(recipe, trained.autoencoder.path, tmp_path / "run", device=CPU, data=trained.data,
                         start=trained.diffusion.path)
    old, new = (load_denoiser(which, CPU).prior.denoiser for which in (trained.diffusion, run))
    x_t, log_snr = torch.randn(8, 2, 8, 8, generator=generator_for(0)), torch.linspace(-3, 3, 8)
    beside = torch.randn(8, 3, 8, 8, generator=generator_for(1))
    torch.testing.assert_close(Surrounded(new, beside)(x_t, log_snr), old(x_t, log_snr), rtol=0, atol=1e-5)
    assert load_checkpoint(list_checkpoints(run.checkpoints)[-1]).weights["stem.weight"].shape[1] == 5
    assert run.info["from"]["run"] == "toy-diffusion"


def test_not_the_other_way_round(trained: Trained, filling: Any, tmp_path: Path, tiny_diffusion: MakeDiffusion) -> None:
    with pytest.raises(MismatchError, match=r"toy-inpaint-diffusion: was trained to inpaint, the recipe's denoiser"):
        train_denoiser(tiny_diffusion(), trained.autoencoder.path, tmp_path / "run", device=CPU,
                       start=filling.concat.path)
    with pytest.raises(MismatchError, match=r"toy-inpaint-diffusion: was trained to fill holes .* `brics inpaint`"):
        sample_to_folder(filling.concat, tmp_path / "samples", seeds=[0], device=CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_shows_holes_filled(filling: Any) -> None:
    """Rows with holes, filled, and as they were, of eight validation images."""
    sheets = sorted(filling.concat.sheets.iterdir())
    assert len(sheets) == 4
    with Image.open(sheets[-1]) as sheet:
        assert sheet.size == (8 * 16 + 9 * 2, 3 * 16 + 4 * 2)


def test_the_images_must_be_those_of_the_codes(copied: Trained, tmp_path: Path, tiny_diffusion: MakeDiffusion,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """By name under data/, or --data; by their digest in any case."""
    monkeypatch.chdir(copied.root)
    recipe, cpu = tiny_diffusion(conditioning={}), CPU
    with pytest.raises(DataError, match=r"data/data: no prepared data set"):
        train_denoiser(recipe, copied.autoencoder.path, tmp_path / "run", device=cpu)
    (copied.root / "data").rename(copied.root / "moved")
    (copied.root / "data").mkdir()
    shutil.copytree(copied.root / "moved", copied.root / "data" / "data")
    header, shards = read_manifest(copied.root / "moved")
    write_manifest(copied.root / "moved", header | {"note": "changed"}, shards)
    with pytest.raises(DataError, match=r"moved: is not the data set that .*codes was encoded from .* with --data"):
        train_denoiser(recipe, copied.autoencoder.path, tmp_path / "run", data=copied.root / "moved", device=cpu)
    assert not (tmp_path / "run").exists()
    assert train_denoiser(recipe, copied.autoencoder.path, tmp_path / "run", device=cpu).path.exists()
