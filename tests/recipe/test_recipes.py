"""What needs more than one field: sizes that follow from others, and parts that do not fit together."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
from pydantic_core import PydanticUndefined

from bricscli.errors import RecipeError
from bricscli.recipe.diffusion_specs import ScheduleSpec
from bricscli.recipe.load import dump_recipe, parse_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.recipe.specs import BottleneckSpec, DecoderSpec, DiscriminatorSpec, FeatureGridSpec, RetrievalSpec, Spec

MakeRecipe = Callable[..., AutoencoderRecipe]
UNIONS = {"bottleneck": BottleneckSpec, "retrieval": RetrievalSpec, "decoder": DecoderSpec,
          "discriminator": DiscriminatorSpec}
NO_GRIDS = {"kind": "none"}
CONV = {"kind": "conv", "multipliers": [1, 2]}
PATCH = {"kind": "patch", "layers": 2}
HINGE = {"adversarial_loss": "hinge", "gradient_penalty": 0}


def problems(make: MakeRecipe, **changes: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        make(**changes)
    return caught.value.lines


# --- kinds

@pytest.mark.parametrize("place", [*UNIONS, "schedule"])
def test_every_kind_has_a_name_of_its_own_and_complete_defaults(place: str) -> None:
    members: tuple[type[Spec], ...] = get_args((UNIONS | {"schedule": ScheduleSpec})[place])
    kinds = [member.model_fields["kind"].default for member in members]
    assert len(set(kinds)) == len(members) > 1
    for member, kind in zip(members, kinds, strict=True):
        assert get_args(member.model_fields["kind"].annotation) == (kind,)
        assert all(field.default is not PydanticUndefined for field in member.model_fields.values())
        assert (member.__doc__ or "").endswith(".")


def test_a_place_without_a_kind_is_filled_as_brics_does(tiny_autoencoder: MakeRecipe) -> None:
    recipe = tiny_autoencoder()
    assert [getattr(recipe, place).kind for place in UNIONS] == ["key_code", "feature_grid", "style", "style"]
    for place, union in UNIONS.items():
        default = AutoencoderRecipe.model_fields[place].default
        assert type(default) is get_args(union)[0], "suggestions look at the first member where there is no kind"
    assert type(DiffusionRecipe.model_fields["schedule"].default) is get_args(ScheduleSpec)[0]


def test_each_method_survives_writing(tiny_autoencoder: MakeRecipe, method: dict[str, Any]) -> None:
    recipe = tiny_autoencoder(**method)
    assert parse_recipe(dump_recipe(recipe), "x") == recipe
    assert all(type(getattr(recipe, place)) in get_args(union) for place, union in UNIONS.items())


# --- sizes

@pytest.mark.parametrize(("changes", "code_shape", "decoder", "halvings"), [
    ({}, (2, 8, 8), (8, 16), 1),
    ({"retrieval": {"size": 16}, "decoder": {"channels": [8]}}, (2, 8, 8), (16, 16), 0),
    ({"encoder": {"multipliers": [1, 2, 2]}, "bottleneck": {"channels": 4}}, (4, 4, 4), (8, 16), 1),
    ({"decoder": CONV}, (2, 8, 8), (8, 16), 1),
    ({"retrieval": NO_GRIDS, "bottleneck": {"noise": False}, "decoder": CONV}, (2, 8, 8), (8, 2), 1),
    ({"retrieval": NO_GRIDS, "encoder": {"multipliers": [1, 2, 2]}, "bottleneck": {"kind": "vq", "channels": 5},
      "decoder": CONV | {"kind": "movq", "multipliers": [1, 1, 1]}}, (5, 4, 4), (4, 5), 2),
])
def test_sizes_follow(
    tiny_autoencoder: MakeRecipe, changes: dict[str, Any], code_shape: tuple[int, ...], decoder: tuple[int, int],
    halvings: int
) -> None:
    recipe = tiny_autoencoder(**changes)
    assert recipe.code_shape == code_shape and recipe.code_size == code_shape[-1]
    assert (recipe.decoder_size, recipe.decoder_inputs) == decoder
    assert recipe.halvings == halvings


@pytest.mark.parametrize(("kind", "bounded"), [
    ("key_code", True), ("kl_key_code", True), ("kl", False), ("vq", False), ("rq", False)])
def test_grids_need_key_codes(tiny_autoencoder: MakeRecipe, kind: str, bounded: bool) -> None:
    bottleneck = {"kind": kind, "channels": 2}
    exact = bottleneck | ({"noise": False} if kind == "key_code" else {})
    assert tiny_autoencoder(bottleneck=exact, retrieval=NO_GRIDS, decoder=CONV).has_key_codes == bounded
    if bounded:
        assert tiny_autoencoder(bottleneck=bottleneck).has_key_codes
    else:
        assert problems(tiny_autoencoder, bottleneck=bottleneck) == [
            f"recipe: retrieval.kind: feature grids are indexed by key codes in [0, 1], not by bottleneck `{kind}`; "
            "write `none`."]


def test_every_bottleneck_was_asked_for() -> None:
    (test,) = test_grids_need_key_codes.pytestmark  # type: ignore[attr-defined]
    assert [kind for kind, _ in test.args[1]] == [member().kind for member in get_args(BottleneckSpec)]


@pytest.mark.parametrize(("resolution", "grid", "wanted"), [  # codes of half the resolution
    (128, {}, (16, 64)),
    (256, {}, (16, 64)),
    (64, {}, (4, 64)),
    (128, {"preset": "matched", "r_min": 5}, (5, 64)),
    (64, {"preset": "matched", "r_max": 7}, (4, 7)),
    (128, {"preset": "text"}, (4, 64)),
    (64, {"preset": "text"}, (4, 32)),
    (64, {"preset": "text", "r_min": 5}, (5, 32)),
    (64, {"preset": "text", "r_max": 7}, (4, 7)),
    (64, {"preset": "text", "r_min": 2, "r_max": 2}, (2, 2)),
])
def test_range_of_levels(
    tiny_autoencoder: MakeRecipe, resolution: int, grid: dict[str, Any], wanted: tuple[int, int]
) -> None:
    place = {"kind": "feature_grid", "size": resolution // 2, "channels": 16} | grid
    recipe = tiny_autoencoder(data={"resolution": resolution}, retrieval=place)
    assert recipe.level_range() == wanted
    assert isinstance(recipe.retrieval, FeatureGridSpec)
    assert recipe.retrieval.r_min == grid.get("r_min"), "what was not written stays open: --set preset still decides"


# --- parts that do not fit

NO_FIT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "tiles of 4 by 4": ({"retrieval": {"size": 12}, "data": {"resolution": 24}, "encoder": {"multipliers": [1] * 4}},
                        []),
    "size": ({"retrieval": {"size": 4}, "decoder": {"channels": [8, 8, 8]}},
             ["retrieval.size: 4 is not a multiple of the code size 8"]),
    "decoder": ({"decoder": {"channels": [8, 8, 8]}},
                ["decoder.channels: 3 widths take 8 pixels to 32, not to 16"]),
    "conv decoder": ({"decoder": CONV | {"multipliers": [1]}},
                     ["decoder.multipliers: 1 widths take 8 pixels to 8, not to 16"]),
    "conv decoder of the code": (
        {"retrieval": NO_GRIDS, "bottleneck": {"kind": "kl"}, "encoder": {"multipliers": [1, 1, 1]}, "decoder": CONV},
        ["decoder.multipliers: 2 widths take 4 pixels to 8, not to 16"]),
    "noise of no grids": (
        {"retrieval": NO_GRIDS, "decoder": CONV},
        ["bottleneck.noise: is as strong as the feature grids are coarse, and there are none; write false"]),
    "key codes without grids": ({"retrieval": NO_GRIDS, "decoder": CONV, "bottleneck": {"noise": False}}, []),
    "KL key codes without grids": ({"retrieval": NO_GRIDS, "decoder": CONV, "bottleneck": {"kind": "kl_key_code"}}, []),
    "halved below a pixel": (
        {"encoder": {"multipliers": [1] * 6}},
        ["data.resolution: 16 cannot be halved 5 times (encoder.multipliers has 6 entries)"]),
    "key units": ({"bottleneck": {"channels": 3}, "retrieval": {"key_length": 2}},
                  ["bottleneck.channels: 3 is not a multiple of retrieval.key_length 2"]),
    "groups": ({"bottleneck": {"channels": 6}, "retrieval": {"key_length": 2}},
               ["retrieval.channels: 16 is not a multiple of the 3 groups"]),
    "hash": ({"retrieval": {"index": "hash", "max_entries": 100}},
             ["retrieval.max_entries: 100 is no power of two, as `hash` needs"]),
    "hash of a power of two": ({"retrieval": {"index": "hash", "max_entries": 128}}, []),
    "modulo of any number": ({"retrieval": {"index": "modulo", "max_entries": 100}}, []),
    "range": ({"retrieval": {"r_min": 9}}, ["retrieval.r_max: 8 is less than r_min 9"]),
    "range of the preset": ({"retrieval": {"kind": "feature_grid", "size": 8, "r_max": 3}},
                            ["retrieval.r_max: 3 is less than r_min 4"]),
    "one level": ({"retrieval": {"r_min": 8}}, []),
    "accumulate": ({"training": {"accumulate": 3}}, ["training.accumulate: 3 parts do not divide a batch of 4"]),
    "accumulate more than there are": ({"training": {"accumulate": 8}},
                                       ["training.accumulate: 8 parts do not divide a batch of 4"]),
    "accumulate one by one": ({"training": {"accumulate": 4}}, []),
    "accumulate a codebook": (
        {"bottleneck": {"kind": "rq"}, "retrieval": {"kind": "none"}, "training": {"accumulate": 2}},
        ["training.accumulate: the codebook of `rq` moves with every part; write 1"]),
    "no losses": ({"losses": {"l2": 0, "adversarial": 0}},
                  ["losses: l1, l2 and perceptual are all 0; give one a weight"]),
    "nothing to adapt to": ({"losses": {"l2": 0, "adaptive": True}},
                            ["losses: l1, l2 and perceptual are all 0; give one a weight"]),
    "only the critic's": ({"losses": {"l2": 0}}, []),
    "hinge": ({"losses": {"adversarial_loss": "hinge"}},
              ["losses.gradient_penalty: belongs to `wgan`; with `hinge` write 0"]),
    "hinge that is off": ({"losses": {"adversarial_loss": "hinge", "adversarial": 0}}, []),
    "hinge without": ({"losses": HINGE}, []),
    "patches and penalty": (
        {"discriminator": PATCH},
        ["losses.gradient_penalty: is defined for each image, and a `patch` discriminator's batch norm ties them "
         "together; write 0, or use discriminator `style`"]),
    "patches and hinge's penalty": ({"discriminator": PATCH, "losses": {"adversarial_loss": "hinge"}},
                                    ["losses.gradient_penalty: belongs to `wgan`; with `hinge` write 0"]),
    "patches without": ({"discriminator": PATCH, "losses": {"gradient_penalty": 0}}, []),
    "patches that are off": ({"discriminator": PATCH | {"layers": 5}, "losses": {"adversarial": 0}}, []),
    "patches of a small image": ({"discriminator": PATCH | {"layers": 3}, "losses": HINGE},
                                 ["discriminator.layers: 3 need images of at least 24 pixels, not 16"]),
    "all at once": (
        {"retrieval": {"index": "hash", "max_entries": 9, "r_max": 1}, "training": {"accumulate": 3},
         "losses": {"adversarial_loss": "hinge"}, "discriminator": PATCH | {"layers": 9},
         "decoder": {"channels": [8]}, "bottleneck": {"channels": 3}},
        ["retrieval.channels: 16 is not a multiple of the 3 groups",
         "retrieval.max_entries: 9 is no power of two, as `hash` needs",
         "retrieval.r_max: 1 is less than r_min 2",
         "decoder.channels: 1 widths take 8 pixels to 8, not to 16",
         "training.accumulate: 3 parts do not divide a batch of 4",
         "losses.gradient_penalty: belongs to `wgan`; with `hinge` write 0",
         "discriminator.layers: 9 need images of at least 1536 pixels, not 16"]),
}


@pytest.mark.parametrize("name", NO_FIT)
def test_parts_that_do_not_fit(tiny_autoencoder: MakeRecipe, name: str) -> None:
    changes, wanted = NO_FIT[name]
    if wanted:
        assert problems(tiny_autoencoder, **changes) == [f"recipe: {line}." for line in wanted]
    else:
        tiny_autoencoder(**changes)


def test_a_range_is_of_its_fields(tiny_autoencoder: MakeRecipe) -> None:
    for changes, says in (({"retrieval": {"key_length": 3}}, "retrieval.key_length: must be 1 or 2, got 3"),
                          ({"retrieval": {"max_entries": 7}}, "retrieval.max_entries: must be at least 8, got 7"),
                          ({"retrieval": {"r_min": 0}}, "retrieval.r_min: must be above 0, got 0"),
                          ({"retrieval": {"preset": "txt"}}, "retrieval.preset: must be `matched` or `text`, got"),
                          ({"bottleneck": {"kind": "rq", "depth": 65}}, "bottleneck.depth: must be at most 64, got 65"),
                          ({"bottleneck": {"kind": "rq", "decay": 1}}, "bottleneck.decay: must be below 1, got 1")):
        assert problems(tiny_autoencoder, **changes)[0].startswith(f"recipe: {says}")
