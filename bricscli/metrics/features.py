"""What a Fréchet distance is measured on: images (B,3,H,W) uint8 -> features (B,D) float32.

`RandomFeatures` needs no file and is never FID; `InceptionFeatures` is clean-fid's own network and resize.
"""

import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bricscli.errors import DataError


class FeatureExtractor(Protocol):
    """`name` goes into files and says which numbers can be compared."""

    name: str
    dimension: int

    def __call__(self, images: Tensor) -> Tensor:
        """(B,3,H,W) uint8 -> (B, dimension) float32, on the extractor's device."""
        ...


class RandomFeatures(nn.Module):
    """Colour layout and contrast statistics of fixed random convolutions, over a pyramid of five octaves.

    Every octave halves the image. In each, `FILTERS` random 5x5 filters that ignore constant colour are rectified, and
    `PAIRINGS` random 3x3 filters of those responses are rectified again (what lies beside what: edges, texture); each
    response is averaged over the image and taken as log(mean + FLOOR), so that a relative change of contrast counts
    alike in dark, flat and busy images. With the mean colours of the four quadrants: 12 + 5 * (4 + 6) = 62 numbers.

    The weights are uniform numbers of Philox with seed 0: the same everywhere, forever, trained on nothing. Few
    dimensions on purpose: a covariance of 62 numbers can be estimated from a few hundred images. It tells blur, noise,
    wrong colours, repeated images and parts that do not belong together from photographs; it knows nothing of objects.
    """

    OCTAVES, FILTERS, PAIRINGS = 5, 4, 6
    #: In units of a [-1,1] image, about 13 of 255 levels: contrast well below it counts as none, so that grain and
    #: compression noise that nobody sees do not decide the distance.
    FLOOR = 0.1

    name = "random"
    dimension = 12 + OCTAVES * (FILTERS + PAIRINGS)

    filters: Tensor
    pairings: Tensor

    def __init__(self) -> None:
        super().__init__()
        stream = np.random.Philox(0)
        window = np.hanning(7)[1:-1]
        filters = _uniform(stream, (self.OCTAVES, self.FILTERS, 3, 5, 5)) * np.outer(window, window)
        pairings = _uniform(stream, (self.OCTAVES, self.PAIRINGS, self.FILTERS, 3, 3))
        self.register_buffer("filters", _unit_filters(filters), persistent=False)
        self.register_buffer("pairings", _unit_filters(pairings), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Any resolution; two sets are comparable only at the same one."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images (B,3,H,W) uint8 expected, got {tuple(images.shape)} {images.dtype}")
        x = images.to(self.filters.device).float() / 127.5 - 1
        features = [functional.adaptive_avg_pool2d(x, 2).flatten(1)]
        for filters, pairings in zip(self.filters, self.pairings, strict=True):
            response = _rectified(x, filters)
            for h in (response, _rectified(response, pairings)):
                features.append((h.mean(dim=(2, 3)) + self.FLOOR).log())
            x = functional.avg_pool2d(x, 2, ceil_mode=True)
        return torch.cat(features, dim=1)


def _uniform(stream: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform in [-1,1) from raw words: numpy promises those, not the distributions of `Generator`."""
    words = stream.random_raw(int(np.prod(shape))).reshape(shape)
    return (words >> np.uint64(11)) * 2.0**-52 - 1


def _unit_filters(weights: np.ndarray) -> Tensor:
    """Zero sum in every input channel, unit norm."""
    weights = weights - weights.mean(axis=(-2, -1), keepdims=True)
    weights = weights / np.sqrt((weights**2).sum(axis=(-3, -2, -1), keepdims=True))
    return torch.from_numpy(weights.astype(np.float32))


def _rectified(x: Tensor, filters: Tensor) -> Tensor:
    margin = filters.shape[-1] // 2
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 rounds to 10 bits: another distance
        return functional.conv2d(functional.pad(x, (margin,) * 4, mode="replicate"), filters).abs()


class InceptionFeatures:
    """The 2048 features of FID as clean-fid computes them (arXiv:2104.11222v3, mode `clean`).

    clean-fid's network wrapper and its PIL bicubic resize to 299x299 in float are used as they are; only the download
    is not: `path` is a checked `inception-2015-12-05.pt` (`weights.find_weights("inception")`).
    """

    name = "inception"
    dimension = 2048

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        with warnings.catch_warnings():  # clean-fid silences warnings for the whole process; not for ours
            warnings.simplefilter("ignore")
            from cleanfid.inception_torchscript import InceptionV3W
            from cleanfid.resize import build_resizer

            try:
                self._network = InceptionV3W(str(path.parent), download=False).to(device).eval()
            except RuntimeError as error:
                reason = str(error).strip().split("\n")[0]
                raise DataError(f"{path}: cannot be loaded ({reason}). Download it again.") from error
            self._resize = build_resizer("clean")
        self._device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        with warnings.catch_warnings():  # clean-fid speaks to Pillow in words that are deprecated
            warnings.simplefilter("ignore")
            resized = np.stack([self._resize(image) for image in pixels])
        batch = torch.from_numpy(resized).permute(0, 3, 1, 2).to(self._device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._network(batch).float()
