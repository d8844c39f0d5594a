"""Feature block -> image: a light StyleGAN2-shaped decoder (BRICS arXiv:2305.18601v3, section 3.3).

The feature block takes the place of StyleGAN2's constant; the style is a mapping of its spatial average.
With widths (512, 256, 192) from 64 to 256 pixels this has Table 3's 9.9 M parameters and 63.1 GMACs.

Differs from StyleGAN2 (arXiv:1912.04958): no per-pixel noise inputs, for a reconstruction is not random.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.layers import SQRT2, ScaledLinear, fir_filter, fir_kernel, fir_upsample


class ModulatedConv(nn.Module):
    """StyleGAN2's convolution whose input channels are scaled by a style, and whose output is normalised.

    Scaling activations instead of weights gives the same numbers with one dense convolution for the whole batch.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_width: int, *, up: bool = False,
                 demodulate: bool = True, output_gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.style = ScaledLinear(style_width, inputs, bias=1.0)
        self.up, self.demodulate, self.padding = up, demodulate, kernel // 2
        self.output_gain = output_gain  #: on the demodulated output
        self.fir: Tensor
        self.register_buffer("fir", fir_kernel(), persistent=False)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight * self.gain
        style = self.style(w)
        x = x * style[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = fir_filter(x, self.fir * 4, pad=(1, 1))
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            norm = style.square() @ weight.square().sum((2, 3)).T
            x = x * (norm.add(1e-8).rsqrt() * self.output_gain)[:, :, None, None]
        return x


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, bias, leaky ReLU with gain sqrt(2).

    The gain is applied to the small factors before the activation, which is positively homogeneous: one pass over the
    feature map less.
    """

    def __init__(self, inputs: int, outputs: int, style_width: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_width, up=up, output_gain=SQRT2)
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(x, w) + self.bias * SQRT2, 0.2)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, without demodulation."""

    def __init__(self, inputs: int, style_width: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style_width, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w) + self.bias


class StyleDecoder(nn.Module):
    """`(B, C_d, H_d, W_d) -> (B, 3, H, W)`, about [-1, 1] and not clamped; `channels[i]` at H_d 2^i."""

    def __init__(self, *, inputs: int, channels: Sequence[int], style_width: int, mapping_layers: int) -> None:
        super().__init__()
        widths = [inputs, *[style_width] * mapping_layers]
        self.mapping = nn.Sequential(*(ScaledLinear(a, b, activate=True, learning_rate_scale=0.01)
                                       for a, b in itertools.pairwise(widths)))
        self.first, self.second, self.to_rgb = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width = inputs
        for level, outputs in enumerate(channels):
            self.first.append(StyledLayer(width, outputs, style_width, up=level > 0))
            self.second.append(StyledLayer(outputs, outputs, style_width))
            self.to_rgb.append(ToRGB(outputs, style_width))
            width = outputs
        self.fir: Tensor
        self.register_buffer("fir", fir_kernel(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        w = features.mean((2, 3))
        w = self.mapping(w * w.square().mean(1, keepdim=True).add(1e-8).rsqrt())
        x, image = features, torch.zeros(())
        for level, (first, second, to_rgb) in enumerate(zip(self.first, self.second, self.to_rgb, strict=True)):
            x = second(first(x, w), w)
            rgb = to_rgb(x, w)
            image = fir_upsample(image, self.fir) + rgb if level else rgb
        return image
