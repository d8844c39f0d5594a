"""One function per sampler: noise -> x_0, along rising log SNRs (`diffusion.step_grids`).

`predict(x_t, log_snr) -> x_0` is all they know of the denoiser; `noise(step)` is standard normal, shaped as x_t. x_t is
variance-preserving `(B, C, H, W)` and starts as standard normal; lambda = log SNR / 2, as DPM-Solver writes it. The
denoiser is asked once at each level, in the two Heuns a second time at each but the first, and its last answer is the
result.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from bricscli.diffusion.schedule import alpha_sigma

Predict = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]


class Level(NamedTuple):
    """One of the log SNRs on the way: x_t = alpha x_0 + sigma noise."""

    log_snr: Tensor
    alpha: float
    sigma: float
    half: float  #: lambda


def sample_ddpm(predict: Predict, x_t: Tensor, log_snr: Tensor, noise: Noise) -> Tensor:
    """DDPM's ancestral sampling (arXiv:2006.11239, Algorithm 2): draws from q(x_s | x_t, x_0) of Eq. 6 and 7.

    Of its two variances the smaller, beta tilde, which makes it DDIM with eta = 1; `beta` is that of the whole step,
    however many of the paper's 1000 it spans.
    """
    levels = levels_of(log_snr)
    for step, (here, there) in enumerate(pairwise(levels)):
        x_0 = predict(x_t, here.log_snr)
        beta, left = 1 - (here.alpha / there.alpha) ** 2, (there.sigma / here.sigma) ** 2
        x_t = there.alpha * beta / here.sigma**2 * x_0 + here.alpha / there.alpha * left * x_t
        x_t = x_t + math.sqrt(left * beta) * noise(step)
    return predict(x_t, levels[-1].log_snr)


def sample_ddim(predict: Predict, x_t: Tensor, log_snr: Tensor, noise: Noise, eta: float = 0.0) -> Tensor:
    """DDIM (arXiv:2010.02502, Eq. 12 and 16); `eta` in [0, 1] is the share of fresh noise: 0 draws none."""
    levels = levels_of(log_snr)
    for step, (here, there) in enumerate(pairwise(levels)):
        x_t, fresh = ddim_step(predict(x_t, here.log_snr), x_t, here, there, eta)
        if eta:
            x_t = x_t + fresh * noise(step)
    return predict(x_t, levels[-1].log_snr)


def ddim_step(x_0: Tensor, x_t: Tensor, here: Level, there: Level, eta: float) -> tuple[Tensor, float]:
    """x_t of the next level, but for its fresh noise, whose deviation comes with it."""
    old = (x_t - here.alpha * x_0) / here.sigma
    fresh = eta * there.sigma / here.sigma * math.sqrt(1 - (here.alpha / there.alpha) ** 2)
    return there.alpha * x_0 + math.sqrt(there.sigma**2 - fresh**2) * old, fresh


def sample_dpmpp_2m(predict: Predict, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """DPM-Solver++(2M) (arXiv:2211.01095, Algorithm 2); the first step is of first order."""
    levels = levels_of(log_snr)
    last: tuple[Level, Tensor] | None = None
    for here, there in pairwise(levels):
        x_0 = predict(x_t, here.log_snr)
        decay = math.expm1(here.half - there.half)
        x_t = there.sigma / here.sigma * x_t - there.alpha * decay * _halfway(x_0, here, there, last)
        last = here, x_0
    return predict(x_t, levels[-1].log_snr)


def sample_dpmpp_2m_sde(predict: Predict, x_t: Tensor, log_snr: Tensor, noise: Noise) -> Tensor:
    """SDE-DPM-Solver++(2M) (arXiv:2211.01095): the same along the reverse SDE, with fresh noise."""
    levels = levels_of(log_snr)
    last: tuple[Level, Tensor] | None = None
    for step, (here, there) in enumerate(pairwise(levels)):
        x_0 = predict(x_t, here.log_snr)
        h = there.half - here.half
        decay = math.expm1(-2 * h)
        x_t = (there.sigma / here.sigma * math.exp(-h) * x_t - there.alpha * decay * _halfway(x_0, here, there, last)
               + there.sigma * math.sqrt(-decay) * noise(step))
        last = here, x_0
    return predict(x_t, levels[-1].log_snr)


def sample_unipc_2(predict: Predict, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """UniPC-2 with B_2(h) = e^-h - 1 (arXiv:2302.04867): its corrector makes it converge with order 3."""
    return _unipc(predict, x_t, log_snr, 2)


def sample_unipc_3(predict: Predict, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """UniPC-3 with B_2(h) = e^-h - 1 (arXiv:2302.04867): likewise, with order 4."""
    return _unipc(predict, x_t, log_snr, 3)


def _unipc(predict: Predict, x_t: Tensor, log_snr: Tensor, order: int) -> Tensor:
    """UniP and UniC in turn, of data prediction: every x_0 also corrects the step that led to it, for nothing.

    The first steps are of the orders that the levels behind them allow.
    Differs from diffusers, which takes the last step of order 3 with order 2; there is no need to.
    """
    levels = levels_of(log_snr)
    known: list[tuple[Level, Tensor]] = []  # newest first, `order` of them
    x_before = x_t
    for here, there in pairwise(levels):
        answer = here, predict(x_t, here.log_snr)
        if known:
            x_t = _unipc_step(x_before, here, known[0], [*known[1:], answer])
        known = [answer, *known[: order - 1]]
        x_before, x_t = x_t, _unipc_step(x_t, there, answer, known[1:])
    return predict(x_t, levels[-1].log_snr)


def _unipc_step(x_t: Tensor, there: Level, base: tuple[Level, Tensor], others: list[tuple[Level, Tensor]]) -> Tensor:
    """From `base` to `there`: UniP where the `others` lie behind `base`, UniC where the last is `there` itself."""
    here, x_0 = base
    h = there.half - here.half
    decay = math.expm1(-h)  # B_2(h), and at the same time what is left of the old x_t
    moved = x_0
    ratios = [(level.half - here.half) / h for level, _ in others]
    for weight, ratio, (_, other) in zip(_unipc_weights(ratios, h), ratios, others, strict=True):
        moved = moved + weight / ratio * (other - x_0)
    return there.sigma / here.sigma * x_t - there.alpha * decay * moved


def _unipc_weights(ratios: list[float], h: float) -> list[float]:
    """a with sum_k a_k r_k^(i-1) = i! phi_(i+1)(-h) (-h) / B_2(h), i = 1, 2, ... (Theorem 3.1); one alone is 1/2.

    phi_(i+1)(-h) (-h) = sum_j (-h)^j / (i + j)!, j = 1, 2, ...; the usual recursion cancels where h is small.
    """
    if len(ratios) <= 1:
        return [0.5] * len(ratios)
    orders = range(1, len(ratios) + 1)
    wanted = [math.factorial(i) * sum((-h) ** j / math.factorial(i + j) for j in range(1, 60)) / math.expm1(-h)
              for i in orders]
    powers = [[ratio ** (i - 1) for ratio in ratios] for i in orders]
    return torch.linalg.solve(torch.tensor(powers).double(), torch.tensor(wanted).double()).tolist()


def sample_heun(predict: Predict, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """Heun's method as EDM takes it, without churn (arXiv:2206.00364, Algorithm 1 with s = 1): x = x_0 + tau noise."""
    alpha, _ = alpha_sigma(log_snr)
    return _heun(predict, x_t, log_snr, alpha)


