"""Ranges, the loss, and what a denoiser is asked for."""

import pytest
import torch
from torch import Tensor, nn

from bricscli.diffusion.denoiser import PredictData, draw_times, noise_loss, to_key_code, to_x_0
from bricscli.diffusion.schedule import ChenCosine, alpha_sigma


class Knowing(nn.Module):
    """Predicts the noise that is in x_t, for it knows x_0; remembers what it was given."""

    def __init__(self, x_0: Tensor) -> None:
        super().__init__()
        self.x_0 = x_0
        self.log_snr = torch.empty(0)

    def forward(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        self.log_snr = log_snr
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in alpha_sigma(log_snr))
        return (x_t - alpha * self.x_0) / sigma


class Silent(nn.Module):
    """Predicts no noise at all."""

    def forward(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        return torch.zeros_like(x_t)


def test_ranges() -> None:
    code = torch.tensor([0.0, 0.25, 1.0])
    assert to_x_0(code).tolist() == [-1, -0.5, 1]
    assert torch.equal(to_key_code(to_x_0(code)), code)
    assert to_key_code(torch.tensor([-1.5, 3.0])).tolist() == [0, 1]


def test_a_perfect_denoiser_has_no_loss() -> None:
    torch.manual_seed(0)
    x_0, noise = torch.rand(8, 2, 4, 4, dtype=torch.float64) * 2 - 1, torch.randn(8, 2, 4, 4, dtype=torch.float64)
    t = torch.linspace(0.01, 0.99, 8, dtype=torch.float64)
    knowing = Knowing(x_0)
    assert noise_loss(knowing, ChenCosine(), x_0, t, noise) < 1e-20
    torch.testing.assert_close(knowing.log_snr, ChenCosine().log_snr(t))
    knowing.x_0 = x_0.flip(0)
    assert noise_loss(knowing, ChenCosine(), x_0, t, noise) > 0.01


def test_a_silent_denoiser_loses_all_the_noise() -> None:
    noise = torch.randn(4, 2, 3, 3)
    loss = noise_loss(Silent(), ChenCosine(), torch.zeros(4, 2, 3, 3), torch.rand(4), noise)
    torch.testing.assert_close(loss, noise.square().mean())


@pytest.mark.parametrize("log_snr", [-10.0, 0.0, 9.0])
def test_data_from_predicted_noise(log_snr: float) -> None:
    torch.manual_seed(0)
    x_0, noise = torch.rand(3, 2, 4, 4, dtype=torch.float64) * 2 - 1, torch.randn(3, 2, 4, 4, dtype=torch.float64)
    level = torch.tensor(log_snr, dtype=torch.float64)
    alpha, sigma = alpha_sigma(level)
    knowing = Knowing(x_0)
    torch.testing.assert_close(PredictData(knowing)(alpha * x_0 + sigma * noise, level), x_0)
    assert knowing.log_snr.tolist() == [log_snr] * 3


def test_data_is_clipped_to_the_range_of_key_codes() -> None:
    x_t = torch.tensor([-4.0, 0.1, 4.0]).view(3, 1, 1, 1)
    found = PredictData(Silent())(x_t, torch.tensor(0.0, dtype=torch.float64))
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
