"""The denoiser: starts at zero, keeps images apart, listens to log SNR, and takes any shape a recipe can give."""

import math

import pytest
import torch
from torch import nn

from bricscli.nn.layers import SelfAttention, Upsample
from bricscli.nn.unet import ConditionedBlock, FusedUpsample, UNet, count_heads, embed_log_snr


def make_unet(**changes: object) -> UNet:
    torch.manual_seed(0)
    arguments: dict[str, object] = {"inputs": 2, "size": 8, "channels": 8, "multipliers": [1, 2], "blocks": 1,
                                    "attention": [4], "head_channels": 4}
    return UNet(**(arguments | changes)).double()  # type: ignore[arg-type]


def shake(model: nn.Module) -> None:
    """Random values for everything, also for what starts at zero."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)


def test_starts_at_zero() -> None:
    model = make_unet()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert model(x, torch.zeros(2, dtype=torch.float64)).abs().max() == 0
    block = ConditionedBlock(4, 4, 8).double()
    features = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    assert torch.equal(block(features, torch.randn(1, 8, dtype=torch.float64)), features)


def test_images_do_not_touch() -> None:
    model = make_unet()
    shake(model)
    x, log_snr = torch.randn(3, 2, 8, 8, dtype=torch.float64), torch.tensor([-5.0, 0.5, 7.0], dtype=torch.float64)
    together = model(x, log_snr)
    for i in range(3):
        torch.testing.assert_close(model(x[i : i + 1], log_snr[i : i + 1]), together[i : i + 1])


def test_log_snr_matters_for_its_own_image() -> None:
    model = make_unet()
    shake(model)
    x, log_snr = torch.randn(2, 2, 8, 8, dtype=torch.float64), torch.tensor([0.0, 0.0], dtype=torch.float64)
    before = model(x, log_snr)
    after = model(x, torch.tensor([0.0, 0.3], dtype=torch.float64))
    torch.testing.assert_close(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-3


def test_every_pixel_reaches_every_pixel() -> None:
    model = make_unet(attention=[])  # the one attention left is in the middle
    shake(model)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x, torch.zeros(1, dtype=torch.float64))[0, 0, 0, 0], x)
    assert (gradient != 0).all()


@pytest.mark.parametrize("changes", [
    {"multipliers": [1], "size": 5, "attention": [5]},
    {"multipliers": [3, 1, 2], "size": 12, "attention": [12, 3]},
    {"blocks": 3},
    {"attention": []},
    {"channels": 6, "head_channels": 64},
    {"channels": 20, "head_channels": 8, "attention": [8, 4]},
    {"inputs": 5, "size": 16},
])
def test_shapes(changes: dict[str, object]) -> None:
    model = make_unet(**changes)
    shake(model)
    x = torch.randn(2, model.stem.in_channels, *[int(str(changes.get("size", 8)))] * 2, dtype=torch.float64)
    y = model(x, torch.zeros(2, dtype=torch.float64))
    assert y.shape == x.shape
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("attention", "sizes"), [([8], [4, 8, 8, 8]), ([4], [4, 4, 4, 4]), ([2, 16], [4])])
def test_attention_is_where_it_was_asked_for(attention: list[int], sizes: list[int]) -> None:
    """Beside the one in the middle: one per block on the way down, and one more on the way up."""
    model = make_unet(attention=attention)
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[-1]))
    model(torch.randn(1, 2, 8, 8, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert sorted(seen) == sizes


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_upsampling_is_a_copied_pixel_and_a_convolution(size: tuple[int, int]) -> None:
    """Values and gradients are those of `Upsample`, at the borders too; the weights have its names and shapes."""
    torch.manual_seed(2)
    fused, plain = FusedUpsample(3).double(), Upsample(3).double()
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    assert torch.equal(fused.conv.weight, plain.conv.weight)
    torch.testing.assert_close(fused(x), plain(x))
    weights = torch.randn(2, 3, 2 * size[0], 2 * size[1], dtype=torch.float64)
    for mine, theirs in zip(*(torch.autograd.grad((weights * layer(x)).sum(), [x, *layer.parameters()])
                              for layer in (fused, plain)), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("width", "head_channels", "heads"), [(256, 64, 4), (96, 64, 1), (8, 64, 1), (20, 8, 2),
                                                               (21, 8, 1), (30, 8, 3)])
def test_heads_divide_the_width(width: int, head_channels: int, heads: int) -> None:
    assert count_heads(width, head_channels) == heads


def test_embedding_has_periods_from_1_to_1000() -> None:
    log_snr = torch.tensor([-20.0, 0.0, 3.25], dtype=torch.float64)
    embedded = embed_log_snr(log_snr, 8)
    assert embedded.shape == (3, 8)
    for row, value in zip(embedded.tolist(), log_snr.tolist(), strict=True):
        phases = [2 * math.pi * value / 1000 ** (i / 3) for i in range(4)]
        assert row == pytest.approx([*map(math.sin, phases), *map(math.cos, phases)], abs=1e-9)


def test_without_classes_there_is_no_more_to_learn() -> None:
    """And with them everything else starts the same."""
    plain, labelled = make_unet().state_dict(), make_unet(classes=3).state_dict()
    assert labelled.keys() - plain.keys() == {"label.weight"} and labelled["label.weight"].shape == (4, 32)
    assert all(torch.equal(labelled[name], value) for name, value in plain.items())
    assert labelled["label.weight"].abs().max() == 0


def test_a_label_matters_for_its_own_image() -> None:
    model = make_unet(classes=3)
    shake(model)
    x, log_snr = torch.randn(3, 2, 8, 8, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    before, after = (model(x, log_snr, torch.tensor(label)) for label in ([0, 1, 2], [0, 1, 1]))
    torch.testing.assert_close(before[:2], after[:2])
    assert (before[2] - after[2]).abs().max() > 1e-3
    torch.testing.assert_close(model(x, log_snr), model(x, log_snr, torch.tensor([3, 3, 3])), msg="no label")
    assert (model(x, log_snr) - before).abs().amax((1, 2, 3)).min() > 1e-3
