"""Statistics of reference images that others published: which there are, what made them, and reading them safely.

A name such as `cleanfid:lsun_church:trainfull:256` says data set, split and resolution, and optionally after another
colon the mode (`clean` unless said). Files, splits and counts: clean-fid 0.1.35, `features.get_reference_statistics`
and its README's table of precomputed datasets. Nobody publishes digests of them, so they are never downloaded here.
No torch at import.
"""

import difflib
import importlib.util
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bricscli.data.npy import read_header
from bricscli.errors import DataError
from bricscli.weights import weight_folders

_BASE = "https://www.cs.cmu.edu/~clean-fid/stats/"
#: Of the widest features in use, VGG16's fc2. Larger files are refused before they are read.
MOST_DIMENSIONS = 4096
#: Of the widest covariance in numpy's widest floating-point numbers, with its header.
_MOST_BYTES = 16 * MOST_DIMENSIONS**2 + 65536
#: Between a covariance and its transpose, relative to its largest entry: what rounding leaves.
_ASYMMETRY = 1e-6


@dataclass(frozen=True)
class Mode:
    """How clean-fid makes features: its part of the file's name, the extractor, and the resizing in words."""

    file: str
    extractor: str
    dimension: int
    resize: str


#: `inception_clean` and `clip` are extractors of brics. The others are named for what they are: the same Inception,
#: fed by another resizing.
MODES: dict[str, Mode] = {
    "clean": Mode("clean", "inception_clean", 2048, "Pillow, bicubic, antialiased, in float, to 299x299"),
    "legacy_tensorflow": Mode("legacy_tensorflow", "inception_legacy_tensorflow", 2048,
                              "TensorFlow 1, bilinear, not antialiased, inside the network, to 299x299"),
    "legacy_pytorch": Mode("legacy_pytorch", "inception_legacy_pytorch", 2048,
                           "PyTorch, bilinear, not antialiased, to 299x299"),
    "clip_vit_b_32": Mode("clean_clip_vit_b_32", "clip", 512,
                          "Pillow, bicubic, antialiased, in 8 bits, shorter side to 224, centre"),
}
_INCEPTION = ("clean", "legacy_tensorflow", "legacy_pytorch")


@dataclass(frozen=True)
class _Images:
    """A row of clean-fid's table."""

    dataset: str
    split: str
    resolutions: tuple[int, ...]
    count: int
    modes: tuple[str, ...] = _INCEPTION


#: clean-fid's `train` of LSUN and `trainval` of FFHQ are 50,000 images chosen at random.
_TABLE = (
    _Images("cifar10", "train", (32,), 50_000),
    _Images("cifar10", "test", (32,), 10_000),
    _Images("ffhq", "trainval", (256, 1024), 50_000),
    _Images("ffhq", "trainval70k", (256, 1024), 70_000),
    _Images("lsun_church", "train", (256,), 50_000),
    _Images("lsun_church", "trainfull", (256,), 126_227, ("clean",)),
    _Images("lsun_horse", "train", (256,), 50_000),
    _Images("lsun_horse", "trainfull", (256,), 2_000_340, ("clean",)),
    _Images("lsun_cat", "train", (256,), 50_000),
    _Images("lsun_cat", "trainfull", (256,), 1_657_264),
    _Images("afhq_cat", "train", (512,), 5_153),
    _Images("afhq_dog", "train", (512,), 4_739),
    _Images("afhq_wild", "train", (512,), 4_738),
    _Images("brecahad", "train", (512,), 1_944),
    _Images("metfaces", "train", (1024,), 1_336),
    _Images("horse2zebra", "test", (256,), 140),
    _Images("cat2dog", "test", (256,), 500),
)


