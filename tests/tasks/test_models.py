"""Runs on disk become modules that belong together, or one line that says why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bricscli import files
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints, load_checkpoint, save_checkpoint
from bricscli.tasks.models import load_autoencoder, load_denoiser, recipe_of
from bricscli.tasks.train_diffusion import train_denoiser

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py


def test_the_newest_autoencoder(trained: Trained) -> None:
    newest = list_checkpoints(trained.autoencoder.checkpoints)[-1]
    loaded = load_autoencoder(trained.autoencoder, CPU)
    assert (loaded.name, loaded.weights_path, loaded.recipe) == ("toy", newest, trained.autoencoder_recipe)
    assert loaded.digest == files.sha256_file(newest / "weights.safetensors") == checkpoint_digest(newest)
    assert loaded.code_shape == (2, 8, 8)
    stored = load_checkpoint(newest).weights
    assert stored.keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.model.state_dict().items())
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize("by", ["name", "digest"])
def test_a_chosen_checkpoint(trained: Trained, by: str) -> None:
    older = list_checkpoints(trained.autoencoder.checkpoints)[-2]
    digest = checkpoint_digest(older)
    assert digest is not None
    loaded = load_autoencoder(trained.autoencoder, CPU, older.name if by == "name" else digest[:8])
    assert loaded.digest == digest != load_autoencoder(trained.autoencoder, CPU).digest


def test_the_denoiser_and_its_own_copy_of_the_autoencoder(copied: Trained) -> None:
    autoencoder = load_autoencoder(copied.autoencoder, CPU)
    shutil.rmtree(copied.autoencoder.path)
    loaded = load_denoiser(copied.diffusion, CPU)
    newest = list_checkpoints(copied.diffusion.checkpoints)[-1]
    assert (loaded.name, loaded.recipe) == ("toy-diffusion", copied.diffusion_recipe)
    assert loaded.digest == checkpoint_digest(newest)
    stored = load_checkpoint(newest).weights
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.prior.denoiser.state_dict().items())
    assert loaded.autoencoder.digest == autoencoder.digest and loaded.autoencoder.name == "toy"
    code = torch.rand(1, 2, 8, 8)
    assert torch.equal(loaded.autoencoder.model.decode(code), autoencoder.model.decode(code))
    assert not loaded.prior.denoiser.training


def test_the_average_of_another_decay(
    trained: Trained, tmp_path: Path, tiny_diffusion: Callable[..., DiffusionRecipe]
) -> None:
    recipe = tiny_diffusion(training={"images": 16, "ema": [0.5, 0.2]})
    run = train_denoiser(recipe, trained.autoencoder.path, tmp_path / "run", device=CPU)
    first, named, other = (load_denoiser(run, CPU, ema) for ema in (None, 0.5, 0.2))
    path = list_checkpoints(run.checkpoints)[-1]
    assert first.digest == named.digest == checkpoint_digest(path)
    assert other.digest == files.sha256_file(path / "weights-0.2.safetensors") != first.digest
    stored = load_checkpoint(path, training=True).averages[0.2]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in other.prior.denoiser.state_dict().items())
    assert not torch.equal(other.prior.denoiser.out.weight, first.prior.denoiser.out.weight)
    with pytest.raises(RecipeError, match=r"--ema: .*run has no average of decay 0.3. There are: 0.5, 0.2\."):
        load_denoiser(run, CPU, 0.3)


def test_runs_of_the_other_kind_are_refused(trained: Trained) -> None:
    assert recipe_of(trained.autoencoder, AutoencoderRecipe) == trained.autoencoder_recipe
    with pytest.raises(MismatchError, match=r"toy-diffusion: is the run of a diffusion model, not of an? autoencoder"):
        load_autoencoder(trained.diffusion, CPU)
    with pytest.raises(MismatchError, match=r"toy: is the run of an? autoencoder, not of a diffusion model"):
        load_denoiser(trained.autoencoder, CPU)
    with pytest.raises(MismatchError):
        recipe_of(trained.autoencoder, DiffusionRecipe)


def test_another_autoencoder_in_the_denoisers_run_is_refused(copied: Trained) -> None:
    other = list_checkpoints(copied.autoencoder.checkpoints)[-2] / "weights.safetensors"
    copied.diffusion.autoencoder_path.write_bytes(other.read_bytes())
    with pytest.raises(MismatchError) as caught:
        load_denoiser(copied.diffusion, CPU)
    assert files.sha256_file(other)[:8] in str(caught.value) and "`toy`" in str(caught.value)


def test_what_is_missing_or_damaged(copied: Trained) -> None:
    run = copied.diffusion
    weights = list_checkpoints(run.checkpoints)[-1] / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    run.autoencoder_path.rename(copied.root / "aside")
    with pytest.raises(DataError, match=r"autoencoder.safetensors"):
        load_denoiser(run, CPU)
    (copied.root / "aside").rename(run.autoencoder_path)
    for checkpoint in list_checkpoints(run.checkpoints):
        (checkpoint / "weights.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=r"intact"):
        load_denoiser(run, CPU)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(DataError, match=r"has no checkpoint yet"):
        load_denoiser(run, CPU)
    with pytest.raises(DataError, match=r"no checkpoint step-9999999"):
        load_autoencoder(copied.autoencoder, CPU, "step-9999999")


def test_weights_that_do_not_fit_their_recipe(copied: Trained) -> None:
    run = copied.autoencoder
    newest = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    weights = {name: tensor for name, tensor in newest.weights.items() if not name.startswith("encoder.norm")}
    save_checkpoint(run.checkpoints, 99, weights, {}, {}, newest.recipe_text)
    with pytest.raises(DataError, match=r"do not fit its recipe"):
        load_autoencoder(run, CPU)


def test_images_of_another_size_are_refused(trained: Trained) -> None:
    loaded = load_autoencoder(trained.autoencoder, CPU)
    loaded.check_resolution((16, 16), "set")
    with pytest.raises(DataError, match=r"set: images are 24x16, toy needs 16x16.*--resolution 16"):
        loaded.check_resolution((16, 24), "set")


def test_run_info_names_what_was_used(trained: Trained) -> None:
    info = json.loads(trained.diffusion.info_path.read_text())
    assert info["autoencoder"] == {"run": "toy", "digest": load_autoencoder(trained.autoencoder, CPU).digest}
    assert str(trained.root) not in trained.diffusion.info_path.read_text(), "no paths of this machine"
