"""Feature block -> image: taming-transformers' VQGAN decoder (arXiv:2012.09841), the baseline of BRICS's Table 3.

Input `(B, C, H_d, W_d)`, unbounded; output `(B, 3, H, W)`, about [-1, 1] and not clamped.

Differs from VQGAN: no 1x1 `post_quant_conv` in front. taming keeps it outside its Decoder, and Table 3's parameters and
operations come out to the last printed digit without it.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.layers import Attention, Norm, ResidualBlock, SelfAttention, Upsample, group_norm


class ConvDecoder(nn.Module):
    """The encoder backwards, with one residual block more at each resolution: `multipliers[0]` is that of the image.

    The `code`'s resolution, of `attention`, is here H_d.
    """

    def __init__(self, *, inputs: int, channels: int, multipliers: Sequence[int], blocks: int,
                 attention: Attention, norm: Norm = group_norm) -> None:
        super().__init__()
        width = channels * multipliers[-1]
        self.stem = nn.Conv2d(inputs, width, 3, padding=1)
        layers: list[nn.Module] = [ResidualBlock(width, width, norm)]
        if attention != "none":
            layers.append(SelfAttention(width, norm=norm))
        layers.append(ResidualBlock(width, width, norm))
        for level, multiplier in enumerate(reversed(multipliers)):
            if level:
                layers.append(Upsample(width))
            for _ in range(blocks + 1):
                layers.append(ResidualBlock(width, channels * multiplier, norm))
                width = channels * multiplier
                if level == 0 and attention == "code":
                    layers.append(SelfAttention(width, norm=norm))
        self.body = nn.ModuleList(layers)
        self.norm = norm(width)
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where VQGAN's adaptive weight compares gradients (Eq. 7 there)."""
        return self.out.get_parameter("weight")

    def forward(self, features: Tensor) -> Tensor:
        return self.decode(features)

    def decode(self, features: Tensor, *condition: Tensor) -> Tensor:
        """`forward`, handing `condition` to every norm."""
        x = self.stem(features)
        for layer in self.body:
            x = layer(x) if isinstance(layer, Upsample) else layer(x, *condition)
        return self.out(F.silu(self.norm(x, *condition)))
