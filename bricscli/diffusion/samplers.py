"""One function per sampler: noise -> x_0, along rising log SNRs (`schedule.log_snr_steps`).

`predict(x_t, log_snr) -> x_0` is all they know of the denoiser. lambda = log SNR / 2, as DPM-Solver writes it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bricscli.diffusion.schedule import alpha_sigma

Predict = Callable[[Tensor, Tensor], Tensor]


def sample_ddim(predict: Predict, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """DDIM with eta = 0 (arXiv:2010.02502, Eq. 12); `x_t` starts as standard normal `(B, C, H, W)`."""
    alphas, sigmas = (values.tolist() for values in alpha_sigma(log_snr))
    for step in range(len(log_snr) - 1):
        x_0 = predict(x_t, log_snr[step])
        noise = (x_t - alphas[step] * x_0) / sigmas[step]
        x_t = alphas[step + 1] * x_0 + sigmas[step + 1] * noise
    return predict(x_t, log_snr[-1])


def sample_dpmpp_2m(predict: Predict, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """DPM-Solver++(2M) (arXiv:2211.01095, Algorithm 2); the first step is of first order."""
    alphas, sigmas = (values.tolist() for values in alpha_sigma(log_snr))
    lambdas = (log_snr / 2).tolist()
    previous: Tensor | None = None
    for step in range(len(log_snr) - 1):
        x_0 = predict(x_t, log_snr[step])
        h = lambdas[step + 1] - lambdas[step]
        guess = x_0
        if previous is not None:
            ratio = (lambdas[step] - lambdas[step - 1]) / h
            guess = x_0 + (x_0 - previous) / (2 * ratio)
        decay = torch.tensor(-h, dtype=torch.float64).expm1().item()
        x_t = sigmas[step + 1] / sigmas[step] * x_t - alphas[step + 1] * decay * guess
        previous = x_0
    return predict(x_t, log_snr[-1])


SAMPLERS: dict[str, Callable[[Predict, Tensor, Tensor], Tensor]] = {
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
}
