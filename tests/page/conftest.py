"""A model that has hardly seen a picture, but fills holes: blended, by either decoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.directory import RunDirectory
from bricscli.tasks.choices import Asked
from bricscli.tasks.encode import encode
from bricscli.tasks.inpainting.inpainter import Inpainter, prepare_inpainter
from bricscli.tasks.prepare import prepare_toy
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_autoencoder: Callable[..., AutoencoderRecipe],
         tiny_diffusion: Callable[..., DiffusionRecipe]) -> Path:
    """`runs/toy-diffusion`, and what belongs to it, of 16 pixels."""
    root = tmp_path_factory.mktemp("page")
    short = {"losses": {"adversarial": 0}, "training": {"images": 4}}
    prepare_toy(root / "data", resolution=16, count=8, val_fraction=0.5, workers=1)
    run = train_autoencoder(tiny_autoencoder(**short), root / "data", root / "runs" / "toy", device=CPU)
    encode(run, root / "data", device=CPU)
    train_denoiser(tiny_diffusion(training={"images": 4}), run.path, root / "runs" / "toy-diffusion", device=CPU)
    conditional = tiny_autoencoder(decoder={"conditional": {"channels": 4}}, **short)
    train_autoencoder(conditional, root / "data", root / "runs" / "toy-inpaint", device=CPU, start=run.path)
    return root / "runs"


@pytest.fixture(scope="session")
def inpainter(runs: Path) -> Inpainter:
    return prepare_inpainter(RunDirectory.open(runs / "toy-diffusion"), CPU, asked=Asked(steps=2))[0]


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 x 40, smooth."""
    small = np.random.default_rng(3).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC).save(path)
    return path
