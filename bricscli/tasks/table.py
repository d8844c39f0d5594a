"""`brics table`: a table of the paper beside what this machine counted and measured.

A number of ours is either counted here and now from the built model, or was measured by `brics eval` on a run of the
row's recipe; where there is neither, the table says so.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bricscli.paper.tables import BLANK, COLUMNS, Row, Table, number
from bricscli.recipe.load import load_shipped_recipe
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.tasks.cost import count_decoding
from bricscli.tasks.measured import Found, find_measured

#: A column of the paper -> the metric of `brics eval`, where that has another name.
METRIC_OF = {"lpips": "lpips_alex"}
#: Characters of the columns, and of a line of notes.
WIDTHS, WIDTH = (26, 24, 30, 12), 96


@dataclass(frozen=True)
class Cell:
    """One value of the paper, as printed, and ours; `difference` is relative, ours / paper - 1."""

    column: str
    label: str
    unit: str
    paper: str
    ours: float | None
    std: float | None
    difference: float | None
    status: Literal["counted", "measured", "not measured", "no recipe"]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FilledRow:
    method: str
    data: str
    code: str
    recipe: str | None
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FilledTable:
    """What `--json` prints."""

    table: str
    title: str
    rows: tuple[FilledRow, ...]
    notes: tuple[str, ...]


def fill_table(name: str, table: Table, runs: Path) -> FilledTable:
    """Counts what can be counted, and looks the rest up in the runs under `runs`."""
    notes = [COLUMNS[column].note for column in table.columns if COLUMNS[column].note]
    return FilledTable(name, table.title, tuple(_fill(table, row, runs) for row in table.rows),
                       (*table.notes, *notes))


def describe_table(filled: FilledTable) -> list[str]:
    """Lines of at most 100 columns: a block for every row, a line for every value, numbered notes below."""
    title = f"Table {filled.table}" if filled.table.isdigit() else f"Appendix {filled.table}"
    lines = [f"{title}. {filled.title} (BRICS, arXiv:2305.18601v3)", "", _line("", "paper", "ours", "difference")]
    notes: list[str] = []
    for row in filled.rows:
        what = ", ".join(filter(None, (row.method, row.data, row.code)))
        lines += ["", f"{what}: {row.recipe or 'no recipe here'}{_marks(row.notes, notes)}"]
        for cell in row.cells:
            ours = _ours(cell) + _marks(cell.notes, notes)
            lines.append(_line(f"  {cell.label}", _paper(cell), ours, _percent(cell.difference)))
    numbered = [f"[{i}] {note}" for i, note in enumerate(notes, start=1)]
    below = [line for note in (*numbered, *filled.notes) for line in textwrap.wrap(note, WIDTH)]
    return [*lines, "", *below] if below else lines


def _fill(table: Table, row: Row, runs: Path) -> FilledRow:
    found: dict[str, Found] = {}
    if row.recipe:
        recipe = load_shipped_recipe(row.recipe)
        found = find_measured(recipe, runs)
        if isinstance(recipe, AutoencoderRecipe) and "grids" in table.columns:
            found |= _count(recipe)
        if {"precision", "recall"} <= found.keys():
            found["f1"] = _f1(found["precision"], found["recall"])
    cells = (_cell(name, printed, row, found.get(METRIC_OF.get(name, name)))
             for name, printed in table.cells(row).items())
    # Without what neither side has, such as grids of VQGAN.
    kept = tuple(cell for cell in cells if cell.paper != BLANK or (row.recipe and cell.ours != 0))
    return FilledRow(row.method, row.data, row.code, row.recipe, kept, row.notes)


def _count(recipe: AutoencoderRecipe) -> dict[str, Found]:
    cost = count_decoding(recipe)
    operations = cost.retrieval + cost.decoder
    counts = {"grids": cost.grid_parameters / 1e6, "decoder": cost.decoder_parameters / 1e6,
              "gflops": operations.gflops, "gmacs": operations.gmacs}
    return {name: Found(value, None, ()) for name, value in counts.items()}


def _f1(precision: Found, recall: Found) -> Found:
    both = precision.value + recall.value
    return Found(2 * precision.value * recall.value / both if both else 0.0, None, precision.notes)


def _cell(name: str, printed: str, row: Row, found: Found | None) -> Cell:
    column, paper = COLUMNS[name], number(printed)
    if found is None:
        return Cell(name, column.label, column.unit, printed, None, None, None,
                    "not measured" if row.recipe else "no recipe", ())
    difference = found.value / paper - 1 if paper else None
    return Cell(name, column.label, column.unit, printed, found.value, found.std, difference,
                "counted" if column.source == "cost" else "measured", found.notes)


def _line(*cells: str) -> str:
    first, *values = (cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))
    return "".join([first, *values]).rstrip()


def _paper(cell: Cell) -> str:
    return f"{cell.paper.replace('±', ' ± ')} {cell.unit}" if cell.paper != BLANK else BLANK


def _ours(cell: Cell) -> str:
    if cell.ours is None:
        return cell.status if cell.status == "not measured" else BLANK
    digits = COLUMNS[cell.column].digits
    spread = "" if cell.std is None else f" ± {cell.std:.{digits}f}"
    return f"{cell.ours:.{digits}f}{spread} {cell.unit}".rstrip()


def _percent(difference: float | None) -> str:
    """No sign where nothing is left of the difference."""
    return BLANK if difference is None else f"{difference:+.1%}" if abs(difference) >= 5e-4 else "0.0%"


def _marks(notes: tuple[str, ...], numbered: list[str]) -> str:
    """` [1]` for every note, which is numbered by its place among all."""
    numbered += [note for note in notes if note not in numbered]
    return "".join(f" [{numbered.index(note) + 1}]" for note in notes)
