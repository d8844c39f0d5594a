"""The denoiser's conventions: what it predicts, how its errors are weighted, its training loss (BRICS section 4).

A key code z in [0, 1] is diffused as x_0 = 2 z - 1 in [-1, 1]; the paper does not say which range its UNet sees. Other
latents are divided by their deviation (`Scaling`).

Whatever the schedule, the network sees the variance-preserving x_t = alpha x_0 + sigma noise and its log SNR, and
predicts one of

    eps     noise                    (DDPM, arXiv:2006.11239; BRICS)
    v       alpha noise - sigma x_0  (progressive distillation, arXiv:2202.00512, App. D)
    x_0     x_0
    flow    noise - x_0              (flow matching, arXiv:2210.02747: the velocity of (1 - t) x_0 + t noise)

Differs from flow matching: that path's x_t is shown divided by its deviation, which only scales the network's input.

A weight is a function of log SNR on the squared error of x_0, and follows the prediction to the squared error of
whatever is predicted: the same weight is the same loss for all four.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from bricscli.diffusion.schedule import LOG_SNR_LIMIT, Schedule, alpha_sigma
from bricscli.nn.unet import Prediction

#: Uniform in the squared error of one of the predictions (eps: DDPM, Chen 2023 and BRICS's default), or min-SNR.
Weight = Literal["eps", "v", "x_0", "flow", "min_snr"]

#: (a, b) at alpha and sigma: the prediction is a x_0 + b noise.
SHARES: dict[Prediction, Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]] = {
    "eps": lambda alpha, sigma: (0.0, 1.0),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "x_0": lambda alpha, sigma: (1.0, 0.0),
    "flow": lambda alpha, sigma: (-1.0, 1.0),
}


class Denoiser(Protocol):
    """A network that knows what it predicts."""

    predicts: Prediction

    def __call__(self, x_t: Tensor, log_snr: Tensor, /) -> Tensor:
        """`(B, C, H, W)`, `(B,)` -> `(B, C, H, W)`."""
        ...


@dataclass(frozen=True)
class Scaling:
    """Latent -> x_0: x_0 = (latent - centre) / unit; `limit` is the largest |x_0| that there is."""

    centre: float
    unit: float
    limit: float

    def to_x_0(self, latent: Tensor) -> Tensor:
        return (latent - self.centre) / self.unit

    def to_latent(self, x_0: Tensor) -> Tensor:
        return self.clip(x_0) * self.unit + self.centre

    def clip(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-self.limit, self.limit)


#: Key codes, [0, 1] -> [-1, 1].
KEY_CODES = Scaling(centre=0.5, unit=0.5, limit=1.0)


def latents_of(*, std: float, largest: float) -> Scaling:
    """Unbounded latents: x_0 of deviation 1, clipped where the training data end (`std`, `largest` over all of it).

    Raises ValueError where there are no such latents.
    Differs from latent-diffusion (arXiv:2112.10752, App. G), which takes the deviation of one batch, leaves the latents
    of codebooks as they are, and clips nothing.
    """
    if not 0 < std < math.inf or not largest > 0:
        raise ValueError(f"latents of deviation {std} up to {largest} are none")
    return Scaling(centre=0.0, unit=std, limit=largest / std)


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """`(count,)` times, each uniform in [0, 1), spread evenly over the batch by one common offset.

    Differs from the paper, which draws them independently: this only lowers the variance of the loss (App. I.1 of
    Variational Diffusion Models, arXiv:2107.00630).
    """
    offset = torch.rand((), generator=generator)
    return (offset + torch.arange(count) / count) % 1


def target(predicts: Prediction, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network should answer."""
    a, b = SHARES[predicts](alpha, sigma)
    return a * x_0 + b * noise


