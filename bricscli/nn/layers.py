"""Layers that more than one network uses: taming's residual and attention blocks, StyleGAN2's scaled layers.

Everything is plain PyTorch; features are `(B, C, H, W)` float. A *norm* is made for a number of channels and called
with features; MoVQ's is called with a `condition` as well, which the blocks hand through.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SQRT2 = math.sqrt(2.0)
Norm = Callable[[int], nn.Module]
M = TypeVar("M", bound=nn.Module)
#: Where taming's networks attend: after every block at the code's resolution and in the middle; there only; nowhere.
Attention = Literal["code", "middle", "none"]


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with taming's 32 groups, or as many as divide `channels`."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


def zero_(layer: M) -> M:
    """Makes a layer give zeros at first, so that what it is added to starts as if it were not there."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 convolution, twice, beside a 1x1 shortcut where the width changes: taming's ResnetBlock."""

    def __init__(self, inputs: int, outputs: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x, *condition)))
        y = self.conv2(F.silu(self.norm2(y, *condition)))
        return self.shortcut(x) + y


class SelfAttention(nn.Module):
    """Residual self-attention over all positions.

    `heads=1` is taming's AttnBlock; scaled-dot-product attention gives its numbers in a twelfth of the memory. The 1x1
    convolutions are computed as linear layers on `(B, H W, C)`: three quarters of the time on a CPU.
    """

    def __init__(self, channels: int, heads: int = 1, norm: Norm = group_norm) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.norm(x, *condition).flatten(2).mT
        qkv = F.linear(y, self.qkv.weight.flatten(1), self.qkv.bias).view(b, h * w, 3, self.heads, c // self.heads)
        y = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
        return x + F.linear(y, self.out.weight.flatten(1), self.out.bias).mT.reshape(b, c, h, w)


class Upsample(nn.Module):
    """Nearest neighbour to twice the resolution, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ScaledLinear(nn.Module):
    """Linear layer with StyleGAN's run-time weight scale (equalised learning rate): unit-variance weights."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, activate: bool = False,
                 learning_rate_scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / learning_rate_scale)
        self.bias = nn.Parameter(torch.full((outputs,), bias / learning_rate_scale))
        self.gain = learning_rate_scale / math.sqrt(inputs)
        self.bias_gain = learning_rate_scale
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.gain, self.bias * self.bias_gain)
        return F.leaky_relu(y, 0.2) * SQRT2 if self.activate else y


def fir_kernel() -> Tensor:
    """StyleGAN2's separable low-pass [1, 3, 3, 1], normalised: `(4, 4)` with sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(taps, taps)


def fir_filter(x: Tensor, kernel: Tensor, pad: tuple[int, int], stride: int = 1) -> Tensor:
    """Filter every channel of `x` with the same `(k, k)` kernel; `pad`: zeros around rows and columns, in pixels."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv2d(x, weight, stride=stride, padding=pad, groups=channels)


def fir_upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Twice the resolution: zeros between the pixels, then the low-pass with gain 4: `(B,C,H,W) -> (B,C,2H,2W)`."""
    channels = x.shape[1]
    weight = (kernel * 4).to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)
