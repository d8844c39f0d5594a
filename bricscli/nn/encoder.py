"""Image -> code: taming-transformers' VQGAN encoder (BRICS arXiv:2305.18601v3, section 3.1 and App. A.1).

Input `(B, 3, H, W)` in [-1, 1]; output `(B, C, H_z, W_z)`, unbounded: the bottleneck makes a code of it.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.layers import SelfAttention, group_norm


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 convolution, twice, beside a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return self.shortcut(x) + y


class Downsample(nn.Module):
    """Stride-2 3x3 convolution, padded right and below only, as taming does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Encoder(nn.Module):
    """taming's encoder; self-attention at the code's resolution, min(H_z, W_z) (App. A.1)."""

    def __init__(self, *, channels: int, multipliers: Sequence[int], blocks: int, attention: bool,
                 outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
        width = channels
        for level, multiplier in enumerate(multipliers):
            last = level == len(multipliers) - 1
            for _ in range(blocks):
                layers.append(ResidualBlock(width, channels * multiplier))
                width = channels * multiplier
                if last and attention:
                    layers.append(SelfAttention(width))
            if not last:
                layers.append(Downsample(width))
        layers.append(ResidualBlock(width, width))
        if attention:
            layers.append(SelfAttention(width))
        layers.append(ResidualBlock(width, width))
        self.body = nn.Sequential(*layers)
        self.norm = group_norm(width)
        self.out = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(F.silu(self.norm(self.body(image))))
