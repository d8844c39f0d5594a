"""Latent perceptual loss: how far a predicted code is from the clean one in the decoder's features (arXiv:2411.04873).

phi_l, phi^_l: features of the clean and of the predicted code after block l, `(B, C_l, H_l, W_l)`, coarse to fine
(`iter_features` of the decoders); phi'_l, phi^'_l: the same, standardised; rho_l: 0 at outliers, else 1; omega_l: the
block's weight; r_l: its resolution; tau_sigma: largest noise, in units of the data (sigma / alpha), at which the loss
acts. For an image (Eq. 2)

    L = [sigma <= tau_sigma] sum_l omega_l / C_l sum_c |rho_l,c (phi'_l,c - phi^'_l,c)|^2

`paper` follows the text and Eq. 2. What the paper leaves open: statistics are those of one image and channel without
its outliers; shared ones are constants to the gradient, or a prediction of more contrast would be divided by more, and
so be nearer.

`diffusers` is what the authors' program in diffusers' research projects does instead: features are divided by their
length across channels, in `shared` normalisation by that of the clean ones; outliers are those of the clean features,
from the third block on, and are cut out of them first; a block's error is a mean over the positions that are left, and
the sum over blocks is divided by their number.

Differs from the paper: |.|^2 is a mean over positions. As a sum, at w = 3, the loss would be a thousand times that of
the denoiser, where the paper speaks of a fifth; as a mean it is a fifth at about w = 0.1. A predicted map that is
almost constant is divided by the root of EPSILON at least, so that it may weigh a thousand times as much as others.
Differs from diffusers: an image beyond tau_sigma counts as 0 in the mean over the batch, as Eq. 2 has it; there only
the others are averaged.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Variant = Literal["paper", "diffusers"]
Normalisation = Literal["shared", "separate", "none"]
DepthWeight = Literal["inverse", "formula", "uniform"]

#: Algorithm 1: share of a map beyond each threshold, margin in deviations, sides of the two filters in pixels.
QUANTILE, MARGIN, CLOSING, OPENING = 0.02, 2, 3, 5
#: Added to a variance, and to a length (diffusers: to each one's own, to the clean features').
EPSILON, OWN_LENGTH_EPSILON, SHARED_LENGTH_EPSILON = 1e-6, 1e-10, 1e-6
#: The first block whose outliers diffusers looks for.
FIRST_MASKED = 2


@dataclass(frozen=True)
class LatentPerceptualLoss:
    """`iter_features` of a frozen autoencoder, and how the features are compared; `resolution`: the image's."""

    iter_features: Callable[[Tensor], Iterator[Tensor]]
    resolution: int
    threshold: float  #: tau_sigma
    blocks: int | None = None  #: only so many, from the code on
    variant: Variant = "paper"
    normalisation: Normalisation = "shared"
    depth_weight: DepthWeight = "inverse"
    outliers: bool = True  #: mask them

    def __call__(self, code: Tensor, predicted: Tensor, sigma: Tensor) -> Tensor:
        """Mean over the batch of L; codes `(B, C_z, H_z, W_z)`, `sigma` `(B,)`. Gradients flow to `predicted` only.

        What lies beyond the threshold is not decoded. Features are computed as the codes are, in float32, whatever
        autocast says.
        """
        inside = sigma <= self.threshold
        if not inside.any():
            return predicted.new_zeros(())
        with torch.autocast(predicted.device.type, enabled=False):
            with torch.no_grad():
                clean = self._features(code[inside])
            return self.distance(clean, self._features(predicted[inside])).sum() / len(sigma)

    def distance(self, clean: Sequence[Tensor], predicted: Sequence[Tensor]) -> Tensor:
        """`(B,)`: the sum over l of Eq. 2 for each image, or what diffusers makes of it."""
        weights = depth_weights([phi.shape[-1] for phi in clean], self.depth_weight)
        errors = [omega * self._block_error(number, *pair)
                  for number, (omega, pair) in enumerate(zip(weights, zip(clean, predicted, strict=True), strict=True))]
        total = torch.stack(errors).sum(0)
        return total / len(errors) if self.variant == "diffusers" else total

    def _features(self, code: Tensor) -> list[Tensor]:
        return list(islice(self.iter_features(code), self.blocks))

    def _block_error(self, number: int, clean: Tensor, predicted: Tensor) -> Tensor:
        """`(B,)`: one block's error, not yet weighted."""
        masked = self.outliers and (self.variant == "paper" or number >= FIRST_MASKED)
        source = predicted if self.variant == "paper" else clean
        scale = self.resolution / clean.shape[-1]
        kept = inliers(source.detach(), scale) if masked else torch.ones_like(clean, dtype=torch.bool)
        if self.variant == "diffusers":
            clean, predicted = by_length(clean * kept, predicted, self.normalisation)
            error = ((clean - predicted).square() * kept).sum((2, 3)) / kept.sum((2, 3)).clamp(min=1)
            return error.mean(1)
        clean, predicted = standardised(clean, predicted, kept, self.normalisation)
        return ((clean - predicted).square() * kept).mean((1, 2, 3))


