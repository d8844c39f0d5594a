"""`brics encode`: image shards -> shards of key codes or other latents, which name the autoencoder that made them.

A sample is `<key>.code.npy`, and `<key>.flip.npy` for the mirrored image where the recipe mirrors: float16
`(C_z, H_z, W_z)`. Key codes are in [0, 1]; rounding to float16 (at most 2.5e-4) lies far below the precision that the
decoder is trained to tolerate, 1 / (4 r_max). Other latents are unbounded, and the manifest says how far those of the
train split spread (`latents`: "std" of all values, and "largest", the greatest |value|). Labels of images, and the
names of their classes, go with them.
"""

import io
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bricscli import files
from bricscli.data.images import decode_image, to_float
from bricscli.data.labels import LABEL
from bricscli.data.loader import in_order
from bricscli.data.npy import parse_npy
from bricscli.data.shards import Sample, ShardSet, write_shards
from bricscli.errors import DataError, MismatchError
from bricscli.run.directory import RunDirectory
from bricscli.run.log import track
from bricscli.runtime import in_passes, memory_errors
from bricscli.tasks.datasets import describe_data, open_images
from bricscli.tasks.models import LoadedAutoencoder, load_autoencoder

CODE, FLIP = "code.npy", "flip.npy"
IMAGES_AT_A_TIME = 64


def encode(run: RunDirectory, data: Path, *, device: torch.device, checkpoint: str | None = None) -> ShardSet:
    """Latents of every image of `data` into the run's `codes/`; older ones of the run are replaced when done.

    Raises DataError for data that does not fit the autoencoder, MismatchError for another kind of run.
    """
    autoencoder = load_autoencoder(run, device, checkpoint)
    images = open_images(data, autoencoder.recipe)
    header = {
        "kind": "key_codes" if autoencoder.recipe.has_key_codes else "latents",
        "autoencoder": {"run": run.name, "digest": autoencoder.digest},
        "images": describe_data(images),
        "shape": list(autoencoder.code_shape),
        "dtype": "float16",
    }
    if "classes" in images.header:
        header["classes"] = images.header["classes"]
    files.check_writable(run.path)
    with run.lock(), memory_errors(device, "End other programs that use it, or choose another --device."):
        existing = _existing(run.codes)
        if existing and all(existing.header.get(key) == value for key, value in header.items()):
            return existing
        fresh = run.path / "codes-new"
        if fresh.exists():
            files.remove_directory(fresh)
        spread = None if autoencoder.recipe.has_key_codes else _Spread()
        write_shards(fresh, header, _samples(autoencoder, images, device, spread),
                     findings=spread.describe if spread else dict)
        if run.codes.exists():
            files.remove_directory(run.codes)
        fresh.rename(run.codes)
        files.fsync_folder(run.path)
    return ShardSet.open(run.codes)


def open_codes(run: RunDirectory, autoencoder: LoadedAutoencoder) -> ShardSet:
    """The run's key codes or latents. Raises DataError where there are none, MismatchError where others made them."""
    if not run.codes.exists():
        raise DataError(f"{run.codes}: no codes yet. Make them with `brics encode --run {run.path}`.")
    codes = ShardSet.open(run.codes)
    made_by = codes.header["autoencoder"]["digest"]
    if made_by != autoencoder.digest:
        raise MismatchError(
            f"{run.codes}: was encoded by checkpoint {made_by[:8]}, but {run.path} is at {autoencoder.digest[:8]}. "
            f"Run `brics encode --run {run.path}` again, or pass --checkpoint {made_by[:8]}.")
    return codes


def decode_code(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The contents of a member -> float16 `(C_z, H_z, W_z)`. Raises ValueError where they are something else."""
    code = parse_npy(data)
    if code.dtype != np.float16 or code.shape != shape:
        raise ValueError(f"expected a float16 code {shape}, found {code.dtype} {code.shape}")
    return code


class _Spread:
    """Deviation and largest size of all values of the latents that are added, in whatever portions."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares, self.largest = 0, 0.0, 0.0, 0.0

    def add(self, latent: np.ndarray) -> None:
        """One latent, of any shape."""
        wide = latent.astype(np.float64)
        self.count += wide.size
        self.sum += float(wide.sum())
        self.squares += float(np.square(wide).sum())
        self.largest = max(self.largest, float(np.abs(wide).max()))

    def describe(self) -> dict[str, dict[str, float]]:
        """For the manifest."""
        mean = self.sum / self.count
        std = math.sqrt(max(0.0, self.squares / self.count - mean * mean))
        return {"latents": {"std": std, "largest": self.largest}}


def _existing(path: Path) -> ShardSet | None:
    try:
        return ShardSet.open(path)
    except DataError:
        return None


def _samples(autoencoder: LoadedAutoencoder, images: ShardSet, device: torch.device, spread: _Spread | None
             ) -> Iterator[Sample]:
    recipe = autoencoder.recipe
    decode, extension = partial(decode_image, resolution=recipe.data.resolution), images.image_extension
    for split_name in images.splits:
        split = images.split(split_name)
        seen = 0
        batches = in_order(split, decode, extension, IMAGES_AT_A_TIME)
        for batch in track(batches, len(split), f"encoding {split_name}", "images", size=len):
            real = to_float(torch.from_numpy(batch))
            codes = {CODE: in_passes(autoencoder.model.latent, real, device).half().numpy()}
            if recipe.data.flip:
                codes[FLIP] = in_passes(autoencoder.model.latent, real.flip(-1), device).half().numpy()
            for i, number in enumerate(range(seen, seen + len(batch))):
                latents = {name: array[i] for name, array in codes.items()}
                for latent in latents.values():
                    if not np.isfinite(latent).all():
                        raise DataError(f"{split.where(number, extension)}: its latent is too large for float16, or "
                                        "not a number. Train the autoencoder again, with a smaller learning rate.")
                    if spread and split_name == "train":
                        spread.add(latent)
                label = {LABEL: split.read(number, LABEL)} if "classes" in images.header else {}
                yield split_name, split.key(number), label | {name: _to_npy(code) for name, code in latents.items()}
            seen += len(batch)


def _to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
