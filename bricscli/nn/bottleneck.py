"""Encoder output -> code: five bottlenecks, one contract (BRICS arXiv:2305.18601v3, sections 3.1 and 3.4, App. A.4).

`encoded` is `(B, inputs, H_z, W_z)`, unbounded; a code `(B, C, H_z, W_z)`, in (0, 1) if a key code, else unbounded.
`forward` gives the one code that everything after training uses and changes nothing; `draw` gives training's, with its
loss, every random number from the noise that is passed. A code is the `snap` of a `latent`, and only codebooks tell
them apart: a denoiser learns latents, which are continuous, and what it draws is snapped before it is decoded
(latent-diffusion, arXiv:2112.10752, section 3.1). Codes and losses are computed in float32 whatever autocast says, or
in float64 where `encoded` is that; codebooks are always float32.

z: the code; mu, sigma: mean and deviation of a KL bottleneck; e: the nearest vector of a codebook; sg: stop-gradient.

Differs from latent-diffusion, whose denoiser learns z = mu + sigma eps of a KL bottleneck, drawn anew for every step:
the latent here is mu, which is written once. Differs from latent-diffusion, VQGAN and RQ-VAE: no 1x1 convolutions
around the bottleneck; the encoder's last layer and the decoder's first are linear already.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.noise import Noise

if TYPE_CHECKING:
    from vector_quantize_pytorch import VectorQuantize

#: latent-diffusion's bounds of log sigma^2.
LOG_VARIANCE = (-30.0, 20.0)


@dataclass(frozen=True)
class Coded:
    """What training needs of a code: `code` `(B, C, H_z, W_z)`, `loss` already weighted (0 where there is none)."""

    code: Tensor
    loss: Tensor
    log: dict[str, float] = field(default_factory=dict)  #: numbers for the log, not weighted


class Bottleneck(nn.Module, ABC):
    """What the five have in common; `inputs` is the number of channels that the encoder has to give."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    @abstractmethod
    def latent(self, encoded: Tensor) -> Tensor:
        """What diffusion learns to draw: `(B, C, H_z, W_z)`."""

    def snap(self, latent: Tensor) -> Tensor:
        """The code that a latent stands for: itself, unless there is a codebook."""
        return latent

    def forward(self, encoded: Tensor) -> Tensor:
        return self.snap(self.latent(encoded))

    @abstractmethod
    def draw(self, encoded: Tensor, noise: Noise) -> Coded:
        """The code of training and its loss."""


class KeyCode(Bottleneck):
    """z = sigmoid(E(x)). Nothing is drawn here: relaxed precision acts on the tiled code (`relax_precision`)."""

    def __init__(self, *, channels: int) -> None:
        super().__init__(channels)

    def latent(self, encoded: Tensor) -> Tensor:
        return torch.sigmoid(_widened(encoded))

    def draw(self, encoded: Tensor, noise: Noise) -> Coded:
        code = self(encoded)
        return Coded(code, code.new_zeros(()), {"code_std": float(code.detach().std())})


class KL(Bottleneck):
    """latent-diffusion's z = mu + sigma eps (arXiv:2112.10752); z = mu after training.

    The loss is KL(N(mu, sigma^2) || N(0, 1)): sum or mean (`reduction`) over an image's values, mean over images.
    """

    def __init__(self, *, channels: int, weight: float, reduction: Literal["sum", "mean"]) -> None:
        super().__init__(2 * channels)
        self.weight, self.reduction = weight, reduction

    def latent(self, encoded: Tensor) -> Tensor:
        mean, _ = _widened(encoded).chunk(2, dim=1)
        return self.bounded(mean)

    def draw(self, encoded: Tensor, noise: Noise) -> Coded:
        mean, log_variance = _widened(encoded).chunk(2, dim=1)
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        sigma = (log_variance / 2).exp()
        code = self.bounded(mean + sigma * noise.normal(mean))
        divergence = (mean**2 + sigma**2 - 1 - log_variance).flatten(1) / 2
        kl = divergence.sum(1).mean() if self.reduction == "sum" else divergence.mean()
        log = {"kl": kl, "sigma": sigma.mean(), "code_std": code.std()}
        return Coded(code, self.weight * kl, {name: float(value.detach()) for name, value in log.items()})

    def bounded(self, value: Tensor) -> Tensor:
        return value


class KLKeyCode(KL):
    """z = sigmoid(mu + sigma eps) (App. A.4); z = sigmoid(mu) after training."""

    def bounded(self, value: Tensor) -> Tensor:
        return torch.sigmoid(value)


