"""What a decoder is told of a picture whose other part is replaced (Asymmetric VQGAN, arXiv:2306.04632, section 3.2).

Y: the picture, 0 where it is replaced; m: 1 = replaced, 0 = kept. A light encoder E of (Y, m) gives features f_E at
each resolution of the decoder, which are blended into its own: f_dec m + f_E (1 - m) (Eq. 4), or by concatenation
(Table 3).

Differs from the paper: plain convolutions that see the mask as a fourth channel, in place of partial ones; no norm.
Differs from the paper: training begins with the decoder as it was. f_E is what E adds to f_dec, so that Eq. 4 becomes
f_dec + f_E (1 - m), at first with f_E = 0; the 1x1 convolution of a concatenation at first gives f_dec.
Differs from the paper: the last blend is that of the image itself, so that the kept pixels come out as they went in:
their decoder has to learn to copy them (Pre_error 2.6e-5). Before it, what the decoder got wrong in the kept pixels,
which is known, is continued across the mask's edge by a few convolutions, at first by 0: no seam as of pasting.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.layers import zero_

Blend = Literal["addition", "concatenation"]


@dataclass(frozen=True)
class Kept:
    """The part of a picture that stays; what `image` holds in the other part, even NaN, changes nothing."""

    image: Tensor  #: (B, 3, H, W) in [-1, 1]
    mask: Tensor  #: (B, 1, H, W), 1 = replace, 0 = keep

    def __post_init__(self) -> None:
        """Raises ValueError where the shapes do not fit each other."""
        image, mask = tuple(self.image.shape), tuple(self.mask.shape)
        if len(image) != 4 or image[1] != 3 or mask != (image[0], 1, *image[2:]):
            raise ValueError(f"images {image} and masks {mask} are not (B, 3, H, W) and (B, 1, H, W)")

    @property
    def masked(self) -> Tensor:
        """Y: the image, exactly 0 where it is replaced."""
        return torch.where(self.mask > 0.5, torch.zeros_like(self.image), self.image)

    def over(self, image: Tensor) -> Tensor:
        """`image`, with the kept pixels in the place of its own."""
        return torch.where(self.mask > 0.5, image, self.image.to(image.dtype))


#: f_E (1 - m) and m, of each blend.
Known = Sequence[tuple[Tensor, Tensor]]
_REACH = (1, 2, 4, 1)  #: dilations of the convolutions that continue errors: up to 8 pixels


class Conditional(nn.Module):
    """E and the blends of one decoder, in the decoder's order.

    `places` are (halvings, width) of each blend: how often the image's resolution was halved there, and the channels of
    the decoder's features. E has `channels` at the image's resolution, doubled at each halving up to four times, and
    `blocks` residual blocks at each resolution.
    """

    def __init__(self, *, places: Sequence[tuple[int, int]], channels: int, blocks: int, blend: Blend) -> None:
        super().__init__()
        self.halvings, self.blend_kind = [halvings for halvings, _ in places], blend
        self.stem = nn.Conv2d(4, channels, 3, padding=1)
        self.down, self.blocks = nn.ModuleList(), nn.ModuleList()
        widths = [channels * 2 ** min(level, 2) for level in range(max(self.halvings) + 1)]
        for level, width in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(widths[level - 1], width, 4, stride=2, padding=1))
            self.blocks.append(nn.Sequential(*(LightBlock(width) for _ in range(blocks))))
        self.heads = nn.ModuleList(nn.Conv2d(widths[halvings], width, 1) for halvings, width in places)
        self.mix = nn.ModuleList()
        if blend == "concatenation":
            self.mix.extend(_passes_on(2 * width + 1, width) for _, width in places)
        else:
            for head in self.heads:
                zero_(head)
        self.reach, wide = nn.ModuleList(), [4, *[channels] * (len(_REACH) - 1), 3]
        for (inputs, outputs), far in zip(itertools.pairwise(wide), _REACH, strict=True):
            # Without biases: where nothing is kept there is nothing to continue.
            self.reach.append(nn.Conv2d(inputs, outputs, 3, padding=far, dilation=far, bias=False))
        zero_(self.reach[-1])

    def forward(self, kept: Kept) -> Known:
        """What every blend adds, in the decoder's order."""
        mask = (kept.mask > 0.5).to(kept.masked.dtype)
        x = self.stem(torch.cat([kept.masked, mask], 1))
        features = [self.blocks[0](x)]
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            features.append(block(down(F.silu(features[-1]))))
        known = []
        for halvings, head in zip(self.halvings, self.heads, strict=True):
            own = features[halvings]
            m = F.interpolate(mask, own.shape[-2:], mode="nearest")
            known.append((head(F.silu(own)) * (1 - m), m))
        return known

    def blend(self, place: int, x: Tensor, known: Known | None) -> Tensor:
        """The decoder's features `x` at its blend `place`; with `known` None everything is replaced."""
        if self.blend_kind == "addition":
            if known is None:
                return x
            features, _ = known[place]
            return x + features.to(x.dtype)
        features, m = (torch.zeros_like(x), torch.ones_like(x[:, :1])) if known is None else known[place]
        return self.mix[place](torch.cat([x, features.to(x.dtype), m.to(x.dtype)], 1))

    def finish(self, image: Tensor, kept: Kept) -> Tensor:
        """The decoder's image, its errors in the kept pixels continued, and those pixels over it."""
        stays = 1 - (kept.mask > 0.5).to(image.dtype)
        x = torch.cat([(kept.masked.to(image.dtype) - image) * stays, stays], 1)
        for number, conv in enumerate(self.reach):
            x = conv(F.silu(x) if number else x)
        return kept.over(image + x)


class Blender:
    """The blends of one pass through a decoder, one call each, in the decoder's order."""

    def __init__(self, condition: Conditional | None, kept: Kept | None) -> None:
        """Raises ValueError where something is kept and the decoder cannot be told."""
        if condition is None and kept is not None:
            raise ValueError("a decoder without `conditional` cannot be told what is kept")
        self.condition, self.place = condition, 0
        self.known = condition(kept) if condition is not None and kept is not None else None

    def __call__(self, x: Tensor) -> Tensor:
        self.place += 1
        return x if self.condition is None else self.condition.blend(self.place - 1, x, self.known)


def finish(condition: Conditional | None, image: Tensor, kept: Kept | None) -> Tensor:
    """What a decoder gives of its image."""
    return image if condition is None or kept is None else condition.finish(image, kept)


class LightBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, without norms: what is far away does not change what is kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def _passes_on(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that gives, at first, the first `outputs` of its inputs."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.eye_(conv.weight.detach()[:, :, 0, 0])
    nn.init.zeros_(conv.get_parameter("bias"))
    return conv
