"""What a decoder is told of a picture whose other part is replaced (Asymmetric VQGAN, arXiv:2306.04632, section 3.2).

Y: the picture, 0 where it is replaced; m: 1 = replaced, 0 = kept. A light encoder E of (Y, m) gives features f_E at
each resolution of the decoder, which are blended into its own: f_dec m + f_E (1 - m) (Eq. 4), or by concatenation
(Table 3).

Differs from the paper: plain convolutions that see the mask as a fourth channel, in place of partial ones; no norm. The
last blend is that of the image itself, so that the kept pixels come out as they went in: their decoder has to learn to
copy them (Pre_error 2.6e-5). What is left to learn is the replaced part, which sees them at every resolution.
Differs from the paper, concatenation: its 1x1 convolution begins as the decoder's own features (they begin at random).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
            features, m = known[place]
            return x * m.to(x.dtype) + features.to(x.dtype)
        features, m = (torch.zeros_like(x), torch.ones_like(x[:, :1])) if known is None else known[place]
        return self.mix[place](torch.cat([x, features.to(x.dtype), m.to(x.dtype)], 1))


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
