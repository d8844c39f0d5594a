"""`brics sample`: seeds -> images. One seed, one image: whatever the batch, the order, or what was drawn before."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bricscli import files
from bricscli.data.images import encode_png, sheet
from bricscli.data.samples import FORMATS, SampleFolder, read_samples, sheet_path
from bricscli.data.workers import map_behind
from bricscli.errors import BricsError, MismatchError, RecipeError
from bricscli.recipe.diffusion_specs import SamplingSpec
from bricscli.run.directory import RunDirectory
from bricscli.run.log import Progress, track, warn
from bricscli.run.provenance import describe_process
from bricscli.runtime import PASS_WIDTH, memory_errors
from bricscli.tasks.choices import AS_IN_RECIPE, Asked, check_range, choose_sampling
from bricscli.tasks.classes import check_conditions
from bricscli.tasks.draw import ImageBatch, iter_samples, step_levels
from bricscli.tasks.models import LoadedDenoiser, load_denoiser

#: On the contact sheet, at most.
SHEET_ROWS = SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Sampled:
    """How many images were drawn, were there, and were there but damaged, so that they were drawn again; the sheet."""

    new: int
    kept: int
    redone: int
    sheet: Path | None


def sample_to_folder(run: RunDirectory, out: Path, *, seeds: Sequence[int], device: torch.device,
                     asked: Asked = AS_IN_RECIPE, only: str | None = None, ema: float | None = None,
                     format: str = "png", batch_size: int = 64) -> Sampled:
    """Draws one image for each of `seeds` into `out`, as data/samples.py describes it, and a contact sheet beside it.

    `asked`: what differs from the recipe's sampling; `only`: of one class; `ema`: by the weights of this decay.

    Whole images that are there already, drawn by the same model in the same way, are kept. Files are written while the
    next images are drawn. Raises DataError where `out` holds others or cannot be written, RecipeError for a value out
    of range, BricsError where the disk is full; what was drawn until then is kept.
    """
    check_range(batch_size=batch_size)
    if format not in FORMATS:
        raise RecipeError(f"--format: `{format}` is unknown. There are: {', '.join(FORMATS)}.")
    denoiser = load_denoiser(run, device, ema)
    if denoiser.recipe.conditioning:
        raise MismatchError(f"{run.path}: was trained to fill holes in pictures. Use `brics inpaint`, or choose "
                            "another --run.")
    sampling = choose_sampling(denoiser.recipe.sampling, asked)
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
    with (memory_errors(device, "A smaller --batch-size needs less of it."),
          Progress(len(seeds), "sampling", "images", done=len(seeds) - len(missing)) as progress):
        try:
            with closing(map_behind(save, batches)) as counts:  # or its thread might still be adding
                for count in counts:
                    progress.show(progress.done + count)
        finally:
            folder.finish()
    return Sampled(len(missing) - len(damaged), len(seeds) - len(missing), len(damaged), _write_sheet(out, seeds))


def _describe(denoiser: LoadedDenoiser, sampling: SamplingSpec, only: str | None, device: torch.device
              ) -> dict[str, Any]:
    """All that decides the pixels of a seed, and the images that were learnt from."""
    return {
        "resolution": denoiser.autoencoder.recipe.data.resolution,
        "denoiser": {"run": denoiser.name, "digest": denoiser.digest},
        "autoencoder": denoiser.autoencoder.digest,
        "data": dict(denoiser.images),
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
    path, images = sheet_path(out), read_samples(out, sorted(seeds)[: SHEET_ROWS * SHEET_COLUMNS])
    try:
        files.write_bytes(path, encode_png(sheet(images, min(SHEET_COLUMNS, len(images)))))
    except BricsError as error:
        warn(str(error))
        return None
    return path
