"""Noisy key code, log SNR -> prediction: the UNet of LDM and Imagen (BRICS App. A.5), conditioned on log SNR.

Differs from the paper, whose models are unconditional: with `classes` it also hears what each image shows.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bricscli.nn.layers import SelfAttention, Upsample, group_norm, zero_

#: What a denoiser's output means; `diffusion.denoiser` defines them.
Prediction = Literal["eps", "v", "x_0", "flow"]


def embed_log_snr(log_snr: Tensor, width: int) -> Tensor:
    """Sines and cosines of log SNR: `(B,)` in about [-20, 20] -> `(B, width)`.

    Periods run geometrically from 1 to 1000 in units of log SNR.
    """
    frequencies = 2 * math.pi / torch.logspace(0, 3, width // 2, device=log_snr.device, dtype=log_snr.dtype)
    phase = log_snr[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def count_heads(width: int, head_channels: int) -> int:
    """As many heads of at least `head_channels` as divide `width`."""
    return next(heads for heads in range(max(1, width // head_channels), 0, -1) if width % heads == 0)


class ConditionedBlock(nn.Module):
    """Residual block; the embedding scales and shifts the second normalisation. Starts as the identity."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.conv2 = group_norm(outputs), zero_(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.embed(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        y = torch.addcmul(shift, self.norm2(y), 1 + scale)
        return self.shortcut(x) + self.conv2(F.silu(y))


class Stage(nn.Module):
    """A residual block and, where asked for, self-attention.

    With `recompute`, only its input is kept for the backward pass, which computes the rest once more.
    """

    recompute = False

    def __init__(self, inputs: int, outputs: int, embedding: int, heads: int) -> None:
        super().__init__()
        self.block = ConditionedBlock(inputs, outputs, embedding)
        self.attention = SelfAttention(outputs, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._compute, x, embedding, use_reentrant=False, preserve_rng_state=False)
        return self._compute(x, embedding)

    def _compute(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class FusedUpsample(Upsample):
    """`Upsample` as one transposed convolution: 4 multiplications for an output instead of 9.

    Taps of the 3x3 convolution that see copies of the same pixel add up: along each axis, w_0, w_1, w_2 become the
    transposed kernel w_2, w_1 + w_2, w_0 + w_1, w_0.
    """

    sums: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        taps = torch.tensor([[0.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
        self.register_buffer("sums", torch.kron(taps, taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:  # not measured there, and cuDNN has no transposed convolution that is sure to repeat itself
            return super().forward(x)
        kernel = (self.conv.weight.flatten(2) @ self.sums).unflatten(2, (4, 4)).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


class UNet(nn.Module):
    """`(B, C + E, H, W), (B,) -> (B, C, H, W)`; `attention` names the resolutions (pixels of the code) that have it.

    The last E = `surroundings` channels tell what x_t does not (inpainting); the network answers about the first C.

    The middle, at the lowest resolution, always has it. `predicts` changes nothing here: it goes where the network
    goes, so that nobody can take its output for something else.

    With `classes`, a label's vector is added to the embedding of log SNR; number `classes` stands for no label. The
    vectors start at zero: drawn from N(0, 1) they would at first drown log SNR, whose embedding is smaller than that.
    """

    def __init__(self, *, inputs: int, size: int, channels: int, multipliers: Sequence[int], blocks: int,
                 attention: Sequence[int], head_channels: int, classes: int = 0, surroundings: int = 0,
                 predicts: Prediction = "eps") -> None:
        super().__init__()
        self.channels, self.classes, self.inputs = channels, classes, inputs + surroundings
        self.predicts: Prediction = predicts
        embedding = 4 * channels
        self.embedding = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def stage(width: int, outputs: int, resolution: int) -> Stage:
            heads = count_heads(outputs, head_channels) if resolution in attention else 0
            return Stage(width, outputs, embedding, heads)

        self.stem = nn.Conv2d(self.inputs, channels, 3, padding=1)
        self.down = nn.ModuleList()  # every entry leaves its output for the way up
        skips, width, resolution = [channels], channels, size
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
                resolution //= 2
            for _ in range(blocks):
                self.down.append(stage(width, channels * multiplier, resolution))
                width = channels * multiplier
                skips.append(width)
        self.middle = nn.ModuleList([Stage(width, width, embedding, count_heads(width, head_channels)),
                                     Stage(width, width, embedding, 0)])
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(stage(width + skips.pop(), channels * multiplier, resolution))
                width = channels * multiplier
            if level:
                self.up.append(FusedUpsample(width))
                resolution *= 2
        self.norm, self.out = group_norm(width), zero_(nn.Conv2d(width, inputs, 3, padding=1))
        if classes:
            self.label = zero_(nn.Embedding(classes + 1, embedding))

    def forward(self, x: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """`label` int64 `(B,)` in 0 to `classes`; None: of no image."""
        embedding = self.embedding(embed_log_snr(log_snr, self.channels))
        if self.classes:
            label = torch.full_like(log_snr, self.classes, dtype=torch.int64) if label is None else label
            embedding = embedding + self.label(label)
        x = self.stem(x)
        skips = [x]
        for layer in self.down:
            x = layer(x, embedding) if isinstance(layer, Stage) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedding)
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], dim=1), embedding) if isinstance(layer, Stage) else layer(x)
        return self.out(F.silu(self.norm(x)))
