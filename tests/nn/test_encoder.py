"""The encoder: taming's layers, counted, and the size of the code."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bricscli.build import count_parameters
from bricscli.nn.encoder import Downsample, Encoder
from bricscli.nn.layers import SelfAttention


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def count_taming(channels: int, multipliers: list[int], blocks: int, attention: bool, outputs: int) -> int:
    """Parameters of taming-transformers' Encoder, summed from its description."""

    def block(a: int, b: int) -> int:
        return 2 * a + conv(a, b, 3) + 2 * b + conv(b, b, 3) + (conv(a, b, 1) if a != b else 0)

    def attend(a: int) -> int:
        return 2 * a + 4 * conv(a, a, 1) if attention else 0

    total, width = conv(3, channels, 3), channels
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            total += block(width, channels * multiplier)
            width = channels * multiplier
            if level == len(multipliers) - 1:
                total += attend(width)
        if level < len(multipliers) - 1:
            total += conv(width, width, 3)
    return total + 2 * block(width, width) + attend(width) + 2 * width + conv(width, outputs, 3)


@pytest.mark.parametrize(("channels", "multipliers", "blocks", "attention", "outputs"), [
    (128, [1, 1, 2, 2, 4], 2, True, 256),  # taming's f = 16
    (32, [1, 2, 4], 2, True, 4),  # BRICS's 64x64x4
    (8, [1], 1, False, 2),
    (12, [1, 3], 3, True, 2),
])
def test_sizes_and_counts(channels: int, multipliers: list[int], blocks: int, attention: bool, outputs: int) -> None:
    with torch.device("meta"):
        encoder = Encoder(channels=channels, multipliers=multipliers, blocks=blocks, attention=attention,
                          outputs=outputs)
        code = encoder(torch.empty(2, 3, 64, 64))
    size = 64 // 2 ** (len(multipliers) - 1)
    assert code.shape == (2, outputs, size, size)
    assert count_parameters(encoder) == count_taming(channels, multipliers, blocks, attention, outputs)


def test_attention_is_at_the_codes_resolution_only() -> None:
    with torch.device("meta"):
        encoder = Encoder(channels=32, multipliers=[1, 2], blocks=2, attention=True, outputs=4)
        sizes: list[int] = []
        for module in encoder.modules():
            if isinstance(module, SelfAttention):
                module.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[-1]))
        encoder(torch.empty(1, 3, 32, 32))
    assert sizes == [16, 16, 16]


def test_downsampling_pads_right_and_below() -> None:
    torch.manual_seed(0)
    layer = Downsample(2)
    x = torch.randn(1, 2, 6, 6)
    wanted = F.conv2d(torch.cat([torch.cat([x, torch.zeros(1, 2, 6, 1)], 3), torch.zeros(1, 2, 1, 7)], 2),
                      layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x), wanted)
    assert wanted.shape[-1] == 3


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_scaled_products(heads: int) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, heads).double()
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    q, k, v = layer.qkv(F.group_norm(x, 8, layer.norm.weight, layer.norm.bias, 1e-6)).flatten(2).chunk(3, dim=1)
    parts = []
    for head in range(heads):
        rows = slice(head * 8 // heads, (head + 1) * 8 // heads)
        weight = torch.softmax(q[:, rows].transpose(1, 2) @ k[:, rows] / (8 / heads) ** 0.5, dim=-1)
        parts.append(v[:, rows] @ weight.transpose(1, 2))
    wanted = x + layer.out(torch.cat(parts, dim=1).reshape(2, 8, 3, 3))
    torch.testing.assert_close(layer(x), wanted)


def test_norms_have_32_groups_where_they_can() -> None:
    encoder = Encoder(channels=64, multipliers=[1], blocks=1, attention=False, outputs=1)
    assert {m.num_groups for m in encoder.modules() if isinstance(m, nn.GroupNorm)} == {32}
