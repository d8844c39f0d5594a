"""Layers of more than one network, each against its formula."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.layers import (
    ResidualBlock,
    ScaledLinear,
    SelfAttention,
    Upsample,
    fir_filter,
    fir_kernel,
    fir_upsample,
    group_norm,
    zero_,
)

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)


class Shifted(nn.Module):
    """A norm that shows whether it was asked, and with what."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return x + condition


def test_norms_have_32_groups_where_they_can() -> None:
    assert [group_norm(channels).num_groups for channels in (64, 32, 48, 12, 7)] == [32, 32, 16, 4, 1]
    x = 3 + 2 * torch.randn(2, 64, 5, 5, dtype=torch.float64)
    groups = group_norm(64).double()(x).unflatten(1, (32, 2))
    torch.testing.assert_close(groups.mean((2, 3, 4)), torch.zeros(2, 32, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(groups.square().mean((2, 3, 4)), torch.ones(2, 32, dtype=torch.float64),
                               rtol=0, atol=1e-5)  # eps 1e-6, over a variance of 4


def test_zeroed_convolution_gives_zeros() -> None:
    assert zero_(nn.Conv2d(2, 3, 3))(torch.randn(1, 2, 5, 5)).abs().max() == 0


@pytest.mark.parametrize("outputs", [4, 6])
def test_residual_block_is_its_formula(outputs: int) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(4, outputs).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)

    def half(y: Tensor, conv: nn.Conv2d) -> Tensor:
        y = F.group_norm(y, math.gcd(32, y.shape[1]), eps=1e-6)
        return F.conv2d(y * torch.sigmoid(y), conv.weight, conv.bias, padding=1)

    shortcut = x
    if outputs != 4:
        weight, bias = block.shortcut.parameters()
        shortcut = torch.einsum("oi,bihw->bohw", weight[..., 0, 0], x) + bias[:, None, None]
    torch.testing.assert_close(block(x), shortcut + half(half(x, block.conv1), block.conv2))


def test_blocks_hand_the_condition_to_their_norms() -> None:
    torch.manual_seed(0)
    x, condition = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    block, attention = ResidualBlock(4, 4, Shifted), SelfAttention(4, norm=Shifted)
    inner = block.conv1(F.silu(x + condition))
    torch.testing.assert_close(block(x, condition), x + block.conv2(F.silu(inner + condition)))
    free = SelfAttention(4, norm=lambda _: nn.Identity())
    free.qkv, free.out = attention.qkv, attention.out
    torch.testing.assert_close(attention(x, condition), x + free(x + condition) - (x + condition))


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_scaled_products(heads: int) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, heads).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    q, k, v = layer.qkv(F.group_norm(x, 8, eps=1e-6)).flatten(2).chunk(3, dim=1)
    parts = []
    for head in range(heads):
        rows = slice(head * 8 // heads, (head + 1) * 8 // heads)
        weight = torch.softmax(q[:, rows].transpose(1, 2) @ k[:, rows] / (8 / heads) ** 0.5, dim=-1)
        parts.append(v[:, rows] @ weight.transpose(1, 2))
    wanted = x + layer.out(torch.cat(parts, dim=1).reshape(2, 8, 3, 3))
    torch.testing.assert_close(layer(x), wanted)


def test_upsample_repeats_pixels_and_then_convolves() -> None:
    torch.manual_seed(0)
    layer, x = Upsample(2), torch.randn(1, 2, 3, 3)
    twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x), F.conv2d(twice, layer.conv.weight, layer.conv.bias, padding=1))


def test_scaled_linear_starts_as_its_formula() -> None:
    torch.manual_seed(0)
    layer = ScaledLinear(256, 512, bias=1.0, activate=True, learning_rate_scale=0.01)
    x = torch.randn(64, 256)
    y = F.linear(x, layer.weight * 0.01 / 16, torch.ones(512))
    torch.testing.assert_close(layer(x), math.sqrt(2) * torch.where(y > 0, y, 0.2 * y))
    assert layer.weight.std().item() == pytest.approx(100, rel=0.01)


def test_filtering_is_a_convolution_of_every_plane() -> None:
    x = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    x[0, 0, 4, 4] = x[0, 1, 3, 5] = 1
    y = fir_filter(x, fir_kernel(), pad=(2, 2))
    assert y.shape == (1, 2, 10, 10)
    blur = torch.outer(TAPS, TAPS) / 64
    torch.testing.assert_close(y[0, 0, 3:7, 3:7], blur)
    torch.testing.assert_close(y[0, 1, 2:6, 4:8], blur)
    torch.testing.assert_close(y.sum((2, 3)), torch.ones(1, 2, dtype=torch.float64))
    torch.testing.assert_close(fir_filter(x, fir_kernel(), pad=(2, 2), stride=2), y[..., ::2, ::2])


def test_upsampling_keeps_what_is_constant_and_where_it_is() -> None:
    kernel = fir_kernel().double()
    assert torch.allclose(kernel, torch.outer(TAPS, TAPS) / 64)
    flat = fir_upsample(torch.full((1, 2, 8, 8), 0.7, dtype=torch.float64), kernel)
    assert flat.shape == (1, 2, 16, 16)
    torch.testing.assert_close(flat[..., 2:-2, 2:-2], torch.full((1, 2, 12, 12), 0.7, dtype=torch.float64))
    ramp = fir_upsample(torch.arange(8, dtype=torch.float64).expand(1, 1, 8, 8), kernel)[0, 0, 8]
    torch.testing.assert_close(ramp[2:-2], torch.arange(0.75, 6.5, 0.5, dtype=torch.float64))
