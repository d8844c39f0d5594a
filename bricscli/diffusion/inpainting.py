"""Known places: any sampler draws the others, and all that it draws fits what is there.

Where `replace` is 1 a place is drawn, where it is 0 its x_0 is known. Three ways, the dearer the better informed:

    blended   The known places' x_0 answers for the denoiser there (`knowing`), at every level.
    repaint   The same, and every few steps the way is walked several times (RePaint, arXiv:2201.09865).
    concat    The denoiser was trained to see what surrounds a hole (latent-diffusion, arXiv:2112.10752, section 4.5).

With x_t = alpha x_0 + sigma noise at the first level, and an answer x_0 that never changes, each of our samplers keeps
x_t = alpha x_0 + sigma noise at every level, up to rounding: those of the ODE with the noise of the start, those with
noise of their own with some of it fresh at every step. So the network sees the known places as noisy as the others are,
as in training, and nothing has to be put into x_t on the way.

Blended draws from another distribution than that of the unknown places given the known: at level t the denoiser has
only seen the known places under noise, and what it made of them is never asked about again. RePaint asks again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor

from bricscli.diffusion.guidance import LabelledDenoiser
from bricscli.diffusion.samplers import Level, Noise, Predict, ddim_step, levels_of, run_sampler
from bricscli.nn.unet import Prediction


@dataclass(frozen=True)
class Known:
    """`x_0` `(B, C, H, W)`, of which only what is known counts; `replace` `(B, 1, H, W)`: 1 where it is not."""

    x_0: Tensor
    replace: Tensor

    def blend(self, drawn: Tensor, known: Tensor) -> Tensor:
        """`drawn` where places are replaced, `known` elsewhere, both to the last bit."""
        return torch.where(self.replace > 0.5, drawn, known)

    def noisy(self, level: Level, noise: Tensor) -> Tensor:
        """What the known places are at a level."""
        return level.alpha * self.x_0 + level.sigma * noise


def knowing(predict: Predict, known: Known) -> Predict:
    """A denoiser that never errs about the known places."""
    return lambda x_t, log_snr: known.blend(predict(x_t, log_snr), known.x_0)


def sample_blended(name: str, predict: Predict, known: Known, x_t: Tensor, log_snr: Tensor, noise: Noise,
                   eta: float = 0.0) -> Tensor:
    """The sampler of that name from standard normal `x_t`; the known places come out as they are."""
    start = known.blend(x_t, known.noisy(levels_of(log_snr)[0], x_t))
    return run_sampler(name, knowing(predict, known), start, log_snr, noise, eta)


def sample_repaint(predict: Predict, known: Known, x_t: Tensor, log_snr: Tensor, noise: Noise, *, resamplings: int,
                   jump: int, eta: float = 1.0) -> Tensor:
    """RePaint (arXiv:2201.09865, Algorithm 1): every `jump` steps are walked `resamplings` times, going back by noise.

    A step is DDIM's with that `eta`; 1 is DDPM, as in the paper. One resampling walks the way once.
    Differs from the paper, whose line 5 multiplies the known places' noise by 1 - alpha_bar, a variance: it is the
    deviation, sigma (so the authors' program). Going back takes one leap, which is distributed as `jump` single ones.
    """
    levels, numbers = levels_of(log_snr), count()
    x_t = known.blend(x_t, known.noisy(levels[0], x_t))
    for here, there in walk(len(levels) - 1, resamplings, jump):
        drawn = noise(next(numbers))
        if there < here:
            keep = levels[there].alpha / levels[here].alpha  # q(x_t | x_s), with more noise
            x_t = keep * x_t + math.sqrt(1 - keep**2) * drawn
            continue
        x_0 = predict(x_t, levels[here].log_snr)
        moved, fresh = ddim_step(x_0, x_t, levels[here], levels[there], eta)
        x_t = known.blend(moved + fresh * drawn, known.noisy(levels[there], drawn))
    return knowing(predict, known)(x_t, levels[-1].log_snr)


def walk(steps: int, resamplings: int, jump: int) -> Iterator[tuple[int, int]]:
    """From level 0 to level `steps`: (from, to), one on at a time, or back to where the stretch of `jump` began."""
    for first in range(0, steps, jump):
        last = min(first + jump, steps)
        for again in range(resamplings):
            if again:
                yield last, first
            yield from pairwise(range(first, last + 1))


def count_evaluations(name: str, levels: int, resamplings: int = 1) -> int:
    """How often a sampler, or `resamplings` of RePaint, ask for x_0 along so many levels."""
    twice = levels - 1 if name in ("heun", "flow_heun") else 0
    return resamplings * (levels - 1) + 1 + twice


class Surrounded:
    """A denoiser that sees, beside x_t, what surrounds the hole: `surroundings` `(B, E, H, W)`."""

    def __init__(self, denoiser: LabelledDenoiser, surroundings: Tensor) -> None:
        self.denoiser, self.surroundings = denoiser, surroundings
        self.predicts: Prediction = denoiser.predicts

    def __call__(self, x_t: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """`(B, C, H, W)`, `(B,)`, int64 `(B,)` -> `(B, C, H, W)`."""
        return self.denoiser(torch.cat([x_t, self.surroundings.to(x_t)], dim=1), log_snr, label)


def surroundings_of(x_0: Tensor, replace: Tensor) -> Tensor:
    """`(B, C + 1, H, W)`: the scaled code of the image with a grey hole, and the hole: 1 where places are replaced."""
    return torch.cat([x_0, replace.to(x_0)], dim=1)
