"""One small way from pictures to a diffusion model, gone once; tests that change files work on a copy."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.directory import RunDirectory
from bricscli.tasks.encode import encode
from bricscli.tasks.prepare import prepare_toy
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """28 train and 12 val images of 16 pixels; two checkpoints of each model."""

    root: Path
    autoencoder_recipe: AutoencoderRecipe
    diffusion_recipe: DiffusionRecipe

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def autoencoder(self) -> RunDirectory:
        return RunDirectory.open(self.root / "toy")

    @property
    def diffusion(self) -> RunDirectory:
        return RunDirectory.open(self.root / "toy-diffusion")


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_autoencoder: Callable[..., AutoencoderRecipe],
    tiny_diffusion: Callable[..., DiffusionRecipe]
) -> Trained:
    recipe, diffusion = tiny_autoencoder(losses={"adversarial": 0}), tiny_diffusion()
    result = Trained(tmp_path_factory.mktemp("trained"), recipe, diffusion)
    prepare_toy(result.data, resolution=16, count=40, val_fraction=0.3, workers=1)
    run = train_autoencoder(recipe, result.data, result.root / "toy", device=CPU, save_every=0)
    encode(run, result.data, device=CPU)
    train_denoiser(diffusion, run.path, result.root / "toy-diffusion", device=CPU, save_every=0)
    return result


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    shutil.copytree(trained.root, tmp_path / "copied")
    return Trained(tmp_path / "copied", trained.autoencoder_recipe, trained.diffusion_recipe)
