"""What several test files train on: recipes and pictures so small that a step takes milliseconds."""

from collections.abc import Callable
from typing import Any

import pytest

from bricscli.recipe.load import recipe_from_dict
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe

TINY_AUTOENCODER: dict[str, Any] = {
    "kind": "autoencoder",
    "data": {"name": "toy", "resolution": 16, "flip": True},
    "encoder": {"channels": 8, "multipliers": [1, 2], "blocks": 1},
    "bottleneck": {"channels": 2},
    "retrieval": {"size": 8, "levels": 3, "r_min": 2, "r_max": 8, "entry_channels": 2, "mlp_width": 8, "channels": 16},
    "decoder": {"channels": [16, 8], "style_width": 16, "mapping_layers": 1},
    "discriminator": {"channels": 4, "max_channels": 8},
    "losses": {"perceptual": 0},
    "training": {"images": 24, "batch_size": 4, "ema": 0.9, "seed": 3},
}
TINY_DIFFUSION: dict[str, Any] = {
    "kind": "diffusion",
    "autoencoder": "toy",
    "denoiser": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_channels": 4},
    "sampling": {"sampler": "dpmpp_2m", "steps": 4},
    "training": {"images": 24, "batch_size": 4, "warmup_images": 8, "decay_images": 24, "ema": 0.9, "seed": 3},
}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return base | {key: _merged(base.get(key, {}), value) if isinstance(value, dict) else value
                   for key, value in changes.items()}


@pytest.fixture(scope="session")
def tiny_autoencoder() -> Callable[..., AutoencoderRecipe]:
    """`tiny_autoencoder(losses={"l2": 0})` is the tiny recipe with that change."""

    def make(**changes: Any) -> AutoencoderRecipe:
        recipe = recipe_from_dict(_merged(TINY_AUTOENCODER, changes))
        assert isinstance(recipe, AutoencoderRecipe)
        return recipe

    return make


@pytest.fixture(scope="session")
def tiny_diffusion() -> Callable[..., DiffusionRecipe]:
    """`tiny_diffusion(training={"ema": 0})` is the tiny recipe with that change."""

    def make(**changes: Any) -> DiffusionRecipe:
        recipe = recipe_from_dict(_merged(TINY_DIFFUSION, changes))
        assert isinstance(recipe, DiffusionRecipe)
        return recipe

    return make
