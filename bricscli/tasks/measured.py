"""What `brics eval` measured of the model that a shipped recipe makes, found again among the runs.

A number counts for a recipe only where nothing else could have made it: the run's recipe is that recipe in every key,
the evaluation names a checkpoint that the run still has, and it used the data that the recipe names. Whatever else
differs from the paper's measurement (other or fewer images, an unfinished training) becomes a note beside the number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bricscli.errors import BricsError, RecipeError
from bricscli.recipe.load import differing_keys, load_shipped_recipe, parse_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe, Recipe
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints, load_weights
from bricscli.run.directory import RunDirectory, list_runs
from bricscli.run.log import warn
from bricscli.strict_json import read_json

#: Samples that the paper's generation metrics stand on (section 4), and how they were measured.
PAPER_SAMPLES, PAPER_PROTOCOL = 50_000, "brics2023"


@dataclass(frozen=True)
class Found:
    """One number; `std` is the spread over images where there is one."""

    value: float
    std: float | None
    notes: tuple[str, ...]


def find_measured(recipe: Recipe, runs: Path) -> dict[str, Found]:
    """Metric, by `brics eval`'s name -> its number, from the runs of that recipe; those with fewer notes go first."""
    found: dict[str, Found] = {}
    for run in _runs_of(recipe, runs):
        for path in sorted(run.evals.glob("*.json")):
            try:
                numbers = numbers_of(read_json(path), run)
            except (OSError, ValueError, TypeError, KeyError, AttributeError):  # damaged, or a file of somebody else's
                warn(f"{path}: is left out, it or the record of its samples cannot be read. Evaluate again.")
                continue
            for name, new in numbers.items():
                if name not in found or len(new.notes) < len(found[name].notes):
                    found[name] = new
    return found


def _runs_of(recipe: Recipe, runs: Path) -> Iterator[RunDirectory]:
    for run in list_runs(runs):
        try:
            if not differing_keys(run.recipe, recipe):
                yield run
        except RecipeError as error:
            warn(f"{run.path}: is left out, its recipe cannot be read ({error.lines[0]})")


def numbers_of(result: dict[str, Any], run: RunDirectory) -> dict[str, Found]:
    """What one evaluation says of the run's recipe."""
    notes = _reservations(result, run)
    if notes is None:
        return {}
    return {name: Found(float(entry["mean" if "mean" in entry else "value"]),
                        None if entry.get("std") is None else float(entry["std"]),
                        (*notes, *(f"forced: {reason}" for reason in entry.get("forced", []))))
            for name, entry in result["metrics"].items()}


def _reservations(result: dict[str, Any], run: RunDirectory) -> tuple[str, ...] | None:
    """What must be said beside the numbers; None where they are not this recipe's."""
    recipe = run.recipe
    if isinstance(recipe, AutoencoderRecipe):
        return _of_reconstruction(result, run, recipe) if result["kind"] == "reconstruction" else None
    return _of_samples(result, run, recipe) if result["kind"] == "generation" else None


def _of_reconstruction(result: dict[str, Any], run: RunDirectory, recipe: AutoencoderRecipe) -> tuple[str, ...] | None:
    images, seen = result["images"], _images_seen(run, result["autoencoder"])
    same_images = (images["name"], images.get("split")) == (recipe.data.name, "val")
    if seen is None or not same_images or result.get("keys_moved_by_cells"):
        return None
    notes = _unfinished(seen, recipe)
    if images["images"] < images["of"]:
        notes.append(f"over {images['images']:,} of {images['of']:,} images of the val split")
    return tuple(notes)


def _of_samples(result: dict[str, Any], run: RunDirectory, recipe: DiffusionRecipe) -> tuple[str, ...] | None:
    """Samples that `brics sample` drew, against the data that the autoencoder was trained on."""
    samples, reference = result["samples"], result["reference"]
    record = samples.get("drawn")
    if record is None:
        return None
    try:
        autoencoder = parse_recipe(load_weights(run.autoencoder_path).recipe_text, str(run.autoencoder_path))
    except (FileNotFoundError, BricsError):
        return None
    seen, trained = _images_seen(run, record["denoiser"]["digest"]), load_shipped_recipe(recipe.autoencoder)
    assert isinstance(trained, AutoencoderRecipe)
    others = reference["name"] != trained.data.name or differing_keys(autoencoder, trained)
    if seen is None or others or record.get("class"):
        return None
    notes = _unfinished(seen, recipe)
    if result["protocol"] not in (None, PAPER_PROTOCOL):
        notes.append(f"by protocol {result['protocol']}, the paper's is {PAPER_PROTOCOL}")
    notes += [f"forced: {reason}" for reason in result["forced"]]
    if samples["images"] != PAPER_SAMPLES:
        notes.append(f"over {samples['images']:,} samples, the paper's over {PAPER_SAMPLES:,}")
    if reference["images"] is None:
        notes.append("against statistics of others")
    elif reference.get("split") not in ("train", "all") or reference["images"] < reference["of"]:
        part = f"the {reference['split']} split" if "split" in reference else "a folder"
        notes.append(f"against {reference['images']:,} of {reference['of']:,} images of {part}")
    if record["sampling"] != recipe.sampling.model_dump():
        notes.append("drawn with other settings than the recipe's")
    return tuple(notes)


def _images_seen(run: RunDirectory, digest: str | None) -> int | None:
    """How many images the checkpoint with these weights was trained on; None where the run has no such checkpoint."""
    for path in list_checkpoints(run.checkpoints):
        if digest and checkpoint_digest(path) == digest:
            return int(path.name.removeprefix("step-")) * run.recipe.training.batch_size
    return None


def _unfinished(seen: int, recipe: Recipe) -> list[str]:
    total = recipe.training.images
    return [f"after {seen:,} of {total:,} images of training"] if seen < total else []
