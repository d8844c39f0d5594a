"""What samples are compared with: images, or the statistics that were computed of them once.

A statistics file is a safetensors file: mean and covariance, float64, of one extractor's features, and in its metadata
what they stand on: the data set's digest, its split and preparation, how many images, the extractor with its weights'
digest, the versions. Those of a prepared data set are kept in its folder `statistics/` and used again for as long as
all of that is the same. Files of others (`.npz`, "mu" and "sigma") say nothing of the kind, which is written beside the
numbers.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from bricscli import files
from bricscli.data.collection import ImageCollection, find_images
from bricscli.data.published import is_published, load_statistics_npz, published_statistics
from bricscli.errors import DataError, RecipeError
from bricscli.metrics.features import EXTRACTORS, FeatureExtractor, load_extractor
from bricscli.metrics.frechet import Gaussian, Spread
from bricscli.parts import Part
from bricscli.run.log import say, warn
from bricscli.strict_json import parse_json
from bricscli.tasks.eval.collecting import CHUNK, HERE, Features, Place, Want, collect, collect_part
from bricscli.tasks.eval.kept import KEPT, folder_for, remove_kept
from bricscli.tasks.eval.results import describe_versions
from bricscli.tensor_files import check_header

SCHEMA = 1
_ENDINGS = (".safetensors", ".npz")
_KEPT = "statistics"


class Reference(Protocol):
    """`about`: for the result, as `ImageCollection.describe` has it."""

    about: dict[str, Any]

    def features(self, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor], place: Place = HERE
                 ) -> Features:
        """Raises DataError where it cannot give them."""
        ...

    def keep_part(self, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor], part: Part, place: Place
                  ) -> tuple[int, int]:
        """As `collect_part`."""
        ...

    def lacks(self, want: Want) -> str | None:
        """Why it cannot give what is wanted; None where it can."""
        ...


class ImageReference:
    """Images, whose means and covariances are kept where they are those of a prepared data set."""

    def __init__(self, images: ImageCollection, limit: int | None = None) -> None:
        self.images, self._limit = images, limit
        self.about = images.describe(limit)
        self._folder = images.folder / _KEPT if images.folder and limit is None else None

    def lacks(self, want: Want) -> str | None:
        return None

    def features(self, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor], place: Place = HERE
                 ) -> Features:
        kept, missing = self._sorted(wants, extractors)
        features = collect(self.images, missing, extractors, self._limit, place=place) if missing else Features(
            np.arange(self.about["images"]))
        for want, statistics in kept.items():
            features.spreads[want.extractor, want.output] = statistics
        for want in missing:
            if want.spread and want.output == "features":
                self._keep(extractors[want.extractor], features.spread(want.extractor))
        return features

    def keep_part(self, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor], part: Part, place: Place
                  ) -> tuple[int, int]:
        _, missing = self._sorted(wants, extractors)
        return collect_part(self.images, missing, extractors, part, place, self._limit) if missing else (0, 0)

    def _sorted(self, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor]
                ) -> tuple[dict[Want, Spread], list[Want]]:
        """What the data set's folder has already, and the rest."""
        wants = list(wants)
        kept = {want: found for want in wants
                if want.rows == 0 and (found := self._find_kept(extractors[want.extractor]))}
        return kept, [want for want in wants if want not in kept]

    def _path(self, extractor: FeatureExtractor) -> Path | None:
        return self._folder / f"{extractor.name}-{self.images.split}.safetensors" if self._folder else None

    def _find_kept(self, extractor: FeatureExtractor) -> Spread | None:
        path = self._path(extractor)
        if path is None or not path.is_file():
            return None
        try:
            record, statistics = read_statistics(path)
        except DataError as error:
            warn(f"{error} They are computed again.")
            return None
        same = record["data"] == self.about and record["extractor"] == describe_extractor(extractor)
        return statistics if same else None

    def _keep(self, extractor: FeatureExtractor, statistics: Spread) -> None:
        path = self._path(extractor)
        if path is None:
            return
        try:
            files.check_writable(path.parent)
        except DataError:  # somebody else's data set
            return
        write_statistics(path, statistics, extractor, self.about)
        say(f"{path}: statistics kept for the next time.")


