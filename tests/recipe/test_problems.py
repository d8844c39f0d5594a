"""Parts of which there are several kinds: pydantic puts the kind into its locations, people do not write it there."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bricscli.recipe.problems import describe, did_you_mean, sentence, show


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Style(Strict):
    kind: Literal["style"] = "style"
    depth: int = 1


class Conv(Strict):
    kind: Literal["conv"]
    width: int


class Recipe(Strict):
    decoder: Annotated[Style | Conv, Field(discriminator="kind")]


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(values)
    return describe(caught.value, Recipe, values, lambda key: f"x.yaml:{len(key)}")


def test_a_kind_is_no_key() -> None:
    assert problems({"decoder": {"kind": "conv", "widht": 3}}) == [
        "x.yaml:1: decoder.width: is required.",
        "x.yaml:2: decoder.widht: unknown key for kind `conv`. Did you mean `width`?"]
    assert problems({"decoder": {"kind": "style", "depht": 3}}) == [
        "x.yaml:2: decoder.depht: unknown key for kind `style`. Did you mean `depth`?"]
    assert problems({"decoder": {"kind": "conv", "width": "3"}}) == [
        "x.yaml:2: decoder.width: expected a whole number, got the text '3'."]


def test_a_key_of_the_other_kind_is_not_suggested_here() -> None:
    assert problems({"decoder": {"kind": "style", "wide": 3}}) == [
        "x.yaml:2: decoder.wide: unknown key for kind `style`. There are: kind, depth."]


def test_an_unknown_kind() -> None:
    line, = problems({"decoder": {"kind": "cnv"}})
    assert line.startswith("x.yaml:1: decoder: ") and "'conv'" in line


def test_did_you_mean() -> None:
    assert did_you_mean("r_mxn", ["r_max", "r_min"]) == " Did you mean `r_min`?"
    assert did_you_mean("k2", ["l2", "kind"]) == " Did you mean `l2`?"
    assert did_you_mean("dpeth", ["kind", "depth"]) == " Did you mean `depth`?"
    assert did_you_mean("wide", ["kind", "depth"]) == did_you_mean("x", []) == ""


def test_show_and_sentence() -> None:
    values: list[Any] = [None, True, "a", [1], {}, 0.5]
    assert [show(value) for value in values] == ["nothing", "true", "the text 'a'", "a list of 1", "a mapping", "0.5"]
    assert [sentence(text) for text in ("a", "a.", "a?", "a\n\x1b")] == ["a.", "a.", "a?", "a\\n\\x1b."]
