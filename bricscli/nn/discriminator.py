"""Image -> critic's scores: StyleGAN2's residual discriminator (arXiv:1912.04958), which BRICS trains with WGAN-GP, and
pix2pix's PatchGAN (arXiv:1611.07004) as VQGAN has it (arXiv:2012.09841, taming-transformers).

Images are `(B, 3, H, W)` in [-1, 1].
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


class StyleDiscriminator(nn.Module):
    """Image -> score `(B,)`; halves the resolution down to 4 pixels, where it can.

    Differs from StyleGAN2: no minibatch standard deviation, since the gradient penalty is defined per image.
    """

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


class PatchDiscriminator(nn.Module):
    """Image -> scores `(B, P)` of overlapping patches, 70x70 pixels for three `layers`: `layers` halvings, then two
    convolutions without.

    Width `channels` doubles at every level up to the eighth fold. Not for the gradient penalty: its batch normalisation
    ties the images of a batch together.
    """

    def __init__(self, *, channels: int, layers: int) -> None:
        super().__init__()
        self.smallest = 3 * 2**layers  #: pixels: the two last convolutions take one from each side
        body: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for level in range(1, layers + 1):
            outputs = channels * min(2**level, 8)
            stride = 2 if level < layers else 1
            body += [nn.Conv2d(width, outputs, 4, stride, padding=1, bias=False), nn.BatchNorm2d(outputs),
                     nn.LeakyReLU(0.2)]
            width = outputs
        self.body = nn.Sequential(*body, nn.Conv2d(width, 1, 4, padding=1))
        for module in self.body:  # pix2pix's start
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, image: Tensor) -> Tensor:
        if min(image.shape[2:]) < self.smallest:
            raise ValueError(f"images of {tuple(image.shape[2:])} pixels: this discriminator needs sides of at least"
                             f" {self.smallest}. Use fewer layers.")
        return self.body(image).flatten(1)
