"""The recipes that come with the program."""

import pytest

from bricscli.recipe.load import dump_recipe, list_recipes, load_recipe, parse_recipe

COMPLETE = [name for name in list_recipes() if not name.startswith("base/")]


def test_there_are_some() -> None:
    assert len(COMPLETE) >= 2


@pytest.mark.parametrize("name", COMPLETE)
def test_loads_and_survives_writing(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(dump_recipe(recipe), name) == recipe
    assert recipe.description
