"""`brics eval usage`: which feature grid entries a data set's keys hit, and how evenly (section 3.4, App. E)."""

from pathlib import Path
from typing import Any

import torch

from bricscli import files
from bricscli.data.collection import ImageCollection
from bricscli.data.images import to_float
from bricscli.errors import MismatchError
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.nn.retrieval.usage import EntryUsage
from bricscli.report.usage import draw_usage
from bricscli.run.log import Progress
from bricscli.run.provenance import describe_process
from bricscli.tasks.eval.results import some_of
from bricscli.tasks.models import LoadedAutoencoder


def evaluate_usage(
    autoencoder: LoadedAutoencoder, images: ImageCollection, *, device: torch.device, batch_size: int = 16,
    limit: int | None = None
) -> dict[str, Any]:
    """The share of entries hit and the spread of hits, for each group and level, over the keys of `images`.

    An entry is hit where it is a corner, of positive weight, of a query; keys are as after training, without noise.
    Raises MismatchError for an autoencoder without feature grids.
    """
    grids = autoencoder.model.retrieval
    if not isinstance(grids, FeatureGrid):
        raise MismatchError(f"{autoencoder.name}: has no feature grids whose use could be counted. Choose a run of "
                            "BRICS.")
    usage = EntryUsage(grids)
    with Progress(images.used(limit), "counting hits", "images") as progress, torch.no_grad():
        for batch in images.batches(batch_size, limit):
            image = to_float(torch.from_numpy(batch).to(device))
            usage.update(grids.tile(autoencoder.model.encode(image)))
            progress.show(progress.done + len(batch))
    process = describe_process()
    return {
        "kind": "usage",
        "hit_share": usage.hit_share(),
        "levels": usage.summary(),
        "images": images.describe(limit),
        "autoencoder": autoencoder.digest,
        "versions": {name: process[name] for name in ("brics", "torch", "numpy", "pillow")},
    }


def save_usage(result: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes the result and its plot below `folder`; returns both paths."""
    images = result["images"]
    name = f"usage-{images['name']}-{images.get('split', 'folder')}{some_of(images)}"
    table, plot = folder / f"{name}.json", folder / f"{name}.png"
    title = f"Use of feature grids, {images['images']} images of {images['name']}"
    files.write_bytes(plot, draw_usage(result["levels"], title))
    files.write_json(table, result)
    return table, plot


def describe_usage(result: dict[str, Any]) -> list[str]:
    """The lines to print: one per level, over its groups; then the whole."""
    lines = [f"{'resolution':>10}  {'entries':>7}  {'reachable':>9}  {'hit, mean':>9}  {'least':>7}  "
             f"{'hits: deviation / mean':>22}  {'most':>6}"]
    for level in result["levels"]:
        hit = [group["hit_of_reachable"] for group in level["groups"]]
        variation = [group["variation"] for group in level["groups"]]
        lines.append(f"{level['resolution']:10d}  {level['entries']:7d}  {level['reachable']:9d}  "
                     f"{sum(hit) / len(hit):9.2%}  {min(hit):7.2%}  {sum(variation) / len(variation):22.2f}  "
                     f"{max(variation):6.2f}")
    images = result["images"]
    return [*lines, "mean, least and most are those of the groups; shares are of the entries that a key can reach",
            f"{result['hit_share']:.2%} of those of all levels were hit by {images['images']} images of "
            f"{images['name']}"]
