"""`brics encode`: image shards -> shards of key codes or other latents, which name the autoencoder that made them.

A sample is `<key>.code.npy`, and `<key>.flip.npy` for the mirrored image where the recipe mirrors: float16
`(C_z, H_z, W_z)`. Key codes are in [0, 1]; rounding to float16 (at most 2.5e-4) lies far below the precision that the
decoder is trained to tolerate, 1 / (4 r_max). Other latents are unbounded, and the manifest says how far those of the
train split spread (`latents`: "std" of all values, and "largest", the greatest |value|). Labels of images, and the
names of their classes, go with them.

A shard's bytes depend on its images and the autoencoder alone, so shards may be made one after another, in parts, or
again: bricscli/data/unfinished.py.
"""

import functools
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bricscli import files
from bricscli.data.images import decode_image, to_float
from bricscli.data.labels import LABEL
from bricscli.data.loader import in_order
from bricscli.data.npy import parse_npy
from bricscli.data.shards import Sample, Shard, ShardSet, Split
from bricscli.data.unfinished import Record, Unfinished, remove_unfinished, unfinished
from bricscli.errors import DataError, InterruptedRun, MismatchError
from bricscli.parts import WHOLE, Part, Share
from bricscli.run.directory import RunDirectory
from bricscli.run.log import Progress, warn
from bricscli.runtime import in_passes, memory_errors
from bricscli.tasks.datasets import describe_data, open_images
from bricscli.tasks.models import LoadedAutoencoder, load_autoencoder

CODE, FLIP = "code.npy", "flip.npy"
IMAGES_AT_A_TIME = 64


def encode(run: RunDirectory, data: Path, *, device: torch.device, checkpoint: str | None = None) -> ShardSet:
    """Latents of every image of `data` into the run's `codes/`; older ones of the run are replaced when done.

    A shard of images becomes a shard of latents of the same name. After an interruption, or where parts have been
    made, the same command goes on with what is missing. Says which codes were replaced.

    Raises DataError for data that does not fit the autoencoder, MismatchError for another kind of run, InterruptedRun
    for Ctrl-C with some shards finished, which are kept.
    """
    job = _Job.load(run, data, device, checkpoint)
    files.check_writable(run.path)
    with run.lock(), memory_errors(device, "End other programs that use it, or choose another --device."):
        if not job.is_done():
            with unfinished(run.codes) as work:
                records = _make(job, work, WHOLE)
                close(work, [records[name] for name in work.chunks])
        else:
            remove_unfinished(run.codes)
    return ShardSet.open(run.codes)


def encode_part(run: RunDirectory, data: Path, part: Part, *, device: torch.device, checkpoint: str | None = None,
                command: Sequence[str] = ()) -> Share:
    """Makes the shards of one part, for `brics gather`, beside the run's `codes/`; see `encode`.

    Several processes, also of machines that share the disk, may make parts at a time, even the same. Nothing is done
    where the run has these codes. `command`: what was typed, without the part, for the advice of `brics gather`.
    """
    job = _Job.load(run, data, device, checkpoint)
    files.check_writable(run.path)
    if job.is_done():
        return Share(0, 0, 0)
    with unfinished(run.codes, shared=True) as work:
        records = _make(job, work, part, command)
        return Share(len(records), len(work.chunks), work.resumed)


def close(work: Unfinished, records: Sequence[Record]) -> None:
    """Of finished chunks, all that were planned, in order: the codes, in place of older ones, which it names."""
    header = dict(work.plan["header"])
    spreads = [_Spread(**record.notes["spread"]) for record in records if "spread" in record.notes]
    if spreads:
        header |= functools.reduce(_Spread.joined, spreads).describe()
    before = _existing(work.out)
    work.publish(header, records, replaced=True)
    if before is not None:
        warn(f"{work.out}: {_name(before.header)} were there and are replaced by {_name(header)}")


def _name(header: Mapping[str, Any]) -> str:
    images, autoencoder = header["images"], header["autoencoder"]
    return f"codes of {images['name']} ({images['digest'][:8]}) by autoencoder {autoencoder['digest'][:8]}"


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


@dataclass
class _Spread:
    """Count, sum, sum of squares and largest size of all values of the latents that are added, in float64."""

    count: int = 0
    sum: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    def add(self, latent: np.ndarray) -> None:
        """One latent, of any shape."""
        wide = latent.astype(np.float64)
        self.count += wide.size
        self.sum += float(wide.sum())
        self.squares += float(np.square(wide).sum())
        self.largest = max(self.largest, float(np.abs(wide).max()))

    def joined(self, other: "_Spread") -> "_Spread":
        """Of both; of several it depends on their order, in the last digits."""
        return _Spread(self.count + other.count, self.sum + other.sum, self.squares + other.squares,
                       max(self.largest, other.largest))

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