def predicted_x_0(predicts: Prediction, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The x_0 for which the network's answer and x_t = alpha x_0 + sigma noise are both right."""
    a, b = SHARES[predicts](alpha, sigma)
    return (sigma * prediction - b * x_t) / (sigma * a - b * alpha)


def x_0_error(predicts: Prediction, log_snr: Tensor) -> Tensor:
    """How far off x_0 is where the prediction is off by 1, but for the sign: sigma / alpha for eps, sigma for v."""
    alpha, sigma = alpha_sigma(log_snr)
    a, b = SHARES[predicts](alpha, sigma)
    return sigma / (sigma * a - b * alpha)


def loss_weight(predicts: Prediction, weight: Weight, gamma: float, log_snr: Tensor) -> Tensor:
    """What the squared error of a prediction is multiplied by at each log SNR, so that x_0's gets its `weight`.

    Min-SNR (arXiv:2303.09556, section 3.4) weighs x_0 by min(SNR, gamma): eps by min(SNR, gamma) / SNR, and v by
    min(SNR, gamma) / (SNR + 1).

    Differs from the paper: App. D.1 prints omega = min(SNR, gamma) for a network that predicts noise. That is the
    weight of x_0; on eps it would all but ignore every x_t with much noise, against the text around it.
    """
    log_snr = log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)  # SNR = 0 would be 0 / 0
    error = x_0_error(predicts, log_snr)
    if weight == "min_snr":
        return log_snr.exp().clamp(max=gamma) * error.square()
    return (error / x_0_error(weight, log_snr)).square()


@dataclass(frozen=True)
class Denoised:
    """What a network made of x_t in training: `loss` is the weighted mean squared error of its prediction."""

    predicts: Prediction
    x_t: Tensor
    log_snr: Tensor
    prediction: Tensor
    loss: Tensor

    @property
    def x_0(self) -> Tensor:
        """As predicted, in no bounds."""
        alpha, sigma = (value[:, None, None, None] for value in alpha_sigma(self.log_snr))
        return predicted_x_0(self.predicts, self.prediction, self.x_t, alpha, sigma)

    @property
    def noise_to_data(self) -> Tensor:
        """sigma / alpha `(B,)`: the noise of x_t where x_0 keeps its size."""
        return (-self.log_snr / 2).exp()


def denoise(denoiser: Denoiser, schedule: Schedule, x_0: Tensor, t: Tensor, noise: Tensor, *,
            weight: Weight = "eps", gamma: float = 5.0) -> Denoised:
    """A step of training, without the step; `x_0`, `noise` `(B, C, H, W)`, `t` `(B,)` in [0, 1]."""
    log_snr = schedule.log_snr(t)
    alpha, sigma = (value[:, None, None, None] for value in alpha_sigma(log_snr))
    x_t = alpha * x_0 + sigma * noise
    prediction = denoiser(x_t, log_snr).to(x_0)
    error = (prediction - target(denoiser.predicts, x_0, noise, alpha, sigma)).square()
    loss = (loss_weight(denoiser.predicts, weight, gamma, log_snr)[:, None, None, None] * error).mean()
    return Denoised(denoiser.predicts, x_t, log_snr, prediction, loss)


class PredictData:
    """A denoiser, asked for x_0 at a log SNR, clipped to the range of the data.

    From predicted noise, x_0 = (x_t - sigma eps) / alpha divides by alpha of about 5e-3 near pure noise; clipping at
    every step keeps the error of eps from being blown up.
    """

    def __init__(self, denoiser: Denoiser, scaling: Scaling) -> None:
        self.denoiser, self.scaling = denoiser, scaling

    def __call__(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """`x_t` `(B, C, H, W)`; `log_snr` scalar; returns x_0, of a key code in [-1, 1]."""
        alpha, sigma = (value.to(x_t) for value in alpha_sigma(log_snr))
        prediction = self.denoiser(x_t, log_snr.to(x_t).expand(x_t.shape[0]))
        return self.scaling.clip(predicted_x_0(self.denoiser.predicts, prediction, x_t, alpha, sigma))
