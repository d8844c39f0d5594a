"""Image -> code: taming-transformers' VQGAN encoder (BRICS arXiv:2305.18601v3, section 3.1 and App. A.1).

Input `(B, 3, H, W)` in [-1, 1]; output `(B, C, H_z, W_z)`, unbounded: the bottleneck makes a code of it.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.layers import Attention, ResidualBlock, SelfAttention, group_norm


class Downsample(nn.Module):
    """Stride-2 3x3 convolution, padded right and below only, as taming does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Encoder(nn.Module):
    """taming's encoder: each multiplier after the first halves the resolution.

    Self-attention at the `code`'s resolution, min(H_z, W_z) (App. A.1): after every residual block there and in the
    middle; or in the `middle` only, as in taming where no resolution is that of its attention; or `none`.
    """

    def __init__(self, *, channels: int, multipliers: Sequence[int], blocks: int,
                 attention: Attention, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
        width = channels
        for level, multiplier in enumerate(multipliers):
            last = level == len(multipliers) - 1
            for _ in range(blocks):
                layers.append(ResidualBlock(width, channels * multiplier))
                width = channels * multiplier
                if last and attention == "code":
                    layers.append(SelfAttention(width))
            if not last:
                layers.append(Downsample(width))
        layers.append(ResidualBlock(width, width))
        if attention != "none":
            layers.append(SelfAttention(width))
        layers.append(ResidualBlock(width, width))
        self.body = nn.Sequential(*layers)
        self.norm = group_norm(width)
        self.out = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(F.silu(self.norm(self.body(image))))
