"""L_2 is the mean over everything, and differentiable by the reconstruction."""

import pytest
import torch

from bricscli.losses.reconstruction import l2_loss


def test_mean_of_squares() -> None:
    real = torch.zeros(2, 3, 2, 2)
    fake = torch.zeros(2, 3, 2, 2)
    fake[1, 2] = 3.0
    assert l2_loss(fake, real).item() == pytest.approx(4 * 9 / 24)


def test_gradient() -> None:
    real, fake = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4, requires_grad=True)
    l2_loss(fake, real).backward()
    torch.testing.assert_close(fake.grad, 2 * (fake.detach() - real) / real.numel())
