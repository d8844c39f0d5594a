"""Classifier-free guidance (arXiv:2207.12598): one denoiser that knows images both with their labels and without.

In training a label is dropped now and then (Algorithm 1). In sampling the prediction is

    unconditional + guidance (conditional - unconditional)

so that a guidance of 1 is none, 0 is without labels, and the paper's w (Eq. 6) is guidance - 1. Whichever of eps, v,
x_0 and flow is predicted, this is guidance of x_0: at one x_t each is a x_0 + b, with the same a and b for both.
"""

from typing import Protocol

import torch
from torch import Tensor

from bricscli.nn.unet import Prediction


class LabelledDenoiser(Protocol):
    """A network that knows what it predicts, and may be told what the images show."""

    predicts: Prediction

    def __call__(self, x_t: Tensor, log_snr: Tensor, label: Tensor | None, /) -> Tensor:
        """`(B, C, H, W)`, `(B,)`, int64 `(B,)` -> `(B, C, H, W)`; None: nothing is told."""
        ...


class Guided:
    """A `denoiser.Denoiser` to whom the labels have been told."""

    def __init__(self, denoiser: LabelledDenoiser, label: Tensor | None, guidance: float = 1.0) -> None:
        self.denoiser, self.label, self.guidance = denoiser, label, guidance
        self.predicts = denoiser.predicts

    def __call__(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """`(B, C, H, W)`, `(B,)` -> `(B, C, H, W)`; asks the network once without guidance, else twice."""
        conditional = self.denoiser(x_t, log_snr, self.label)
        if self.guidance == 1:
            return conditional
        unconditional = self.denoiser(x_t, log_snr, None)
        return unconditional + self.guidance * (conditional - unconditional)


def drop_labels(label: Tensor, probability: float, no_label: int, drawn: Tensor) -> Tensor:
    """`(B,)` labels, each with that probability replaced by `no_label`; `drawn` `(B,)` is uniform in [0, 1)."""
    return torch.where((drawn < probability).to(label.device), no_label, label)
