"""Pictures, as the sources hold them."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """`picture(3)` is an image file of its own; `picture(3, "PNG", 24, 18)` another."""

    def make(seed: int, kind: str = "PNG", width: int = 24, height: int = 18) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    return make