def depth_weights(resolutions: Sequence[int], kind: DepthWeight) -> list[float]:
    """omega_l. `inverse`: r_1 / r_l, which the text says; `formula`: 2^(-r_l / r_1), which it prints.

    For the decoder of Stable Diffusion `inverse` is diffusers' 2^(-min(l, 3)), l = 0, 1, ...
    """
    up = [resolution / resolutions[0] for resolution in resolutions]
    return {"inverse": [1 / u for u in up], "formula": [2**-u for u in up], "uniform": [1.0] * len(up)}[kind]


def inliers(features: Tensor, scale: float = 1.0) -> Tensor:
    """rho of Algorithm 1, bool like `features`; `scale`: how much finer the image is than they are.

    What lies more than twice a map's deviation beyond its 2 % or 98 % quantile is an outlier. A closing of what is
    kept forgets single ones, an opening widens the rest; their filters cover the same part of the image at every scale.
    """
    flat = features.flatten(2)
    count, margin = flat.shape[-1], MARGIN * flat.std(-1)[..., None, None]
    # Differs from the paper: its k-th smallest has k = 0 on maps of less than 50 pixels, which there is none of.
    low, high = (flat.kthvalue(max(1, int(count * share)), dim=-1).values[..., None, None]
                 for share in (QUANTILE, 1 - QUANTILE))
    kept = ((low - margin < features) & (features < high + margin)).to(features.dtype)
    closing, opening = (_odd_side(side, scale) for side in (CLOSING, OPENING))
    kept = F.max_pool2d(kept, closing, stride=1, padding=closing // 2)
    return -F.max_pool2d(-kept, opening, stride=1, padding=opening // 2) > 0


def _odd_side(side: int, scale: float) -> int:
    """Of a filter on a coarser map; 2, which has no middle, becomes 3 for the opening's 5 and 1 for the closing's 3."""
    scaled = math.ceil(side / scale)
    return scaled if scaled % 2 else {OPENING: scaled + 1, CLOSING: scaled - 1}[side]


def standardised(clean: Tensor, predicted: Tensor, kept: Tensor, kind: Normalisation) -> tuple[Tensor, Tensor]:
    """Mean 0 and variance 1 in each channel of each image: with the predicted features' statistics, or each its own."""
    if kind == "none":
        return clean, predicted
    mean, std = _statistics(predicted, kept)
    if kind == "separate":
        own_mean, own_std = _statistics(clean, kept)
        return (clean - own_mean) / own_std, (predicted - mean) / std
    mean, std = mean.detach(), std.detach()
    return (clean - mean) / std, (predicted - mean) / std


def _statistics(features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    count = kept.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (features * kept).sum((2, 3), keepdim=True) / count
    variance = ((features - mean).square() * kept).sum((2, 3), keepdim=True) / count
    return mean, (variance + EPSILON).sqrt()


def by_length(clean: Tensor, predicted: Tensor, kind: Normalisation) -> tuple[Tensor, Tensor]:
    """Divided at each position by the length across channels: that of the clean features, or each by its own."""
    if kind == "none":
        return clean, predicted
    length = torch.linalg.vector_norm(clean, dim=1, keepdim=True)
    if kind == "shared":
        return clean / (length + SHARED_LENGTH_EPSILON), predicted / (length + SHARED_LENGTH_EPSILON)
    own = torch.linalg.vector_norm(predicted, dim=1, keepdim=True)
    return clean / (length + OWN_LENGTH_EPSILON), predicted / (own + OWN_LENGTH_EPSILON)
