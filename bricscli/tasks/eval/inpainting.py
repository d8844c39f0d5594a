"""`brics eval inpaint`: holes that are filled beside the originals, as LaMa measures it, and what became of the rest.

Every picture gets a fixed mask; its hole is filled once, and the filled latent is decoded in every way that there is:
by the plain decoder, by it with the kept pixels pasted over, and by the mask-conditioned decoder. The same decoders on
latents of the whole pictures show what they do where the filling is right. Distance and LPIPS stand over all pictures,
and over those of which 40 to 50 % are masked (LaMa, arXiv:2109.07161v2, section 4.1).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bricscli import files
from bricscli.data.collection import ImageCollection
from bricscli.data.images import to_uint8
from bricscli.data.masks import draw_mask
from bricscli.errors import RecipeError
from bricscli.metrics import METRICS
from bricscli.metrics.features import FeatureExtractor, load_extractor
from bricscli.metrics.frechet import Statistics, frechet_distance
from bricscli.metrics.inpainting import hole_errors
from bricscli.metrics.reconstruction import psnr
from bricscli.run.log import Progress
from bricscli.tasks.eval.comparable import check_comparable, too_few
from bricscli.tasks.eval.reconstruction import PairMeasure, load_measures
from bricscli.tasks.eval.results import describe_versions, some_of
from bricscli.tasks.inpainting.fill import Hole, Holes, Way, fill_latents, whole_pass
from bricscli.tasks.inpainting.inpainter import Inpainter

#: Shares of a picture that LaMa looks at by themselves.
WIDE = (0.4, 0.5)
#: Name of an error -> what it is called.
ERRORS = {"pre_error": "Pre_error", "seam": "seam error", "ring": "error at the edge", "hole": "error in the hole",
          "psnr": "PSNR"}


@dataclass
class _Row:
    """One way to fill and decode, over all pictures and over the widely masked."""

    values: dict[str, list[Tensor]] = field(default_factory=dict)
    sets: dict[str, Statistics] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        self.values.setdefault(name, []).append(values.cpu().double())

    def add_features(self, part: str, features: Tensor) -> None:
        if part not in self.sets:
            self.sets[part] = Statistics(features.shape[1])
        self.sets[part].update(features.cpu().numpy())

    def means(self, wide: Tensor) -> dict[str, dict[str, float]]:
        """Name -> its means."""
        found = {}
        for name, parts in self.values.items():
            values = torch.cat(parts)
            found[name] = {"all": float(values.mean()), **({"wide": float(values[wide].mean())} if wide.any() else {})}
        return found


def load_judges(features: str, net: str, device: torch.device) -> tuple[FeatureExtractor, dict[str, PairMeasure]]:
    """What distance and LPIPS (`net` none: no LPIPS) are measured by. Raises MissingWeights, RecipeError."""
    nets = [name.removeprefix("lpips_") for name in METRICS if name.startswith("lpips_")]
    problems = []
    if features not in ("inception", "random"):
        problems.append(f"--features: `{features}` is unknown. Use inception or random.")
    if net not in (*nets, "none"):
        problems.append(f"--lpips: `{net}` is unknown. Use {', '.join(nets)} or none.")
    if problems:
        raise RecipeError(*problems)
    measures = {} if net == "none" else load_measures([f"lpips_{net}"], device)
    return load_extractor(features, device), measures


def evaluate_inpainting(inpainter: Inpainter, images: ImageCollection, extractor: FeatureExtractor,
                        measures: Mapping[str, PairMeasure], *, masks: str = "thick", mask_seed: int = 0,
                        seed: int = 0, method: str | None = None, limit: int | None = None, force: bool = False
                        ) -> dict[str, Any]:
    """Rows of the table, and what they stand on. Picture i has mask `draw_mask(masks, mask_seed, i)`.

    Raises MismatchError where FID would stand on fewer than 10,000 pictures, unless `force`; DataError where the
    pictures are of another size than the models'.
    """
    inpainter.denoiser.autoencoder.check_resolution(images.shape, images.name)
    published = extractor.name != "random"
    forced = check_comparable(too_few("images", images.describe(limit)), force) if published else []
    way, rows, real_sets, shares = inpainter.choose(method), dict[str, _Row](), _Row(), list[float]()
    with Progress(images.used(limit), "filling", "images") as progress:
        for numbers, real, mask in _batches(images, limit, masks, mask_seed, whole_pass(inpainter.device)):
            holes = Holes([Hole(np.ascontiguousarray(picture.transpose(1, 2, 0)), hole.numpy(), (seed, int(number), 0))
                           for number, picture, hole in zip(numbers, real.numpy(), mask, strict=True)])
            share = mask.double().mean((1, 2))
            shares += share.tolist()
            wide = (share >= WIDE[0]) & (share <= WIDE[1])
            originals = real.to(inpainter.device)
            for part, chosen in (("all", slice(None)), ("wide", wide)):
                if len(some := originals[chosen]):
                    real_sets.add_features(part, extractor(some)["features"])
            for name, fake in _fillings(inpainter, holes, originals, way):
                row = rows.setdefault(name, _Row())
                for error, values in hole_errors(originals, fake, mask.to(inpainter.device)).items():
                    row.add(error, values)
                row.add("psnr", psnr(originals, fake))
                for measure, function in measures.items():
                    row.add(measure, function(originals, fake))
                features = extractor(fake)["features"]
                row.add_features("all", features)
                if wide.any():
                    row.add_features("wide", features[wide.to(features.device)])
            progress.show(progress.done + len(numbers))
    share = torch.tensor(shares, dtype=torch.float64)
    wide = (share >= WIDE[0]) & (share <= WIDE[1])
    distance = "fid" if published else "fd_random"
    return {
        "kind": "inpainting",
        "rows": {name: {**row.means(wide), distance: _distances(row, real_sets)} for name, row in rows.items()},
        "labels": {**ERRORS, **{name: METRICS[name].label for name in (*measures, distance)}},
        "forced": forced,
        "masks": {"kind": masks, "seed": mask_seed, "covered": float(share.mean()), "wide": int(wide.sum())},
        "seed": seed,
        "filling": inpainter.describe(method),
        "evaluations": way.evaluations(inpainter.denoiser.prior),
        "images": images.describe(limit),
        "extractor": {"name": extractor.name, "sha256": extractor.digest},
        "protocol": "one mask and one filling a picture; results rounded to 8 bits; errors of values in [0, 1]; wide: "
                    "40 to 50 % masked",
        "versions": describe_versions(*["lpips"] * any(name.startswith("lpips") for name in measures)),
    }


def save_inpainting(result: Mapping[str, Any], folder: Path) -> Path:
    """Writes the result below `folder`, under a name that says what it is."""
    images, masks = result["images"], result["masks"]
    path = folder / (f"inpainting-{images['name']}-{images.get('split', 'folder')}-{masks['kind']}-"
                     f"{result['filling']['method']}{some_of(images)}.json")
    files.write_json(path, dict(result))
    return path


def describe_inpainting(result: Mapping[str, Any]) -> list[str]:
    """The table to print: a row for each way, a column for each number."""
    names = list(result["labels"])
    columns = [name for name in names if any(name in row for row in result["rows"].values())]
    lines = [f"{'':25}" + "".join(f"  {name:>9}" for name in columns)]
    for part, title in (("all", None), ("wide", f"40 to 50 % masked ({result['masks']['wide']})")):
        if part == "wide" and not result["masks"]["wide"]:
            continue
        lines += [title] if title else []
        for name, row in result["rows"].items():
            cells = (row.get(column, {}).get(part) for column in columns)
            shown = ("-" if cell is None else format(cell, ".4g") for cell in cells)
            lines.append(f"{name:25}" + "".join(f"  {text:>{max(9, len(column))}}"
                                                for text, column in zip(shown, columns, strict=True)))
    images, filling = result["images"], result["filling"]
    lines.append(f"{images['images']} images of {images['name']}, masks {result['masks']['kind']} "
                 f"({result['masks']['covered']:.0%} of a picture), filled by {filling['method']} with "
                 f"{result['evaluations']} evaluations each; errors of values in [0, 1]")
    return lines + [f"  FORCED, comparable with nobody's: {reason}" for reason in result["forced"]]


def _batches(images: ImageCollection, limit: int | None, kind: str, seed: int, size: int
             ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Numbers of pictures, uint8 `(B, 3, H, W)`, bool `(B, H, W)`."""
    numbers = list(images.chosen(limit))
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        masks = np.stack([draw_mask(kind, seed, number, *images.shape) for number in part])
        yield part, torch.from_numpy(np.stack([images.read(number) for number in part])), torch.from_numpy(masks)


def _fillings(inpainter: Inpainter, holes: Holes, real: Tensor, way: Way) -> Iterator[tuple[str, Tensor]]:
    """Name of a row -> uint8 `(B, 3, H, W)`."""
    denoiser, mask = inpainter.denoiser, holes.mask.to(real.device) > 0.5
    filled = fill_latents(denoiser.prior, denoiser.autoencoder.model, holes, way, inpainter.device)
    for latents, suffix in ((filled, ""), (inpainter.encode(real), ", own codes")):
        plain = to_uint8(inpainter.decode(latents, holes, told=False)).to(real.device)
        yield f"plain{suffix}", plain
        yield f"plain, pasted{suffix}", torch.where(mask, plain, real)
        if inpainter.decoder is not None:
            yield f"asymmetric{suffix}", to_uint8(inpainter.decode(latents, holes, told=True)).to(real.device)


def _distances(row: _Row, real: _Row) -> dict[str, float]:
    """Of the row's pictures from the originals; too few for a covariance: none."""
    return {part: frechet_distance(statistics, real.sets[part]) for part, statistics in row.sets.items()
            if statistics.count > 1}
