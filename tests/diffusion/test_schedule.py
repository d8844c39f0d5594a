"""The schedules against their closed forms."""

import math

import numpy as np
import pytest
import torch

from bricscli.diffusion.schedule import (
    BetaLinear,
    BetaSchedule,
    ChenCosine,
    Flow,
    Linear,
    NicholCosine,
    ScaledLinear,
    Schedule,
    alpha_sigma,
    log_snr_of,
    log_snr_steps,
)

#: Each with its log SNR at t = 1; the two products of 1 - beta were worked out with NumPy.
ENDS: list[tuple[Schedule, float]] = [
    (ChenCosine(), -20), (NicholCosine(), -20), (Linear(), -20), (BetaLinear(), -10.118), (ScaledLinear(), -8.857),
    (ScaledLinear(end=0.0155), -7.310), (Flow(), -20)]
SCHEDULES = [schedule for schedule, _ in ENDS]


@pytest.mark.parametrize(("t", "log_snr"), [(0.001, 6.70), (0.1, 1.82), (0.25, 0.47), (0.5, -1.17), (0.75, -3.34),
                                            (0.9, -6.08), (0.99, -12.98), (0.999, -19.9)])
def test_log_snr_of_the_papers_variant(t: float, log_snr: float) -> None:
    """Start 0.2, end 1, tau 1.5: numbers worked out by hand from Chen's Algorithm 1."""
    found = ChenCosine().log_snr(torch.tensor(t, dtype=torch.float64)).item()
    assert found == pytest.approx(log_snr, abs=0.05 if t > 0.99 else 0.006)


