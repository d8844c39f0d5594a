"""Feature block -> image: taming-transformers' VQGAN decoder (arXiv:2012.09841), the baseline of BRICS's Table 3.

Input `(B, C, H_d, W_d)`, unbounded; output `(B, 3, H, W)`, about [-1, 1] and not clamped.

Differs from VQGAN: no 1x1 `post_quant_conv` in front. taming keeps it outside its Decoder, and Table 3's parameters and
operations come out to the last printed digit without it.
"""

from collections.abc import Iterator, Sequence

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
        ends = [len(layers)]
        for level, multiplier in enumerate(reversed(multipliers)):
            if level:
                layers.append(Upsample(width))
                ends.append(len(layers))
            for _ in range(blocks + 1):
                layers.append(ResidualBlock(width, channels * multiplier, norm))
                width = channels * multiplier
                if level == 0 and attention == "code":
                    layers.append(SelfAttention(width, norm=norm))
        self.body = nn.ModuleList(layers)
        self._ends = {*ends, len(layers)}  # of the middle and of each resolution, as numbers of layers
        self.norm = norm(width)
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where VQGAN's adaptive weight compares gradients (Eq. 7 there)."""
        return self.out.get_parameter("weight")

    def forward(self, features: Tensor) -> Tensor:
        x, condition = self.stem(features), self.condition(features)
        for layer in self.body:
            x = _apply(layer, x, condition)
        return self.out(F.silu(self.norm(x, *condition)))

    def iter_features(self, features: Tensor) -> Iterator[Tensor]:
        """After the middle, and after the blocks of each resolution with their upsampling: `(B, C, H, W)`.

        The resolutions are H_d, 2 H_d, 4 H_d, ... and, of the last, again that of the image.
        """
        x, condition = self.stem(features), self.condition(features)
        for number, layer in enumerate(self.body, start=1):
            x = _apply(layer, x, condition)
            if number in self._ends:
                yield x

    def condition(self, features: Tensor) -> tuple[Tensor, ...]:
        """What every norm is called with beside its input: nothing."""
        return ()


def _apply(layer: nn.Module, x: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
    return layer(x) if isinstance(layer, Upsample) else layer(x, *condition)