@dataclass(frozen=True)
class _Job:
    """What is to be encoded by what."""

    run: RunDirectory
    autoencoder: LoadedAutoencoder
    images: ShardSet
    device: torch.device

    @staticmethod
    def load(run: RunDirectory, data: Path, device: torch.device, checkpoint: str | None) -> "_Job":
        autoencoder = load_autoencoder(run, device, checkpoint)
        return _Job(run, autoencoder, open_images(data, autoencoder.recipe), device)

    @property
    def header(self) -> dict[str, Any]:
        """Of the manifest, as far as it is known before the work."""
        autoencoder, images = self.autoencoder, self.images
        return {
            "kind": "key_codes" if autoencoder.recipe.has_key_codes else "latents",
            "autoencoder": {"run": self.run.name, "digest": autoencoder.digest},
            "images": describe_data(images),
            "shape": list(autoencoder.code_shape),
            "dtype": "float16",
            **({"classes": images.header["classes"]} if "classes" in images.header else {}),
        }

    @property
    def digest(self) -> str:
        """Names all that decides the bytes."""
        text = json.dumps([self.header, self.autoencoder.recipe.data.flip, self.device.type, torch.__version__])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def is_done(self) -> bool:
        """Whether the run has these codes."""
        existing = _existing(self.run.codes)
        return existing is not None and all(existing.header.get(key) == value for key, value in self.header.items())


def _make(job: _Job, work: Unfinished, part: Part, command: Sequence[str] = ()) -> dict[str, Record]:
    """The finished chunks of a part, by name."""
    shards = {Path(shard.name).stem: shard for shard in job.images.shards}
    work.begin(job.digest, {"kind": "codes", "command": list(command), "of": part.of, "chunks": list(shards),
                            "header": job.header})
    if part == WHOLE:
        work.sweep()
    mine = [name for i, name in enumerate(shards) if part.takes(i)]
    records = {name: record for name in mine if (record := work.find(name))}
    done = len(records)
    total, there = (sum(shards[name].samples for name in names) for names in (mine, records))
    try:
        with Progress(total, "encoding", "images", done=there) as progress:
            for name in mine:
                if name not in records:
                    records[name] = _encode_shard(job, work, name, shards[name], progress)
                    done += 1
    except KeyboardInterrupt:
        if not done:
            raise
        raise InterruptedRun(f"{work.out}: interrupted; {done} of {len(mine)} shards are finished and kept beside it. "
                             "Run the same command again to go on.") from None
    return records


def _encode_shard(job: _Job, work: Unfinished, name: str, shard: Shard, progress: Progress) -> Record:
    spread = None if job.autoencoder.recipe.has_key_codes or shard.split != "train" else _Spread()
    return work.write(name, shard.split, _samples(job, shard, spread, progress),
                      lambda: {} if spread is None else {"spread": asdict(spread)})


def _samples(job: _Job, shard: Shard, spread: _Spread | None, progress: Progress) -> Iterator[Sample]:
    recipe, latent = job.autoencoder.recipe, job.autoencoder.model.latent
    split, extension = Split(shard.split, job.images.path, [shard]), job.images.image_extension
    seen = 0
    decode = functools.partial(decode_image, resolution=recipe.data.resolution)
    for batch in in_order(split, decode, extension, IMAGES_AT_A_TIME):
        real = to_float(torch.from_numpy(batch))
        codes = {CODE: in_passes(latent, real, job.device, one_thread=True).half().numpy()}
        if recipe.data.flip:
            codes[FLIP] = in_passes(latent, real.flip(-1), job.device, one_thread=True).half().numpy()
        for i, number in enumerate(range(seen, seen + len(batch))):
            latents = {name: array[i] for name, array in codes.items()}
            for array in latents.values():
                if not np.isfinite(array).all():
                    raise DataError(f"{split.where(number, extension)}: its latent is too large for float16, or "
                                    "not a number. Train the autoencoder again, with a smaller learning rate.")
                if spread is not None:
                    spread.add(array)
            label = {LABEL: split.read(number, LABEL)} if "classes" in job.images.header else {}
            yield shard.split, split.key(number), label | {name: _to_npy(code) for name, code in latents.items()}
        seen += len(batch)
        progress.show(progress.done + len(batch))


def _to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
