"""The schedule against its closed form."""

import math

import pytest
import torch

from bricscli.diffusion.schedule import ChenCosine, alpha_sigma, log_snr_of, log_snr_steps


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


def test_ends_are_finite() -> None:
    for dtype in (torch.float32, torch.float64):
        t = torch.tensor([0.0, 1.0], dtype=dtype)
        assert ChenCosine().alpha_bar(t).tolist() == pytest.approx([1, 1e-9])
        assert ChenCosine().alpha_bar(t)[0] == 1
        log_snr = ChenCosine().log_snr(t)
        assert log_snr.tolist() == [20, -20] and log_snr.dtype == dtype
    assert ChenCosine(clip_min=1e-3).alpha_bar(torch.tensor(1.0)).item() == pytest.approx(1e-3)


def test_noise_only_grows() -> None:
    log_snr = ChenCosine().log_snr(torch.linspace(0, 1, 1001))
    assert (log_snr.diff() <= 0).all() and (log_snr[1:-5].diff() < 0).all()


def test_alpha_and_sigma_keep_the_variance() -> None:
    log_snr = torch.linspace(-20, 20, 41, dtype=torch.float64)
    alpha, sigma = alpha_sigma(log_snr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-15)
    torch.testing.assert_close(2 * (alpha / sigma).log(), log_snr, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_snr_of(alpha**2)[1:-1], log_snr[1:-1], rtol=0, atol=1e-6)


def test_float32_times_lose_nothing_near_noise() -> None:
    t = torch.tensor([0.999, 0.9999])
    torch.testing.assert_close(ChenCosine().log_snr(t).double(), ChenCosine().log_snr(t.double()), rtol=1e-5, atol=0)


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
