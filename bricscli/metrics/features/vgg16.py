"""VGG16's second hidden layer before its ReLU: what improved precision and recall are measured on.

As in the PyTorch program that BRICS names (youngjung's, on arXiv:1904.06991v3): torchvision's network, every image
resized to 224x224 by Pillow's bilinear filter whatever its shape, rounded to 8 bits, and normalised as ImageNet.
torch-fidelity's default differs twice: it takes the layer behind the ReLU, and resizes as TensorFlow 1 did.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bricscli.errors import DataError
from bricscli.metrics.features import EXTRACTORS
from bricscli.metrics.features.pixels import IMAGENET_MEAN, IMAGENET_STD, full_precision, iter_resized, normalised

SIDE = 224


class Vgg16Features:
    """`state`: torchvision's file of VGG16, with its classifier."""

    name = "vgg16"

    def __init__(
        self, state: Mapping[str, Tensor], device: torch.device | str = "cpu", digest: str | None = None
    ) -> None:
        from torchvision.models import vgg16

        with torch.device("meta"):  # 138 million numbers that need not be drawn
            network = vgg16(weights=None)
        try:
            network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
        except RuntimeError as error:
            raise DataError("weights of vgg16: do not fit. Use torchvision's file, with its classifier.") from error
        layers = nn.Sequential(network.features, network.avgpool, nn.Flatten(), network.classifier[:4])
        self.outputs, self.digest = EXTRACTORS[self.name].outputs, digest
        self._device = torch.device(device)
        self._network = layers.to(self._device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with full_precision(self._device):
            passes = [
                self._network(normalised(part, IMAGENET_MEAN, IMAGENET_STD))
                for part in iter_resized(images, resize, self._device)
            ]
        return {"features": torch.cat(passes)}


def resize(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H,W,3) -> (224,224,3)."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