@pytest.mark.parametrize(("start", "end", "tau"), [(0.2, 1.0, 1.5), (0.0, 1.0, 1.0), (0.3, 0.9, 2.5)])
def test_alpha_bar_is_the_closed_form(start: float, end: float, tau: float) -> None:
    def cosine(angle: float) -> float:
        return math.cos(angle * math.pi / 2) ** (2 * tau)

    schedule = ChenCosine(start, end, tau)
    for t in (0.0, 1e-3, 0.2, 0.5, 0.77, 0.9, 0.98):
        wanted = (cosine(end) - cosine(t * (end - start) + start)) / (cosine(end) - cosine(start))
        assert schedule.alpha_bar(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(wanted, rel=1e-12)


def test_the_plain_cosine_is_symmetric() -> None:
    assert ChenCosine(0, 1, 1).log_snr(torch.tensor(0.5, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("t", "log_snr"), [(0.001, 10.09), (0.1, 3.55), (0.25, 1.71), (0.5, -0.02), (0.75, -1.78)])
def test_log_snr_of_nichols_cosine(t: float, log_snr: float) -> None:
    """s = 0.008: numbers worked out by hand from Eq. 17."""
    found = NicholCosine().log_snr(torch.tensor(t, dtype=torch.float64)).item()
    assert found == pytest.approx(log_snr, abs=0.006)


def test_nichols_cosine_ends_as_its_limited_betas_do() -> None:
    """Its paper's 1000 steps, the last beta limited to 0.999, against continuous t."""
    alpha_bar = NicholCosine().alpha_bar(torch.arange(1001, dtype=torch.float64) / 1000)
    assert alpha_bar[0] == 1
    betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    assert (betas == 0.999).sum() == 1
    stepped = torch.logit((1 - betas).cumprod(0))
    found = NicholCosine().log_snr(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(found[:-1], stepped[:-1], rtol=0, atol=1e-8)
    assert stepped[-1].item() == pytest.approx(-19.8, abs=0.05)


@pytest.mark.parametrize("t", [1e-6, 0.1, 0.25, 0.5, 0.9, 0.9999])
def test_log_snr_of_straight_lines(t: float) -> None:
    """alpha_bar = 1 - t, and x_t = (1 - t) x_0 + t noise, which has the signal (1 - t)^2 and the noise t^2."""
    when = torch.tensor(t, dtype=torch.float64)
    assert Linear().log_snr(when).item() == pytest.approx(math.log((1 - t) / t), rel=1e-9)
    wanted = min(math.log((1 - t) ** 2 / t**2), 20)
    assert Flow().log_snr(when).item() == pytest.approx(wanted, abs=1e-9)
    alpha, sigma = alpha_sigma(torch.tensor(wanted, dtype=torch.float64))
    if wanted < 20:
        assert (alpha / (alpha + sigma)).item() == pytest.approx(1 - t), "the path is x_t / (alpha + sigma)"


@pytest.mark.parametrize(("schedule", "betas"), [
    (BetaLinear(), np.linspace(1e-4, 0.02, 1000)),
    (ScaledLinear(), np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2),
    (ScaledLinear(0.1, 0.4, 3), np.array([0.1, ((0.1**0.5 + 0.4**0.5) / 2) ** 2, 0.4])),
])
def test_steps_of_betas(schedule: BetaSchedule, betas: np.ndarray) -> None:
    """At i / N the product of the first i, and halfway between two of them the mean of their log SNRs."""
    alpha_bar = np.cumprod(1 - betas)
    wanted, steps = np.log(alpha_bar / (1 - alpha_bar)), len(betas)
    t = torch.arange(1, 2 * steps, dtype=torch.float64)[1:] / (2 * steps)
    found = schedule.log_snr(t)
    np.testing.assert_allclose(found[::2], wanted[:-1], atol=1e-8)
    np.testing.assert_allclose(found[1::2], (wanted[:-1] + wanted[1:]) / 2, atol=1e-8)
    assert schedule.log_snr(torch.ones(2, 3)).shape == (2, 3)


@pytest.mark.parametrize(("schedule", "end"), ENDS, ids=str)
def test_ends_are_finite(schedule: Schedule, end: float) -> None:
    for dtype in (torch.float32, torch.float64):
        log_snr = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=dtype))
        assert log_snr.tolist() == pytest.approx([20, end], abs=5e-4) and log_snr.dtype == dtype


def test_ends_of_alpha_bar() -> None:
    for dtype in (torch.float32, torch.float64):
        t = torch.tensor([0.0, 1.0], dtype=dtype)
        assert ChenCosine().alpha_bar(t).tolist() == pytest.approx([1, 1e-9])
        assert ChenCosine().alpha_bar(t)[0] == NicholCosine().alpha_bar(t)[0] == 1
        assert NicholCosine().alpha_bar(t)[1] == pytest.approx(0, abs=1e-30)
        assert Linear().alpha_bar(t).tolist() == [1, 0]
    assert ChenCosine(clip_min=1e-3).alpha_bar(torch.tensor(1.0)).item() == pytest.approx(1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_noise_only_grows(schedule: Schedule) -> None:
    log_snr = schedule.log_snr(torch.linspace(0, 1, 1001))
    assert (log_snr.diff() <= 0).all() and (log_snr[1:-5].diff() < 0).all()


def test_alpha_and_sigma_keep_the_variance() -> None:
    log_snr = torch.linspace(-20, 20, 41, dtype=torch.float64)
    alpha, sigma = alpha_sigma(log_snr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-15)
    torch.testing.assert_close(2 * (alpha / sigma).log(), log_snr, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_snr_of(alpha**2)[1:-1], log_snr[1:-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_float32_times_lose_nothing_near_noise(schedule: Schedule) -> None:
    t = torch.tensor([0.999, 0.9999])
    torch.testing.assert_close(schedule.log_snr(t).double(), schedule.log_snr(t.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("schedule", "first"), [
    (ChenCosine(0.0, 1.0, 0.5), math.cos(0.97 * math.pi / 2)),  # alpha_bar is a cosine: sampling starts at t = 0.97
    (ChenCosine(0.2, 1.0, 4.0), 3e-5),  # at t = 0.97 there is less signal than a key code's precision can tell
])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_sampling_steps(steps: int, schedule: ChenCosine, first: float) -> None:
    log_snr = log_snr_steps(schedule, steps, 0.97)
    assert log_snr.shape == (steps + 1,) and log_snr.dtype == torch.float64
    assert log_snr[0].item() == pytest.approx(math.log(first / (1 - first)))
    assert log_snr[-1].item() == pytest.approx(math.log((1 - 1e-4) / 1e-4))
    assert log_snr.diff().tolist() == pytest.approx([(log_snr[-1] - log_snr[0]).item() / steps] * steps)
