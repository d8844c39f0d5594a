"""Images and an extractor small enough to know everything of."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bricscli.data.collection import ImageCollection


class Quadrants:
    """Mean of each quadrant's red, and two logits: what NumPy computes in a line as well. Counts what it sees."""

    name = "quadrants"
    outputs = {"features": 4, "logits": 2}  # noqa: RUF012 (as the Protocol has it)
    digest = "d" * 64

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self.seen += len(images.unique(dim=0))  # a pass is padded with copies
        red = images[:, 0].float() / 255
        means = torch.nn.functional.adaptive_avg_pool2d(red[:, None], 2).flatten(1)
        return {"features": means, "logits": means[:, :2] * 9}


@pytest.fixture
def quadrants() -> Quadrants:
    return Quadrants()


@pytest.fixture
def collection() -> Callable[..., ImageCollection]:
    """Of `count` random images; what is given by name differs."""

    def make(count: int = 30, seed: int = 0, **changes: object) -> ImageCollection:
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16)).astype(np.uint8)
        images = ImageCollection(f"set{seed}", count, lambda i: pixels[i], (16, 16), f"digest{seed}")
        for name, value in changes.items():
            setattr(images, name, value)
        return images

    return make
