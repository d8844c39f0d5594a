"""Sheets of samples at the left of their neighbours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bricscli import files
from bricscli.data.collection import ImageCollection
from bricscli.data.images import Pixels, encode_png

#: On a sheet, at most.
SHEET_ROWS = 32
SHEET, CLOSEST = "sheet.png", "closest.png"


def write_sheets(out: Path, entries: Sequence[dict[str, Any]], queries: ImageCollection, reference: ImageCollection
                 ) -> None:
    """Both sheets of the `queries` of a result."""
    closest = sorted(entries, key=lambda entry: entry["neighbours"][0]["distance"])
    for name, rows in ((SHEET, entries), (CLOSEST, closest)):
        pictures = [(queries.read(row["index"]),
                     [_turned(reference.read(n["index"]), n["mirrored"]) for n in row["neighbours"]])
                    for row in rows[:SHEET_ROWS]]
        files.write_bytes(out / name, encode_png(neighbour_sheet(pictures)))


def _turned(image: Pixels, mirrored: bool) -> Pixels:
    """As it was compared."""
    return image[:, :, ::-1] if mirrored else image


def neighbour_sheet(rows: Sequence[tuple[Pixels, Sequence[Pixels]]], gap: int = 2) -> Pixels:
    """A row for each (sample, neighbours): the sample, a wide gap, its neighbours, nearest first. White between."""
    _, height, width = rows[0][0].shape
    wide, columns = max(4 * gap, width // 8), max(len(neighbours) for _, neighbours in rows)
    canvas = np.full((3, gap + len(rows) * (height + gap), gap + width + wide + columns * (width + gap)), 255, np.uint8)
    for i, (sample, neighbours) in enumerate(rows):
        top = gap + i * (height + gap)
        canvas[:, top : top + height, gap : gap + width] = sample
        for j, neighbour in enumerate(neighbours):
            left = gap + width + wide + j * (width + gap)
            canvas[:, top : top + height, left : left + width] = neighbour
    return canvas
