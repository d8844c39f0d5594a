"""What a denoiser that learns to inpaint sees beside noisy codes: their images, with holes, encoded on the way."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from bricscli import files
from bricscli.data.images import decode_image, encode_png, sheet, to_float, to_uint8
from bricscli.data.loader import BatchReader, in_order
from bricscli.data.masks import draw_mask, pool_mask
from bricscli.data.shards import ShardSet
from bricscli.diffusion.denoiser import Scaling
from bricscli.errors import DataError
from bricscli.recipe.recipes import DiffusionRecipe
from bricscli.runtime import in_passes
from bricscli.tasks.inpainting.fill import Hole, Holes, Way, fill_latents, gray_holes, see
from bricscli.tasks.models import LoadedAutoencoder, Prior

PREVIEW_IMAGES = 8


def find_images_of(codes: ShardSet, root: Path, data: Path | None) -> Path:
    """The data set that the codes were encoded from: `data`, or the one of its name under `root`."""
    return data or root / str(codes.header["images"]["name"])


class SurroundingsReader:
    """The surroundings of the codes of batch `step`, or of those `rows` of it: a function of the seed and the step.

    Raises DataError where the images are not those that were encoded.
    """

    def __init__(self, codes: ShardSet, data: Path, recipe: DiffusionRecipe, autoencoder: LoadedAutoencoder,
                 scaling: Scaling, device: torch.device, *, flip: bool, rows: range) -> None:
        assert recipe.conditioning is not None
        images, began = ShardSet.open(data), codes.header["images"]["digest"]
        if images.digest != began:
            raise DataError(f"{data}: is not the data set that {codes.path} was encoded from (its manifest is not "
                            f"{began[:8]}). Name that one with --data.")
        if images.split("train").keys != codes.split("train").keys:
            raise DataError(f"{codes.path}: has other samples than {data}. Run `brics encode` again.")
        self.training, self.kind, self.device, self.flip = recipe.training, recipe.conditioning.masks, device, flip
        self.autoencoder, self.scaling = autoencoder, scaling
        self.resolution, self.size = autoencoder.recipe.data.resolution, autoencoder.code_shape[1]
        self.images = images
        self.decode = partial(decode_image, resolution=self.resolution)
        self.reader = BatchReader(images.split("train"), self.decode, images.image_extension, self.training.batch_size,
                                  self.training.seed, rows=rows)

    def __enter__(self) -> "SurroundingsReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.reader.close()

    def batch(self, step: int) -> Tensor:
        """`(B, C_z + 1, H_z, W_z)`: `see` of the batch's images, mirrored where their codes are, and holes."""
        batch, mirrored = self.reader.batch(step)
        image = to_float(torch.from_numpy(batch).to(self.device))
        if self.flip:
            image = torch.where(torch.from_numpy(mirrored).to(self.device)[:, None, None, None], image.flip(-1), image)
        first = step * self.training.batch_size + self.reader.rows.start
        masks = self._masks(range(first, first + len(batch)))
        cells = np.stack([pool_mask(mask, self.resolution // self.size) for mask in masks])
        with torch.no_grad():
            return see(self.autoencoder.model, self.scaling, gray_holes(image, self._channel(np.stack(masks))),
                       self._channel(cells))

    def preview(self, prior: Prior, recipe: DiffusionRecipe, path: Path | None) -> Mapping[str, float]:
        """A sheet of validation images: with holes, and filled, each as its code is decoded. None: not written."""
        real = next(in_order(self.images.split("val"), self.decode, self.images.image_extension, PREVIEW_IMAGES))
        masks = self._masks(range(len(real)))
        holes = Holes([Hole(np.moveaxis(image, 0, -1), mask, (number, 0, 0))
                       for number, (image, mask) in enumerate(zip(real, masks, strict=True))])
        latents = fill_latents(prior, self.autoencoder.model, holes, Way("concat", recipe.sampling), self.device)
        filled = in_passes(lambda latent: to_uint8(self.autoencoder.model.decode_latent(latent)), latents, self.device)
        rows = torch.cat([to_uint8(holes.gray), filled, torch.from_numpy(real)])
        if path:
            files.write_bytes(path, encode_png(sheet(rows.numpy(), len(real))))
        return {}

    def _masks(self, indices: range) -> list[np.ndarray]:
        return [draw_mask(self.kind, self.training.seed, index, self.resolution, self.resolution) for index in indices]

    def _channel(self, masks: np.ndarray) -> Tensor:
        return torch.from_numpy(masks)[:, None].float().to(self.device)
