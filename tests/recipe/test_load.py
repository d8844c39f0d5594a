import os
import re
import subprocess
import sys
from pathlib import Path
from string import ascii_lowercase
from typing import Any, get_args

import pytest

from bricscli.errors import RecipeError
from bricscli.recipe import load
from bricscli.recipe.load import (
    KINDS,
    differing_keys,
    dump_recipe,
    find_recipe,
    list_recipes,
    load_recipe,
    load_shipped_recipe,
    parse_recipe,
    read_recipe,
    recipe_from_dict,
)
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.recipe.specs import StyleDecoderSpec

AUTOENCODER = """\
kind: autoencoder
data:
  name: toy
  resolution: 32
encoder:
  multipliers: [1, 2]
retrieval: {size: 16}
decoder:
  channels: [8, 8]
training:
  images: 100
"""
DIFFUSION = "kind: diffusion\nautoencoder: toy\ntraining: {images: 100}\n"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder, and shipped recipes of our own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(load, "recipe_roots", lambda: (Path(), tmp_path / "recipes"))
    write("../recipes/base/autoencoder.yaml", AUTOENCODER)
    write("../recipes/tiny/toy32.yaml", "extends: base/autoencoder.yaml\ntraining: {images: 5}\n")
    write("../recipes/church64x4.yaml", "extends: base/autoencoder.yaml\n")
    write("../recipes/church64x4-diffusion.yaml", DIFFUSION)


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def autoencoder(name: str, *overrides: str) -> AutoencoderRecipe:
    recipe = load_recipe(name, overrides)
    assert isinstance(recipe, AutoencoderRecipe)
    return recipe


def problems(text: str | None, *overrides: str, name: str = "x.yaml", kind: load.Kind | None = None) -> list[str]:
    if text is not None:
        write(name, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides, kind)
    assert caught.value.exit_code == 2
    return caught.value.lines


# --- finding

def test_found_by_path_and_by_name() -> None:
    write("mine.yaml", AUTOENCODER)
    write("sub/other.yaml", AUTOENCODER)
    assert find_recipe("mine.yaml") == find_recipe("mine.yaml").relative_to(".") == Path("mine.yaml")
    assert find_recipe("mine") == Path("mine.yaml")
    assert find_recipe("sub/other") == Path("sub/other.yaml")
    assert find_recipe(os.path.abspath("mine.yaml")) == Path.cwd() / "mine.yaml"
    for name in ("church64x4.yaml", "church64x4"):
        assert find_recipe(name).name == "church64x4.yaml"
    for name in ("toy32", "toy32.yaml", "tiny/toy32", "tiny/toy32.yaml"):
        assert find_recipe(name).parts[-2:] == ("tiny", "toy32.yaml")


def test_the_current_folder_goes_before_the_shipped() -> None:
    write("church64x4.yaml", AUTOENCODER)
    assert find_recipe("church64x4") == Path("church64x4.yaml")


def test_a_shipped_recipe_whatever_lies_here() -> None:
    write("church64x4.yaml", AUTOENCODER.replace("100", "7"))
    write("mine.yaml", AUTOENCODER)
    assert load_recipe("church64x4.yaml").training.images == 7
    assert load_shipped_recipe("church64x4.yaml").training.images == 100
    assert load_shipped_recipe("tiny/toy32.yaml") == load_recipe("tiny/toy32.yaml")
    with pytest.raises(RecipeError, match=r"^mine\.yaml: no such recipe among the shipped\. There are: base/"):
        load_shipped_recipe("mine.yaml")


def test_a_folder_is_no_recipe() -> None:
    Path("church64x4").mkdir()
    assert find_recipe("church64x4").name == "church64x4.yaml"


def test_unknown_name_suggests_and_says_where_it_looked() -> None:
    with pytest.raises(RecipeError, match=r"^curch64x4: no such recipe in the current folder and .*recipes\. "
                                          r"Did you mean `church64x4`\?$"):
        find_recipe("curch64x4")
    with pytest.raises(RecipeError, match=r"There are: base/autoencoder\.yaml, church"):
        find_recipe("qqqq")


