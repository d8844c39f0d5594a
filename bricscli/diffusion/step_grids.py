"""Where samplers ask the denoiser: grids of log SNRs, rising from that of time `start` to nearly data.

A grid has `steps` steps, the last answer of the denoiser being x_0. The grid matters more than the sampler.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bricscli.diffusion.schedule import SAMPLING_ALPHA_BAR, Schedule, log_snr_steps


def trailing_steps(schedule: Schedule, steps: int, start: float) -> Tensor:
    """log SNRs of times start, ..., 2 start / steps, start / steps: `(steps,)` float64, rising.

    Uniform in t as DDIM is usually run, beginning at `start` itself (`trailing` in arXiv:2305.08891, Table 2). The last
    step is the one to t = 0, which the denoiser's answer is. Levels outside of SAMPLING_ALPHA_BAR become one at its
    edge, so that near noise, where schedules repeat themselves, there may be fewer than `steps`.
    """
    low, high = (math.log(a / (1 - a)) for a in SAMPLING_ALPHA_BAR)
    t = torch.linspace(start, start / steps, steps, dtype=torch.float64)
    return schedule.log_snr(t).clamp(low, high).unique()


STEP_GRIDS: dict[str, Callable[[Schedule, int, float], Tensor]] = {
    "log_snr": log_snr_steps,
    "trailing": trailing_steps,
}
