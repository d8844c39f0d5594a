"""Feature block -> image: MoVQ's decoder (arXiv:2209.09002), which BRICS's Table 9 compares.

VQGAN's decoder in which every norm is modulated at each position by the feature block itself.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.layers import Attention, group_norm


class SpatialNorm(nn.Module):
    """norm(x) * conv_y(features) + conv_b(features): `(B, C, H, W), (B, inputs, H_d, W_d) -> (B, C, H, W)`.

    Differs from MoVQ in order, not in numbers: 1x1 convolutions commute with nearest-neighbour resizing, so that
    they are computed at H_d and not at up to 16 times as many positions.
    """

    def __init__(self, channels: int, *, inputs: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.conv_y, self.conv_b = nn.Conv2d(inputs, channels, 1), nn.Conv2d(inputs, channels, 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        y, b = (F.interpolate(conv(features), x.shape[-2:], mode="nearest") for conv in (self.conv_y, self.conv_b))
        return self.norm(x) * y + b


class MoVQDecoder(ConvDecoder):
    """ConvDecoder with spatially conditional norms: `(B, inputs, H_d, W_d) -> (B, 3, H, W)`."""

    def __init__(self, *, inputs: int, channels: int, multipliers: Sequence[int], blocks: int,
                 attention: Attention, conditional: Mapping[str, Any] | None = None) -> None:
        super().__init__(inputs=inputs, channels=channels, multipliers=multipliers, blocks=blocks,
                         attention=attention, norm=partial(SpatialNorm, inputs=inputs), conditional=conditional)

    def norm_inputs(self, features: Tensor) -> tuple[Tensor, ...]:
        return (features,)
