"""`brics sample`: seeds -> images. One seed, one image: whatever the batch, the order, or what was drawn before."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bricscli import files
from bricscli.data.images import encode_png, sheet
from bricscli.data.marks import digest_settings, encode_sample
from bricscli.data.samples import (
    FORMATS,
    SPLIT,
    SampleFolder,
    find_folder,
    read_samples,
    sample_key,
    sheet_path,
    strict_settings,
)
from bricscli.data.unfinished import Unfinished, unfinished
from bricscli.data.workers import map_behind
from bricscli.errors import BricsError, MismatchError, RecipeError
from bricscli.parts import Part, Share
from bricscli.recipe.diffusion_specs import SamplingSpec
from bricscli.run.directory import RunDirectory
from bricscli.run.log import Progress, track, warn
from bricscli.run.provenance import describe_process
from bricscli.runtime import PASS_WIDTH, memory_errors
from bricscli.tasks.choices import AS_IN_RECIPE, Asked, check_range, choose_sampling
from bricscli.tasks.classes import check_conditions
from bricscli.tasks.draw import ImageBatch, iter_samples, step_levels
from bricscli.tasks.models import LoadedDenoiser, load_denoiser
from bricscli.tasks.sample_parts import chunk_seeds, find_held, number_of, plan_samples, take_parts

#: On the contact sheet, at most.
SHEET_ROWS = SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Sampled:
    """How many images were drawn, were there, and were there but damaged, so that they were drawn again; the sheet."""

    new: int
    kept: int
    redone: int
    sheet: Path | None


@dataclass(frozen=True)
class _Job:
    """What is to be drawn how; `settings` are all that decides the pixels of a seed, and the format."""

    denoiser: LoadedDenoiser
    sampling: SamplingSpec
    only: str | None
    device: torch.device
    batch_size: int
    settings: dict[str, Any]

    @staticmethod
    def load(run: RunDirectory, *, device: torch.device, asked: Asked = AS_IN_RECIPE, only: str | None = None,
             ema: float | None = None, format: str = "png", batch_size: int = 64) -> "_Job":
        """Raises what `sample_to_folder` does, before any file."""
        check_range(batch_size=batch_size)
        if format not in FORMATS:
            raise RecipeError(f"--format: `{format}` is unknown. There are: {', '.join(FORMATS)}.")
        denoiser = load_denoiser(run, device, ema)
        if denoiser.recipe.conditioning:
            raise MismatchError(f"{run.path}: was trained to fill holes in pictures. Use `brics inpaint`, or choose "
                                "another --run.")
        sampling = choose_sampling(denoiser.recipe.sampling, asked)
        check_conditions(run.name, denoiser.recipe, denoiser.classes, only, sampling.guidance)
        step_levels(sampling, denoiser.prior.schedule)
        return _Job(denoiser, sampling, only, device, _whole_passes(batch_size, device),
                    {"format": format, **_describe(denoiser, sampling, only, device)})

    def draw(self, seeds: Sequence[int]) -> Iterator[ImageBatch]:
        return iter_samples(self.denoiser, seeds, self.sampling, self.device, self.batch_size, self.only)

    def encode(self, batch: ImageBatch) -> dict[int, bytes]:
        """The PNG of each seed."""
        digest = digest_settings(strict_settings(self.settings))
        return {seed: encode_sample(image, seed, digest)
                for seed, image in zip(batch.seeds, batch.images.numpy(), strict=True)}


def sample_to_folder(run: RunDirectory, out: Path, *, seeds: Sequence[int], **options: Any) -> Sampled:
    """Draws one image for each of `seeds` into `out`, as data/samples.py describes it, and a contact sheet beside it.

    `options`: `device`; `asked`: what differs from the recipe's sampling; `only`: of one class; `ema`: by the weights
    of this decay; `format`: of FORMATS; `batch_size`.

    Whole images that are there already, drawn by the same model in the same way, are kept, and so is what parts have
    drawn. Files are written while the next images are drawn. Raises DataError where `out` holds others or cannot be
    written, RecipeError for a value out of range, BricsError where the disk is full; what was drawn until then is kept.
    """
    job = _Job.load(run, **options)
    find_folder(out, job.settings)
    take_parts(out, job.settings)
    folder = _create_folder(out, job.settings)
    listed = set(folder.seeds)
    there = sorted(listed.intersection(seeds))
    damaged = [seed for seed in track(there, len(there), "checking", "images") if not folder.holds(seed)]
    missing = sorted(set(seeds) - listed | set(damaged))

    def save(batch: ImageBatch) -> int:
        folder.add(job.encode(batch))
        return len(batch.seeds)

    with (memory_errors(job.device, "A smaller --batch-size needs less of it."),
          Progress(len(seeds), "sampling", "images", done=len(seeds) - len(missing)) as progress):
        try:
            with closing(map_behind(save, job.draw(missing))) as counts:  # or its thread might still be adding
                for count in counts:
                    progress.show(progress.done + count)
        finally:
            folder.finish()
    return Sampled(len(missing) - len(damaged), len(seeds) - len(missing), len(damaged), write_sheet(out, seeds))


def sample_part(run: RunDirectory, out: Path, part: Part, *, seeds: Sequence[int], command: Sequence[str] = (),
                **options: Any) -> Share:
    """Draws the chunks of one part beside `out`, for `brics gather`; `seeds` are those of all parts.

    Several processes, also of machines that share the disk, may draw parts at a time, even the same. What `out` holds
    already is not drawn again. `command`: what was typed, without the part, for the advice of `brics gather`. See
    `sample_to_folder`.
    """
    job = _Job.load(run, **options)
    chunks = chunk_seeds(seeds, job.settings["format"])
    mine = {name: chunks[name] for name in chunks if part.takes(number_of(name))}
    held = find_held(out, job.settings, [seed for asked in mine.values() for seed in asked])
    files.check_writable(out)
    with unfinished(out, shared=True) as work:
        work.begin(*plan_samples(job.settings, seeds, part.of, command))
        missing = {name: asked for name, asked in mine.items() if not (held.issuperset(asked) or work.find(name))}
        count, left = (sum(map(len, some.values())) for some in (mine, missing))

        def draw() -> Iterator[tuple[str, list[ImageBatch]]]:
            for name, asked in missing.items():
                yield name, list(job.draw(asked))

        def save(drawn: tuple[str, list[ImageBatch]]) -> int:
            pngs = dict(pair for batch in drawn[1] for pair in job.encode(batch).items())
            _write_chunk(work, drawn[0], job.settings["format"], pngs)
            return len(pngs)

        with (Progress(count, "sampling", "images", done=count - left) as progress,
              closing(map_behind(save, draw())) as counts):
            for saved in counts:
                progress.show(progress.done + saved)
    return Share(len(mine), len(chunks), len(mine) - len(missing))


def _write_chunk(work: Unfinished, name: str, format: str, pngs: Mapping[int, bytes]) -> None:
    notes = {"versions": _versions()}
    if format == "shards":
        found = ((SPLIT, sample_key(seed), {"png": png}) for seed, png in pngs.items())
        work.write(name, SPLIT, found, lambda: notes)
    else:
        work.write_files(name, {f"{sample_key(seed)}.png": png for seed, png in pngs.items()}, notes)


def _versions() -> dict[str, Any]:
    process = describe_process()
    return {name: process[name] for name in ("brics", "torch", "python")}


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
    versions = _versions()
    folder = SampleFolder.create(out, settings, versions)
    others = {entry["torch"] for entry in folder.header["versions"]} - {versions["torch"]}
    if others:
        warn(f"{out}: holds samples of torch {', '.join(sorted(others))}, this is torch {versions['torch']}. "
             "Between them a seed's image may differ by rounding.")
    return folder


def _whole_passes(batch_size: int, device: torch.device) -> int:
    """A pass computes `PASS_WIDTH` rows in any case: smaller batches would pay for rows that nobody keeps."""
    width = PASS_WIDTH[device.type]
    return -(-batch_size // width) * width


def write_sheet(out: Path, seeds: Sequence[int]) -> Path | None:
    """The first images by seed; None, with a warning, where there is no room for it: the samples are there."""
    path, images = sheet_path(out), read_samples(out, sorted(seeds)[: SHEET_ROWS * SHEET_COLUMNS])
    files.sweep(path.parent, path.name)
    try:
        files.write_bytes(path, encode_png(sheet(images, min(SHEET_COLUMNS, len(images)))))
    except BricsError as error:
        warn(str(error))
        return None
    return path
