"""`brics table`: what is printed beside the paper's values, and that nothing is printed that nobody measured."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bricscli.commands import options
from bricscli.commands.table import table as table_command
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.paper.tables import TABLES, Row, Table
from bricscli.tasks import table as task
from bricscli.tasks.measured import Found
from bricscli.tasks.table import FilledTable, describe_table, fill_table

NOWHERE = Path("no-runs-here")
RECONSTRUCTION = Table("Small", ("lpips", "psnr"), (
    Row("BRICS", "64x64x4", "0.50±0.07 20.0", "church64x4.yaml"), Row("Other", "", "0.40 -")))


def measured(monkeypatch: pytest.MonkeyPatch, **found: Found) -> FilledTable:
    monkeypatch.setattr(task, "find_measured", lambda recipe, runs: found)
    return fill_table("2", RECONSTRUCTION, NOWHERE)


@pytest.mark.parametrize("name", TABLES)
def test_without_runs_only_counts_are_ours(name: str) -> None:
    filled = fill_table(name, TABLES[name], NOWHERE)
    assert [row.recipe for row in filled.rows] == [row.recipe for row in TABLES[name].rows]
    for row in filled.rows:
        for cell in row.cells:
            counted = cell.column in ("grids", "decoder", "gflops", "gmacs")
            assert cell.status == ("counted" if counted else "not measured" if row.recipe else "no recipe")
            assert (cell.ours is not None) == counted
    lines = describe_table(filled)
    assert max(map(len, lines)) <= 100 and all(line == line.rstrip() for line in lines)
    assert all(str(row.recipe or row.method) in "\n".join(lines) for row in filled.rows)


def test_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = measured(monkeypatch, lpips_alex=Found(0.45, 0.1, ("early",)), lpips_vgg=Found(9.0, None, ()),
                      psnr=Found(20.001, None, ("early", "few")))
    assert describe_table(filled) == [
        "Table 2. Small (BRICS, arXiv:2305.18601v3)",
        "",
        "                          paper                   ours                          difference",
        "",
        "BRICS, LSUN-Church, 64x64x4: church64x4.yaml",
        "  LPIPS                   0.50 ± 0.07             0.4500 ± 0.1000 [1]           -10.0%",
        "  PSNR                    20.0 dB                 20.00 dB [1] [2]              0.0%",
        "",
        "Other, LSUN-Church: no recipe here",
        "  LPIPS                   0.40                    -                             -",
        "",
        "[1] early",
        "[2] few",
        "LPIPS: ours is AlexNet's; the paper names no network."]


def test_f1_follows_from_precision_and_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"precision": Found(0.6, None, ("few",)), "recall": Found(0.3, None, ("few",))}
    monkeypatch.setattr(task, "find_measured", lambda recipe, runs: dict(found))
    row = next(row for row in fill_table("5", TABLES["5"], NOWHERE).rows if row.recipe)
    ours = {cell.column: cell.ours for cell in row.cells}
    assert (ours.pop("precision"), ours.pop("recall"), ours.pop("f1")) == (0.6, 0.3, pytest.approx(0.4))
    assert set(ours.values()) == {None}
    found["recall"] = found["precision"] = Found(0.0, None, ())
    assert fill_table("5", TABLES["5"], NOWHERE).rows[-1].cells[-1].ours == 0


def run_command(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(table_command)
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, BricsError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_recipes_are_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fill_table("3", TABLES["3"], NOWHERE)
    monkeypatch.chdir(tmp_path)
    for name in ("church64x4.yaml", "ffhq64x4.yaml"):
        Path(name).write_text(f"extends: {name.replace('64', '32')}\n")
    assert fill_table("3", TABLES["3"], NOWHERE) == wanted


def test_runs_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for name in ("elsewhere", "file"):
        with pytest.raises(DataError, match=rf"^--runs {name}: no such folder\.[^\n]*$"):
            run_command("2", "--runs", name)
    assert run_command("2", "--runs", str(options.RUNS_ROOT)) == run_command("2") != ""


def test_command(tmp_path: Path) -> None:
    text, data = run_command("6", "--runs", str(tmp_path)), run_command("6", "--runs", str(tmp_path), "--json")
    filled = fill_table("6", TABLES["6"], tmp_path)
    assert text.splitlines() == describe_table(filled)
    assert json.loads(data) == json.loads(json.dumps(asdict(filled)))
    assert json.loads(data)["rows"][0]["cells"][2] == {
        "column": "psnr", "label": "PSNR", "unit": "dB", "paper": "22.29±6.14", "ours": None, "std": None,
        "difference": None, "status": "not measured", "notes": []}
    with pytest.raises(RecipeError, match="There are: 2, 3"):
        run_command("12")