@dataclass(frozen=True)
class PublishedStatistics:
    """One statistics file of clean-fid's: mean and covariance of `dimension` features of `images` images.

    `listed`: whether clean-fid's README says that the file is there; for CLIP it names the rule and no file.
    """

    name: str
    file: str
    url: str
    dataset: str
    split: str
    resolution: int
    images: int
    mode: str
    extractor: str
    dimension: int
    resize: str
    listed: bool

    def find(self) -> Path | None:
        """The file on this machine, or None."""
        return next((path for folder in statistics_folders() if (path := folder / self.file).is_file()), None)

    def path(self) -> Path:
        """The file on this machine. Raises DataError that says what to copy where."""
        path = self.find()
        if path is not None:
            return path
        raise DataError(f"{self.name}: {self.file} is missing. Copy {self.url} to {weight_folders()[0] / self.file} "
                        "(its publisher names no SHA-256, so brics does not download it).")

    def load(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(mean (D,), covariance (D, D)). Raises DataError where the file is missing or of other features."""
        path = self.path()
        mean, covariance = load_statistics_npz(path)
        if len(mean) != self.dimension:
            raise DataError(f"{path}: is of {len(mean)} features, but {self.name} has {self.dimension}. "
                            f"Copy {self.url} there again.")
        return mean, covariance


def is_published(name: str) -> bool:
    """Whether `name` means published statistics, known or misspelt, rather than a path or a data set."""
    return name.startswith("cleanfid:")


def published_statistics(name: str) -> PublishedStatistics:
    """The statistics called `name`; `clean` may be left out. Raises DataError naming those that there are."""
    full = name if name.count(":") == 4 else f"{name}:clean"
    for published in known_statistics():
        if f"{published.name}:clean" == full or published.name == full:
            return published
    names = [published.name for published in known_statistics()]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    datasets = ", ".join(dict.fromkeys(row.dataset for row in _TABLE))
    guess = f"Did you mean `{near[0]}`?" if near else (
        f"Write cleanfid:DATASET:SPLIT:RESOLUTION, such as {names[0]}. Data sets are: {datasets}.")
    raise DataError(f"{name}: no such published statistics. {guess}")


def known_statistics() -> Iterator[PublishedStatistics]:
    """All that have a name."""
    for row in _TABLE:
        for resolution in row.resolutions:
            for key, mode in MODES.items():
                if key in row.modes or key not in _INCEPTION:
                    name = f"cleanfid:{row.dataset}:{row.split}:{resolution}"
                    file = f"{row.dataset}_{mode.file}_{row.split}_{resolution}.npz"
                    yield PublishedStatistics(name if key == "clean" else f"{name}:{key}", file, _BASE + file,
                                              row.dataset, row.split, resolution, row.count, key, mode.extractor,
                                              mode.dimension, mode.resize, key in row.modes)


def statistics_folders() -> list[Path]:
    """Where statistics are looked for: with the pretrained files, then where clean-fid itself puts them."""
    package = importlib.util.find_spec("cleanfid")
    own = [Path(place) / "stats" for place in (package.submodule_search_locations or [])] if package else []
    return weight_folders() + own


def load_statistics_npz(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(mean (D,), covariance (D, D)) of an .npz with the arrays `mu` and `sigma`, as clean-fid, pytorch-fid and ADM's
    reference batches have them; other arrays in it are left unread.

    What the headers promise is checked before any of it is read, so that no file can ask for more memory than a
    covariance of `MOST_DIMENSIONS`. Nothing is unpickled. Raises DataError for all but finite numbers, a symmetric
    covariance and variances of 0 or more.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            mean = _read_array(archive, "mu", None)
            covariance = _read_array(archive, "sigma", (len(mean), len(mean)))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Choose an .npz file with the arrays mu and sigma.") from None
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise _refused(path, reason) from error
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise _refused(path, "it holds numbers that are not finite")
    largest = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > _ASYMMETRY * largest:
        raise _refused(path, "sigma is not symmetric")
    if covariance.diagonal().min() < -_ASYMMETRY * largest:
        raise _refused(path, "sigma has negative variances")
    return mean, covariance


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...] | None) -> NDArray[np.float64]:
    """One array of an .npz, as float64. `shape` None: any vector. Raises ValueError."""
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        there = ", ".join(sorted(archive.namelist())[:4]) or "nothing"
        raise ValueError(f"it has no array {name}, but {there}") from None
    if member.file_size > _MOST_BYTES:  # zipfile unpacks no more than that
        raise ValueError(f"{name} has {member.file_size:,} bytes")
    with archive.open(member) as file:
        found, _, dtype = read_header(file)
    if dtype.kind != "f" or dtype.hasobject:
        raise ValueError(f"{name} is of {dtype}, not of floating-point numbers")
    if len(found) != (1 if shape is None else 2) or shape not in (None, found):
        wanted = "one dimension" if shape is None else f"the shape {shape}"
        raise ValueError(f"{name} has the shape {found}, not {wanted}")
    if not 1 <= found[0] <= MOST_DIMENSIONS:
        raise ValueError(f"{name} is of {found[0]} features, not of 1 to {MOST_DIMENSIONS}")
    with archive.open(member) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False), np.float64)


def _refused(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: cannot be read as statistics ({reason}). "
                     "Choose an .npz file with the arrays mu and sigma.")