class StoredReference:
    """A statistics file: good for the Fréchet distance on its own extractor's features."""

    def __init__(self, statistics: Spread, extractor: str, digest: str | None, about: dict[str, Any]) -> None:
        self._statistics, self._extractor, self._digest, self.about = statistics, extractor, digest, about

    def lacks(self, want: Want) -> str | None:
        if want.rows != 0:
            return "needs the reference's images, and there are only statistics"
        if want.extractor != self._extractor:
            return f"the statistics are of `{self._extractor}` features, not of `{want.extractor}`"
        return None

    def keep_part(self, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor], part: Part, place: Place
                  ) -> tuple[int, int]:
        return 0, 0

    def features(self, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor], place: Place = HERE
                 ) -> Features:
        features = Features(np.arange(0))
        for want in wants:
            extractor = extractors[want.extractor]
            if extractor.outputs[want.output] != self._statistics.mean.size:
                raise DataError(f"{self.about['name']}: has {self._statistics.mean.size} features, `{extractor.name}` "
                                f"gives {extractor.outputs[want.output]}. Choose the statistics of that extractor.")
            if self._digest and extractor.digest and self._digest != extractor.digest:
                raise DataError(f"{self.about['name']}: was computed with other weights of `{extractor.name}` "
                                f"({self._digest[:8]}, here {extractor.digest[:8]}). Compute it again.")
            features.spreads[want.extractor, want.output] = self._statistics
        return features


def check_name(where: str) -> None:
    """Raises DataError where it means a published statistic that there is not: before anything that takes time."""
    if is_published(where):
        published_statistics(where)


def open_reference(where: str | Path, split: str | None, data_root: Path, assumed: str) -> Reference:
    """Images as `find_images` finds them, a statistics file, or the name of a published statistic.

    `assumed`: the extractor of a file that does not say. Raises DataError where there is nothing of that name,
    RecipeError where a split is asked of what has none.
    """
    path = Path(where)
    if is_published(str(where)) or (path.suffix.lower() in _ENDINGS and path.is_file()):
        if split is not None:
            raise RecipeError(f"--split: {where} holds finished statistics. Leave it out.")
        return _open_file(str(where), assumed)
    return ImageReference(find_images(where, split, data_root, default="train"))


class StatisticsWork:
    """The statistics file `out` of a data set's or folder's features, in the making. `about`: what it says of them.

    Raises RecipeError for an unknown extractor or another ending, MissingWeights, DataError.
    """

    def __init__(self, where: str, split: str | None, data_root: Path, features: str, out: Path, device: torch.device
                 ) -> None:
        if features not in EXTRACTORS:
            raise RecipeError(f"--features: `{features}` is unknown. There are: {', '.join(EXTRACTORS)}.")
        if out.suffix != ".safetensors":
            raise RecipeError(f"--out: {out} must end in .safetensors.")
        files.check_writable(out.parent)
        self._extractor, self._out = load_extractor(features, device), out
        if out.exists():
            read_statistics(out)  # or DataError: nothing else is replaced
        self._reference = ImageReference(find_images(where, split, data_root, default="train"))
        self.about = self._reference.about
        if self.about["images"] < 2:
            raise DataError(f"{where}: holds {self.about['images']} image; a covariance needs at least 2. Use more.")
        self._wants, self._extractors = [Want(features, spread=True)], {features: self._extractor}
        self.kept = folder_for(out.parent / f"{out.stem}-{KEPT}", {
            "reference": self.about, "extractor": describe_extractor(self._extractor), "device": device.type,
            "chunk": CHUNK, "versions": describe_versions()})
        self._place = Place(device, self.kept / "reference")

    def keep_part(self, part: Part) -> tuple[int, int]:
        """As `Comparison.keep_part`."""
        return self._reference.keep_part(self._wants, self._extractors, part, self._place)

    def save(self) -> None:
        """From what is kept of the features, and what is missing; then nothing is kept any more."""
        spread = self._reference.features(self._wants, self._extractors, self._place).spread(self._extractor.name)
        write_statistics(self._out, spread, self._extractor, self.about)
        remove_kept(self.kept)


