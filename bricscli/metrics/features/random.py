"""Features that need no file: fixed random convolutions. Their distance is never FID."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bricscli.metrics.features.pixels import check_images, full_precision


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
    digest: str | None = None
    outputs: dict[str, int]

    filters: Tensor
    pairings: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.outputs = {"features": 12 + self.OCTAVES * (self.FILTERS + self.PAIRINGS)}
        stream = np.random.Philox(0)
        window = np.hanning(7)[1:-1]
        filters = _uniform(stream, (self.OCTAVES, self.FILTERS, 3, 5, 5)) * np.outer(window, window)
        pairings = _uniform(stream, (self.OCTAVES, self.PAIRINGS, self.FILTERS, 3, 3))
        self.register_buffer("filters", _unit_filters(filters), persistent=False)
        self.register_buffer("pairings", _unit_filters(pairings), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Any resolution; two sets are comparable only at the same one."""
        x = check_images(images).to(self.filters.device).float() / 127.5 - 1
        with full_precision(x.device):
            return {"features": self._features(x)}

    def _features(self, x: Tensor) -> Tensor:
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
    return functional.conv2d(functional.pad(x, (margin,) * 4, mode="replicate"), filters).abs()
