"""What a run left to be shown: read with care, since a report of what is there is better than none.

What is damaged is left out with a warning, and its name kept for the page.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from bricscli.data.images import ImageError, Pixels, load_image, to_pixels
from bricscli.data.samples import SampleFolder
from bricscli.errors import BricsError, DataError
from bricscli.report.evaluations import GENERATION, Evaluation, read_evaluation, show_side
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics, warn
from bricscli.strict_json import read_json

#: Samples on the page, and the largest sides, in pixels, of what it shows.
SHOWN, SAMPLE_SIDE, SHEET_SIDE = 48, 192, 1600
#: What reading a damaged JSON file raises.
DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError)

Read = TypeVar("Read")


class RunResults:
    """All of one run that a page shows; `left_out` says what could not be read."""

    def __init__(self, run: RunDirectory, samples: Path | None = None) -> None:
        self.run, self.left_out, self._folder = run, list[str](), samples or run.samples
        self.info = self._info()
        self.metrics = self._metrics()
        found = {path.name: result for path in sorted(run.evals.glob("*.json")) if (result := self._json(path))}
        self.evaluations = self._parsed(found, ("reconstruction", *GENERATION), read_evaluation)
        self.usages = self._parsed(found, ("usage",), _checked_usage)
        self.spectra = self._parsed(found, ("spectrum",), _checked_spectrum)
        self.sheets, self.samples = self._sheets(), self._samples()
        known = ("reconstruction", *GENERATION, "usage", "spectrum", "inpainting")
        for name, result in found.items():
            if result.get("kind") not in known:
                self.leave_out(run.evals / name, "is no result of this version of brics")

    @property
    def process(self) -> dict[str, Any]:
        """Of run.json: versions, machine, commit, command line."""
        process = self.info.get("process")
        return process if isinstance(process, dict) else {}

    def _sheets(self) -> list[tuple[int, Pixels]]:
        """Images seen and picture of the first preview sheet and the newest."""
        read = [(int(path.stem), path) for path in sorted(self.run.sheets.glob("*.png")) if path.stem.isdecimal()]
        found: list[tuple[int, Pixels]] = []
        for newest in (False, True):
            for seen, path in sorted(read, reverse=newest):
                if any(seen == other for other, _ in found):
                    break
                try:
                    found.append((seen, _shrunk(load_image(path), SHEET_SIDE)))
                    break
                except ImageError as error:
                    self.leave_out(path, str(error))
                    read.remove((seen, path))
        return found

    def _samples(self) -> tuple[list[int], Pixels, dict[str, Any]] | None:
        """Seeds and uint8 (N,3,H,W) of the first of the samples, and what their manifest says; None: there are none."""
        if not self._folder.exists():
            return None
        seeds, images = [], []
        try:
            folder = SampleFolder.open(self._folder)
        except DataError as error:
            self._note(error)
            return None
        for seed in sorted(folder.seeds)[:SHOWN]:
            try:
                images.append(_shrunk(Image.fromarray(folder.image(seed).transpose(1, 2, 0)), SAMPLE_SIDE))
                seeds.append(seed)
            except DataError as error:
                self._note(error)
        return (seeds, np.stack(images), folder.header) if images else None

    def leave_out(self, path: Path, why: str) -> None:
        shown = path.relative_to(self.run.path).as_posix()
        warn(f"{path}: is left out of the report: {why}.")
        self.left_out.append(f"{shown}: {why}.")

    def _note(self, error: Exception) -> None:
        """A warning with the whole path, and a line for the page, which knows no folders of this machine."""
        warn(str(error))
        self.left_out.append(str(error).replace(f"{self.run.path}/", ""))

    def _info(self) -> dict[str, Any]:
        try:
            return self.run.info
        except (BricsError, TypeError):
            self.leave_out(self.run.info_path, "cannot be read")
            return {}

    def _metrics(self) -> list[dict[str, float]]:
        try:
            rows = read_metrics(self.run.metrics_path)
            return [{name: float(value) for name, value in row.items() if isinstance(value, int | float)}
                    for row in rows]
        except (BricsError, OSError, ValueError, OverflowError) as error:
            self._note(error)
            return []

    def _json(self, path: Path) -> dict[str, Any] | None:
        try:
            result = read_json(path)
            if not isinstance(result, dict) or "kind" not in result:
                raise ValueError("no result")
            return result
        except (OSError, ValueError):
            self.leave_out(path, "is damaged, or of somebody else. Evaluate again")
            return None

    def _parsed(self, found: dict[str, dict[str, Any]], kinds: tuple[str, ...],
                read: Callable[[str, dict[str, Any]], Read]) -> dict[str, Read]:
        parsed = {}
        for name, result in found.items():
            if result["kind"] in kinds:
                try:
                    parsed[name] = read(name, result)
                except DAMAGED:
                    self.leave_out(self.run.evals / name, "is damaged. Evaluate again")
        return parsed


def _checked_usage(_: str, result: dict[str, Any]) -> dict[str, Any]:
    levels = result["levels"]
    groups = {len(level["groups"]) for level in levels}
    numbers = [float(group[figure]) for level in levels for group in level["groups"]
               for figure in ("hit_of_reachable", "variation")]
    sizes = [int(level[size]) for level in levels for size in ("resolution", "entries", "reachable")]
    if len(groups) != 1 or 0 in groups or not sizes or not all(map(math.isfinite, numbers)):
        raise ValueError("levels")
    show_side(result["images"])
    return result | {"hit_share": float(result["hit_share"])}


def _checked_spectrum(_: str, result: dict[str, Any]) -> dict[str, Any]:
    power, count = result["power"], len(result["frequencies"])
    numbers = [float(v) for values in (result["frequencies"], power["samples"], power["reference"]) for v in values]
    if len(numbers) != 3 * count or count < 2 or not all(map(math.isfinite, numbers)):
        raise ValueError("frequencies")
    for band in result["bands"].values():
        low, high = band["range"]
        if not all(map(math.isfinite, (low, high, band["bias"], band["error"]))):
            raise ValueError("bands")
    for side in ("samples", "reference"):
        show_side(result[side])
    return result


def _shrunk(image: Image.Image, side: int) -> Pixels:
    """uint8 (3, H, W), no side longer than `side`."""
    longest = max(image.size)
    if longest > side:
        width, height = (max(1, round(edge * side / longest)) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return to_pixels(image)


def evaluations_of(results: RunResults) -> list[Evaluation]:
    """Those that count most first: of validation images; of samples under a protocol. Moved keys last."""
    def place(evaluation: Evaluation) -> tuple[bool, bool, str]:
        result = evaluation.result
        if evaluation.kind == "generation":
            return False, "protocol" not in result or {"fd_random"} == set(result["metrics"]), evaluation.file
        return bool(result.get("keys_moved_by_cells")), result["images"].get("split") != "val", evaluation.file

    return sorted(results.evaluations.values(), key=place)
