"""The recipes that come with the program."""

from typing import get_args

import pytest

from bricscli.data.masks import KINDS
from bricscli.errors import RecipeError
from bricscli.recipe.diffusion_specs import InpaintSpec
from bricscli.recipe.load import differing_keys, dump_recipe, find_recipe, list_recipes, load_recipe, parse_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.recipe.specs import ConditionalSpec, StyleDecoderSpec

COMPLETE = [name for name in list_recipes() if not name.startswith("base/")]


def test_there_are_some() -> None:
    assert len(COMPLETE) >= 2


@pytest.mark.parametrize("name", COMPLETE)
def test_loads_and_survives_writing(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(dump_recipe(recipe), name) == recipe
    assert recipe.description


@pytest.mark.parametrize(("override", "says"), [
    ("denoiser.channels=33", "denoiser.channels: 33 is odd"),
    ("schedule.end=0.1", "schedule.end: 0.1 is not above schedule.start 0.2"),
    ("schedule={kind: scaled_linear, end: 0.001}", "schedule.end: 0.001 is not above schedule.start 0.0015"),
    ("schedule={kind: beta_linear, start: 0.02}", "schedule.end: 0.02 is not above schedule.start 0.02"),
    ("schedule.kind=cosine", "`chen_cosine`, `nichol_cosine`, `linear`, `beta_linear`, `scaled_linear`, `flow`"),
    ("denoising.gamma=4", "denoising.gamma: belongs to weight `min_snr`, not to `eps`"),
    ("denoising.predicts=noise", "`eps`, `v`, `x_0` or `flow`"),
    ("training.ema=[0.9, 0.9]", "training.ema: must be 0, a decay, or a list of decays, each once"),
    ("training.ema=[]", "training.ema: must be 0, a decay, or a list"),
    ("training.ema=[0, 0.9]", "training.ema: must be 0, a decay, or a list"),
    ("training.ema=[0.9, 1]", r"training.ema\[1\]: must be below 1, got 1"),
    ("training.accumulate=3", "training.accumulate: 3 parts do not divide a batch of 64"),
    ("sampling.sampler=euler", "sampling.sampler: must be `ddpm`, `ddim`, .* got the text 'euler'"),
    ("sampling.grid=even", "sampling.grid: must be `log_snr` or `trailing`, got the text 'even'"),
    ("sampling.steps=0", "sampling.steps: must be above 0, got 0"),
    ("sampling={sampler: ddim, eta: -1}", "sampling.eta: must be at least 0, got -1"),
    ("sampling={sampler: ddim, eta: .nan}", "sampling.eta: must be at most 1, got nan|sampling.eta: .*nan"),
    ("sampling.eta=1.0", "sampling.eta: belongs to `ddim`, not to `dpmpp_2m`; write 0"),
    ("sampling.guidance=-1", "sampling.guidance: must be at least 0, got -1"),
    ("sampling.guidance=101.0", "sampling.guidance: must be at most 100, got 101"),
    ("sampling.guidance=2.0", "sampling.guidance: 2 needs a denoiser with classes; write 1"),
    ("denoiser.classes=1", "denoiser.classes: a single class tells nothing; write 0, or 2 and more"),
    ("denoiser.classes=-1", "denoiser.classes: must be at least 0, got -1"),
    ("training.label_dropout=0.2", "training.label_dropout: belongs to a denoiser with classes; leave it out"),
    ("training.label_dropout=1.0", "training.label_dropout: must be below 1, got 1"),
])
def test_values_that_make_no_denoiser_are_refused(override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_recipe("church64x4-diffusion.yaml", [override])


def test_guidance_needs_both_predictions() -> None:
    """With every label told in training nobody taught the denoiser to do without."""
    recipe = load_recipe("photos64-classes-diffusion.yaml", ["sampling.guidance=1", "training.label_dropout=0"])
    assert isinstance(recipe, DiffusionRecipe)
    assert recipe.problem_of_guidance(1.0) is None
    with pytest.raises(RecipeError, match=r"sampling.guidance: 1.5 needs a denoiser whose labels were dropped now and"):
        load_recipe("photos64-classes-diffusion.yaml", ["training.label_dropout=0"])


@pytest.mark.parametrize(("written", "decays"), [("0.99", (0.99,)), ("[0.99]", (0.99,)), ("0", (0,)),
                                                 ("[0.9999, 0.99975]", (0.9999, 0.99975))])
def test_one_decay_or_several(written: str, decays: tuple[float, ...]) -> None:
    recipe = load_recipe("church64x4-diffusion.yaml", [f"training.ema={written}"])
    assert isinstance(recipe, DiffusionRecipe) and recipe.training.ema == decays
    text = dump_recipe(recipe)
    assert f"  ema: {written if len(decays) > 1 else float(decays[0])}\n" in text
    assert parse_recipe(text, "x") == recipe


def test_a_denoiser_cannot_halve_a_code_more_often_than_it_goes() -> None:
    recipe = load_recipe("church64x4-diffusion.yaml")
    assert isinstance(recipe, DiffusionRecipe)
    recipe.check_code_size(64)
    recipe.check_code_size(8)
    with pytest.raises(RecipeError, match="Use at most 3 entries"):
        recipe.check_code_size(4)


@pytest.mark.parametrize("name", COMPLETE)
def test_header_names_the_command(name: str) -> None:
    recipe, path = load_recipe(name), find_recipe(name)
    header = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    command = "train-ae" if recipe.kind == "autoencoder" else "train-diffusion"
    assert sum(line.startswith(f"# Command:  brics {command} --recipe {name}") for line in header) == 1


def test_every_kind_of_mask_has_its_name_in_recipes() -> None:
    for spec in (ConditionalSpec, InpaintSpec):
        assert get_args(spec.model_fields["masks"].annotation) == tuple(KINDS)


@pytest.mark.parametrize("name", [name for name in COMPLETE if name.endswith("-inpaint-diffusion.yaml")])
def test_a_denoiser_that_inpaints_is_its_base_but_for_what_it_sees(name: str) -> None:
    recipe, base = load_recipe(name), load_recipe(name.replace("-inpaint", ""))
    assert differing_keys(base, recipe) == ["conditioning: None -> (none)", "conditioning.kind: (none) -> 'inpaint'",
                                            "conditioning.masks: (none) -> 'mixed'"]


@pytest.mark.parametrize("name", [name for name in COMPLETE if "inpaint" in name and "diffusion" not in name])
def test_a_conditional_decoder_is_for_the_codes_of_its_base(name: str) -> None:
    """Of the recipe that it extends, from which its run begins; a larger one keeps what it needs of the narrow one."""
    recipe = load_recipe(name)
    base = load_recipe(name.replace("-large", "").replace("-inpaint", ""))
    assert isinstance(recipe, AutoencoderRecipe) and isinstance(base, AutoencoderRecipe)
    for part in ("encoder", "bottleneck", "retrieval", "data"):
        assert getattr(recipe, part) == getattr(base, part)
    assert isinstance(recipe.decoder, StyleDecoderSpec) and isinstance(base.decoder, StyleDecoderSpec)
    assert recipe.decoder.conditional is not None and base.decoder.conditional is None
    wider = [ours / theirs for ours, theirs in zip(recipe.decoder.channels, base.decoder.channels, strict=True)]
    assert set(wider) == {1.5 if "large" in name else 1.0}
    assert recipe.decoder.extra_layers == ("large" in name)
