"""Feature block -> image: a light StyleGAN2-shaped decoder (BRICS arXiv:2305.18601v3, section 3.3).

The feature block takes the place of StyleGAN2's constant; the style is a mapping of its spatial average.
With widths (512, 256, 192) from 64 to 256 pixels this has Table 3's 9.9 M parameters and 63.1 GMACs.

Differs from StyleGAN2 (arXiv:1912.04958): no per-pixel noise inputs, for a reconstruction is not random.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.decoders.conditional import Blender, Conditional, Kept, finish
from bricscli.nn.layers import SQRT2, ScaledLinear, fir_filter, fir_kernel, fir_upsample


class ModulatedConv(nn.Module):
    """StyleGAN2's 3x3 convolution: input channels scaled by a style, output normalised and multiplied by sqrt(2).

    Scaling activations instead of weights gives the same numbers with one dense convolution for the whole batch;
    `reference` makes the weights of every image. The factor is that of the activation behind it, which is positively
    homogeneous: here it costs no pass over the features.
    """

    def __init__(self, inputs: int, outputs: int, style_width: int, *, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.gain = 1 / math.sqrt(inputs * 9)
        self.style = ScaledLinear(style_width, inputs, bias=1.0)
        self.up = up
        self.fir: Tensor
        self.register_buffer("fir", fir_kernel(), persistent=False)

    def forward(self, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        weight = self.weight * self.gain
        style = self.style(w)
        x = x * style[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = fir_filter(x, self.fir * 4, pad=(1, 1))
        else:
            x = F.conv2d(x, weight, padding=1)
        # No matrix product, which autocast would compute in bfloat16.
        norm = (style.to(weight).square()[:, None] * weight.square().sum((2, 3))).sum(2).add(1e-8).rsqrt()
        norm = norm[:, :, None, None]
        return torch.addcmul(bias.to(x.dtype), x, norm.to(x.dtype), value=SQRT2)  # autocast: the features stay bfloat16

    def reference(self, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        """`forward` by weights (arXiv:1912.04958, Eqs. 1 and 3): one group of channels for each image."""
        weight = self.weight * self.gain * self.style(w)[:, None, :, None, None]  # (B, outputs, inputs, 3, 3)
        weight = weight * weight.square().sum((2, 3, 4), keepdim=True).add(1e-8).rsqrt() * SQRT2
        images, grouped = len(x), x.flatten(0, 1)[None]
        if self.up:
            y = F.conv_transpose2d(grouped, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=images)
            y = fir_filter(y, self.fir * 4, pad=(1, 1))
        else:
            y = F.conv2d(grouped, weight.flatten(0, 1), padding=1, groups=images)
        return y.unflatten(1, (images, -1))[0] + bias


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, bias, leaky ReLU with gain sqrt(2)."""

    def __init__(self, inputs: int, outputs: int, style_width: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, style_width, up=up)
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return F.leaky_relu_(self.conv(x, w, self.bias * SQRT2), 0.2)


