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


class Size(Strict):
    kind: str
    x: int = 1
    y: int = 1


class Recipe(Strict):
    decoder: Annotated[Style | Conv, Field(discriminator="kind")]
    size: Size = Size(kind="x")
    widths: list[int] = [1]


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
    assert line == ("x.yaml:2: decoder.kind: must be one of `style`, `conv`, got the text 'cnv'. "
                    "Did you mean `conv`?")
    for kind, shown in ((3, "3"), (None, "nothing"), (True, "true"), (["conv"], "a list of 1"), ({}, "a mapping"),
                        ("", "the text ''")):
        line, = problems({"decoder": {"kind": kind, "width": "of no importance"}})
        assert line == f"x.yaml:2: decoder.kind: must be one of `style`, `conv`, got {shown}."


@pytest.mark.parametrize(("part", "shown"), [(None, "nothing"), ("conv", "the text 'conv'"), ([], "a list of 0")])
def test_a_kind_alone_is_no_part(part: Any, shown: str) -> None:
    assert problems({"decoder": part}) == [f"x.yaml:1: decoder: expected a mapping, got {shown}."]


def test_a_key_that_is_called_like_its_kind() -> None:
    assert problems({"decoder": {"kind": "conv", "conv": 1, "width": "3"}}) == [
        "x.yaml:2: decoder.width: expected a whole number, got the text '3'.",
        "x.yaml:2: decoder.conv: unknown key for kind `conv`. There are: kind, width."]


def test_a_kind_where_there_is_one_kind_only() -> None:
    """pydantic puts no kind into these locations, whatever the mapping says."""
    assert problems({"decoder": {"kind": "style"}, "widths": [1, "2"]}) == [
        "x.yaml:2: widths[1]: expected a whole number, got the text '2'."]
    assert problems({"decoder": {"kind": "style"}, "size": {"kind": "x", "y": "1"}}) == [
        "x.yaml:2: size.y: expected a whole number, got the text '1'."]


def test_did_you_mean() -> None:
    assert did_you_mean("r_mxn", ["r_max", "r_min"]) == " Did you mean `r_min`?"
    assert did_you_mean("k2", ["l2", "kind"]) == " Did you mean `l2`?"
    assert did_you_mean("dpeth", ["kind", "depth"]) == " Did you mean `depth`?"
    assert did_you_mean("wide", ["kind", "depth"]) == did_you_mean("x", []) == ""


def test_show_and_sentence() -> None:
    values: list[Any] = [None, True, "a", [1], {}, 0.5]
    assert [show(value) for value in values] == ["nothing", "true", "the text 'a'", "a list of 1", "a mapping", "0.5"]
    assert [sentence(text) for text in ("a", "a.", "a?", "a\n\x1b")] == ["a.", "a.", "a?", "a\\n\\x1b."]
