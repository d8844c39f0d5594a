"""`brics sample`: seeds -> images. One seed, one image: whatever the batch, the order, or what was drawn before."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bricscli import files
from bricscli.data.images import encode_png, to_uint8
from bricscli.diffusion.denoiser import PredictData, to_key_code
from bricscli.diffusion.samplers import SAMPLERS
from bricscli.diffusion.schedule import Schedule, log_snr_steps
from bricscli.errors import DataError, RecipeError
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.unet import UNet
from bricscli.recipe.specs import SamplingSpec
from bricscli.run.directory import RunDirectory
from bricscli.run.log import track
from bricscli.runtime import generator_for, in_passes
from bricscli.tasks.models import LoadedDenoiser, load_denoiser

#: `samples.json` beside the images: what drew them.
RECORD = "samples.json"


@dataclass(frozen=True)
class ImageBatch:
    """`images` uint8 `(B, 3, H, W)`, each with the seed that drew it and its key, the seed in six digits."""

    images: Tensor
    seeds: Sequence[int]

    @property
    def keys(self) -> list[str]:
        return [sample_key(seed) for seed in self.seeds]


def sample_key(seed: int) -> str:
    return f"{seed:06d}"


def sample_to_folder(run: RunDirectory, out: Path, *, count: int, first_seed: int = 0, device: torch.device,
                     sampler: str | None = None, steps: int | None = None, start: float | None = None,
                     batch_size: int = 64) -> int:
    """Writes `<seed>.png` for `count` seeds from `first_seed` into `out`; returns how many were new.

    Images that are there already, drawn by the same model in the same way, are kept. Raises DataError where `out`
    holds others or cannot be written, RecipeError for a value out of range.
    """
    check_range(count=count, seed=first_seed, steps=steps, batch_size=batch_size)
    denoiser = load_denoiser(run, device)
    sampling = choose_sampling(denoiser.recipe.sampling, sampler, steps, start)
    record = {
        "kind": "samples", "denoiser": {"run": run.name, "digest": denoiser.digest},
        "autoencoder": denoiser.autoencoder.digest, "sampling": sampling.model_dump(), "device": device.type}
    files.check_writable(out)
    _check_record(out, record)
    missing = [seed for seed in range(first_seed, first_seed + count) if not (out / f"{sample_key(seed)}.png").exists()]
    out.mkdir(parents=True, exist_ok=True)
    files.sweep(out)
    files.write_json(out / RECORD, record)
    batches = iter_samples(denoiser, missing, sampling, device, batch_size)
    for batch in track(batches, len(missing), "sampling", "images", size=lambda batch: len(batch.seeds)):
        for key, image in zip(batch.keys, batch.images.numpy(), strict=True):
            files.write_bytes(out / f"{key}.png", encode_png(image))
    return len(missing)


def iter_samples(denoiser: LoadedDenoiser, seeds: Sequence[int], sampling: SamplingSpec, device: torch.device,
                 batch_size: int = 64) -> Iterator[ImageBatch]:
    """Draws one image per seed, `batch_size` at a time."""
    for start in range(0, len(seeds), batch_size):
        chosen = seeds[start : start + batch_size]
        codes = draw_key_codes(denoiser.model, denoiser.schedule, denoiser.autoencoder.code_shape, chosen, sampling,
                               device)
        yield ImageBatch(decode_key_codes(denoiser.autoencoder.model, codes, device), chosen)


def draw_key_codes(denoiser: UNet, schedule: Schedule, code_shape: tuple[int, int, int], seeds: Sequence[int],
                   sampling: SamplingSpec, device: torch.device) -> Tensor:
    """`(len(seeds), C_z, H_z, W_z)` in [0, 1], on the CPU."""
    noise = torch.stack([torch.randn(code_shape, generator=generator_for(seed, "sample")) for seed in seeds])
    log_snr, run_sampler = log_snr_steps(schedule, sampling.steps, sampling.start), SAMPLERS[sampling.sampler]
    predict = PredictData(denoiser)
    return in_passes(lambda x_t: to_key_code(run_sampler(predict, x_t, log_snr)), noise, device)


def decode_key_codes(autoencoder: Autoencoder, codes: Tensor, device: torch.device) -> Tensor:
    """Key codes `(B, C_z, H_z, W_z)` in [0, 1] -> uint8 images `(B, 3, H, W)`, on the CPU."""
    return in_passes(lambda code: to_uint8(autoencoder.decode(code)), codes.float(), device)


def choose_sampling(recipe: SamplingSpec, sampler: str | None, steps: int | None,
                    start: float | None = None) -> SamplingSpec:
    """The recipe's sampling with what the user asks for instead. Raises RecipeError where that cannot be."""
    if sampler is not None and sampler not in SAMPLERS:
        raise RecipeError(f"--sampler: `{sampler}` is unknown. There are: {', '.join(SAMPLERS)}.")
    if start is not None and not 0 < start <= 1:
        raise RecipeError(f"--start: {start} is out of range. Choose more than 0 and at most 1.")
    changes: dict[str, Any] = {"sampler": sampler, "steps": steps, "start": start}
    return recipe.model_copy(update={key: value for key, value in changes.items() if value is not None})


def check_range(*, count: int, seed: int, steps: int | None, batch_size: int) -> None:
    """Raises RecipeError naming each option that is out of range."""
    least = {"-n": (count, 1), "--seed": (seed, 0), "--steps": (steps, 1), "--batch-size": (batch_size, 1)}
    problems = [f"{option}: {value} is too small. Choose {low} or more."
                for option, (value, low) in least.items() if value is not None and value < low]
    if problems:
        raise RecipeError(*problems)


def _check_record(out: Path, record: dict[str, Any]) -> None:
    path = out / RECORD
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            found = None
        if found != record:
            raise DataError(f"{out}: holds images that were drawn in another way ({RECORD} differs). "
                            "Choose another --out, or delete it.")
    elif out.is_dir() and any(out.glob("*.png")):
        raise DataError(f"{out}: holds images that brics did not draw. Choose another --out.")
    elif out.exists() and not out.is_dir():
        raise DataError(f"{out}: is not a folder. Choose another --out.")


def newest_samples(*roots: Path) -> Path:
    """The folder of samples that was drawn into last: `ROOT/*` or `ROOT/*/samples`. Raises DataError if none."""
    patterns = (f"*/{RECORD}", f"*/samples/{RECORD}")
    records = [path for root in roots for pattern in patterns for path in root.glob(pattern)]
    if not records:
        raise DataError("--samples: no folder of samples here or under runs/. Draw some with `brics sample`.")
    return max(records, key=lambda path: path.stat().st_mtime_ns).parent
