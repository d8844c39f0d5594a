"""The critics: a score per image whatever images are beside it, or one per patch of a known size."""

import itertools

import pytest
import torch
from torch import nn

from bricscli.nn.discriminator import PatchDiscriminator, ScaledConv, StyleDiscriminator


def test_a_score_depends_on_its_image_alone() -> None:
    """The gradient penalty is defined per image: no statistics over the batch."""
    torch.manual_seed(0)
    critic = StyleDiscriminator(resolution=16, channels=8, max_channels=16).double()
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
        critic = StyleDiscriminator(resolution=resolution, channels=16, max_channels=64)
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
    critic = StyleDiscriminator(resolution=16, channels=4, max_channels=8)
    critic(torch.randn(2, 3, 16, 16)).sum().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_patch_parameters(layers: int) -> None:
    """taming's NLayerDiscriminator: biases in the first and last convolution, two numbers a channel in every norm."""
    with torch.device("meta"):
        critic = PatchDiscriminator(channels=64, layers=layers)
    widths = [64 * min(2**level, 8) for level in range(layers + 1)]
    between = sum(16 * a * b + 2 * b for a, b in itertools.pairwise(widths))
    count = sum(p.numel() for p in critic.parameters())
    assert count == (16 * 3 * 64 + 64) + between + (16 * widths[-1] + 1)
    assert layers != 3 or count == 2_765_633  # 2.77 M


@pytest.mark.parametrize(("layers", "pixels"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_has_pix2pixs_size(layers: int, pixels: int) -> None:
    """Isola et al., App. 6.1.2: the pixels that one score, far from the border, can see."""
    torch.manual_seed(0)
    critic = PatchDiscriminator(channels=2, layers=layers).double().eval()
    image = torch.randn(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    scores = critic(image)
    side = 160 // 2**layers - 2
    assert scores.shape == (1, side**2)
    (gradient,) = torch.autograd.grad(scores.view(side, side)[side // 2, side // 2], image)
    rows, columns = gradient[0].abs().sum(0).nonzero().T
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == pixels


@pytest.mark.parametrize(("layers", "smallest"), [(2, 12), (3, 24)])
def test_patches_need_room(layers: int, smallest: int) -> None:
    critic = PatchDiscriminator(channels=2, layers=layers)
    assert critic(torch.zeros(2, 3, smallest, smallest)).shape == (2, 1)
    with pytest.raises(ValueError, match=f"at least {smallest}"):
        critic(torch.zeros(2, 3, smallest, smallest - 1))


def test_patch_start() -> None:
    """pix2pix's: convolutions N(0, 0.02^2), norms N(1, 0.02^2); the batch is normalised but not where scores leave."""
    torch.manual_seed(0)
    critic = PatchDiscriminator(channels=64, layers=3)
    for module in critic.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.01) and module.weight.std() < 0.03
    assert sum(isinstance(module, nn.BatchNorm2d) for module in critic.modules()) == 3
    critic(torch.randn(2, 3, 32, 32)).sum().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