def test_ambiguous_name() -> None:
    write("../recipes/base/toy32.yaml", AUTOENCODER)
    with pytest.raises(RecipeError, match=r"toy32: there are base/toy32\.yaml and tiny/toy32\.yaml"):
        find_recipe("toy32")


def test_shipped_recipes_are_found_from_anywhere(tmp_path: Path) -> None:
    """With the real places, in a fresh process that stands elsewhere."""
    code = ("from bricscli.recipe.load import *\n"
            "print(recipe_roots()[1:])\n"
            "for name in list_recipes(): find_recipe(name)")
    folder = Path(load.__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(folder)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "recipes" in done.stdout


# --- reading

def test_defaults_and_types() -> None:
    write("x.yaml", AUTOENCODER + "losses: {l2: 1, perceptual: 1e-4}\n")
    recipe = autoencoder("x.yaml")
    assert recipe.losses.l2 == 1.0 and isinstance(recipe.losses.l2, float) and recipe.losses.perceptual == 1e-4
    assert recipe.decoder.channels == (8, 8) and recipe.training.epsilon == 1e-15


def test_every_error_at_once_with_its_line() -> None:
    assert problems("""\
kind: autoencoder
data:
  name: a/b
  resolution: 32.5
  name: c/d
encoder: {multipliers: [1, x, 0]}
decoder:
  chanels: [8, 8]
losses:
training:
  images: 1e6
  betas: [0.1]
  schedule: cosin
  learning_rate: on
  seed: -1
  ema: 1
batch_size: 12
""") == [
        "x.yaml:5: data.name: is given twice, first in line 3. Keep one of them.",
        "x.yaml:3: data.name: must be a plain name of letters, digits, `.`, `_` and `-`, got the text 'c/d'.",
        "x.yaml:4: data.resolution: expected a whole number, got 32.5.",
        "x.yaml:6: encoder.multipliers[1]: expected a whole number, got the text 'x'.",
        "x.yaml:6: encoder.multipliers[2]: must be above 0, got 0.",
        "x.yaml:8: decoder.chanels: unknown key for kind `style`. Did you mean `channels`?",
        "x.yaml:9: losses: expected a mapping, got nothing.",
        "x.yaml:11: training.images: expected a whole number, got 1000000.0. Write 1000000.",
        "x.yaml:14: training.learning_rate: expected a number, got the text 'on'.",
        "x.yaml:13: training.schedule: must be `constant` or `cosine`, got the text 'cosin'.",
        "x.yaml:12: training.betas[1]: is required.",
        "x.yaml:16: training.ema: must be below 1, got 1.",
        "x.yaml:15: training.seed: must be at least 0, got -1.",
        "x.yaml:17: batch_size: unknown key for kind `autoencoder`. Did you mean `training.batch_size`?",
    ]


def test_checks_across_fields_are_one_line_each_where_the_key_is() -> None:
    text = AUTOENCODER.replace("resolution: 32", "resolution: 33").replace("size: 16", "size: 15, r_max: 3")
    lines = problems(text)
    assert len(lines) == 3
    assert lines[0].startswith("x.yaml:4: data.resolution: 33 cannot be halved 1 times")
    assert lines[1] == "x.yaml:7: retrieval.r_max: 3 is less than r_min 4."
    assert lines[2].startswith("x.yaml:9: decoder.channels: 2 widths take 15 pixels to 30, not to 33")


@pytest.mark.parametrize(("value", "got"), [
    ("yes", "the text 'yes'"), ("1", "1"), ("", "nothing"), ("[true]", "a list of 1"), ("{}", "a mapping"),
    ("x" * 50, f"the text '{'x' * 37}'...")])
def test_a_switch_takes_only_true_or_false(value: str, got: str) -> None:
    lines = problems(AUTOENCODER.replace("  name: toy", f"  name: toy\n  flip: {value}"))
    assert lines == [f"x.yaml:4: data.flip: expected true or false, got {got}" + "." * (got[-1] != ".")]


def test_a_flag_is_no_number() -> None:
    assert problems(AUTOENCODER.replace("images: 100", "images: true")) == [
        "x.yaml:11: training.images: expected a whole number, got true."]


def test_lengths_of_lists() -> None:
    lines = problems(AUTOENCODER.replace("images: 100", "images: 100\n  betas: [0, 0.5, 0.9]").replace("[1, 2]", "[]"))
    assert lines == ["x.yaml:6: encoder.multipliers: needs at least 1 entry, got 0.",
                     "x.yaml:12: training.betas: needs at most 2 entries, got 3."]


@pytest.mark.parametrize(("text", "line"), [
    ("", "x.yaml: expected a mapping such as `kind: autoencoder`, got nothing."),
    ("- 1", "x.yaml: expected a mapping such as `kind: autoencoder`, got a list of 1."),
    ("a: [", "x.yaml:1: is not YAML: while parsing a flow node expected the node content, but found '<stream end>'."),
    ("data: {name: toy}\n", "x.yaml: kind: is required. Write `kind: autoencoder` or `kind: diffusion`, or extend a "
                            "recipe that has one."),
    ("data: 1\nkind: autoencodr", "x.yaml:2: kind: must be `autoencoder` or `diffusion`, got the text 'autoencodr'."),
    ("kind: [diffusion]", "x.yaml:1: kind: must be `autoencoder` or `diffusion`, got a list of 1."),
])
def test_no_recipe_at_all(text: str, line: str) -> None:
    assert problems(text) == [line]


def test_a_misspelt_extends_is_found_though_the_kind_is_missing() -> None:
    assert problems("extend: church64x4\n")[0] == "x.yaml:1: extend: unknown key. Did you mean `extends`?"
    assert problems(AUTOENCODER + "extens: church64x4\n") == [
        "x.yaml:12: extens: unknown key for kind `autoencoder`. Did you mean `extends`?"]


def test_a_part_that_has_no_kinds() -> None:
    assert problems(AUTOENCODER + "losses: {kind: x, l3: 1}\n") == [
        "x.yaml:12: losses.kind: unknown key. There are: l1, l2, perceptual, perceptual_network, adversarial, "
        "adversarial_loss, adaptive, gradient_penalty, adversarial_start.",
        "x.yaml:12: losses.l3: unknown key. Did you mean `l1` or `l2`?"]
    text = AUTOENCODER.replace("  name: toy", "  kind: name")
    assert problems(text)[0] == "x.yaml:2: data.name: is required."


def test_names_do_not_reach_the_terminal_raw() -> None:
    lines = problems(AUTOENCODER + '"a\\e[31m\\nb": 1\n')
    assert len(lines) == 1 and lines[0].isprintable()


def test_too_large_and_unreadable() -> None:
    assert problems("#" * (2**20 + 1)) == ["x.yaml:1: has 1048577 bytes; at most 1048576 are read."]
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read \(No such file or directory\)\."):
        read_recipe(Path("none.yaml"))


def test_a_recipe_of_the_other_kind() -> None:
    assert problems(None, name="church64x4-diffusion", kind="autoencoder") == [
        "recipes/church64x4-diffusion.yaml: is a recipe for a diffusion model (kind: diffusion); `brics train-ae` "
        "needs kind: autoencoder."]
    assert problems(None, name="toy32", kind="diffusion") == [
        "recipes/tiny/toy32.yaml: is a recipe for an autoencoder (kind: autoencoder); `brics train-diffusion` needs "
        "kind: diffusion."]


# --- misspelt keys

def mutants(word: str, letters: str = "aekrx_2") -> set[str]:
    """Words at edit distance 1, with some letters."""
    edited = {word[:i] + word[i + 1:] for i in range(len(word))}
    for letter in letters:
        edited |= {word[:i] + letter + word[i:] for i in range(len(word) + 1)}
        edited |= {word[:i] + letter + word[i + 1:] for i in range(len(word))}
    return edited - {word, ""}


def keys_of(values: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    keys = []
    for name, value in values.items():
        keys += [(*above, name), *(keys_of(value, (*above, name)) if isinstance(value, dict) else [])]
    return keys


@pytest.mark.parametrize("text", [AUTOENCODER, DIFFUSION], ids=["autoencoder", "diffusion"])
def test_each_misspelt_key_is_refused_with_the_right_suggestion(text: str) -> None:
    whole = parse_recipe(text, "x").model_dump(mode="json")
    count, wrong = 0, []
    for *above, name in keys_of(whole):
        if (*above, name) == ("kind",):
            continue
        values = parse_recipe(text, "x").model_dump(mode="json")
        inside = values
        for part in above:
            inside = inside[part]
        value = inside.pop(name)
        for mutant in mutants(name) - inside.keys():
            inside[mutant] = value
            with pytest.raises(RecipeError) as caught:
                recipe_from_dict(values)
            del inside[mutant]
            line = next(line for line in caught.value.lines if "unknown key" in line)
            assert line.startswith(f"recipe: {'.'.join([*above, mutant])}: unknown key")
            count += 1
            suggested = set(line.partition(" Did you mean ")[2].removesuffix("?").replace("`", "").split(" or "))
            as_close = mutants(mutant, ascii_lowercase + "12") & inside.keys()  # such as `end` for a mutant of `kind`
            wrong += [line] if not suggested <= {name} | as_close or suggested == {""} else []
    assert count > 1000
    assert not wrong


# --- extends

def test_mappings_merge_and_lists_replace() -> None:
    write("x.yaml", "extends: tiny/toy32\ndata: {flip: false}\nencoder: {multipliers: [3, 3]}\n")
    recipe = autoencoder("x.yaml")
    assert recipe.data.model_dump() == {"name": "toy", "resolution": 32, "flip": False}
    assert recipe.encoder.multipliers == (3, 3)
    assert recipe.training.images == 5, "of the parent, not the grandparent"


def test_a_parent_is_looked_for_beside_the_file_first() -> None:
    write("base/autoencoder.yaml", AUTOENCODER.replace("toy", "mine"))
    write("sub/x.yaml", "extends: ../base/autoencoder\n")
    write("x.yaml", "extends: base/autoencoder.yaml\n")
    assert autoencoder("x.yaml").data.name == autoencoder("sub/x.yaml").data.name == "mine"
    assert autoencoder("toy32").data.name == "toy"


def test_errors_name_the_file_that_has_them() -> None:
    write("parent.yaml", "extends: church64x4\nlosses: {l3: 1}\n")
    assert problems("extends: parent.yaml\n\ndata: {resolution: 0}\n", "encoder.bloks=1") == [
        "x.yaml:3: data.resolution: must be at least 8, got 0.",
        "--set: encoder.bloks: unknown key. Did you mean `blocks`?",
        "parent.yaml:2: losses.l3: unknown key. Did you mean `l1` or `l2`?"]


@pytest.mark.parametrize("text", ["extends: x.yaml\n", "extends: y.yaml\n"])
def test_circles_are_refused(text: str) -> None:
    write("y.yaml", "extends: x.yaml\n")
    line, = problems(text)
    assert re.fullmatch(r"x\.yaml: extends itself: x\.yaml( -> y\.yaml)? -> x\.yaml\. Take out one `extends`\.", line)


@pytest.mark.parametrize(("value", "line"), [
    ("nothing", "x.yaml:2: extends: no recipe 'nothing' beside it or among the shipped."),
    ("church64x5.yaml", "x.yaml:2: extends: no recipe 'church64x5.yaml' beside it or among the shipped. "
                        "Did you mean `church64x4.yaml`?"),
    ("[a, b]", "x.yaml:2: extends: expected the name of one recipe, got a list of 2."),
    ("", "x.yaml:2: extends: expected the name of one recipe, got nothing."),
])
def test_a_parent_that_is_none(value: str, line: str) -> None:
    assert problems(f"# comment\nextends: {value}\n") == [line]


def test_the_kind_of_a_recipe_cannot_change() -> None:
    assert problems("extends: church64x4\nkind: diffusion\n") == [
        "x.yaml:2: kind: is the text 'diffusion', but recipes/church64x4.yaml, which it extends, has the text "
        "'autoencoder'. Extend another recipe."]
    write("x.yaml", "extends: church64x4\nkind: autoencoder\n")
    load_recipe("x.yaml", (), "autoencoder")


def test_a_changed_kind_replaces_its_whole_mapping() -> None:
    """Of a part: the keys of the old kind would be unknown to the new one."""
    parent = "kind: autoencoder\ndecoder: {channels: wrong if it is still there}\n"
    for base in (parent, parent.replace("{ch", "{kind: style, ch")):
        write("parent.yaml", base)
        lines = problems("extends: parent.yaml\ndecoder: {kind: conv, width: 3}\n")
        assert not any("decoder.channels" in line for line in lines)
        assert any("decoder.channels" in line for line in problems("extends: parent.yaml\ndecoder: {width: 3}\n"))
        assert any(line.startswith("x.yaml:2: decoder.width: unknown key for kind `conv`.") for line in lines)
    write("x.yaml", "extends: church64x4\ndecoder: {kind: style, mapping_layers: 2}\n")
    assert autoencoder("x.yaml").decoder.channels == (8, 8), "the same kind merges"


NO_GRIDS = ("retrieval.kind=none", "bottleneck.noise=false", "decoder.kind=conv", "decoder.multipliers=[1, 2]")
NO_GRIDS_FILE = """\
extends: church64x4
retrieval: {kind: none}
bottleneck: {noise: false}
decoder: {kind: conv, multipliers: [1, 2]}
"""


def test_a_kind_that_was_left_out_is_the_default_one() -> None:
    """In the parent, in the file and in `--set`, in any order."""
    for file in ("retrieval: {levels: 3}", "retrieval: {kind: feature_grid, levels: 3}"):
        write("x.yaml", f"extends: church64x4\n{file}\n")
        for override in ("retrieval.r_max=9", "retrieval={kind: feature_grid, r_max: 9}"):
            grid = autoencoder("x.yaml", override).retrieval.model_dump()
            assert (grid["size"], grid["levels"], grid["r_max"]) == (16, 3, 9), "all of them merge"
    recipe = autoencoder("church64x4", *NO_GRIDS)
    assert recipe.retrieval.model_dump() == {"kind": "none"}, "size was of the other kind"
    write("none.yaml", NO_GRIDS_FILE)
    assert autoencoder("none.yaml") == recipe
    again = autoencoder("none.yaml", "retrieval={kind: feature_grid, size: 16}", "decoder={kind: style}",
                        "decoder.channels=[8, 8]", "bottleneck.noise=true")
    assert again == autoencoder("church64x4")


def test_a_key_without_a_kind_is_of_the_kind_below_it() -> None:
    write("none.yaml", NO_GRIDS_FILE)
    assert autoencoder("none.yaml", "decoder.channels=7").decoder.model_dump() == {
        "kind": "conv", "channels": 7, "multipliers": (1, 2), "blocks": 2, "attention": "code", "projection": 0,
        "conditional": None}
    assert problems(None, "retrieval.size=16", name="none.yaml") == [
        "--set: retrieval.size: unknown key for kind `none`. There are: kind."]
    assert problems(None, "decoder.mapping_layers=2", name="none.yaml") == [
        "--set: decoder.mapping_layers: unknown key for kind `conv`. "
        "There are: kind, channels, multipliers, blocks, attention, projection, conditional."]


def test_a_wrong_kind_is_told_where_it_was_written() -> None:
    assert problems("extends: church64x4\ndecoder:\n  kind: cnov\n") == [
        "x.yaml:3: decoder.kind: must be one of `style`, `conv`, `movq`, got the text 'cnov'. Did you mean `conv`?"]
    assert problems(None, "bottleneck.kind=gumbel", "retrieval=none", "discriminator={kind: 2}", name="toy32") == [
        "--set: bottleneck.kind: must be one of `key_code`, `kl_key_code`, `kl`, `vq`, `rq`, got the text 'gumbel'.",
        "--set: retrieval: expected a mapping, got the text 'none'.",
        "--set: discriminator.kind: must be one of `style`, `patch`, got 2."]
    assert problems(None, "bottleneck.kind=vq", name="toy32") == [
        "recipes/base/autoencoder.yaml:7: retrieval.kind: feature grids are indexed by key codes in [0, 1], not by "
        "bottleneck `vq`; write `none`."]


def test_the_kinds_that_were_left_out_are_written_back() -> None:
    dumped = dump_recipe(autoencoder("church64x4"))
    assert [part in dumped for part in ("bottleneck:\n  kind: key_code\n", "retrieval:\n  kind: feature_grid\n",
                                        "decoder:\n  kind: style\n", "discriminator:\n  kind: style\n")] == [True] * 4
    other = autoencoder("church64x4", *NO_GRIDS)
    assert "retrieval.kind: 'feature_grid' -> 'none'" in differing_keys(autoencoder("church64x4"), other)


# --- --set

def test_overrides_come_last_and_in_order() -> None:
    recipe = autoencoder("toy32", "training.images=7", "training.learning_rate=1e-4", "data.flip=false",
                         "training.images=8", "decoder={mapping_layers: 1}", "encoder.multipliers=[5, 6]",
                         "description=a=b")
    assert (recipe.training.images, recipe.training.learning_rate, recipe.data.flip) == (8, 1e-4, False)
    assert isinstance(recipe.decoder, StyleDecoderSpec)
    assert recipe.decoder.mapping_layers == 1 and recipe.decoder.channels == (8, 8), "mappings merge"
    assert recipe.encoder.multipliers == (5, 6)
    assert recipe.description == "a=b"


def test_wrong_overrides_are_all_told() -> None:
    assert problems(None, "foo", "=1", "a b=1", "training..images=1", "decoder.channels=[1", "training.ema=&x 0.5",
                    "kind=diffusion", "extends=toy32", "training.images=ten", "data.flip=no", "trainin.images=3",
                    "training=5x", "a\nb", name="toy32") == [
        "--set foo: expected key=value, such as --set training.images=1000.",
        "--set =1: expected key=value, such as --set training.images=1000.",
        "--set a b=1: expected key=value, such as --set training.images=1000.",
        "--set training..images=1: expected key=value, such as --set training.images=1000.",
        "--set decoder.channels: is not YAML: while parsing a flow sequence expected ',' or ']', but got "
        "'<stream end>'.",
        "--set training.ema: &x: anchors are not read. Take it out.",
        "--set kind: cannot be set. Choose another recipe.",
        "--set extends: cannot be set. Choose another recipe.",
        "--set a\\nb: expected key=value, such as --set training.images=1000.",
        "--set: data.flip: expected true or false, got the text 'no'.",
        "--set: training: expected a mapping, got the text '5x'.",
        "--set: trainin: unknown key for kind `autoencoder`. Did you mean `training`?"]


# --- and back

@pytest.mark.parametrize("text", [AUTOENCODER, DIFFUSION], ids=["autoencoder", "diffusion"])
def test_dump_and_parse(text: str) -> None:
    text += 'description: "1e4: \\e # é \\n two lines"\n'
    recipe = parse_recipe(text, "x")
    dumped = dump_recipe(recipe)
    assert parse_recipe(dumped, "y") == recipe
    assert dump_recipe(parse_recipe(dumped, "y")) == dumped
    assert recipe_from_dict(recipe.model_dump(mode="json")) == recipe
    written = {".".join(key) for key in keys_of(parse_recipe(dumped, "y").model_dump())}
    assert {key.split(".")[-1] for key in written} <= set(re.findall(r"^ *(\w+):", dumped, re.MULTILINE))


def test_names_that_look_like_numbers_survive() -> None:
    for name in ("1e4", "012", "7", "null", "no", "1.0", "2024-01-01"):
        recipe = recipe_from_dict({"kind": "diffusion", "autoencoder": name, "training": {"images": 1}})
        assert parse_recipe(dump_recipe(recipe), "x").model_dump()["autoencoder"] == name


def test_a_recipe_that_stands_alone_does_not_extend() -> None:
    with pytest.raises(RecipeError, match=r"runs/a/recipe\.yaml:2: extends: unknown key"):
        parse_recipe("kind: diffusion\nextends: toy32\n", "runs/a/recipe.yaml")


def test_differing_keys() -> None:
    a = parse_recipe(AUTOENCODER, "a")
    b = parse_recipe(AUTOENCODER.replace("100", "200").replace("toy", "photos") + "description: other\n", "b")
    assert differing_keys(a, a) == []
    assert differing_keys(a, b) == ["data.name: 'toy' -> 'photos'", "training.images: 100 -> 200"]
    assert "bottleneck.channels: 4 -> (none)" in differing_keys(a, parse_recipe(DIFFUSION, "d"))


def test_the_kinds_are_those_of_the_classes() -> None:
    assert {kind: get_args(model.model_fields["kind"].annotation) for kind, model in KINDS.items()} == {
        "autoencoder": ("autoencoder",), "diffusion": ("diffusion",)}
    assert isinstance(load_recipe("church64x4-diffusion"), DiffusionRecipe)


def test_list_recipes() -> None:
    assert list_recipes() == [
        "base/autoencoder.yaml", "church64x4-diffusion.yaml", "church64x4.yaml", "tiny/toy32.yaml"]


# --- a part that may be left out

def test_a_part_that_may_be_left_out() -> None:
    plain = load_recipe("church64x4-diffusion")
    assert isinstance(plain, DiffusionRecipe) and plain.latent_perceptual is None
    set_here = load_recipe("church64x4-diffusion", ["latent_perceptual.weight=1"])
    write("x.yaml", "extends: church64x4-diffusion\nlatent_perceptual: {weight: 2, blocks: 2}\n")
    over = load_recipe("x.yaml", ["latent_perceptual.weight=1"])
    for recipe, blocks in ((set_here, None), (over, 2)):
        assert isinstance(recipe, DiffusionRecipe) and recipe.latent_perceptual is not None
        assert (recipe.latent_perceptual.weight, recipe.latent_perceptual.blocks) == (1, blocks)
        assert parse_recipe(dump_recipe(recipe), "x") == recipe
    assert load_recipe("x.yaml", ["latent_perceptual=null"]) == plain
    assert "latent_perceptual.weight: (none) -> 1.0" in differing_keys(plain, set_here)


def test_what_is_wrong_in_a_part_that_may_be_left_out() -> None:
    assert problems("extends: church64x4-diffusion\nlatent_perceptual:\n  treshold: 3\n  weight: 0\n  blocks: two\n",
                    "latent_perceptual.variant=papers") == [
        "x.yaml:4: latent_perceptual.weight: must be above 0, got 0.",
        "x.yaml:5: latent_perceptual.blocks: expected a whole number, got the text 'two'.",
        "--set: latent_perceptual.variant: must be `paper` or `diffusers`, got the text 'papers'.",
        "x.yaml:3: latent_perceptual.treshold: unknown key. Did you mean `threshold`?"]
    assert problems("extends: church64x4-diffusion\n", "latent_perceptual=true") == [
        "--set: latent_perceptual: expected a mapping, got true."]
