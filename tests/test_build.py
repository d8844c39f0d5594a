"""Every kind of every part becomes the module that bears its name; a member that joins a union is tested that day."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import nn

from bricscli.build import (
    build_autoencoder,
    build_bottleneck,
    build_decoder,
    build_denoiser,
    build_discriminator,
    build_retrieval,
    build_schedule,
    count_parameters,
)
from bricscli.diffusion.schedule import ChenCosine, ScaledLinear
from bricscli.errors import RecipeError
from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.noise import Noise
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.recipe.diffusion_specs import ScheduleSpec
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.recipe.specs import BottleneckSpec, DecoderSpec, DiscriminatorSpec, RetrievalSpec, Spec

MakeAutoencoder = Callable[..., AutoencoderRecipe]
MakeDiffusion = Callable[..., DiffusionRecipe]

#: Place -> the union of its specs, and what builds it.
PLACES: dict[str, tuple[Any, Callable[[AutoencoderRecipe], nn.Module]]] = {
    "bottleneck": (BottleneckSpec, build_bottleneck), "retrieval": (RetrievalSpec, build_retrieval),
    "decoder": (DecoderSpec, build_decoder), "discriminator": (DiscriminatorSpec, build_discriminator)}
MEMBERS: list[tuple[str, type[Spec]]] = [(place, member) for place, (union, _) in PLACES.items()
                                         for member in get_args(union)]
#: Sizes that keep a test fast, of every spec that has such a field.
SMALL = {"size": 8, "levels": 3, "mlp_width": 8, "style_width": 16, "mapping_layers": 1, "max_channels": 16,
         "entries": 16, "layers": 2}
#: Two channels a bottleneck, 16 a grid, 8 a level of the others; two levels, as 8 pixels to 16 need.
WIDTHS: dict[str, Any] = {"bottleneck": 2, "retrieval": 16, "decoder": 8, "discriminator": 4}


def small(place: str, member: type[Spec]) -> dict[str, Any]:
    """What makes `member` of 8x8 codes and 16x16 images; everything else is its default."""
    values: dict[str, Any] = {name: SMALL[name] for name in member.model_fields if name in SMALL}
    if "channels" in member.model_fields:
        several = "tuple" in str(member.model_fields["channels"].annotation)
        values["channels"] = [WIDTHS[place]] * 2 if several else WIDTHS[place]
    if "multipliers" in member.model_fields:
        values["multipliers"] = [1, 2]
    return values | {"kind": member.model_fields["kind"].default}


def recipe_with(make: MakeAutoencoder, place: str, member: type[Spec]) -> AutoencoderRecipe:
    """Without the adversarial loss any discriminator is allowed."""
    changes = {"losses": {"adversarial": 0}, place: small(place, member)}
    try:
        return make(**changes)
    except RecipeError:  # grids and codes that do not go together
        return make(**{"retrieval": {"kind": "none"}, "bottleneck": {"noise": False}} | changes)


@pytest.mark.parametrize(("place", "member"), MEMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_the_module_bears_the_name_of_its_spec(
    tiny_autoencoder: MakeAutoencoder, place: str, member: type[Spec]
) -> None:
    recipe = recipe_with(tiny_autoencoder, place, member)
    assert type(getattr(recipe, place)) is member
    module = PLACES[place][1](recipe)
    assert f"{type(module).__name__}Spec" == member.__name__
    if place != "discriminator":
        assert type(getattr(build_autoencoder(recipe), place)) is type(module)


@pytest.mark.parametrize(("place", "member"), MEMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_what_was_built_works(tiny_autoencoder: MakeAutoencoder, place: str, member: type[Spec]) -> None:
    recipe = recipe_with(tiny_autoencoder, place, member)
    model, images = build_autoencoder(recipe), torch.rand(2, 3, 16, 16) * 2 - 1
    code = model.encode(images)
    assert code.shape == (2, *recipe.code_shape)
    assert not recipe.has_key_codes or bool(((code > 0) & (code < 1)).all())
    block = model.retrieval(model.retrieval.tile(code))
    assert block.shape == (2, recipe.decoder_inputs, recipe.decoder_size, recipe.decoder_size)
    drawn = model.reconstruct(images, Noise(torch.Generator().manual_seed(0)))
    assert drawn.image.shape == model(images).shape == images.shape
    critic = build_discriminator(recipe)
    assert critic(images).shape[0] == 2 and critic(images).isfinite().all()
    (drawn.image.square().mean() + drawn.coded.loss).backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert still == [], "every parameter learns"


def test_each_method_is_built(tiny_autoencoder: MakeAutoencoder, method: dict[str, Any]) -> None:
    recipe = tiny_autoencoder(**method)
    model = build_autoencoder(recipe)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)
    assert model.relaxed == (recipe.bottleneck.kind == "key_code")


@pytest.mark.parametrize("noise", [True, False])
def test_noise_is_the_key_codes(tiny_autoencoder: MakeAutoencoder, noise: bool) -> None:
    assert build_autoencoder(tiny_autoencoder(bottleneck={"noise": noise})).relaxed == noise


def test_values_arrive(tiny_autoencoder: MakeAutoencoder) -> None:
    grid = build_retrieval(tiny_autoencoder(
        bottleneck={"channels": 4}, retrieval={"key_length": 2, "levels": 5, "r_min": 3, "r_max": 9, "index": "hash",
                                               "max_entries": 32, "entry_channels": 3, "mlp_layers": 4}))
    assert isinstance(grid, FeatureGrid)
    assert (grid.groups, grid.key_length, grid.size, grid.r_max) == (2, 2, 8, 9)
    assert (grid.resolutions[0], grid.resolutions[-1], len(grid.levels)) == (3, 9, 5)
    assert grid.table.shape == (2, 5 * 32, 3) and all(level.hashed for level in grid.levels)
    assert [tuple(weight.shape) for weight in grid.mlp.weights] == [(2, 15, 8), (2, 8, 8), (2, 8, 8), (2, 8, 8)]
    decoder = build_decoder(tiny_autoencoder(decoder={"kind": "conv", "channels": 8, "multipliers": [1, 3]}))
    assert isinstance(decoder, ConvDecoder)
    assert (decoder.stem.in_channels, decoder.stem.out_channels, decoder.out.in_channels) == (16, 24, 8)


def test_the_preset_decides_where_the_recipe_does_not(tiny_autoencoder: MakeAutoencoder) -> None:
    for preset, r_max in (("matched", 64), ("text", 32)):
        grid = build_retrieval(tiny_autoencoder(retrieval={
            "kind": "feature_grid", "size": 8, "levels": 2, "preset": preset, "max_entries": 64, "channels": 16}))
        assert isinstance(grid, FeatureGrid) and grid.resolutions == [4, r_max] and grid.r_max == r_max


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_follow_from_the_seed(tiny_autoencoder: MakeAutoencoder, seed: int) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build_autoencoder(tiny_autoencoder()).parameters()])

    assert torch.equal(weights(seed), weights(seed)) and not torch.equal(weights(seed), weights(seed + 1))


def test_a_denoiser_and_its_schedule(tiny_diffusion: MakeDiffusion) -> None:
    recipe = tiny_diffusion(schedule={"start": 0.1, "end": 0.9, "tau": 2.0}, denoising={"predicts": "v"})
    assert build_schedule(recipe.schedule) == ChenCosine(start=0.1, end=0.9, tau=2.0)
    x = torch.zeros(3, 5, 8, 8)
    denoiser = build_denoiser(recipe, channels=5, size=8)
    assert denoiser(x, torch.zeros(3)).shape == x.shape
    assert denoiser.stem.out_channels == recipe.denoiser.channels == denoiser.channels
    assert denoiser.predicts == "v"


@pytest.mark.parametrize("member", get_args(ScheduleSpec), ids=lambda member: member.__name__)
def test_the_schedule_bears_the_name_of_its_spec(tiny_diffusion: MakeDiffusion, member: type[Spec]) -> None:
    """And has its defaults."""
    recipe = tiny_diffusion(schedule={"kind": member.model_fields["kind"].default})
    schedule = build_schedule(recipe.schedule)
    assert type(recipe.schedule) is member and f"{type(schedule).__name__}Spec" == member.__name__
    assert schedule == type(schedule)()


def test_a_schedules_values_arrive(tiny_diffusion: MakeDiffusion) -> None:
    recipe = tiny_diffusion(schedule={"kind": "scaled_linear", "start": 0.001, "end": 0.0155, "steps": 7})
    assert build_schedule(recipe.schedule) == ScaledLinear(0.001, 0.0155, 7)


def test_count_parameters() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False))
    assert count_parameters(module) == (3 * 5 + 5) + (5 + 5) + 5 * 2, "buffers are not among them"
    module[0].requires_grad_(False)
    assert count_parameters(module) == (5 + 5) + 5 * 2
    shared = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(shared, shared)) == 12, "counted once"
    assert count_parameters(nn.Identity()) == 0
