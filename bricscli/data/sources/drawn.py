"""The churches of `bricscli.data.toy` as items: named by their seed and number, drawn when they are loaded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from bricscli.data import toy
from bricscli.data.images import encode_png
from bricscli.data.sources.listing import Listing


@dataclass(frozen=True)
class DrawnItem:
    """Picture `index` of the series `seed`; its digest, and so its split, is the same at every resolution."""

    seed: int
    index: int
    resolution: int
    split: None = None
    label: None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"toy:{self.seed}:{self.index}"

    def digest(self) -> str:
        return hashlib.sha256(f"{self.seed}:{self.index}".encode()).hexdigest()

    def read(self) -> bytes:
        return encode_png(self.load())

    def load(self) -> Image.Image:
        return toy.draw(self.seed, self.index, self.resolution)


def list_toy(seed: int, count: int, resolution: int) -> Listing:
    """The first `count` pictures of the series `seed`."""
    items = [DrawnItem(seed, index, resolution) for index in range(count)]
    return Listing(items, 0, {"name": "toy", "version": toy.VERSION, "seed": seed, "count": count})
