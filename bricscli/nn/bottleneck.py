"""Encoder output -> key code z in [0, 1], and the noise of relaxed precision (BRICS sections 3.1 and 3.4)."""

import torch
from torch import Tensor, nn


class KeyCode(nn.Module):
    """z = sigmoid(E(x)), `(B, C_z, H_z, W_z)` in (0, 1)."""

    def forward(self, encoded: Tensor) -> Tensor:
        return torch.sigmoid(encoded)


def relax_precision(key_code: Tensor, r_max: int, noise: Tensor) -> Tensor:
    """z + eps_0 with eps_0 ~ N(0, 1 / (4 r_max)^2) (Eq. 1), clamped to [0, 1].

    `noise` is standard normal and shaped like the tiled `key_code`. Clamping keeps the keys on the grid: outside,
    a feature grid has no entries (the paper does not say what happens there).
    """
    return (key_code + noise / (4 * r_max)).clamp(0, 1)
