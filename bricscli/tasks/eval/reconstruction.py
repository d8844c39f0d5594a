"""`brics eval reconstruction`: reconstructions against their originals, image by image, and as two sets (rFID)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from bricscli import weights
from bricscli.data.collection import ImageCollection
from bricscli.data.images import to_float, to_uint8
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.metrics import GROUPS, METRICS
from bricscli.metrics.features import FeatureExtractor, load_extractor
from bricscli.metrics.frechet import Statistics, frechet_distance
from bricscli.metrics.reconstruction import SSIM_WINDOW, Lpips, psnr, ssim
from bricscli.nn.lpips import LPIPS_WEIGHTS
from bricscli.run.log import Progress
from bricscli.tasks.eval.comparable import check_comparable, too_few
from bricscli.tasks.eval.results import describe_versions

#: AlexNet's pooling leaves nothing of smaller images.
LPIPS_SIDE = 31

#: The metric of two sets, originals and reconstructions, and the extractor of its features: torch-fidelity's Inception.
RFID, RFID_FEATURES = "rfid", "inception"

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
    """The functions behind metrics of single images. Raises MissingWeights: call it before anything long."""
    measures: dict[str, PairMeasure] = {}
    for name in names:
        if name == RFID:
            continue
        if name == "psnr":
            measures[name] = psnr
        elif name == "ssim":
            measures[name] = ssim
        else:
            net = name.removeprefix("lpips_")
            measures[name] = Lpips(net, weights.load_state(LPIPS_WEIGHTS[net])).to(device)  # type: ignore[arg-type]
    return measures


def load_set_features(names: Sequence[str], device: torch.device | str = "cpu") -> FeatureExtractor | None:
    """What rFID is measured on, where it is among the names. Raises MissingWeights."""
    return load_extractor(RFID_FEATURES, device) if RFID in names else None


def evaluate_reconstruction(
    reconstruct: Callable[[Tensor], Tensor],
    images: ImageCollection,
    measures: dict[str, PairMeasure],
    *,
    features: FeatureExtractor | None = None,
    force: bool = False,
    autoencoder: str | None = None,
    moved: float = 0.0,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    limit: int | None = None,
) -> dict[str, Any]:
    """Mean and standard deviation over images of every measure; reconstructions are rounded to 8 bits first.

    `reconstruct`: float [-1,1] (B,3,H,W) on `device` -> the same. `autoencoder`: digest of its weights, for the record.
    `moved`: by how many cells `reconstruct` moves keys, likewise. With `features` the Fréchet distance of the two sets
    is measured too, which fewer than 10,000 images make a MismatchError unless `force`.
    """
    forced = check_comparable(too_few("images", images.describe(limit)), force) if features else []
    if "ssim" in measures and min(images.shape) < SSIM_WINDOW:
        raise DataError(f"{images.name}: {images.size} is too small for SSIM. Use --metrics psnr.")
    if min(images.shape) < LPIPS_SIDE and any(name.startswith("lpips") for name in measures):
        raise DataError(f"{images.name}: {images.size} is too small for LPIPS. Use --metrics psnr,ssim.")
    values: dict[str, list[Tensor]] = {name: [] for name in measures}
    sets = [Statistics(features.outputs["features"]) for _ in range(2)] if features else []
    for batch in _batches(images, batch_size, limit, "reconstruct"):
        originals = batch.to(device)
        with torch.no_grad():
            output = reconstruct(to_float(originals))
        if output.shape != originals.shape or not torch.isfinite(output).all():
            raise BricsError(f"{images.name}: the autoencoder gave no image of {images.size}. Train it again.")
        reconstructed = to_uint8(output)
        for name, measure in measures.items():
            values[name].append(measure(originals, reconstructed).cpu())
        for side, pixels in zip(sets, (originals, reconstructed), strict=False):
            assert features is not None
            side.update(features(pixels)["features"].cpu().numpy())
    metrics = {name: _summary(name, torch.cat(parts)) for name, parts in values.items()}
    if features:
        metrics[RFID] = {"label": METRICS[RFID].label, "unit": "", "value": frechet_distance(*sets), "forced": forced,
                         "extractor": features.name, "sha256": features.digest}
    return {
        "kind": "reconstruction",
        "metrics": metrics,
        "images": images.describe(limit),
        "autoencoder": autoencoder,
        "keys_moved_by_cells": moved,
        "protocol": "per image; reconstructions rounded to 8 bits; data range 1; SSIM Gaussian 11x11, borders left out",
        "versions": describe_versions(*["lpips"] * any(name.startswith("lpips") for name in measures),
                                      *["torch-fidelity"] * bool(features)),
    }


def _summary(name: str, values: Tensor) -> dict[str, Any]:
    """`std` is the spread of single images, divided by N - 1 (0 for one image): no error of the mean."""
    metric = METRICS[name]
    std = float(values.std()) if len(values) > 1 else 0.0
    return {"label": metric.label, "unit": metric.unit, "mean": float(values.mean()), "std": std}


def _batches(images: ImageCollection, batch_size: int, limit: int | None, description: str) -> Iterator[Tensor]:
    """uint8 (B,3,H,W), with progress."""
    with Progress(images.used(limit), description, "images") as progress:
        for batch in images.batches(batch_size, limit):
            yield torch.from_numpy(batch)
            progress.show(progress.done + len(batch))
