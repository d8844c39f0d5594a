"""The critic: one score per image, whatever images are beside it."""

import pytest
import torch

from bricscli.nn.discriminator import Discriminator, ScaledConv


def test_a_score_depends_on_its_image_alone() -> None:
    """The gradient penalty is defined per image: no statistics over the batch."""
    torch.manual_seed(0)
    critic = Discriminator(resolution=16, channels=8, max_channels=16).double()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    scores = critic(images)
    assert scores.shape == (4,) and scores.std() > 0
    for i in range(4):
        torch.testing.assert_close(critic(images[i : i + 1]), scores[i : i + 1])
    (gradient,) = torch.autograd.grad(scores[2], images)
    assert gradient[2].abs().max() > 0
    assert gradient[[0, 1, 3]].abs().max() == 0


@pytest.mark.parametrize("resolution", [8, 24, 32, 64, 128, 256])
def test_sizes(resolution: int) -> None:
    with torch.device("meta"):
        critic = Discriminator(resolution=resolution, channels=16, max_channels=64)
        assert critic(torch.empty(2, 3, resolution, resolution)).shape == (2,)
        last = critic.body(torch.empty(2, 3, resolution, resolution))
    assert last.shape[-1] == (3 if resolution == 24 else 4)
    assert last.shape[1] == min(64, 16 * resolution // last.shape[-1])


@pytest.mark.parametrize("kernel", [1, 3])
def test_halving_keeps_what_is_constant(kernel: int) -> None:
    """The low-pass has gain 1 and the halved image lies where the whole one did."""
    conv = ScaledConv(1, 1, kernel, down=True, activate=False)
    with torch.no_grad():
        conv.weight.fill_(1 / kernel)  # times the run-time scale 1 / kernel: sum 1
        flat = conv(torch.full((1, 1, 16, 16), 0.3))
        ramp = conv(torch.arange(16.0).expand(1, 1, 16, 16))
    assert flat.shape == (1, 1, 8, 8)
    torch.testing.assert_close(flat[..., 2:-2, 2:-2], torch.full((1, 1, 4, 4), 0.3))
    torch.testing.assert_close(ramp[0, 0, 4, 2:-2], torch.arange(4.5, 12, 2))


def test_all_weights_have_gradients() -> None:
    torch.manual_seed(0)
    critic = Discriminator(resolution=16, channels=4, max_channels=8)
    critic(torch.randn(2, 3, 16, 16)).sum().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
