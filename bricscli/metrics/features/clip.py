"""CLIP's image embedding: what CLIP-FID is measured on (arXiv:2203.06026v3), and neighbours by CLIP.

The network is OpenAI's ViT-B/32 in open_clip's hands, with the QuickGELU that it was trained with (`ViT-B-32` there
means another activation). Images get to 224x224 as in clean-fid's `clip_vit_b_32`: Pillow's bicubic on the shorter
side, the middle, rounded to 8 bits; the embedding is not normalised. Everything in float32; clean-fid computes in
float16 on a card, so that its own figures differ in the third digit or so.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bricscli.errors import DataError
from bricscli.metrics.features import EXTRACTORS
from bricscli.metrics.features.pixels import full_precision, iter_resized, normalised

SIDE = 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipFeatures:
    """`path`: a checked `ViT-B-32.pt`, the TorchScript archive as OpenAI publishes it."""

    name = "clip"

    def __init__(self, path: Path, device: torch.device | str = "cpu", digest: str | None = None) -> None:
        self.outputs, self.digest = EXTRACTORS[self.name].outputs, digest
        self._device = torch.device(device)
        self._network = _load_image_tower(path).to(self._device).eval().requires_grad_(False)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with full_precision(self._device):
            passes = [
                self._network(normalised(part, MEAN, STD).contiguous())
                for part in iter_resized(images, resize, self._device)
            ]
        return {"features": torch.cat(passes)}


def _load_image_tower(path: Path) -> torch.nn.Module:
    """The half of CLIP that sees; the half that reads is let go."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # open_clip knows how to download; nothing here lets it
    import open_clip

    try:
        with torch.random.fork_rng([]), warnings.catch_warnings():  # random weights are drawn, then replaced
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is going away; the file is one
            tower = open_clip.load_openai_model(str(path), precision="fp32", device="cpu").visual
        size, width = tuple(tower.image_size), tower.output_dim
    except Exception as error:  # torch and open_clip raise many kinds; all mean the same to the user
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise DataError(f"{path}: cannot be loaded ({reason}). Download it again.") from error
    if size != (SIDE, SIDE) or width != EXTRACTORS["clip"].outputs["features"]:
        raise DataError(f"{path}: is not CLIP's ViT-B/32. Download OpenAI's file.")
    return tower


def resize(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H,W,3) -> (224,224,3): the shorter side to 224, the longer rounded down, then the middle, as torchvision does.

    torchvision's own functions do the same to a Pillow image; these lines spare the import of its transforms.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    size = (SIDE * width // short, SIDE * height // short)
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - SIDE) / 2) for length in size)
    return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))
