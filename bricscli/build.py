"""The only place where a spec becomes a module."""

from typing import Any

from torch import nn

from bricscli.diffusion.schedule import ChenCosine
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.bottleneck import KeyCode
from bricscli.nn.decoder import StyleDecoder
from bricscli.nn.discriminator import Discriminator
from bricscli.nn.encoder import Encoder
from bricscli.nn.feature_grid import FeatureGrid
from bricscli.nn.unet import UNet
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.recipe.specs import Spec


def build_autoencoder(recipe: AutoencoderRecipe) -> Autoencoder:
    """Random weights, drawn from torch's global generator."""
    return Autoencoder(
        Encoder(**recipe.encoder.model_dump(), outputs=recipe.bottleneck.channels),
        KeyCode(),
        FeatureGrid(groups=recipe.groups, **_arguments(recipe.retrieval)),
        StyleDecoder(inputs=recipe.retrieval.channels, **_arguments(recipe.decoder)),
        relaxed=recipe.bottleneck.noise,
    )


def build_discriminator(recipe: AutoencoderRecipe) -> Discriminator:
    """The critic of WGAN-GP; only needed in training."""
    return Discriminator(resolution=recipe.data.resolution, **recipe.discriminator.model_dump())


def build_denoiser(recipe: DiffusionRecipe, channels: int, size: int) -> UNet:
    """A denoiser for key codes of `channels` x `size` x `size`."""
    return UNet(inputs=channels, size=size, **_arguments(recipe.denoiser))


def build_schedule(recipe: DiffusionRecipe) -> ChenCosine:
    """The schedule that the denoiser is trained with."""
    return ChenCosine(**_arguments(recipe.schedule))


def _arguments(spec: Spec) -> dict[str, Any]:
    """A spec's fields but its kind: the keyword arguments of its module."""
    return spec.model_dump(exclude={"kind"})


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
