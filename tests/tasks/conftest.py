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


@dataclass(frozen=True)
class Filling:
    """The trained ones, a denoiser that learned to inpaint, and a mask-conditioned decoder, in one folder of runs."""

    root: Path
    first: Trained

    @property
    def blended(self) -> RunDirectory:
        return RunDirectory.open(self.root / "toy-diffusion")

    @property
    def concat(self) -> RunDirectory:
        return RunDirectory.open(self.root / "toy-inpaint-diffusion")

    @property
    def decoder(self) -> RunDirectory:
        return RunDirectory.open(self.root / "toy-inpaint")


@pytest.fixture(scope="session")
def filling(trained: Trained, tmp_path_factory: pytest.TempPathFactory,
            tiny_autoencoder: Callable[..., AutoencoderRecipe], tiny_diffusion: Callable[..., DiffusionRecipe]
            ) -> Filling:
    root = tmp_path_factory.mktemp("filling") / "runs"
    shutil.copytree(trained.root / "toy-diffusion", root / "toy-diffusion")
    conditional = tiny_autoencoder(losses={"adversarial": 0}, decoder={"conditional": {"channels": 4}},
                                   training={"images": 8})
    train_autoencoder(conditional, trained.data, root / "toy-inpaint", device=CPU, start=trained.autoencoder.path)
    train_denoiser(tiny_diffusion(conditioning={}), trained.autoencoder.path, root / "toy-inpaint-diffusion",
                   device=CPU, data=trained.data)
    return Filling(root, trained)
