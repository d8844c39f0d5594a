"""What every source gives: items, each of which can be named by its content, read and decoded by any process."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image


class Item(Protocol):
    """One picture of a source. Small, frozen and picklable: it travels to other processes.

    `name` is unique within the source, relative and valid UTF-8; nobody uses it as a path. `split` is "train" or "val"
    where the source fixes it, else None; `label` is the name of its class, or None. An item may also have `facts`, a
    mapping that goes into the JSON of its sample.
    """

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str | None: ...

    @property
    def label(self) -> str | None: ...

    def digest(self) -> str:
        """SHA-256 that names the content, without decoding it. Raises ImageError where it cannot be read."""
        ...

    def read(self) -> bytes:
        """The image file's own bytes; of a frame, a PNG. Raises ImageError where it cannot be read."""
        ...

    def load(self) -> Image.Image:
        """Decoded, upright, RGB. Raises ImageError where it cannot be."""
        ...


@dataclass(frozen=True)
class Listing:
    """The items of a source, in an order that depends on the contents alone."""

    items: Sequence[Item]
    ignored: int = 0  #: files that are no images
    source: dict[str, Any] = field(default_factory=dict)  #: for the manifest: "name" and facts; no paths
    classes: list[str] | None = None  #: names, where the items have labels
