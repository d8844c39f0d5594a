"""Ranges, predictions, weights, the loss, and what a denoiser is asked for."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from bricscli.diffusion.denoiser import (
    KEY_CODES,
    SHARES,
    PredictData,
    Weight,
    denoise,
    draw_times,
    latents_of,
    loss_weight,
    predicted_x_0,
    target,
)
from bricscli.diffusion.schedule import ChenCosine, Flow, Schedule, alpha_sigma
from bricscli.nn.unet import Prediction

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
WEIGHTS: tuple[Weight, ...] = get_args(Weight)
LEVELS = torch.tensor([-20.0, -8.0, -1.0, 0.0, 1.0, 4.0, 20.0], dtype=torch.float64)


class Knowing:
    """Answers right, for it knows x_0, or as if x_0 were another; remembers what it was given."""

    def __init__(self, x_0: Tensor, predicts: Prediction = "eps") -> None:
        self.x_0, self.predicts = x_0, predicts
        self.x_t, self.log_snr = torch.empty(0), torch.empty(0)

    def __call__(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        self.x_t, self.log_snr = x_t, log_snr
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in alpha_sigma(log_snr))
        noise = (x_t - alpha * self.x_0) / sigma
        return {"eps": noise, "v": alpha * noise - sigma * self.x_0, "x_0": self.x_0, "flow": noise - self.x_0}[
            self.predicts]


class Silent:
    """Predicts no noise at all."""

    predicts: Prediction = "eps"

    def __call__(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        return torch.zeros_like(x_t)


def data(count: int = 8) -> tuple[Tensor, Tensor]:
    """x_0 and noise."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(count, 2, 4, 4, dtype=torch.float64, generator=generator) * 2 - 1
    return x_0, torch.randn(count, 2, 4, 4, dtype=torch.float64, generator=generator)


def test_ranges() -> None:
    code = torch.tensor([0.0, 0.25, 1.0])
    assert KEY_CODES.to_x_0(code).tolist() == [-1, -0.5, 1]
    assert torch.equal(KEY_CODES.to_latent(KEY_CODES.to_x_0(code)), code)
    assert KEY_CODES.to_latent(torch.tensor([-1.5, 3.0])).tolist() == [0, 1]


def test_unbounded_latents_have_deviation_1_and_end_where_the_data_end() -> None:
    latents = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    scaling = latents_of(std=float(latents.std(correction=0)), largest=float(latents.abs().max()))
    x_0 = scaling.to_x_0(latents)
    assert float(x_0.std(correction=0)) == pytest.approx(1)
    torch.testing.assert_close(scaling.to_latent(x_0), latents)
    assert scaling.to_latent(torch.tensor([1e6, -1e6])).tolist() == pytest.approx(
        [float(latents.abs().max()), -float(latents.abs().max())])
    clipped = PredictData(Silent(), scaling)(torch.full((1, 1, 1, 1), 1e9), torch.tensor(0.0))
    assert float(clipped) == pytest.approx(scaling.limit)


def test_every_prediction_is_here() -> None:
    assert tuple(SHARES) == PREDICTIONS


@pytest.mark.parametrize("log_snr", LEVELS.tolist())
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_targets_and_back(predicts: Prediction, log_snr: float) -> None:
    """The target as its paper writes it, and x_0 of it; the other prediction of that x_0 is the other target."""
    x_0, noise = data()
    alpha, sigma = alpha_sigma(torch.tensor(log_snr, dtype=torch.float64))
    x_t = alpha * x_0 + sigma * noise
    answer = target(predicts, x_0, noise, alpha, sigma)
    torch.testing.assert_close(
        answer, {"eps": noise, "v": alpha * noise - sigma * x_0, "x_0": x_0, "flow": noise - x_0}[predicts])
    found = predicted_x_0(predicts, answer, x_t, alpha, sigma)
    torch.testing.assert_close(found, x_0, rtol=0, atol=1e-10)  # 1e-16 / alpha of 5e-5, and room
    for other in PREDICTIONS:
        found_noise = (x_t - alpha * found) / sigma
        again = target(other, found, found_noise, alpha, sigma)
        torch.testing.assert_close(predicted_x_0(other, again, x_t, alpha, sigma), x_0, rtol=0, atol=1e-10)


def test_velocity_is_the_slope_of_the_path() -> None:
    """Of (1 - t) x_0 + t noise, which is x_t / (alpha + sigma)."""
    x_0, noise = data(1)
    t = torch.tensor(0.3, dtype=torch.float64)
    alpha, sigma = alpha_sigma(Flow().log_snr(t))
    path = (alpha * x_0 + sigma * noise) / (alpha + sigma)
    torch.testing.assert_close(path, 0.7 * x_0 + 0.3 * noise)
    velocity = target("flow", x_0, noise, alpha, sigma)
    torch.testing.assert_close(path + 0.7 * velocity, noise)
    torch.testing.assert_close(path - 0.3 * velocity, x_0)


