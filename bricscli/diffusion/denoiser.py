"""The denoiser's conventions and its training loss: noise prediction on key codes (BRICS section 4, App. A.6).

A key code z in [0, 1] is diffused as x_0 = 2 z - 1 in [-1, 1]; the paper does not say which range its UNet sees.
"""

import torch
from torch import Tensor, nn

from bricscli.diffusion.schedule import ChenCosine, alpha_sigma


def to_x_0(key_code: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return key_code * 2 - 1


def to_key_code(x_0: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clipped."""
    return ((x_0 + 1) / 2).clamp(0, 1)


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """`(count,)` times, each uniform in [0, 1), spread evenly over the batch by one common offset.

    Differs from the paper, which draws them independently: this only lowers the variance of the loss (App. I.1 of
    Variational Diffusion Models, arXiv:2107.00630).
    """
    offset = torch.rand((), generator=generator)
    return (offset + torch.arange(count) / count) % 1


def noise_loss(denoiser: nn.Module, schedule: ChenCosine, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise; `x_0`, `noise` `(B, C, H, W)`, `t` `(B,)` in [0, 1]."""
    log_snr = schedule.log_snr(t)
    alpha, sigma = (value[:, None, None, None] for value in alpha_sigma(log_snr))
    return (denoiser(alpha * x_0 + sigma * noise, log_snr) - noise).square().mean()


class PredictData:
    """A noise-predicting denoiser, asked for x_0 at a log SNR, clipped to the range of a key code.

    Near pure noise x_0 = (x_t - sigma eps) / alpha divides by alpha of about 5e-3; clipping at every step keeps the
    error of eps from being blown up.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser

    def __call__(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """`x_t` `(B, C, H, W)`; `log_snr` scalar; returns x_0 in [-1, 1]."""
        alpha, sigma = alpha_sigma(log_snr)
        noise = self.denoiser(x_t, log_snr.to(x_t).expand(x_t.shape[0]))
        return ((x_t - sigma.to(x_t) * noise) / alpha.to(x_t)).clamp(-1, 1)
