"""Image -> critic's score: StyleGAN2's residual discriminator (arXiv:1912.04958), used with WGAN-GP.

Differs from StyleGAN2: no minibatch standard deviation, since the gradient penalty is defined per image.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.layers import SQRT2, ScaledLinear, fir_filter, fir_kernel


class ScaledConv(nn.Module):
    """Convolution with run-time weight scale; `down` halves the resolution behind a low-pass."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, down: bool = False, activate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if activate else None
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.kernel, self.down, self.activate = kernel, down, activate
        self.fir: Tensor
        self.register_buffer("fir", fir_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.gain
        if self.down:
            pad = (self.kernel + 1) // 2  # keeps H/2 exactly, for kernels 1 and 3
            x = fir_filter(x, self.fir, pad=(pad, pad))
            x = F.conv2d(x, weight, self.bias, stride=2)
        else:
            x = F.conv2d(x, weight, self.bias, padding=self.kernel // 2)
        return F.leaky_relu(x, 0.2) * SQRT2 if self.activate else x


class DownBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut, to half the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ScaledConv(inputs, inputs, 3)
        self.conv2 = ScaledConv(inputs, outputs, 3, down=True)
        self.shortcut = ScaledConv(inputs, outputs, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.shortcut(x)) / SQRT2


class Discriminator(nn.Module):
    """`(B, 3, H, W)` in [-1, 1] -> score `(B,)`; halves the resolution down to 4 pixels, where it can."""

    def __init__(self, *, resolution: int, channels: int, max_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [ScaledConv(3, channels, 1)]
        width = channels
        while resolution > 4 and resolution % 2 == 0:
            layers.append(DownBlock(width, min(2 * width, max_channels)))
            width, resolution = min(2 * width, max_channels), resolution // 2
        layers.append(ScaledConv(width, width, 3))
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), ScaledLinear(width * resolution**2, width, activate=True),
                                  ScaledLinear(width, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image)).squeeze(1)
