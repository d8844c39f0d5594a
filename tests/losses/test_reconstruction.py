"""L_1 and L_2 are means over everything, and differentiable by the reconstruction."""

import pytest
import torch

from bricscli.losses.reconstruction import l1_loss, l2_loss


def test_means() -> None:
    real = torch.zeros(2, 3, 2, 2)
    fake = torch.zeros(2, 3, 2, 2)
    fake[1, 2] = 3.0
    assert l2_loss(fake, real).item() == pytest.approx(4 * 9 / 24)
    assert l1_loss(fake, real).item() == l1_loss(real, fake).item() == pytest.approx(4 * 3 / 24)


def test_gradients() -> None:
    real, fake = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4, requires_grad=True)
    error = fake.detach() - real
    for loss, expected in ((l2_loss, 2 * error), (l1_loss, error.sign())):
        (gradient,) = torch.autograd.grad(loss(fake, real), fake)
        torch.testing.assert_close(gradient, expected / real.numel())