def sample_flow_euler(predict: Predict, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """Euler's method for a rectified flow (arXiv:2209.03003): x = (1 - tau) x_0 + tau noise moves by noise - x_0.

    On the same levels that is DDIM to the last digit but rounding; only the grid tells flows apart.
    """
    levels = levels_of(log_snr)
    x = x_t / (levels[0].alpha + levels[0].sigma)
    for here, there in pairwise(levels):
        tau, next_tau = (level.sigma / (level.alpha + level.sigma) for level in (here, there))
        x = x + (next_tau - tau) * (x - predict(x * (here.alpha + here.sigma), here.log_snr)) / tau
    return predict(x * (levels[-1].alpha + levels[-1].sigma), levels[-1].log_snr)


def sample_flow_heun(predict: Predict, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """Heun's method for a rectified flow (arXiv:2209.03003): x = (1 - tau) x_0 + tau noise."""
    alpha, sigma = alpha_sigma(log_snr)
    return _heun(predict, x_t, log_snr, alpha + sigma)


def _heun(predict: Predict, x_t: Tensor, log_snr: Tensor, scale: Tensor) -> Tensor:
    """Heun's method for x = x_t / scale over tau = sigma / scale; dx / dtau = (x - x_0) / tau for either scale."""
    taus, scales = (alpha_sigma(log_snr)[1] / scale).tolist(), scale.tolist()
    x = x_t / scales[0]
    for step in range(len(log_snr) - 1):
        (tau, next_tau), (here, there) = taus[step : step + 2], scales[step : step + 2]
        slope = (x - predict(x * here, log_snr[step])) / tau
        guess = x + (next_tau - tau) * slope
        next_slope = (guess - predict(guess * there, log_snr[step + 1])) / next_tau
        x = x + (next_tau - tau) * (slope + next_slope) / 2
    return predict(x * scales[-1], log_snr[-1])


def levels_of(log_snr: Tensor) -> list[Level]:
    """The levels of rising log SNRs."""
    alphas, sigmas = (values.tolist() for values in alpha_sigma(log_snr))
    return [Level(*level) for level in zip(log_snr, alphas, sigmas, (log_snr / 2).tolist(), strict=True)]


def _halfway(x_0: Tensor, here: Level, there: Level, last: tuple[Level, Tensor] | None) -> Tensor:
    """x_0 in the middle of the step, on the line through the last two: D of DPM-Solver++(2M)."""
    if last is None:
        return x_0
    before, previous = last
    ratio = (here.half - before.half) / (there.half - here.half)
    return x_0 + (x_0 - previous) / (2 * ratio)


#: Along the probability-flow ODE: the start decides the end.
ODE_SAMPLERS: dict[str, Callable[[Predict, Tensor, Tensor], Tensor]] = {
    "dpmpp_2m": sample_dpmpp_2m,
    "unipc_2": sample_unipc_2,
    "unipc_3": sample_unipc_3,
    "heun": sample_heun,
    "flow_euler": sample_flow_euler,
    "flow_heun": sample_flow_heun,
}
#: With noise at every step.
SDE_SAMPLERS: dict[str, Callable[[Predict, Tensor, Tensor, Noise], Tensor]] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpmpp_2m_sde": sample_dpmpp_2m_sde,
}


def run_sampler(name: str, predict: Predict, x_t: Tensor, log_snr: Tensor, noise: Noise, eta: float = 0.0) -> Tensor:
    """The sampler of that name; `noise` and `eta` are for those that have any use for them."""
    if name == "ddim":
        return sample_ddim(predict, x_t, log_snr, noise, eta)
    if name in SDE_SAMPLERS:
        return SDE_SAMPLERS[name](predict, x_t, log_snr, noise)
    return ODE_SAMPLERS[name](predict, x_t, log_snr)
