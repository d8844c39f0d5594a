"""DINOv2's class token: what FD-DINOv2 is measured on (arXiv:2306.04675v2), as EDM2 computes it.

timm's network with Meta's weights, ViT-L/14. Images get to 224x224 by torch's antialiased bicubic in float32, neither
rounded nor clamped (`calculate_metrics.py` of NVlabs/edm2, resize mode `torch`), and are normalised as ImageNet. The
file holds position embeddings for 37x37 patches; the 16x16 of an image of 224 are interpolated as Meta's own code does
it: bicubic, by the factor (16 + 0.1) / 37, without antialiasing. timm's own resampling is antialiased: other features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from bricscli.errors import DataError
from bricscli.metrics.features.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PASS_WIDTH,
    check_images,
    full_precision,
    normalised,
)

SIDE, PATCH = 224, 14
#: Meta adds it to the number of patches, against a rounding error in the size; the embeddings move with it.
OFFSET = 0.1


class Dinov2Features:
    """`state`: Meta's file of ViT-L/14 without registers. `architecture`: timm's name; smaller ones are for tests."""

    name = "dinov2"

    def __init__(
        self,
        state: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        digest: str | None = None,
        architecture: str = "vit_large_patch14_dinov2",
    ) -> None:
        self._device = torch.device(device)
        self._network = _build(state, architecture).to(self._device).eval().requires_grad_(False)
        self.outputs, self.digest = {"features": state["cls_token"].shape[-1]}, digest

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with full_precision(self._device):
            passes = [self._network(prepare(part.to(self._device)))
                      for part in check_images(images).split(PASS_WIDTH)]
        return {"features": torch.cat(passes)}


def prepare(images: Tensor) -> Tensor:
    """uint8 (B,3,H,W) -> float32 (B,3,224,224)."""
    resized = functional.interpolate(images.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True)
    return normalised(resized, IMAGENET_MEAN, IMAGENET_STD)


def _build(state: Mapping[str, Tensor], architecture: str) -> nn.Module:
    import timm

    with torch.device("meta"):  # 304 million numbers that need not be drawn
        network = timm.create_model(architecture, pretrained=False, img_size=SIDE, num_classes=0)
    weights = {key: value.float() for key, value in state.items() if key != "mask_token"}  # of training alone
    try:
        weights["pos_embed"] = interpolate_positions(weights["pos_embed"], SIDE // PATCH)
        network.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError) as error:
        raise DataError("weights of dinov2: do not fit. Use Meta's file of ViT-L/14 without registers.") from error
    return network


def interpolate_positions(embeddings: Tensor, patches: int) -> Tensor:
    """(1, 1 + M*M, D), the first for the class token -> (1, 1 + patches*patches, D)."""
    side = int((embeddings.shape[1] - 1) ** 0.5)
    if side == patches:
        return embeddings
    grid = embeddings[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = (patches + OFFSET) / side
    grid = functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([embeddings[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
