"""Measure: reconstructions against their originals, or samples against a reference, with the protocol that was used.

Every result is a plain dict, ready for JSON: the numbers, how many images they stand on, digests of what was compared
and the versions that can change a number. It holds no times and no paths, so the same inputs give the same file.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bricscli import files, weights
from bricscli.data.collection import ImageCollection
from bricscli.data.images import to_float, to_uint8
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.metrics import GROUPS, METRICS
from bricscli.metrics.features import FeatureExtractor, load_extractor
from bricscli.metrics.frechet import Statistics, frechet_distance
from bricscli.metrics.reconstruction import SSIM_WINDOW, Lpips, psnr, ssim
from bricscli.nn.lpips import LPIPS_WEIGHTS
from bricscli.run.log import Progress, warn
from bricscli.run.provenance import describe_process

#: AlexNet's pooling leaves nothing of smaller images.
LPIPS_SIDE = 31

#: Two batches of uint8 images (B,3,H,W) -> (B,).
PairMeasure = Callable[[Tensor, Tensor], Tensor]


def choose_metrics(names: Iterable[str]) -> list[str]:
    """Names of reconstruction metrics, groups such as `lpips` spelt out. Raises RecipeError for an unknown one."""
    known = [name for name, metric in METRICS.items() if metric.of == "reconstruction"]
    chosen: list[str] = []
    for name in (name.strip() for name in names):
        members = GROUPS.get(name, (name,))
        if not set(members) <= set(known):
            close = get_close_matches(name, [*known, *GROUPS], n=1)
            hint = f"Did you mean `{close[0]}`?" if close else f"Use {', '.join([*known, *GROUPS])}."
            raise RecipeError(f"--metrics: `{name}` is unknown. {hint}")
        chosen += [member for member in members if member not in chosen]
    if not chosen:
        raise RecipeError(f"--metrics: names no metric. Use {', '.join([*known, *GROUPS])}.")
    return chosen


def load_measures(names: Sequence[str], device: torch.device | str = "cpu") -> dict[str, PairMeasure]:
    """The functions behind reconstruction metrics. Raises MissingWeights: call it before anything long."""
    measures: dict[str, PairMeasure] = {}
    for name in names:
        if name == "psnr":
            measures[name] = psnr
        elif name == "ssim":
            measures[name] = ssim
        else:
            net = name.removeprefix("lpips_")
            measures[name] = Lpips(net, weights.load_state(LPIPS_WEIGHTS[net])).to(device)  # type: ignore[arg-type]
    return measures


def load_features(name: Literal["inception", "random"], device: torch.device | str = "cpu") -> FeatureExtractor:
    """The extractor of a Fréchet distance. Raises MissingWeights: call it before anything long."""
    return load_extractor("inception_clean" if name == "inception" else name, device)


def evaluate_reconstruction(
    reconstruct: Callable[[Tensor], Tensor],
    images: ImageCollection,
    measures: dict[str, PairMeasure],
    *,
    autoencoder: str | None = None,
    moved: float = 0.0,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    limit: int | None = None,
) -> dict[str, Any]:
    """Mean and standard deviation over images of every measure; reconstructions are rounded to 8 bits first.

    `reconstruct`: float [-1,1] (B,3,H,W) on `device` -> the same. `autoencoder`: digest of its weights, for the record.
    `moved`: by how many cells `reconstruct` moves keys, likewise.
    """
    if "ssim" in measures and min(images.shape) < SSIM_WINDOW:
        raise DataError(f"{images.name}: {images.size} is too small for SSIM. Use --metrics psnr.")
    if min(images.shape) < LPIPS_SIDE and any(name.startswith("lpips") for name in measures):
        raise DataError(f"{images.name}: {images.size} is too small for LPIPS. Use --metrics psnr,ssim.")
    values: dict[str, list[Tensor]] = {name: [] for name in measures}
    for batch in _batches(images, batch_size, limit, "reconstruct"):
        originals = batch.to(device)
        with torch.no_grad():
            output = reconstruct(to_float(originals))
        if output.shape != originals.shape or not torch.isfinite(output).all():
            raise BricsError(f"{images.name}: the autoencoder gave no image of {images.size}. Train it again.")
        for name, measure in measures.items():
            values[name].append(measure(originals, to_uint8(output)).cpu())
    return {
        "kind": "reconstruction",
        "metrics": {name: _summary(name, torch.cat(parts)) for name, parts in values.items()},
        "images": images.describe(limit),
        "autoencoder": autoencoder,
        "keys_moved_by_cells": moved,
        "protocol": "per image; reconstructions rounded to 8 bits; data range 1; SSIM Gaussian 11x11, borders left out",
        "versions": _versions("lpips") if any(name.startswith("lpips") for name in measures) else _versions(),
    }


def evaluate_frechet(
    samples: ImageCollection,
    reference: ImageCollection,
    features: FeatureExtractor,
    *,
    anchors: Mapping[str, ImageCollection] | None = None,
    batch_size: int = 64,
    limit: int | None = None,
) -> dict[str, Any]:
    """The Fréchet distance of two collections of one resolution. `limit` holds for the samples only.

    `anchors`: other collections whose distance from the same reference is recorded beside that of the samples.
    """
    if samples.shape != reference.shape:
        raise DataError(
            f"{samples.name}: images are {samples.size}, those of {reference.name} {reference.size}."
            " Compare images of one resolution."
        )
    for images, count in ((samples, samples.used(limit)), (reference, reference.count)):
        if count < 2:
            raise DataError(f"{images.name}: has {count} image; a Fréchet distance needs at least 2.")
        if images.lossy:
            warn(f"{images.name}: holds JPEG files, whose compression changes the distance. Compare PNG files.")
        if count < (dimension := features.outputs["features"]):
            warn(
                f"{images.name}: {count} images for {dimension} features; the distance comes out too large."
                " Compare it only with distances from as many images."
            )
    target = _statistics(reference, features, batch_size, None)
    distance = frechet_distance(_statistics(samples, features, batch_size, limit), target)
    compared = {
        name: {
            "value": frechet_distance(_statistics(images, features, batch_size, None), target),
            "images": images.count,
        }
        for name, images in (anchors or {}).items()
    }
    name = {"inception": "fid", "inception_clean": "fid_clean"}.get(features.name, "fd_random")
    return {
        "kind": "frechet",
        "metrics": {name: {"label": METRICS[name].label, "value": distance}},
        "anchors": compared,
        "samples": samples.describe(limit),
        "reference": reference.describe(None),
        "features": {"name": features.name, "dimension": features.outputs["features"]},
        "versions": _versions("clean-fid") if features.name == "inception_clean" else _versions(),
    }


def save_result(result: dict[str, Any], folder: Path) -> Path:
    """Writes a result below `folder`, under a name that says what it is. Returns the file's path.

    Metrics of an earlier evaluation of the same reconstructions stay in the file.
    """
    if result["kind"] == "reconstruction":
        moved = f"-perturbed{result['keys_moved_by_cells']:g}" if result["keys_moved_by_cells"] else ""
        name = f"reconstruction-{result['images']['name']}-{result['images'].get('split', 'folder')}{moved}"
    else:
        sides = f"{result['samples']['name']}-{result['reference']['name']}"
        name = f"{next(iter(result['metrics']))}-{sides}-{result['reference'].get('split', 'folder')}"
    path = folder / f"{name}.json"
    files.write_json(path, _with_earlier_metrics(result, path) if result["kind"] == "reconstruction" else result)
    return path


def _with_earlier_metrics(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """`result` and the metrics that the file has more, if the two agree in everything else."""
    try:
        earlier = json.loads(path.read_text("utf-8"))
        both = {part: earlier[part] | result[part] for part in ("metrics", "versions")}
        same_versions = both["versions"] == result["versions"] | earlier["versions"]  # of what both of them name
        return result | both if same_versions and earlier | both == result | both else result
    except (OSError, ValueError, TypeError, KeyError):  # none, or a file of somebody else's
        return result


def describe_result(result: dict[str, Any]) -> list[str]:
    """The lines to print: one per number, then what they stand on."""
    lines = []
    for entry in result["metrics"].values():
        if result["kind"] == "reconstruction":
            unit = f" {entry['unit']}" if entry["unit"] else ""
            lines.append(f"{entry['label']}: {entry['mean']:.4g} ± {entry['std']:.3g}{unit}")
        else:
            lines.append(f"{entry['label']}: {entry['value']:.4g}")
    if result["kind"] == "reconstruction":
        moved = result["keys_moved_by_cells"]
        keys = f"; every key was moved by +{moved:g} or -{moved:g} / r_max" if moved else ""
        return [*lines, f"mean ± standard deviation per image, over {_words(result['images'])}{keys}"]
    lines.append(f"{_words(result['samples'])} against {_words(result['reference'])}")
    return lines + [f"  for comparison, {name}: {anchor['value']:.4g} ({anchor['images']} images)"
                    for name, anchor in result["anchors"].items()]


def _words(side: dict[str, Any]) -> str:
    part = f", split {side['split']}" if "split" in side else ""
    some = "" if side["images"] == side["of"] else f" of {side['of']}"
    return f"{side['images']}{some} images of {side['name']}{part}"


def _summary(name: str, values: Tensor) -> dict[str, Any]:
    """`std` is the spread of single images, divided by N - 1 (0 for one image): no error of the mean."""
    metric = METRICS[name]
    std = float(values.std()) if len(values) > 1 else 0.0
    return {"label": metric.label, "unit": metric.unit, "mean": float(values.mean()), "std": std}


def _statistics(images: ImageCollection, extract: FeatureExtractor, batch_size: int, limit: int | None) -> Statistics:
    statistics = Statistics(extract.outputs["features"])
    for batch in _batches(images, batch_size, limit, f"features of {images.name}"):
        statistics.update(extract(batch)["features"].cpu().numpy())
    return statistics


def _batches(images: ImageCollection, batch_size: int, limit: int | None, description: str) -> Iterator[Tensor]:
    """uint8 (B,3,H,W), with progress."""
    with Progress(images.used(limit), description, "images") as progress:
        for batch in images.batches(batch_size, limit):
            yield torch.from_numpy(batch)
            progress.show(progress.done + len(batch))


def _versions(*more: str) -> dict[str, Any]:
    from importlib.metadata import version

    process = describe_process()
    kept = {name: process[name] for name in ("brics", "torch", "torchvision", "numpy", "pillow")}
    return kept | {name: version(name) for name in more}
