"""What distances between sets of images are measured on: images (B,3,H,W) uint8 -> features (B,D) float32.

Two distances can be compared only where the network, its file and the way to its input size are the same; a name here
stands for all three. Every network is frozen, in eval mode and in full float32, so that no image's features depend on
what lies beside it in a batch. Nothing is ever downloaded. No torch at import.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bricscli.weights import WEIGHTS, find_weights, load_state

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class FeatureExtractor(Protocol):
    """`name` goes into files and says which numbers can be compared."""

    name: str
    outputs: dict[str, int]  #: name of an output -> its dimension; every extractor has `features`
    digest: str | None  #: SHA-256 of the file of weights; None where there is none

    def __call__(self, images: "Tensor") -> dict[str, "Tensor"]:
        """(B,3,H,W) uint8 -> (B,D) float32 for each output, on the extractor's device."""
        ...


@dataclass(frozen=True)
class ExtractorInfo:
    """`weights`: a key of `weights.WEIGHTS`, or None. `resize`: how an image gets to the network's size, in words."""

    network: str
    outputs: dict[str, int]
    resize: str
    weights: str | None = None


EXTRACTORS: dict[str, ExtractorInfo] = {
    "inception": ExtractorInfo(
        "Inception v3 of 2015-12-05, as torch-fidelity converts it",
        {"features": 2048, "logits": 1008},
        "TensorFlow 1's bilinear to 299x299 inside the network, without antialiasing",
        "inception_fidelity",
    ),
    "inception_clean": ExtractorInfo(
        "Inception v3 of 2015-12-05, as clean-fid uses it",
        {"features": 2048},
        "Pillow's bicubic to 299x299 in float32, not rounded",
        "inception",
    ),
    "vgg16": ExtractorInfo(
        "torchvision's VGG16, its second hidden layer before the ReLU",
        {"features": 4096},
        "Pillow's bilinear to 224x224, rounded to 8 bits",
        "vgg16",
    ),
    "clip": ExtractorInfo(
        "OpenAI's CLIP ViT-B/32, its image embedding before normalisation",
        {"features": 512},
        "Pillow's bicubic, the shorter side to 224, then the middle 224x224, rounded to 8 bits",
        "clip_vit_b_32",
    ),
    "dinov2": ExtractorInfo(
        "Meta's DINOv2 ViT-L/14, its class token",
        {"features": 1024},
        "torch's antialiased bicubic to 224x224 in float32, not rounded",
        "dinov2_vitl14",
    ),
    "random": ExtractorInfo(
        "fixed random convolutions over a pyramid of five octaves",
        {"features": 62},
        "none: the images' own size",
    ),
}


def load_extractor(name: str, device: "torch.device | str" = "cpu") -> FeatureExtractor:
    """The extractor `name` (a key of `EXTRACTORS`) on `device`.

    Raises MissingWeights where its file is not on this machine, DataError where the file is another.
    """
    if name == "random":
        from bricscli.metrics.features.random import RandomFeatures

        return RandomFeatures().to(device)
    key = EXTRACTORS[name].weights
    assert key is not None
    path = find_weights(key)
    digest = WEIGHTS[key].files[path.name]  # find_weights has just compared the file with it
    if name == "inception":
        from bricscli.metrics.features.inception import InceptionFeatures

        return InceptionFeatures(load_state(key), device, digest)
    if name == "inception_clean":
        from bricscli.metrics.features.inception import CleanInceptionFeatures

        return CleanInceptionFeatures(path, device, digest)
    if name == "vgg16":
        from bricscli.metrics.features.vgg16 import Vgg16Features

        return Vgg16Features(load_state(key), device, digest)
    if name == "clip":
        from bricscli.metrics.features.clip import ClipFeatures

        return ClipFeatures(path, device, digest)
    assert name == "dinov2", name
    from bricscli.metrics.features.dinov2 import Dinov2Features

    return Dinov2Features(load_state(key), device, digest)