def _open_file(where: str, assumed: str) -> StoredReference:
    if is_published(where):
        published = published_statistics(where)
        about = _about(where, published.images, published.resolution, files.sha256_file(published.path()))
        return StoredReference(Gaussian(*published.load()), published.extractor, None, about)
    path = Path(where)
    if path.suffix.lower() == ".npz":
        mean, covariance = load_statistics_npz(path)
        about = _about(path.name, None, None, files.sha256_file(path))
        return StoredReference(Gaussian(mean, covariance), assumed, None, about)
    record, statistics = read_statistics(path)
    return StoredReference(statistics, record["extractor"]["name"], record["extractor"]["sha256"],
                           record["data"] | {"statistics": files.sha256_file(path)})


def _about(name: str, count: int | None, resolution: int | None, digest: str) -> dict[str, Any]:
    """Of statistics that say little about themselves."""
    return {"name": name, "images": count, "of": count, "width": resolution, "height": resolution,
            "statistics": digest, "preparation": None}


def describe_extractor(extractor: FeatureExtractor) -> dict[str, Any]:
    return {"name": extractor.name, "dimension": extractor.outputs["features"], "sha256": extractor.digest}


def write_statistics(path: Path, statistics: Spread, extractor: FeatureExtractor, about: Mapping[str, Any]) -> None:
    """Complete or not at all. `about`: of the images, as a result describes them."""
    from safetensors.torch import save

    record = {"schema": SCHEMA, "data": dict(about), "extractor": describe_extractor(extractor),
              "versions": describe_versions()}
    tensors = {"mean": torch.from_numpy(statistics.mean), "covariance": torch.from_numpy(statistics.covariance)}
    record["sha256"] = _digest(tensors["mean"], tensors["covariance"])
    files.sweep(path.parent, path.name)  # what an evaluation left that was killed
    files.write_bytes(path, save(tensors, {"brics": json.dumps(record, ensure_ascii=False)}))


def _digest(mean: torch.Tensor, covariance: torch.Tensor) -> str:
    """SHA-256 of what is in a file: no format of tensors notices a bit that has flipped."""
    return hashlib.sha256(mean.numpy().tobytes() + covariance.numpy().tobytes()).hexdigest()


def read_statistics(path: Path) -> tuple[dict[str, Any], Gaussian]:
    """What a statistics file says of itself, and what is in it. Raises DataError for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        check_header(path)
        with safe_open(path, "pt") as file:
            record = parse_json(file.metadata()["brics"])
            mean, covariance = (file.get_tensor(name) for name in ("mean", "covariance"))
        if record["schema"] != SCHEMA:
            raise ValueError(f"of schema {record['schema']}")
        dimension = int(record["extractor"]["dimension"])
        if mean.shape != (dimension,) or covariance.shape != (dimension, dimension) or mean.dtype != torch.float64:
            raise ValueError("its arrays have other shapes than it says")
        if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
            raise ValueError("it holds values that are not finite")
        record["data"]["name"], record["data"]["images"], record["extractor"]["name"], record["extractor"]["sha256"]
        if record["sha256"] != _digest(mean, covariance):
            raise ValueError("damaged: its SHA-256 is another")
        return record, Gaussian(mean.numpy(), covariance.numpy())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise DataError(f"{path}: not a statistics file that brics wrote ({reason}). Make it again.") from None
