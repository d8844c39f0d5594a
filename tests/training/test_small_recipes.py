"""Every small form of the paper's diffusion recipes fits its autoencoder, takes a step, and draws something."""

import numpy as np
import pytest
import torch

from bricscli.build import build_autoencoder, build_latent_perceptual
from bricscli.diffusion.denoiser import KEY_CODES, latents_of
from bricscli.diffusion.inpainting import surroundings_of
from bricscli.recipe.diffusion_specs import SamplingSpec
from bricscli.recipe.load import list_recipes, load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.tasks.draw import decode_latents, draw_latents
from bricscli.tasks.inpainting.fill import Hole, Holes, Way, fill_latents
from bricscli.tasks.models import Prior
from bricscli.training.steps import DiffusionStep

CPU = torch.device("cpu")


def load_pair(name: str) -> tuple[DiffusionRecipe, AutoencoderRecipe]:
    """A diffusion recipe with that of its autoencoder, which has its name, perhaps in the same folder."""
    recipe = load_recipe(name)
    assert isinstance(recipe, DiffusionRecipe)
    first = load_recipe(next(other for other in list_recipes() if other.split("/")[-1] == f"{recipe.autoencoder}.yaml"))
    assert isinstance(first, AutoencoderRecipe)
    return recipe, first


DIFFUSION = [name for name in list_recipes() if not name.startswith("base/") and load_recipe(name).kind == "diffusion"]


@pytest.mark.parametrize("name", DIFFUSION)
def test_fits_its_autoencoder(name: str) -> None:
    recipe, first = load_pair(name)
    recipe.check_code_size(first.code_size)
    if recipe.latent_perceptual:
        recipe.check_decoder_blocks(first.decoder_blocks)


@pytest.mark.parametrize("name", [name for name in DIFFUSION if name.startswith(("tiny/", "photos64"))])
def test_a_step_and_an_image(name: str) -> None:
    recipe, first = load_pair(name)
    torch.manual_seed(0)
    autoencoder = build_autoencoder(first).requires_grad_(False).eval()
    perceptual = None
    if recipe.latent_perceptual:
        perceptual = build_latent_perceptual(recipe.latent_perceptual, autoencoder, first.data.resolution)
    scaling = KEY_CODES if first.has_key_codes else latents_of(std=0.5, largest=2.0)
    channels, size, _ = first.code_shape
    step = DiffusionStep(recipe, CPU, scaling, channels=channels, size=size, perceptual=perceptual)
    latents = torch.rand(recipe.training.batch_size, *first.code_shape)[:4]
    label = torch.arange(4) if recipe.denoiser.classes else None
    before = {key: value.clone() for key, value in step.denoiser.model.state_dict().items()}
    surroundings = None
    if recipe.conditioning:
        surroundings = surroundings_of(latents, torch.ones(4, 1, size, size))
    log = step(0, latents, label, surroundings)
    assert log["loss"] > 0 and ("latent_perceptual" in log) == bool(perceptual)
    assert any(not torch.equal(value, before[key]) for key, value in step.denoiser.model.state_dict().items())
    sampling = recipe.sampling.model_copy(update={"steps": 2})
    prior = Prior(step.averaged, step.schedule, scaling, first.code_shape)
    if recipe.conditioning:
        mask = np.arange(first.data.resolution**2).reshape(2 * (first.data.resolution,)) < 200
        picture = np.zeros((*mask.shape, 3), np.uint8)
        holes = Holes([Hole(picture, mask, (seed,)) for seed in (0, 1)])
        drawn = fill_latents(prior, autoencoder, holes, Way("concat", sampling), CPU)
    else:
        drawn = draw_latents(prior, [0, 1], sampling, CPU, None if label is None else label[:2])
    images = decode_latents(autoencoder, drawn, CPU)
    assert isinstance(sampling, SamplingSpec) and images.shape == (2, 3, first.data.resolution, first.data.resolution)
    assert not torch.equal(images[0], images[1])
