"""The only place where a spec becomes a module."""

from typing import Any, assert_never

from torch import nn

from bricscli.diffusion.schedule import (
    BetaLinear,
    ChenCosine,
    Flow,
    Linear,
    NicholCosine,
    ScaledLinear,
    Schedule,
)
from bricscli.losses.latent_perceptual import LatentPerceptualLoss
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.bottleneck import KL, RQ, VQ, Bottleneck, KeyCode, KLKeyCode
from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.decoders.movq import MoVQDecoder
from bricscli.nn.decoders.style import StyleDecoder
from bricscli.nn.discriminator import PatchDiscriminator, StyleDiscriminator
from bricscli.nn.encoder import Encoder
from bricscli.nn.retrieval.feature_grid import FeatureGrid, NoRetrieval
from bricscli.nn.unet import UNet
from bricscli.recipe.diffusion_specs import (
    BetaLinearSpec,
    ChenCosineSpec,
    FlowSpec,
    LatentPerceptualSpec,
    LinearSpec,
    NicholCosineSpec,
    ScaledLinearSpec,
    ScheduleSpec,
)
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.recipe.specs import (
    ConvDecoderSpec,
    FeatureGridSpec,
    KeyCodeSpec,
    KLKeyCodeSpec,
    KLSpec,
    MoVQDecoderSpec,
    NoRetrievalSpec,
    PatchDiscriminatorSpec,
    RQSpec,
    Spec,
    StyleDecoderSpec,
    StyleDiscriminatorSpec,
    VQSpec,
)


def build_autoencoder(recipe: AutoencoderRecipe) -> Autoencoder:
    """Random weights, drawn from torch's global generator."""
    bottleneck = build_bottleneck(recipe)
    return Autoencoder(
        Encoder(**_arguments(recipe.encoder), outputs=bottleneck.inputs),
        bottleneck,
        build_retrieval(recipe),
        build_decoder(recipe),
        relaxed=isinstance(recipe.bottleneck, KeyCodeSpec) and recipe.bottleneck.noise,
    )


def build_bottleneck(recipe: AutoencoderRecipe) -> Bottleneck:
    """Encoder's output -> code."""
    match spec := recipe.bottleneck:
        case KeyCodeSpec():
            return KeyCode(channels=spec.channels)  # its noise acts on the tiled code: Autoencoder.relaxed
        case KLKeyCodeSpec():
            return KLKeyCode(**_arguments(spec))
        case KLSpec():
            return KL(**_arguments(spec))
        case VQSpec():
            return VQ(**_arguments(spec))
        case RQSpec():
            return RQ(**_arguments(spec))
        case _:
            assert_never(spec)


def build_retrieval(recipe: AutoencoderRecipe) -> FeatureGrid | NoRetrieval:
    """Code -> feature block."""
    match spec := recipe.retrieval:
        case FeatureGridSpec():
            r_min, r_max = recipe.level_range()
            sizes = {"groups": recipe.bottleneck.channels // spec.key_length, "r_min": r_min, "r_max": r_max}
            return FeatureGrid(**(_arguments(spec, "preset") | sizes))
        case NoRetrievalSpec():
            return NoRetrieval()
        case _:
            assert_never(spec)


def build_decoder(recipe: AutoencoderRecipe) -> StyleDecoder | ConvDecoder | MoVQDecoder:
    """Feature block -> image."""
    spec, inputs = recipe.decoder, recipe.decoder_inputs
    known = _arguments(spec.conditional, "masks", "full_masks", "decoder_rate") if spec.conditional else None
    match spec:
        case StyleDecoderSpec():
            return StyleDecoder(**(_arguments(spec) | {"inputs": inputs, "conditional": known}))
        case ConvDecoderSpec():
            return ConvDecoder(**(_arguments(spec) | {"inputs": inputs, "conditional": known}))
        case MoVQDecoderSpec():
            return MoVQDecoder(**(_arguments(spec) | {"inputs": inputs, "conditional": known}))
        case _:
            assert_never(spec)


def build_discriminator(recipe: AutoencoderRecipe) -> StyleDiscriminator | PatchDiscriminator:
    """The critic; only needed in training."""
    match spec := recipe.discriminator:
        case StyleDiscriminatorSpec():
            return StyleDiscriminator(resolution=recipe.data.resolution, **_arguments(spec))
        case PatchDiscriminatorSpec():
            return PatchDiscriminator(**_arguments(spec))
        case _:
            assert_never(spec)


def build_denoiser(recipe: DiffusionRecipe, channels: int, size: int) -> UNet:
    """A denoiser for key codes of `channels` x `size` x `size`; one that inpaints sees another, and a mask."""
    surroundings = channels + 1 if recipe.conditioning else 0
    return UNet(inputs=channels, size=size, surroundings=surroundings, predicts=recipe.denoising.predicts,
                **_arguments(recipe.denoiser))


def build_latent_perceptual(spec: LatentPerceptualSpec, autoencoder: Autoencoder,
                            resolution: int) -> LatentPerceptualLoss:
    """On the features of an autoencoder of images of `resolution` pixels; without the weight."""
    return LatentPerceptualLoss(autoencoder.iter_features, resolution, **_arguments(spec, "weight"))


def build_schedule(spec: ScheduleSpec) -> Schedule:
    """t -> log SNR."""
    match spec:
        case ChenCosineSpec():
            return ChenCosine(**_arguments(spec))
        case NicholCosineSpec():
            return NicholCosine(**_arguments(spec))
        case LinearSpec():
            return Linear()
        case BetaLinearSpec():
            return BetaLinear(**_arguments(spec))
        case ScaledLinearSpec():
            return ScaledLinear(**_arguments(spec))
        case FlowSpec():
            return Flow()
        case _:
            assert_never(spec)


def _arguments(spec: Spec, *without: str) -> dict[str, Any]:
    """A spec's fields but its kind and those named: the keyword arguments of its module."""
    return spec.model_dump(exclude={"kind", *without})


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
