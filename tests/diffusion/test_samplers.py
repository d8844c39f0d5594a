"""Samplers against denoisers whose answers are known: where they arrive, and how fast they converge."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bricscli.diffusion.samplers import SAMPLERS, Predict
from bricscli.diffusion.schedule import ChenCosine, alpha_sigma, log_snr_steps

ORDERS = {"ddim": 1, "dpmpp_2m": 2}


def gaussian(mean: Tensor, std: Tensor) -> Predict:
    """E[x_0 | x_t] of N(mean, std^2), every value by itself."""

    def predict(x_t: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(log_snr)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    return predict


def mixture(means: Tensor, std: float) -> Predict:
    """E[x_0 | x_t] of equally many from N(mean, std^2 I) for each mean; `means` `(K, C, 1, 1)`."""

    def predict(x_t: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(log_snr)
        variance = alpha**2 * std**2 + sigma**2
        gap = x_t[None] - alpha * means[:, None]
        share = torch.softmax(-gap.square().sum((2, 3, 4), keepdim=True) / (2 * variance), dim=0)
        return (share * (means[:, None] + alpha * std**2 / variance * gap)).sum(0)

    return predict


def exact_end(mean: Tensor, std: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """Where the probability-flow ODE takes `x_t`: (x_t - alpha mean) / deviation(x_t) does not change on the way."""
    (alpha, sigma), (last_alpha, last_sigma) = alpha_sigma(log_snr[0]), alpha_sigma(log_snr[-1])
    way = (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2).sqrt()
    x_last = last_alpha * mean + (last_alpha**2 * std**2 + last_sigma**2).sqrt() * way
    return gaussian(mean, std)(x_last, log_snr[-1])


def test_all_samplers_are_here() -> None:
    assert SAMPLERS.keys() == ORDERS.keys()


@pytest.mark.parametrize("name", SAMPLERS)
def test_order_of_convergence(name: str) -> None:
    torch.manual_seed(0)
    mean = torch.linspace(-0.8, 0.8, 6, dtype=torch.float64).view(1, 6, 1, 1)
    std = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).view(1, 6, 1, 1)
    start = torch.randn(16, 6, 1, 1, dtype=torch.float64)
    steps, errors = [80, 160, 320, 640], []
    for count in steps:
        log_snr = log_snr_steps(ChenCosine(), count, 1.0)
        found = SAMPLERS[name](gaussian(mean, std), start, log_snr)
        errors.append((found - exact_end(mean, std, start, log_snr)).square().mean().sqrt().item())
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(ORDERS[name], abs=0.1), errors


@pytest.mark.parametrize("name", SAMPLERS)
def test_few_steps_are_already_near(name: str) -> None:
    torch.manual_seed(0)
    mean, std = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64), torch.full((1, 1, 1, 1), 0.4, dtype=torch.float64)
    start, log_snr = torch.randn(256, 1, 1, 1, dtype=torch.float64), log_snr_steps(ChenCosine(), 30, 1.0)
    error = SAMPLERS[name](gaussian(mean, std), start, log_snr) - exact_end(mean, std, start, log_snr)
    assert error.abs().max() < {"ddim": 0.2, "dpmpp_2m": 0.02}[name]


@pytest.mark.parametrize("name", SAMPLERS)
def test_mean_and_covariance_of_a_mixture(name: str) -> None:
    """Three clusters in the plane: the samples have the mixture's mean and covariance, and lie in the clusters."""
    torch.manual_seed(0)
    means = torch.tensor([[-0.8, -0.4], [0.8, -0.4], [0.0, 0.8]], dtype=torch.float64).view(3, 2, 1, 1)
    start = torch.randn(6000, 2, 1, 1, dtype=torch.float64)
    drawn = SAMPLERS[name](mixture(means, 0.1), start, log_snr_steps(ChenCosine(), 100, 1.0)).flatten(1)
    centres = means.flatten(1)
    wanted = centres.T @ centres / 3 + 0.01 * torch.eye(2, dtype=torch.float64)
    assert drawn.mean(0).abs().max() < 4 * math.sqrt(0.44 / 6000)
    torch.testing.assert_close(torch.cov(drawn.T), wanted, rtol=0, atol=0.02)
    distance, cluster = torch.cdist(drawn, centres).min(1)
    assert (distance < 0.5).float().mean() > 0.995
    assert torch.bincount(cluster).tolist() == pytest.approx([2000] * 3, abs=200)
    spread = distance.square().mean().sqrt().item()
    assert spread == pytest.approx(0.1 * math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_denoiser_is_asked_once_per_level_and_has_the_last_word(name: str) -> None:
    asked: list[float] = []

    def predict(x_t: Tensor, log_snr: Tensor) -> Tensor:
        asked.append(log_snr.item())
        return torch.full_like(x_t, float(len(asked)))

    log_snr = log_snr_steps(ChenCosine(), 4, 1.0)
    assert SAMPLERS[name](predict, torch.randn(1, 1, 2, 2), log_snr).unique().tolist() == [5]
    assert asked == log_snr.tolist()
