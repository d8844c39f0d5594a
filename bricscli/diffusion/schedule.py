"""Noise schedules: t in [0, 1] -> log SNR.

x_t = alpha_t x_0 + sigma_t noise with alpha_t^2 = alpha_bar(t) and sigma_t^2 = 1 - alpha_bar(t); t = 0 is data and
t = 1 is noise. log SNR = log(alpha_bar / (1 - alpha_bar)) falls with t, and says all there is to say: two schedules
with one log SNR show the denoiser the same x_t. `brics plot schedules` draws them all (BRICS Fig. 13).

log SNR at the ends, where it is limited to +-20 and t = 0 is always 20:

    ChenCosine     alpha_bar(1) = 1e-9 is -20.7, so -20
    NicholCosine   alpha_bar(1) = 0, so -20
    Linear         alpha_bar(1) = 0, so -20
    BetaLinear     -10.1 after the last of its steps; 9.2 after the first
    ScaledLinear   -8.9 after the last of its steps; 6.5 after the first
    Flow           x_1 is the noise alone, so -20
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

#: log SNR shown to the denoiser stays in here; alpha_bar = 1 (t = 0) would be infinite.
LOG_SNR_LIMIT = 20.0

#: Samplers stay in here: beyond, x_t is noise, or data, to within what a key code's precision can tell.
SAMPLING_ALPHA_BAR = (3e-5, 1 - 1e-4)


class Schedule(Protocol):
    """What training and samplers ask of a schedule."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log SNR at times in [0, 1] of any shape: never rising, limited to +-20, of t's dtype."""
        ...


def log_snr_of(alpha_bar: Tensor) -> Tensor:
    """log(alpha_bar / (1 - alpha_bar)), limited to +-20."""
    return torch.logit(alpha_bar.double()).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).to(alpha_bar.dtype)


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t, sigma_t of a variance-preserving process at a log SNR."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


class AlphaBarSchedule(ABC):
    """A schedule that its paper writes as alpha_bar."""

    @abstractmethod
    def alpha_bar(self, t: Tensor) -> Tensor:
        """alpha_bar in [0, 1]; any shape."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log SNR, limited to +-20."""
        return log_snr_of(self.alpha_bar(t.double())).to(t.dtype)


@dataclass(frozen=True)
class ChenCosine(AlphaBarSchedule):
    """Chen 2023, Algorithm 1 (arXiv:2301.10972): cosine between `start` and `end`, to the power 2 tau.

    BRICS's `cosine variant` is (0.2, 1, 1.5) (App. A.6).
    """

    start: float = 0.2
    end: float = 1.0
    tau: float = 1.5
    clip_min: float = 1e-9

    def alpha_bar(self, t: Tensor) -> Tensor:
        """alpha_bar in [clip_min, 1]; any shape."""
        first, last = (math.cos(edge * math.pi / 2) ** (2 * self.tau) for edge in (self.start, self.end))
        angle = (t.double() * (self.end - self.start) + self.start) * (math.pi / 2)
        value = (last - angle.cos().clamp(min=0) ** (2 * self.tau)) / (last - first)
        return value.clamp(self.clip_min, 1.0).to(t.dtype)


@dataclass(frozen=True)
class NicholCosine(AlphaBarSchedule):
    """Nichol and Dhariwal's cosine (arXiv:2102.09672, Eq. 17): config a of BRICS's Table 4.

    Differs from the paper: it limits the beta of each of its steps to 0.999, which for 1000 steps ends at a log SNR of
    -19.8; here t is continuous and log SNR is limited to -20.
    """

    s: float = 0.008

    def alpha_bar(self, t: Tensor) -> Tensor:
        """cos^2 of (t + s) / (1 + s) quarter turns, divided by its value at t = 0."""
        angle = (t.double() + self.s) / (1 + self.s) * (math.pi / 2)
        return (angle.cos() / math.cos(self.s / (1 + self.s) * math.pi / 2)).square().to(t.dtype)


@dataclass(frozen=True)
class Linear(AlphaBarSchedule):
    """alpha_bar = 1 - t: Chen 2023's simple linear schedule, and the third of BRICS's App. D.2."""

    def alpha_bar(self, t: Tensor) -> Tensor:
        return 1 - t


class BetaSchedule(ABC):
    """A schedule that its paper writes as the beta of every step: alpha_bar after step i is the product of 1 - beta.

    Differs from the papers, whose steps are whole: step i of N ends at t = i / N, and between two of them log SNR is
    interpolated.
    """

    @abstractmethod
    def betas(self) -> Tensor:
        """`(N,)` float64."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log SNR, limited to +-20."""
        log_alpha_bar = (1 - self.betas()).log().cumsum(0)
        ends = log_snr_of(torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha_bar]).exp()).to(t.device)
        place = t.double() * (len(ends) - 1)
        before = place.long().clamp(0, len(ends) - 2)
        return ends[before].lerp(ends[before + 1], place - before).to(t.dtype)


@dataclass(frozen=True)
class BetaLinear(BetaSchedule):
    """DDPM's schedule (arXiv:2006.11239): beta grows linearly. BRICS draws it in Fig. 13 for reference."""

    start: float = 1e-4
    end: float = 0.02
    steps: int = 1000

    def betas(self) -> Tensor:
        return torch.linspace(self.start, self.end, self.steps, dtype=torch.float64)


@dataclass(frozen=True)
class ScaledLinear(BetaSchedule):
    """latent-diffusion's schedule (arXiv:2112.10752), there called linear: the root of beta grows linearly.

    Its LSUN-Church model ends at 0.0155, its others at 0.0195.
    """

    start: float = 0.0015
    end: float = 0.0195
    steps: int = 1000

    def betas(self) -> Tensor:
        return torch.linspace(self.start**0.5, self.end**0.5, self.steps, dtype=torch.float64).square()


@dataclass(frozen=True)
class Flow:
    """The optimal-transport path of flow matching (arXiv:2210.02747): x_t = (1 - t) x_0 + t noise.

    Divided by its deviation sqrt((1 - t)^2 + t^2) it is the variance-preserving x_t of this log SNR, which is what the
    denoiser sees whatever the schedule.
    """

    def log_snr(self, t: Tensor) -> Tensor:
        """2 log((1 - t) / t), limited to +-20."""
        return (-2 * torch.logit(t.double())).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).to(t.dtype)


def log_snr_steps(schedule: Schedule, steps: int, start: float) -> Tensor:
    """`steps + 1` log SNRs, uniformly spaced from that of time `start` to nearly data: `(steps + 1,)` float64, rising.

    Uniform in log SNR, whatever schedule the denoiser was trained with: a second-order solver then reaches in 20 steps
    what DDIM with uniform t reaches in some 180.
    """
    low, high = (math.log(a / (1 - a)) for a in SAMPLING_ALPHA_BAR)
    first = float(schedule.log_snr(torch.tensor(start, dtype=torch.float64)))
    return torch.linspace(max(low, first), high, steps + 1, dtype=torch.float64)
