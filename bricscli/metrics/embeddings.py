"""Distances between images as squared Euclidean distances of vectors, so that many of them are one matrix product.

An embedding turns images (B,3,H,W) uint8 into vectors (B,D) float32 on its device: `|a - b|^2` is the distance that its
name promises. In passes of one width, one to a thread, so that an image's vector depends on no other image and on no
number of cores.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bricscli.nn.lpips import LPIPS_WEIGHTS, LpipsEmbedding
from bricscli.runtime import one_thread_each


@dataclass(frozen=True)
class Distance:
    """`weights`: a key of `weights.WEIGHTS` that must be on this machine, or None. `least_side`: in pixels."""

    label: str
    meaning: str
    weights: str | None
    least_side: int = 1


DISTANCES: dict[str, Distance] = {
    "lpips-vgg": Distance("LPIPS (vgg)", "LPIPS v0.1, 0 to about 1", LPIPS_WEIGHTS["vgg"], 16),
    "lpips-alex": Distance("LPIPS (alex)", "LPIPS v0.1, 0 to about 1", LPIPS_WEIGHTS["alex"], 31),
    "lpips-squeeze": Distance("LPIPS (squeeze)", "LPIPS v0.1, 0 to about 1", LPIPS_WEIGHTS["squeeze"], 17),
    "clip": Distance("CLIP cosine", "1 - cosine of CLIP ViT-B/32 features, 0 to 2", "clip_vit_b_32"),
    "pixel": Distance("mean squared difference", "mean squared difference of RGB values in [0, 1]", None),
}

#: Images per pass. Measured at 64x64 on a CPU: AlexNet and SqueezeNet are fastest at 16 to 32, VGG at 8.
PASS_WIDTH = {"cpu": 16, "cuda": 32}
VGG_PASS_WIDTH = {"cpu": 8, "cuda": 32}


@dataclass
class Embedding:
    """`function`: uint8 (width,3,H,W) on `device` -> (width, D) float32. Called without gradients and without TF32."""

    name: str
    function: Callable[[Tensor], Tensor]
    device: torch.device
    width: int = 16

    def passes(self, images: Tensor) -> Iterator[Tensor]:
        """(B,3,H,W) uint8 -> (<= width, D) float32 on the device, one after the other."""
        parts = images.split(self.width)
        at_once = torch.get_num_threads() if self.device.type == "cpu" else 1
        for start in range(0, len(parts), at_once):
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                vectors = one_thread_each(self._pass, parts[start : start + at_once], self.device)
            yield from vectors

    def _pass(self, part: Tensor) -> Tensor:
        missing = self.width - len(part)
        padded = torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing else part
        with torch.no_grad():
            return self.function(padded.to(self.device)).float()[: len(part)]

    def __call__(self, images: Tensor) -> Tensor:
        """(B,D) float32 on the device."""
        return torch.cat(list(self.passes(images)))


def lpips_embedding(name: str, state: Mapping[str, Tensor] | None, device: torch.device) -> Embedding:
    """`name`: one of the three of `DISTANCES`; `state`: torchvision's, None for a random backbone, for tests.

    Raises DataError where the state does not fit.
    """
    net = name.removeprefix("lpips-")
    network: nn.Module = LpipsEmbedding(net, state).to(device)  # type: ignore[arg-type]
    width = (VGG_PASS_WIDTH if net == "vgg" else PASS_WIDTH)[device.type]
    return Embedding(name, lambda images: network(images.float() / 127.5 - 1), device, width)


def pixel_embedding(device: torch.device) -> Embedding:
    """Distance: the mean over pixels and colours of the squared difference of values in [0, 1]."""

    def embed(images: Tensor) -> Tensor:
        flat = images.flatten(1).float() - 127.5  # shorter vectors than from 0: the product's rounding counts less
        return flat / (255 * flat.shape[1] ** 0.5)

    return Embedding("pixel", embed, device)


def feature_embedding(name: str, extract: Callable[[Tensor], Any], device: torch.device) -> Embedding:
    """`extract`: uint8 images -> {"features": (B,D)}. Distance: 1 - cosine, half the squared distance of directions."""

    def embed(images: Tensor) -> Tensor:
        features: Tensor = extract(images)["features"].to(device).float()
        return nn.functional.normalize(features, dim=1) * 0.5**0.5

    return Embedding(name, embed, device)
