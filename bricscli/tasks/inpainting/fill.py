"""Windows with holes -> filled windows: every number comes from the window, the seed and the variant alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bricscli.data.images import to_float
from bricscli.data.masks import grow_mask, pool_mask
from bricscli.data.windows import Mask, Picture, extend, to_picture
from bricscli.diffusion.denoiser import PredictData, Scaling
from bricscli.diffusion.guidance import Guided, LabelledDenoiser
from bricscli.diffusion.inpainting import Known, Surrounded, count_evaluations, sample_blended, sample_repaint
from bricscli.diffusion.inpainting import surroundings_of as beside
from bricscli.nn.autoencoder import Autoencoder
from bricscli.recipe.diffusion_specs import SamplingSpec
from bricscli.runtime import PASS_WIDTH, generator_for, in_passes
from bricscli.tasks.draw import step_levels
from bricscli.tasks.models import Prior

Method = Literal["blended", "repaint", "concat"]
#: Called after every answer of the denoiser, with the number of windows that it was about.
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Way:
    """How the codes under a hole are drawn; `grow`: how many cells around the hole are drawn anew as well."""

    method: Method
    sampling: SamplingSpec
    resamplings: int = 1
    jump: int = 1
    grow: int = 0
    label: int | None = None

    def evaluations(self, prior: Prior) -> int:
        """How often the denoiser is asked about a window."""
        levels = len(step_levels(self.sampling, prior.schedule))
        return count_evaluations(self.sampling.sampler, levels, self.resamplings if self.method == "repaint" else 1)


@dataclass(frozen=True)
class Hole:
    """A window to fill: `picture` uint8 (R, R, 3), `mask` bool (R, R), True: replaced; `draw` names its noise."""

    picture: Picture
    mask: Mask
    draw: tuple[int, ...]  #: seed, variant, number of the window


@dataclass
class Holes:
    """Several windows as a model sees them: what is under the masks has no influence on anything."""

    holes: Sequence[Hole]
    smooth: Tensor = field(init=False)  #: (B, 3, R, R) in [-1, 1], kept pixels continued into the hole
    gray: Tensor = field(init=False)  #: likewise, 0 in the hole
    mask: Tensor = field(init=False)  #: (B, 1, R, R), 1: replaced

    def __post_init__(self) -> None:
        self.mask = torch.from_numpy(np.stack([hole.mask for hole in self.holes])[:, None]).float()
        smooth = [to_picture(extend(hole.picture, hole.mask)) for hole in self.holes]
        self.smooth = to_float(torch.from_numpy(np.stack(smooth)).permute(0, 3, 1, 2).contiguous())
        self.gray = gray_holes(self.smooth, self.mask)

    def cells(self, size: int, grow: int) -> Tensor:
        """The masks at the resolution of codes: `(B, 1, size, size)`; a cell with a replaced pixel is replaced."""
        pooled = [grow_mask(pool_mask(hole.mask, hole.mask.shape[0] // size), grow) for hole in self.holes]
        return torch.from_numpy(np.stack(pooled)[:, None]).float()


def gray_holes(image: Tensor, mask: Tensor) -> Tensor:
    """`(B, 3, H, W)` in [-1, 1] with 0, grey, where `mask` `(B, 1, H, W)` is 1."""
    return torch.where(mask > 0.5, torch.zeros_like(image), image)


def see(autoencoder: Autoencoder, scaling: Scaling, gray: Tensor, cells: Tensor) -> Tensor:
    """What a denoiser that was trained to inpaint sees beside x_t; `cells` as of `Holes.cells`."""
    return beside(scaling.clip(scaling.to_x_0(autoencoder.latent(gray))), cells)


def fill_latents(prior: Prior, autoencoder: Autoencoder, holes: Holes, way: Way, device: torch.device,
                 tick: Tick | None = None) -> Tensor:
    """Latents of the windows, with what is drawn in the holes: `(B, *prior.shape)` on the CPU.

    A cell that no replaced pixel lies in, and that is not within `way.grow` of one, has the picture's own latent.
    """
    log_snr, sampling, scaling = step_levels(way.sampling, prior.schedule), way.sampling, prior.scaling
    cells = holes.cells(prior.shape[1], way.grow)

    def fill(rows: Tensor) -> Tensor:
        rows = rows.cpu()
        draws = [holes.holes[row].draw for row in rows.tolist()]
        replace = cells[rows].to(device)
        known = Known(scaling.clip(scaling.to_x_0(autoencoder.latent(holes.smooth[rows].to(device)))), replace)
        label = None if way.label is None else torch.full((len(rows),), way.label, device=device)
        denoiser: LabelledDenoiser = prior.denoiser
        if way.method == "concat":
            denoiser = Surrounded(denoiser, see(autoencoder, scaling, holes.gray[rows].to(device), replace))
        ask, count = PredictData(Guided(denoiser, label, sampling.guidance), scaling), len(rows.unique())

        def predict(x_t: Tensor, log_snr: Tensor) -> Tensor:
            answer = ask(x_t, log_snr)
            if tick:
                tick(count)
            return answer

        def noise(*step: int) -> Tensor:
            return torch.stack([torch.randn(prior.shape, generator=generator_for(draw[0], "inpaint", *draw[1:], *step))
                                for draw in draws]).to(device)

        if way.method == "repaint":
            eta = sampling.eta if sampling.sampler == "ddim" else 1.0
            x_0 = sample_repaint(predict, known, noise(), log_snr, noise, resamplings=way.resamplings, jump=way.jump,
                                 eta=eta)
        else:
            x_0 = sample_blended(sampling.sampler, predict, known, noise(), log_snr, noise, sampling.eta)
        return scaling.to_latent(x_0)

    return in_passes(fill, torch.arange(len(holes.holes)), device)


def whole_pass(device: torch.device) -> int:
    """How many windows cost no more than one."""
    return PASS_WIDTH[device.type]
