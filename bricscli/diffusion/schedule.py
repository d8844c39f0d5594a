"""Noise schedules: t in [0, 1] -> alpha_bar, log SNR.

x_t = alpha_t x_0 + sigma_t noise with alpha_t^2 = alpha_bar(t) and sigma_t^2 = 1 - alpha_bar(t); t = 0 is data and
t = 1 is noise. log SNR = log(alpha_bar / (1 - alpha_bar)).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: log SNR shown to the denoiser stays in here; alpha_bar = 1 (t = 0) would be infinite.
LOG_SNR_LIMIT = 20.0

#: Samplers stay in here: beyond, x_t is noise, or data, to within what a key code's precision can tell.
SAMPLING_ALPHA_BAR = (3e-5, 1 - 1e-4)


def log_snr_of(alpha_bar: Tensor) -> Tensor:
    """log(alpha_bar / (1 - alpha_bar)), limited to +-20."""
    return torch.logit(alpha_bar.double()).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).to(alpha_bar.dtype)


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t, sigma_t of a variance-preserving process at a log SNR."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


@dataclass(frozen=True)
class ChenCosine:
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

    def log_snr(self, t: Tensor) -> Tensor:
        """log SNR, limited to +-20."""
        return log_snr_of(self.alpha_bar(t.double())).to(t.dtype)


def log_snr_steps(schedule: ChenCosine, steps: int, start: float) -> Tensor:
    """`steps + 1` log SNRs, uniformly spaced from that of time `start` to nearly data: `(steps + 1,)` float64, rising.

    Uniform in log SNR, whatever schedule the denoiser was trained with: a second-order solver then reaches in 20 steps
    what DDIM with uniform t reaches in some 180.
    """
    low, high = (math.log(a / (1 - a)) for a in SAMPLING_ALPHA_BAR)
    first = float(schedule.log_snr(torch.tensor(start, dtype=torch.float64)))
    return torch.linspace(max(low, first), high, steps + 1, dtype=torch.float64)
