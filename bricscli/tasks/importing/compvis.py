"""CompVis's first stages (latent-diffusion's KL and VQ, taming-transformers' VQGAN): what they are, by their tensors.

Their configuration lies in another file, or nowhere; but names and shapes tell all of it that decides the network.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

Shape = tuple[int, ...]
#: One of ours: the layers of theirs that it is made of, in order. Several are stacked (queries, keys, values).
Names = dict[str, tuple[str, ...]]

_BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
_LEVEL = re.compile(r"^(encoder\.down|decoder\.up)\.(\d{1,3})\.(block|attn)\.(\d{1,3})\.")
_MOST_LEVELS = 12


class CannotHold(Exception):
    """The parts that brics' networks do not have, in words."""


class FirstStage:
    """What tensors of these shapes are, as parts of a recipe, and under which names of ours they go. Raises CannotHold.

    A KL stage's `quant_conv` follows the encoder's last layer and is folded into it, which changes no number; a
    decoder's `post_quant_conv` becomes its projection.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self._levels: dict[str, dict[int, dict[str, int]]] = {"encoder.down": {}, "decoder.up": {}}
        for name in shapes:
            if match := _LEVEL.match(name):
                counts = self._levels[match[1]].setdefault(int(match[2]), {"block": 0, "attn": 0})
                counts[match[3]] = max(counts[match[3]], int(match[4]) + 1)
        self.encoder = self._encoder()
        self.decoder = self._decoder()
        self.bottleneck = self._bottleneck()

    @property
    def factor(self) -> int:
        """Pixels of the image for one of the code."""
        return 2 ** (len(self.encoder["multipliers"]) - 1)

    def names(self) -> Names:
        """For each layer of ours, without `.weight` and `.bias`."""
        found: Names = {"encoder.body.0": ("encoder.conv_in",), "encoder.norm": ("encoder.norm_out",),
                        "encoder.out": ("encoder.conv_out",), "decoder.stem": ("decoder.conv_in",),
                        "decoder.norm": ("decoder.norm_out",), "decoder.out": ("decoder.conv_out",)}
        for number, theirs in enumerate(self._encoder_layers(), start=1):
            found |= self._layer(f"encoder.body.{number}", theirs)
        for number, theirs in enumerate(self._decoder_layers()):
            found |= self._layer(f"decoder.body.{number}", theirs)
        if self.decoder["projection"]:
            found["decoder.project"] = ("post_quant_conv",)
        return found

    def _shape(self, name: str, dimensions: int = 4) -> Shape:
        shape = self.shapes.get(name)
        if shape is None:
            raise CannotHold(f"{name} is missing")
        if len(shape) != dimensions or 0 in shape:
            raise CannotHold(f"{name} has the shape {list(shape)}")
        return shape

    def _encoder(self) -> dict[str, Any]:
        channels = self._shape("encoder.conv_in.weight")[0]
        widths, blocks = self._widths("encoder.down")
        if any(width % channels for width in widths):
            raise CannotHold(f"the encoder's widths {widths} are no multiples of its first, {channels}")
        return {"channels": channels, "multipliers": [width // channels for width in widths], "blocks": blocks,
                "attention": self._attention("encoder.down", blocks)}

    def _decoder(self) -> dict[str, Any]:
        widths, blocks = self._widths("decoder.up")
        channels = math.gcd(*widths)
        if blocks < 2:
            raise CannotHold("the decoder has a single block a level")
        projection = self._shape("post_quant_conv.weight")[0] if "post_quant_conv.weight" in self.shapes else 0
        return {"kind": "conv", "channels": channels, "multipliers": [width // channels for width in widths],
                "blocks": blocks - 1, "attention": self._attention("decoder.up", blocks), "projection": projection}

    def _bottleneck(self) -> dict[str, Any]:
        into = "post_quant_conv" if self.decoder["projection"] else "decoder.conv_in"
        channels = self._shape(f"{into}.weight")[1]
        outputs = self._shape(f"{'quant_conv' if 'quant_conv.weight' in self.shapes else 'encoder.conv_out'}.weight")[0]
        if "quantize.embedding.weight" in self.shapes:
            entries, length = self._shape("quantize.embedding.weight", 2)
            if not length == channels == outputs:
                raise CannotHold(f"a codebook of vectors of {length} between {outputs} and {channels} channels")
            return {"kind": "vq", "channels": channels, "entries": entries}
        if any(name.startswith("quantize.") for name in self.shapes):
            raise CannotHold("a quantiser of another kind (`quantize`, such as Gumbel's)")
        if outputs != 2 * channels:
            raise CannotHold(f"neither KL nor VQ: {outputs} channels before the code, and {channels} after it")
        return {"kind": "kl", "channels": channels}

    def _widths(self, part: str) -> tuple[list[int], int]:
        """Of the levels, from the image's on, and how many blocks each has."""
        levels = self._levels[part]
        if not 1 <= len(levels) <= _MOST_LEVELS or sorted(levels) != list(range(len(levels))):
            raise CannotHold(f"{part} has the levels {sorted(levels)}")
        blocks = {counts["block"] for counts in levels.values()}
        if len(blocks) != 1 or 0 in blocks:
            raise CannotHold(f"{part} has levels of {sorted(blocks)} blocks")
        (count,) = blocks
        return [self._shape(f"{part}.{level}.block.0.conv1.weight")[0] for level in range(len(levels))], count

    def _attention(self, part: str, blocks: int) -> str:
        levels = {level: counts["attn"] for level, counts in self._levels[part].items() if counts["attn"]}
        middle = any(name.startswith(f"{part.split('.')[0]}.mid.attn_1.") for name in self.shapes)
        if not levels:
            return "middle" if middle else "none"
        last = max(self._levels[part])
        if levels == {last: blocks} and middle:
            return "code"
        raise CannotHold(f"attention in {', '.join(f'{part}.{level}.attn' for level in sorted(levels))}"
                         + ("" if middle else " and none in the middle")
                         + ", where brics' networks have it at the code's resolution and in the middle")

    def _middle(self, part: str, attention: str) -> list[str]:
        return [f"{part}.mid.block_1", *([f"{part}.mid.attn_1"] if attention != "none" else []), f"{part}.mid.block_2"]

    def _blocks(self, level: str, count: int, attends: bool) -> Iterator[str]:
        for block in range(count):
            yield f"{level}.block.{block}"
            if attends:
                yield f"{level}.attn.{block}"

    def _encoder_layers(self) -> Iterator[str]:
        last = len(self.encoder["multipliers"]) - 1
        for level in range(last + 1):
            attends = level == last and self.encoder["attention"] == "code"
            yield from self._blocks(f"encoder.down.{level}", self.encoder["blocks"], attends)
            if level != last:
                yield f"encoder.down.{level}.downsample"
        yield from self._middle("encoder", self.encoder["attention"])

    def _decoder_layers(self) -> Iterator[str]:
        yield from self._middle("decoder", self.decoder["attention"])
        last = len(self.decoder["multipliers"]) - 1
        for level in range(last, -1, -1):
            if level != last:  # theirs is at the end of the level before
                yield f"decoder.up.{level + 1}.upsample"
            attends = level == last and self.decoder["attention"] == "code"
            yield from self._blocks(f"decoder.up.{level}", self.decoder["blocks"] + 1, attends)

    def _layer(self, ours: str, theirs: str) -> Names:
        if theirs.endswith(("downsample", "upsample")):
            return {f"{ours}.conv": (f"{theirs}.conv",)}
        if ".attn" in theirs:
            return {f"{ours}.norm": (f"{theirs}.norm",), f"{ours}.out": (f"{theirs}.proj_out",),
                    f"{ours}.qkv": (f"{theirs}.q", f"{theirs}.k", f"{theirs}.v")}
        found: Names = {f"{ours}.{name}": (f"{theirs}.{other}",) for name, other in _BLOCK.items()}
        if f"{theirs}.nin_shortcut.weight" in self.shapes:
            found[f"{ours}.shortcut"] = (f"{theirs}.nin_shortcut",)
        return found
