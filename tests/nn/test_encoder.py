"""The encoder: taming's layers, counted, and the size of the code."""

import pytest
import torch
from torch.nn import functional as F

from bricscli.nn.encoder import Downsample, Encoder
from bricscli.nn.layers import Attention, SelfAttention


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def count_taming(channels: int, multipliers: list[int], blocks: int, attention: str, outputs: int) -> int:
    """Parameters of taming-transformers' Encoder, summed from its description."""

    def block(a: int, b: int) -> int:
        return 2 * a + conv(a, b, 3) + 2 * b + conv(b, b, 3) + (conv(a, b, 1) if a != b else 0)

    def attend(a: int) -> int:
        return 2 * a + 4 * conv(a, a, 1)

    total, width = conv(3, channels, 3), channels
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            total += block(width, channels * multiplier)
            width = channels * multiplier
            if level == len(multipliers) - 1 and attention == "code":
                total += attend(width)
        if level < len(multipliers) - 1:
            total += conv(width, width, 3)
    total += 2 * block(width, width) + (attend(width) if attention != "none" else 0)
    return total + 2 * width + conv(width, outputs, 3)


@pytest.mark.parametrize(("channels", "multipliers", "blocks", "attention", "outputs"), [
    (128, [1, 1, 2, 2, 4], 2, "code", 256),  # taming's f = 16
    (128, [1, 1, 2, 2], 2, "middle", 256),  # taming's f = 8, whose attention at 16 is not reached
    (32, [1, 2, 4], 2, "code", 4),  # BRICS's 64x64x4
    (8, [1], 1, "none", 2),
    (12, [1, 3], 3, "code", 2),
])
def test_sizes_and_counts(channels: int, multipliers: list[int], blocks: int, attention: Attention,
                          outputs: int) -> None:
    with torch.device("meta"):
        encoder = Encoder(channels=channels, multipliers=multipliers, blocks=blocks, attention=attention,
                          outputs=outputs)
        code = encoder(torch.empty(2, 3, 64, 64))
    size = 64 // 2 ** (len(multipliers) - 1)
    assert code.shape == (2, outputs, size, size)
    found = sum(p.numel() for p in encoder.parameters())
    assert found == count_taming(channels, multipliers, blocks, attention, outputs)


@pytest.mark.parametrize(("attention", "sizes"), [("code", [16, 16, 16]), ("middle", [16]), ("none", [])])
def test_attention_is_at_the_codes_resolution_only(attention: Attention, sizes: list[int]) -> None:
    with torch.device("meta"):
        encoder = Encoder(channels=32, multipliers=[1, 2], blocks=2, attention=attention, outputs=4)
        seen: list[int] = []
        for module in encoder.modules():
            if isinstance(module, SelfAttention):
                module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[-1]))
        encoder(torch.empty(1, 3, 32, 32))
    assert seen == sizes


def test_downsampling_pads_right_and_below() -> None:
    torch.manual_seed(0)
    layer = Downsample(2)
    x = torch.randn(1, 2, 6, 6)
    wanted = F.conv2d(torch.cat([torch.cat([x, torch.zeros(1, 2, 6, 1)], 3), torch.zeros(1, 2, 1, 7)], 2),
                      layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x), wanted)
    assert wanted.shape[-1] == 3
