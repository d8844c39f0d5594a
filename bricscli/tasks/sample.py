"""`brics sample`: seeds -> images. One seed, one image: whatever the batch, the order, or what was drawn before."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from bricscli import files
from bricscli.data.images import encode_png, sheet, to_uint8
from bricscli.data.samples import FORMATS, SampleFolder, sample_key
from bricscli.data.workers import map_behind
from bricscli.diffusion.denoiser import PredictData
from bricscli.diffusion.guidance import Guided
from bricscli.diffusion.samplers import run_sampler
from bricscli.diffusion.schedule import Schedule
from bricscli.diffusion.step_grids import STEP_GRIDS
from bricscli.errors import BricsError, RecipeError
from bricscli.nn.autoencoder import Autoencoder
from bricscli.recipe.specs import Sampler, SamplingSpec, StepGrid
from bricscli.run.directory import RunDirectory
from bricscli.run.log import Progress, track, warn
from bricscli.run.provenance import describe_process
from bricscli.runtime import PASS_WIDTH, generator_for, in_passes
from bricscli.tasks.classes import check_conditions, draw_labels
from bricscli.tasks.models import LoadedDenoiser, Prior, load_denoiser

#: More at once are a slip of the finger.
MOST_SEEDS = 10_000_000
#: On the contact sheet, at most.
SHEET_ROWS = SHEET_COLUMNS = 8


@dataclass(frozen=True)
class ImageBatch:
    """`images` uint8 `(B, 3, H, W)`, each with the seed that drew it and its key, the seed in six digits."""

    images: Tensor
    seeds: Sequence[int]

    @property
    def keys(self) -> list[str]:
        return [sample_key(seed) for seed in self.seeds]


@dataclass(frozen=True)
class Sampled:
    """How many images were drawn, were there, and were there but damaged, so that they were drawn again; the sheet."""

    new: int
    kept: int
    redone: int
    sheet: Path | None


def sample_to_folder(run: RunDirectory, out: Path, *, seeds: Sequence[int], device: torch.device,
                     sampler: str | None = None, steps: int | None = None, grid: str | None = None,
                     eta: float | None = None, start: float | None = None, guidance: float | None = None,
                     only: str | None = None, batch_size: int = 64, format: str = "png",
                     ema: float | None = None) -> Sampled:
    """Draws one image for each of `seeds` into `out`, as data/samples.py describes it, and a contact sheet beside it.

    `only` of one class, or of any.

    Whole images that are there already, drawn by the same model in the same way, are kept. Files are written while the
    next images are drawn. Raises DataError where `out` holds others or cannot be written, RecipeError for a value out
    of range, BricsError where the disk is full; what was drawn until then is kept.
    """
    check_range(steps=steps, batch_size=batch_size)
    if format not in FORMATS:
        raise RecipeError(f"--format: `{format}` is unknown. There are: {', '.join(FORMATS)}.")
    denoiser = load_denoiser(run, device, ema)
    sampling = choose_sampling(denoiser.recipe.sampling, sampler, steps, start, grid, eta, guidance)
    check_conditions(run.name, denoiser.recipe, denoiser.classes, only, sampling.guidance)
    step_levels(sampling, denoiser.prior.schedule)  # or RecipeError, before any file
    folder = _create_folder(out, {"format": format, **_describe(denoiser, sampling, only, device)})
    listed = set(folder.seeds)
    there = sorted(listed.intersection(seeds))
    damaged = [seed for seed in track(there, len(there), "checking", "images") if not folder.holds(seed)]
    missing = sorted(set(seeds) - listed | set(damaged))

    def save(batch: ImageBatch) -> int:
        pngs = map(encode_png, batch.images.numpy())
        folder.add(dict(zip(batch.seeds, pngs, strict=True)))
        return len(batch.seeds)

    batches = iter_samples(denoiser, missing, sampling, device, _whole_passes(batch_size, device), only)
    with Progress(len(seeds), "sampling", "images", done=len(seeds) - len(missing)) as progress:
        try:
            for count in map_behind(save, batches):
                progress.show(progress.done + count)
        finally:
            folder.finish()
    return Sampled(len(missing) - len(damaged), len(seeds) - len(missing), len(damaged), _write_sheet(out, seeds))


def _describe(denoiser: LoadedDenoiser, sampling: SamplingSpec, only: str | None, device: torch.device
              ) -> dict[str, Any]:
    """All that decides the pixels of a seed."""
    return {
        "resolution": denoiser.autoencoder.recipe.data.resolution,
        "denoiser": {"run": denoiser.name, "digest": denoiser.digest},
        "autoencoder": denoiser.autoencoder.digest,
        "ema": denoiser.ema,
        "sampling": sampling.model_dump(),
        "class": only,
        "dtype": str(next(denoiser.prior.denoiser.parameters()).dtype).removeprefix("torch."),
        "device": device.type}


def _create_folder(out: Path, settings: dict[str, Any]) -> SampleFolder:
    """Warns where another version of torch has drawn there."""
    process = describe_process()
    folder = SampleFolder.create(out, settings, {name: process[name] for name in ("brics", "torch", "python")})
    others = {entry["torch"] for entry in folder.header["versions"]} - {process["torch"]}
    if others:
        warn(f"{out}: holds samples of torch {', '.join(sorted(others))}, this is torch {process['torch']}. "
             "Between them a seed's image may differ by rounding.")
    return folder


def _whole_passes(batch_size: int, device: torch.device) -> int:
    """A pass computes `PASS_WIDTH` rows in any case: smaller batches would pay for rows that nobody keeps."""
    width = PASS_WIDTH[device.type]
    return -(-batch_size // width) * width


def _write_sheet(out: Path, seeds: Sequence[int]) -> Path | None:
    """The first images by seed; None, with a warning, where there is no room for it: the samples are there."""
    folder = SampleFolder.open(out)
    images = np.stack([folder.image(seed) for seed in sorted(seeds)[: SHEET_ROWS * SHEET_COLUMNS]])
    try:
        files.write_bytes(folder.sheet_path, encode_png(sheet(images, min(SHEET_COLUMNS, len(images)))))
    except BricsError as error:
        warn(str(error))
        return None
    return folder.sheet_path


def iter_samples(denoiser: LoadedDenoiser, seeds: Sequence[int], sampling: SamplingSpec, device: torch.device,
                 batch_size: int = 64, only: str | None = None) -> Iterator[ImageBatch]:
    """Draws one image per seed, `batch_size` at a time; of a denoiser with classes `only` of one of them, or of any."""
    for start in range(0, len(seeds), batch_size):
        chosen = seeds[start : start + batch_size]
        latents = draw_latents(denoiser.prior, chosen, sampling, device, draw_labels(denoiser.classes, chosen, only))
        yield ImageBatch(decode_latents(denoiser.autoencoder.model, latents, device), chosen)


def draw_latents(prior: Prior, seeds: Sequence[int], sampling: SamplingSpec, device: torch.device,
                 labels: Tensor | None = None) -> Tensor:
    """Key codes in [0, 1], or other latents: `(len(seeds), *prior.shape)` on the CPU; `labels` `(len(seeds),)`."""
    log_snr = step_levels(sampling, prior.schedule)

    def draw(rows: Tensor) -> Tensor:
        rows = rows.cpu()
        chosen = [seeds[row] for row in rows.tolist()]
        label = None if labels is None else labels[rows].to(device)
        predict = PredictData(Guided(prior.denoiser, label, sampling.guidance), prior.scaling)

        def noise(*step: int) -> Tensor:
            """Of every seed its own: what x_t starts as, or what is added at a step."""
            return torch.stack([torch.randn(prior.shape, generator=generator_for(seed, "sample", *step))
                                for seed in chosen]).to(device)

        return prior.scaling.to_latent(run_sampler(sampling.sampler, predict, noise(), log_snr, noise, sampling.eta))

    return in_passes(draw, torch.arange(len(seeds)), device)


def step_levels(sampling: SamplingSpec, schedule: Schedule) -> Tensor:
    """The log SNRs on the way. Raises RecipeError where `start` is already as near to data as sampling ends."""
    log_snr = STEP_GRIDS[sampling.grid](schedule, sampling.steps, sampling.start)
    if (log_snr.diff() <= 0).any():
        raise RecipeError(f"--start: {sampling.start:g} leaves hardly any noise to take away. Choose a later start.")
    return log_snr


def decode_latents(autoencoder: Autoencoder, latents: Tensor, device: torch.device) -> Tensor:
    """Latents `(B, C_z, H_z, W_z)` -> uint8 images `(B, 3, H, W)`, on the CPU."""
    return in_passes(lambda latent: to_uint8(autoencoder.decode_latent(latent)), latents.float(), device)


def choose_sampling(recipe: SamplingSpec, sampler: str | None, steps: int | None, start: float | None = None,
                    grid: str | None = None, eta: float | None = None, guidance: float | None = None) -> SamplingSpec:
    """The recipe's sampling with what the user asks for instead; another sampler leaves the recipe's eta behind.

    Raises RecipeError naming each option that cannot be.
    """
    problems = [f"{option}: `{value}` is unknown. There are: {', '.join(get_args(known))}."
                for option, value, known in (("--sampler", sampler, Sampler), ("--grid", grid, StepGrid))
                if value is not None and value not in get_args(known)]
    if start is not None and not 0 < start <= 1:
        problems.append(f"--start: {start} is out of range. Choose more than 0 and at most 1.")
    if eta is not None and not 0 <= eta <= 1:
        problems.append(f"--eta: {eta} is out of range. Choose 0 to 1.")
    if guidance is not None and not 0 <= guidance <= 100:
        problems.append(f"--guidance: {guidance} is out of range. Choose 0 to 100; 1 is none.")
    if eta and (chosen := sampler or recipe.sampler) != "ddim":
        problems.append(f"--eta: belongs to `ddim`, not to `{chosen}`. Leave it out, or add --sampler ddim.")
    if problems:
        raise RecipeError(*problems)
    if sampler not in (None, "ddim") and eta is None:
        eta = 0.0
    changes: dict[str, Any] = {"sampler": sampler, "steps": steps, "start": start, "grid": grid, "eta": eta,
                               "guidance": guidance}
    return recipe.model_copy(update={key: value for key, value in changes.items() if value is not None})


def choose_seeds(count: int | None, first: int | None, seeds: str | None) -> Sequence[int]:
    """`-n COUNT --seed FIRST`, or `--seeds 0-49999` or `7,3,10-19`: each once, in that order. Raises RecipeError."""
    if seeds is not None and (count is not None or first is not None):
        raise RecipeError("--seeds: says already what -n and --seed would. Leave those out.")
    if seeds is not None:
        parts = [_seed_range(part) for part in seeds.split(",")]
        count = sum(map(len, parts))
    elif count is not None:
        check_range(count=count, seed=first)
        parts = [range(first or 0, (first or 0) + count)]
    else:
        raise RecipeError("-n: is missing. Write -n 64 for 64 images, or --seeds 0-63.")
    if count > MOST_SEEDS:
        raise RecipeError(f"{'--seeds' if seeds else '-n'}: {count} images are too many at once. Choose {MOST_SEEDS} "
                          "or fewer.")
    return list(dict.fromkeys(seed for part in parts for seed in part))


def _seed_range(text: str) -> range:
    match = re.fullmatch(r"\s*([0-9]{1,15})(?:-([0-9]{1,15}))?\s*", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise RecipeError(f"--seeds: `{text}` is neither a seed nor a range of seeds. Write 7, 0-49999 or 7,10-19.")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def describe_seeds(seeds: Sequence[int]) -> str:
    """`seeds 0 to 11`, `seed 7`, or how many they are between the least and the greatest."""
    first, last = min(seeds), max(seeds)
    if len(seeds) == 1:
        return f"seed {first}"
    return f"seeds {first} to {last}" if last - first == len(seeds) - 1 else f"some of the seeds {first} to {last}"


def check_range(*, count: int | None = None, seed: int | None = None, steps: int | None = None,
                batch_size: int | None = None) -> None:
    """Raises RecipeError naming each option that is out of range."""
    least = {"-n": (count, 1), "--seed": (seed, 0), "--steps": (steps, 1), "--batch-size": (batch_size, 1)}
    problems = [f"{option}: {value} is too small. Choose {low} or more."
                for option, (value, low) in least.items() if value is not None and value < low]
    if problems:
        raise RecipeError(*problems)
