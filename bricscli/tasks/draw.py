"""Seeds -> latents -> images: every number of an image comes from its seed, whatever is drawn beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bricscli.data.images import to_uint8
from bricscli.data.samples import sample_key
from bricscli.diffusion.denoiser import PredictData
from bricscli.diffusion.guidance import Guided
from bricscli.diffusion.samplers import run_sampler
from bricscli.diffusion.schedule import Schedule
from bricscli.diffusion.step_grids import STEP_GRIDS
from bricscli.errors import RecipeError
from bricscli.nn.autoencoder import Autoencoder
from bricscli.recipe.diffusion_specs import SamplingSpec
from bricscli.runtime import generator_for, in_passes
from bricscli.tasks.classes import draw_labels
from bricscli.tasks.models import LoadedDenoiser, Prior


@dataclass(frozen=True)
class ImageBatch:
    """`images` uint8 `(B, 3, H, W)`, each with the seed that drew it and its key, the seed in six digits."""

    images: Tensor
    seeds: Sequence[int]

    @property
    def keys(self) -> list[str]:
        return [sample_key(seed) for seed in self.seeds]


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

    return in_passes(draw, torch.arange(len(seeds)), device, one_thread=True)


def step_levels(sampling: SamplingSpec, schedule: Schedule) -> Tensor:
    """The log SNRs on the way. Raises RecipeError where `start` is already as near to data as sampling ends."""
    log_snr = STEP_GRIDS[sampling.grid](schedule, sampling.steps, sampling.start)
    if (log_snr.diff() <= 0).any():
        raise RecipeError(f"sampling.start, --start: {sampling.start:g} leaves hardly any noise to take away. Choose a "
                          "later start.")
    return log_snr


def decode_latents(autoencoder: Autoencoder, latents: Tensor, device: torch.device) -> Tensor:
    """Latents `(B, C_z, H_z, W_z)` -> uint8 images `(B, 3, H, W)`, on the CPU."""
    def decode(rows: Tensor) -> Tensor:
        return to_uint8(autoencoder.decode_latent(rows))

    return in_passes(decode, latents.float(), device, one_thread=True)