class ExtraLayer(nn.Module):
    """A styled layer beside the identity, which it begins as."""

    def __init__(self, channels: int, style_width: int) -> None:
        super().__init__()
        self.layer = StyledLayer(channels, channels, style_width)
        self.share = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return x + self.share.to(x.dtype) * self.layer(x, w)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, without demodulation: so few weights that each image has its own."""

    def __init__(self, inputs: int, style_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs))
        self.gain = 1 / math.sqrt(inputs)
        self.style = ScaledLinear(style_width, inputs, bias=1.0)
        self.bias = nn.Parameter(torch.zeros(3, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight * self.gain * self.style(w)[:, None]  # (B, 3, inputs)
        return (weight @ x.flatten(2) + self.bias).unflatten(2, x.shape[2:])


class StyleDecoder(nn.Module):
    """`(B, C_d, H_d, W_d) -> (B, 3, H, W)`, about [-1, 1] and not clamped; `channels[i]` at H_d 2^i.

    `extra_layers` more layers at each resolution are added to what they are given, at first with weight 0.
    With a `condition` it can be told what is `kept` of the picture: features are blended before and after the second
    layer of each resolution (after the last there is nothing that would see them), and the kept pixels over the image.
    """

    def __init__(self, *, inputs: int, channels: Sequence[int], style_width: int, mapping_layers: int,
                 extra_layers: int = 0, conditional: Mapping[str, Any] | None = None) -> None:
        """`conditional`: the arguments of `Conditional` but its places."""
        super().__init__()
        widths = [inputs, *[style_width] * mapping_layers]
        self.mapping = nn.Sequential(*(ScaledLinear(a, b, activate=True, learning_rate_scale=0.01)
                                       for a, b in itertools.pairwise(widths)))
        self.first, self.second, self.to_rgb = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.extra = nn.ModuleList()
        width = inputs
        for level, outputs in enumerate(channels):
            self.first.append(StyledLayer(width, outputs, style_width, up=level > 0))
            self.second.append(StyledLayer(outputs, outputs, style_width))
            self.to_rgb.append(ToRGB(outputs, style_width))
            self.extra.append(nn.ModuleList(ExtraLayer(outputs, style_width) for _ in range(extra_layers)))
            width = outputs
        self.condition: Conditional | None = None
        if conditional is not None:
            halvings = range(len(channels) - 1, -1, -1)
            places = [(h, width) for h, width in zip(halvings, channels, strict=True) for _ in range(2)][:-1]
            self.condition = Conditional(places=places, **conditional)
        self.fir: Tensor
        self.register_buffer("fir", fir_kernel(), persistent=False)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where VQGAN's adaptive weight compares gradients: the convolution of the last ToRGB."""
        return self.to_rgb[-1].get_parameter("weight")

    def forward(self, features: Tensor, kept: Kept | None = None) -> Tensor:
        w, image = self._style(features), torch.zeros(())
        for level, (x, to_rgb) in enumerate(zip(self._levels(features, w, kept), self.to_rgb, strict=True)):
            rgb = to_rgb(x, w)
            image = fir_upsample(image, self.fir) + rgb if level else rgb
        return finish(self.condition, image, kept)

    def iter_features(self, features: Tensor) -> Iterator[Tensor]:
        """What each level hands to the next and to its ToRGB: `(B, channels[i], H_d 2^i, W_d 2^i)`."""
        return self._levels(features, self._style(features), None)

    @torch.no_grad()
    def widen(self, weights: Mapping[str, Tensor]) -> None:
        """Takes those of a narrower decoder, as its `state_dict` names them: the images stay as they were.

        They fill the first channels, which see nothing of the others.
        """
        own = self.state_dict()
        for name, base in weights.items():
            if name not in own or any(a < b for a, b in zip(own[name].shape, base.shape, strict=True)):
                continue  # of other layers, or of a wider decoder
            # A convolution's output is normalised; that of ToRGB is divided by the root of its inputs.
            gain = math.sqrt(own[name].shape[1] / base.shape[1]) if base.shape[0] == 3 else 1.0
            own[name][:len(base)] = 0
            own[name][tuple(map(slice, base.shape))] = base * gain

    def _style(self, features: Tensor) -> Tensor:
        w = features.mean((2, 3))
        return self.mapping(w * w.square().mean(1, keepdim=True).add(1e-8).rsqrt())

    def _levels(self, x: Tensor, w: Tensor, kept: Kept | None) -> Iterator[Tensor]:
        blend = Blender(self.condition, kept)
        for level, (first, second, extra) in enumerate(zip(self.first, self.second, self.extra, strict=True), start=1):
            x = second(blend(first(x, w)), w)
            for layer in cast(nn.ModuleList, extra):
                x = layer(x, w)
            x = blend(x) if level < len(self.first) else x
            yield x