class VQ(Bottleneck):
    """VQGAN's z = e (arXiv:2012.09841), the codebook learned by its gradient.

    L = weight (|sg[E(x)] - e|^2 + commitment |E(x) - sg[e]|^2) (Eq. 9), means over everything.

    Differs from taming-transformers' default, which weighs the codebook's term, not the encoder's, by `commitment`.
    """

    def __init__(self, *, channels: int, entries: int, commitment: float, weight: float) -> None:
        super().__init__(channels)
        self.entries, self.commitment, self.weight = entries, commitment, weight
        self.quantiser = _quantiser(channels, entries, learnable_codebook=True, ema_update=False)
        nn.init.uniform_(self.quantiser.codebook, -1 / entries, 1 / entries)  # taming's start

    def latent(self, encoded: Tensor) -> Tensor:
        return _widened(encoded)

    def snap(self, latent: Tensor) -> Tensor:
        return _nearest(self.quantiser, latent)[0]

    def draw(self, encoded: Tensor, noise: Noise) -> Coded:
        encoded = _widened(encoded)
        nearest, indices = _nearest(self.quantiser, encoded)
        loss = F.mse_loss(nearest, encoded.detach()) + self.commitment * F.mse_loss(encoded, nearest.detach())
        log = {"codebook": float(loss.detach())} | _usage(indices, self.entries)
        return Coded(_straight_through(encoded, nearest), self.weight * loss, log)


class RQ(Bottleneck):
    """RQ-VAE's z = e_1 + ... + e_depth (arXiv:2203.01941, Eq. 3-5), each the nearest to what those before left over.

    One codebook for all depths, moved towards what chose it by averages of `decay`; entries that less than one vector
    chooses on average restart at random vectors of the batch. L = weight mean_d |E(x) - sg[e_1 + ... + e_d]|^2.

    Averages and restarts happen in `draw` only, once per depth as in RQ-VAE, and only in training mode.
    Differs from RQ-VAE: where more entries are unused than the batch has vectors, the rest wait for the next batch.
    """

    def __init__(self, *, channels: int, entries: int, depth: int, decay: float, weight: float) -> None:
        super().__init__(channels)
        self.entries, self.depth, self.weight = entries, depth, weight
        self.quantiser = _quantiser(channels, entries, decay=decay, threshold_ema_dead_code=1)

    def latent(self, encoded: Tensor) -> Tensor:
        return _widened(encoded)

    def snap(self, latent: Tensor) -> Tensor:
        return self._partial_sums(latent, freeze_codebook=True)[0][-1]

    def draw(self, encoded: Tensor, noise: Noise) -> Coded:
        encoded = _widened(encoded)
        with _seeded(noise.seed(), encoded.device):
            sums, indices = self._partial_sums(encoded, freeze_codebook=False)
        loss = torch.stack([F.mse_loss(encoded, partial) for partial in sums]).mean()
        log = {"commitment": float(loss.detach())} | _usage(indices, self.entries)
        return Coded(_straight_through(encoded, sums[-1]), self.weight * loss, log)

    @torch.no_grad()
    def _partial_sums(self, encoded: Tensor, *, freeze_codebook: bool) -> tuple[list[Tensor], Tensor]:
        """e_1 + ... + e_d for every d, and all indices."""
        sums, indices = [torch.zeros_like(encoded)], []
        for _ in range(self.depth):
            nearest, index = _nearest(self.quantiser, encoded - sums[-1], freeze_codebook=freeze_codebook)
            sums.append(sums[-1] + nearest)
            indices.append(index)
        return sums[1:], torch.stack(indices)


def relax_precision(key_code: Tensor, r_max: int, noise: Tensor) -> Tensor:
    """z + eps_0 with eps_0 ~ N(0, 1 / (4 r_max)^2) (Eq. 1), clamped to [0, 1].

    `noise` is standard normal and shaped like the tiled `key_code`. Clamping keeps the keys on the grid: outside,
    a feature grid has no entries (the paper does not say what happens there).
    """
    return (key_code + noise / (4 * r_max)).clamp(0, 1)


def _quantiser(channels: int, entries: int, **options: Any) -> "VectorQuantize":
    """The library's codebook and nearest entry, Euclidean; losses and straight-through gradients are ours.

    The library has one weight for both terms of Eq. 9, and rotates gradients instead of passing them straight through.
    """
    from vector_quantize_pytorch import VectorQuantize  # seconds, and only two methods need it

    return VectorQuantize(channels, entries, commitment_weight=0.0, accept_image_fmap=True, **options)


def _nearest(quantiser: nn.Module, encoded: Tensor, **options: bool) -> tuple[Tensor, Tensor]:
    """The nearest entries, with gradients for a learned codebook only, and their indices `(B, H_z, W_z)`.

    No autocast: distances to a codebook are differences of large numbers.
    """
    with torch.autocast(encoded.device.type, enabled=False):
        nearest, indices, _ = quantiser(encoded.detach(), **options)
    return nearest, indices


def _straight_through(encoded: Tensor, nearest: Tensor) -> Tensor:
    """The value of `nearest` with the gradient of `encoded`."""
    return encoded + (nearest - encoded).detach()


def _usage(indices: Tensor, entries: int) -> dict[str, float]:
    """Of one batch: exp(entropy) of how often each entry was chosen, and the share of entries that were."""
    share = torch.bincount(indices.flatten(), minlength=entries) / indices.numel()
    perplexity = torch.special.entr(share).sum().exp()
    return {"perplexity": float(perplexity), "entries_used": float((share > 0).float().mean())}


def _widened(encoded: Tensor) -> Tensor:
    return encoded.to(torch.promote_types(encoded.dtype, torch.float32))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators start from `seed`; outside, they are as they were.

    The library draws restarts from the global generator of its device, so that CPU and CUDA draw others.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