def test_weights_as_the_papers_print_them() -> None:
    snr = LEVELS.exp()
    weights: dict[tuple[Prediction, Weight], Tensor] = {
        ("eps", "min_snr"): snr.clamp(max=5) / snr, ("v", "min_snr"): snr.clamp(max=5) / (snr + 1),
        ("x_0", "min_snr"): snr.clamp(max=5), ("x_0", "eps"): snr, ("x_0", "v"): snr + 1, ("v", "eps"): snr / (snr + 1)}
    for (predicts, weight), wanted in weights.items():
        torch.testing.assert_close(loss_weight(predicts, weight, 5.0, LEVELS), wanted, rtol=1e-7, atol=0)
    for predicts in PREDICTIONS:
        assert loss_weight(predicts, predicts, 5.0, LEVELS.float()).tolist() == [1] * len(LEVELS), "not off by rounding"
    t = torch.tensor([0.01, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(loss_weight("x_0", "flow", 5.0, Flow().log_snr(t)), 1 / t**2)


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_no_signal_and_no_noise_weigh_something_finite(predicts: Prediction, weight: Weight) -> None:
    ends = torch.tensor([-math.inf, math.inf])
    found = loss_weight(predicts, weight, 5.0, ends)
    assert found.isfinite().all() and (found > 0).all()
    if (predicts, weight) == ("eps", "min_snr"):
        assert found[0] == pytest.approx(1)


@pytest.mark.parametrize("schedule", [ChenCosine(), Flow()], ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_loss_is_that_of_x_0_whatever_is_predicted(weight: Weight, schedule: Schedule) -> None:
    """One wrong x_0, told in four ways: the same loss, which is the weighted error of x_0."""
    (x_0, noise), t = data(), torch.linspace(0.01, 0.99, 8, dtype=torch.float64)
    guess = x_0.flip(0)
    snr = schedule.log_snr(t).exp()
    on_x_0 = {"eps": snr, "v": snr + 1, "x_0": torch.ones_like(snr), "flow": (snr.sqrt() + 1) ** 2,
              "min_snr": snr.clamp(max=3)}[weight]
    wanted = (on_x_0 * (guess - x_0).square().mean((1, 2, 3))).mean()
    for predicts in PREDICTIONS:
        loss = denoise(Knowing(guess, predicts), schedule, x_0, t, noise, weight=weight, gamma=3.0).loss
        torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_a_perfect_denoiser_has_no_loss(predicts: Prediction) -> None:
    (x_0, noise), t = data(), torch.linspace(0.01, 0.99, 8, dtype=torch.float64)
    knowing = Knowing(x_0, predicts)
    assert denoise(knowing, ChenCosine(), x_0, t, noise).loss < 1e-20
    torch.testing.assert_close(knowing.log_snr, ChenCosine().log_snr(t))
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in alpha_sigma(knowing.log_snr))
    torch.testing.assert_close(knowing.x_t, alpha * x_0 + sigma * noise)
    knowing.x_0 = x_0.flip(0)
    assert denoise(knowing, ChenCosine(), x_0, t, noise).loss > 0.01


def test_a_silent_denoiser_loses_all_the_noise() -> None:
    noise = torch.randn(4, 2, 3, 3)
    loss = denoise(Silent(), ChenCosine(), torch.zeros(4, 2, 3, 3), torch.rand(4), noise).loss
    torch.testing.assert_close(loss, noise.square().mean())


@pytest.mark.parametrize("log_snr", [-10.0, 0.0, 9.0])
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_data_from_predictions(predicts: Prediction, log_snr: float) -> None:
    x_0, noise = data(3)
    level = torch.tensor(log_snr, dtype=torch.float64)
    alpha, sigma = alpha_sigma(level)
    knowing = Knowing(x_0, predicts)
    torch.testing.assert_close(PredictData(knowing, KEY_CODES)(alpha * x_0 + sigma * noise, level), x_0)
    assert knowing.log_snr.tolist() == [log_snr] * 3
    knowing.x_0 = 3 * x_0
    found = PredictData(knowing, KEY_CODES)(alpha * x_0 + sigma * noise, level)
    torch.testing.assert_close(found, (3 * x_0).clamp(-1, 1))


def test_data_is_clipped_to_the_range_of_key_codes() -> None:
    x_t = torch.tensor([-4.0, 0.1, 4.0]).view(3, 1, 1, 1)
    found = PredictData(Silent(), KEY_CODES)(x_t, torch.tensor(0.0, dtype=torch.float64))
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx([-1, 0.1 * 2**0.5, 1])


def test_times_are_spread_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    offsets = []
    for _ in range(200):
        t = draw_times(16, generator)
        assert t.shape == (16,) and t.min() >= 0 and t.max() < 1
        assert sorted((t * 16).long().tolist()) == list(range(16)), "one in every sixteenth"
        offsets.append(t[0].item())
    assert torch.tensor(offsets).histc(4, 0, 1).min() > 25, "where they begin is uniform"
    one, other = (draw_times(4, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_training_knows_the_predicted_data_and_its_noise(predicts: Prediction) -> None:
    (x_0, noise), t = data(), torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
    guess = 3 * x_0.flip(0)
    denoised = denoise(Knowing(guess, predicts), Flow(), x_0, t, noise)
    torch.testing.assert_close(denoised.x_0, guess)
    torch.testing.assert_close(denoised.noise_to_data, t / (1 - t))
