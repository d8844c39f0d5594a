"""`expected:`, what a recipe's metrics should come to: read strictly, never inherited, deciding nothing, and true."""

from pathlib import Path
from typing import Any

import pytest

from bricscli.errors import RecipeError
from bricscli.metrics import METRICS
from bricscli.paper.tables import BLANK, TABLES, number
from bricscli.recipe.load import differing_keys, dump_recipe, list_recipes, load_recipe, parse_recipe, recipe_from_dict
from bricscli.tasks.table import METRIC_OF

COMPLETE = [name for name in list_recipes() if not name.startswith("base/")]
SET = "expected={psnr: {value: 20.5, tolerance: 1, source: a test}}"
#: Follows from precision and recall.
DERIVED = {"f1"}


def printed(recipe: str) -> dict[str, tuple[float, set[str]]]:
    """Metric -> what the paper prints with the most digits, and in which tables it prints the metric at all."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, table in TABLES.items():
        for row in table.rows:
            for column, text in table.cells(row).items() if row.recipe == recipe else ():
                metric = METRIC_OF.get(column, column)
                if text != BLANK and metric in METRICS.keys() - DERIVED:
                    found.setdefault(metric, []).append((text.split("±")[0], name))
    return {metric: (float(max((text for text, _ in values), key=lambda text: len(text.split(".")[1]))),
                     {name for _, name in values}) for metric, values in found.items()}


@pytest.mark.parametrize("name", COMPLETE)
def test_the_papers_recipes_expect_what_it_prints(name: str) -> None:
    expected, paper = load_recipe(name).expected, printed(name)
    if not name.startswith("tiny/"):
        assert {metric: entry.value for metric, entry in expected.items()} == {m: v for m, (v, _) in paper.items()}
    for metric, (_, tables) in paper.items():
        first = expected[metric].source.split(";")[0].split(" of ")[0]
        assert {word for word in first.replace(",", " ").split() if word in TABLES} == tables


def test_that_is_most_of_the_tables() -> None:
    rows = [row for table in TABLES.values() for row in table.rows if row.recipe]
    assert len({row.recipe for row in rows if printed(str(row.recipe))}) == 23
    assert printed("church64x4.yaml")["psnr"] == (26.34, {"2", "7", "9"})
    assert printed("church64x4.yaml")["lpips_alex"] == (0.0383, {"2", "7", "9"})  # Table 2 rounds to 0.04
    assert number("0.12±0.07") == 0.12


@pytest.mark.parametrize("name", COMPLETE)
def test_shipped_recipes_use_names_of_metrics_and_can_fail(name: str) -> None:
    for metric, entry in load_recipe(name).expected.items():
        assert metric in METRICS
        assert 0 < entry.tolerance <= 0.5 * abs(entry.value) and len(entry.source) > 10


def test_it_decides_nothing_and_survives_writing() -> None:
    plain, recipe = load_recipe("tiny/toy-kl.yaml"), load_recipe("tiny/toy-kl.yaml", [SET])
    assert recipe != plain and differing_keys(plain, recipe) == []
    assert parse_recipe(dump_recipe(recipe), "x") == recipe
    assert recipe.expected["psnr"].value == 20.5


def test_it_is_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that changes another makes other numbers."""
    monkeypatch.chdir(tmp_path)
    assert load_recipe("church64x4.yaml").expected
    Path("mine.yaml").write_text("extends: church64x4.yaml\ntraining: {images: 100}\n")
    assert load_recipe("mine.yaml").expected == {}
    Path("own.yaml").write_text("extends: church64x4.yaml\nexpected: {ssim: {value: 1, tolerance: 0.1, source: me}}\n")
    assert list(load_recipe("own.yaml").expected) == ["ssim"]


@pytest.mark.parametrize(("value", "says"), [
    ("3", "expected: expected a mapping, got 3"),
    ("{psnr: 3}", "expected.psnr: expected a mapping, got 3"),
    ("{PSNR!: {value: 1, tolerance: 1, source: s}}", "expected.PSNR!: must be a metric's name in small letters"),
    ("{psnr: {value: 1, tolerance: -1, source: s}}", "expected.psnr.tolerance: must be at least 0, got -1"),
    ("{psnr: {value: 1, tolerance: 1, source: ''}}", "expected.psnr.source: must say something"),
    ("{psnr: {value: 1, tolerance: 1}}", "expected.psnr.source: is required"),
    ("{psnr: {value: 1, tolerance: 1, source: s, vale: 2}}", "expected.psnr.vale: unknown key"),
])
def test_what_is_wrong_with_it_is_told(value: str, says: str) -> None:
    with pytest.raises(RecipeError) as told:
        load_recipe("tiny/toy-kl.yaml", [f"expected={value}"])
    assert any(says in line for line in told.value.lines), told.value.lines


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_numbers(value: float) -> None:
    values: dict[str, Any] = load_recipe("tiny/toy.yaml").model_dump(mode="json")
    values["expected"] = {"psnr": {"value": value, "tolerance": 1.0, "source": "s"}}
    with pytest.raises(RecipeError, match=r"expected\.psnr\.value"):
        recipe_from_dict(values)
