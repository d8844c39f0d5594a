"""The folder of one run, `runs/<name>`: the only place that knows what its files are called."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from bricscli import files
from bricscli.errors import DataError, RecipeError
from bricscli.recipe.load import differing_keys, dump_recipe, read_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, Recipe
from bricscli.run.checkpoint import list_checkpoints
from bricscli.run.lock import LOCK, lock_folder
from bricscli.run.log import warn
from bricscli.strict_json import read_json

RECIPE, INFO = "recipe.yaml", "run.json"
#: What files of other programs' weights end with.
FOREIGN = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


class RunDirectory:
    """A run that exists; the folders below it are made by those who write there."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.recipe_path = self.path / RECIPE
        self.info_path = self.path / INFO
        self.metrics_path = self.path / "metrics.jsonl"
        self.lock_path = self.path / LOCK
        self.autoencoder_path = self.path / "autoencoder.safetensors"  #: a diffusion run's: the weights it decodes with
        self.checkpoints = self.path / "checkpoints"
        self.start = self.path / "start"  #: until there is a milestone: the weights that training began with
        self.sheets = self.path / "sheets"
        self.codes = self.path / "codes"
        self.samples = self.path / "samples"
        self.evals = self.path / "evals"

    @classmethod
    def create(cls, path: Path, recipe: Recipe, info: Mapping[str, Any]) -> "RunDirectory":
        """Makes the run, or opens it if it exists with an equal recipe; its `run.json` then stays as it was.

        Raises RecipeError naming the keys that differ, DataError where something else is there.
        """
        run = cls(path)
        if not run.recipe_path.is_file():
            files.check_writable(run.path.parent)
            try:
                with files.new_directory(run.path) as temporary:
                    files.write_text(temporary / RECIPE, dump_recipe(recipe))
                    files.write_json(temporary / INFO, dict(info))
                return run
            except DataError:
                if not run.recipe_path.is_file():
                    raise  # else another process made the run just now
        differing = differing_keys(run.recipe, recipe)
        if differing:
            raise RecipeError(*(f"{run.path}: was made with another recipe: {line}" for line in differing),
                              f"{run.path}: holds another run. Choose another --run, or delete it.")
        files.check_writable(run.path)
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Raises DataError where there is no run, naming those beside it."""
        run = cls(path)
        if run.recipe_path.is_file():
            return run
        if run.path.suffix.lower() in FOREIGN and run.path.is_file():
            raise DataError(f"{run.path}: is a file of weights, not a run. `brics import-checkpoint {run.path} --out "
                            f"runs/{run.path.stem}` makes one of it, if it is an autoencoder.")
        what = "is not a run" if run.path.exists() else "no such run"
        beside = [other.path.name for other in list_runs(run.path.parent)]
        advice = f"There are: {', '.join(beside)}." if beside else "Train one with `brics train-ae` first."
        raise DataError(f"{run.path}: {what}. {advice}")

    @property
    def name(self) -> str:
        return self.path.absolute().name

    @cached_property
    def recipe(self) -> Recipe:
        """Complete, with every default written. Raises RecipeError where it was changed into something invalid."""
        return read_recipe(self.recipe_path)

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` says. Raises DataError where it is missing or damaged."""
        try:
            return dict(read_json(self.info_path))
        except (OSError, ValueError):
            raise DataError(f"{self.info_path}: cannot be read. Train the run again under another name.") from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps others out of the run for as long as the block or this process lives. Raises BricsError if one is in.

        Also removes what killed processes left behind.
        """
        with lock_folder(self.path):
            for folder in (self.checkpoints, self.start, self.sheets, self.evals):
                files.sweep(folder)
            yield


def list_runs(root: Path) -> list[RunDirectory]:
    """All runs directly under `root`, by name."""
    if not root.is_dir():
        return []
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))  # not yet one
    return [RunDirectory(entry) for entry in entries if (entry / RECIPE).is_file()]


def _fills_holes(recipe: Recipe) -> bool:
    return isinstance(recipe, AutoencoderRecipe) and recipe.decoder.conditional is not None


def newest_run(root: Path, kind: str) -> RunDirectory | None:
    """The run of that kind ("autoencoder" or "diffusion") whose newest checkpoint was written last; None if none.

    Mask-conditioned decoders are for `brics inpaint`, and no run of an autoencoder that one would go on with.
    """
    found = []
    for run in list_runs(root):
        checkpoints = list_checkpoints(run.checkpoints)
        try:
            if checkpoints and run.recipe.kind == kind and not _fills_holes(run.recipe):
                found.append((checkpoints[-1].stat().st_mtime_ns, run.name, run))
        except RecipeError as error:
            warn(f"{run.path}: is left out, its recipe cannot be read ({error.lines[0]})")
    return max(found)[2] if found else None
