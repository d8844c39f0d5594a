"""Feature block -> image: taming-transformers' VQGAN decoder (arXiv:2012.09841), the baseline of BRICS's Table 3.

Input `(B, C, H_d, W_d)`, unbounded; output `(B, 3, H, W)`, about [-1, 1] and not clamped.

Differs from VQGAN: no 1x1 `post_quant_conv` in front, unless as `projection`, which imported weights need. taming keeps
it outside its Decoder, and Table 3's parameters and operations come out to the last printed digit without it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.decoders.conditional import Blender, Conditional, Kept, finish
from bricscli.nn.layers import Attention, Norm, ResidualBlock, SelfAttention, Upsample, group_norm


class ConvDecoder(nn.Module):
    """The encoder backwards, with one residual block more at each resolution: `multipliers[0]` is that of the image.

    The `code`'s resolution, of `attention`, is here H_d. With a `condition` it can be told what is `kept` of the
    picture: features are blended before each upsampling and after the last block, and the kept pixels over the image.
    """

    def __init__(self, *, inputs: int, channels: int, multipliers: Sequence[int], blocks: int,
                 attention: Attention, projection: int = 0, norm: Norm = group_norm,
                 conditional: Mapping[str, Any] | None = None) -> None:
        """`projection`: channels of a 1x1 convolution in front, 0: none. It cannot be folded into the next: at the
        edge, that one sees zeros where the image ends, not the projection's bias.

        `conditional`: the arguments of `Conditional` but its places.
        """
        super().__init__()
        width = channels * multipliers[-1]
        self.project = nn.Conv2d(inputs, projection, 1) if projection else nn.Identity()
        self.stem = nn.Conv2d(projection or inputs, width, 3, padding=1)
        layers: list[nn.Module] = [ResidualBlock(width, width, norm)]
        if attention != "none":
            layers.append(SelfAttention(width, norm=norm))
        layers.append(ResidualBlock(width, width, norm))
        ends, places = [len(layers)], list[tuple[int, int]]()
        for level, multiplier in enumerate(reversed(multipliers)):
            if level:
                places.append((len(multipliers) - level, width))
                layers.append(Upsample(width))
                ends.append(len(layers))
            for _ in range(blocks + 1):
                layers.append(ResidualBlock(width, channels * multiplier, norm))
                width = channels * multiplier
                if level == 0 and attention == "code":
                    layers.append(SelfAttention(width, norm=norm))
        self.body = nn.ModuleList(layers)
        self._ends = {*ends, len(layers)}  # of the middle and of each resolution, as numbers of layers
        self.condition: Conditional | None = None
        if conditional is not None:
            self.condition = Conditional(places=[*places, (0, width)], **conditional)
        self.norm = norm(width)
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where VQGAN's adaptive weight compares gradients (Eq. 7 there)."""
        return self.out.get_parameter("weight")

    def forward(self, features: Tensor, kept: Kept | None = None) -> Tensor:
        x = features
        for x in self._layers(features, kept):  # noqa: B007 (the last of them)
            pass
        image = self.out(F.silu(self.norm(x, *self.norm_inputs(features))))
        return finish(self.condition, image, kept)

    def iter_features(self, features: Tensor) -> Iterator[Tensor]:
        """After the middle, and after the blocks of each resolution with their upsampling: `(B, C, H, W)`.

        The resolutions are H_d, 2 H_d, 4 H_d, ... and, of the last, again that of the image.
        """
        for number, x in enumerate(self._layers(features, None), start=1):
            if number in self._ends:
                yield x

    def _layers(self, features: Tensor, kept: Kept | None) -> Iterator[Tensor]:
        """What comes after each of them."""
        x, inputs, blend = self.stem(self.project(features)), self.norm_inputs(features), Blender(self.condition, kept)
        for number, layer in enumerate(self.body, start=1):
            x = layer(blend(x)) if isinstance(layer, Upsample) else layer(x, *inputs)
            yield blend(x) if number == len(self.body) else x

    def norm_inputs(self, features: Tensor) -> tuple[Tensor, ...]:
        """What every norm is called with beside its input: nothing."""
        return ()
