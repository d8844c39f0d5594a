"""Features of a collection of images, computed in one pass that all metrics share: an image is decoded once.

Of an extractor's output a metric wants the mean and the covariance, or the features of single images, or both. Which
images stand for the collection where a metric uses fewer than there are is chosen at random once and for all; fewer are
always among those of more.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bricscli import files
from bricscli.data.collection import ImageCollection
from bricscli.data.loader import order
from bricscli.data.workers import map_behind
from bricscli.errors import DataError
from bricscli.metrics.features import FeatureExtractor
from bricscli.metrics.frechet import Spread, Statistics
from bricscli.run.log import Progress

#: Images at a time.
BATCH_SIZE = 32
#: Rows by which mean and covariance grow, so that they do not depend on the batch.
_CHUNK = 1024
#: Features of single images may fill so much memory.
MOST_BYTES = 8 << 30


@dataclass(frozen=True)
class Want:
    """`rows`: of how many images the features are wanted one by one, None: of all; `spread`: mean and covariance too.

    `spread` and `rows=0` is all that a Fréchet distance needs.
    """

    extractor: str
    output: str = "features"
    rows: int | None = 0
    spread: bool = False


class Features:
    """What was wanted of `count` images; `ranks` (count,): the how-manieth choice each of them is."""

    def __init__(self, ranks: np.ndarray) -> None:
        self._ranks = ranks
        self.spreads: dict[tuple[str, str], Spread] = {}
        self.kept: dict[tuple[str, str], Tensor] = {}
        self._most: dict[tuple[str, str], int] = {}

    @property
    def count(self) -> int:
        return len(self._ranks)

    def spread(self, extractor: str, output: str = "features") -> Spread:
        return self.spreads[extractor, output]

    def rows(self, extractor: str, output: str = "features", limit: int | None = None) -> Tensor:
        """float32 (N, D), N at most `limit`, in the order of the collection."""
        key = extractor, output
        most = self._most[key]
        inside = self._ranks[self._ranks < most]
        limit = most if limit is None else min(limit, most)
        return self.kept[key] if limit == most else self.kept[key][torch.from_numpy(inside < limit)]

    def keep(self, key: tuple[str, str], rows: Tensor, most: int) -> None:
        """`rows`: those of the first `most` images in the order of choice."""
        self.kept[key], self._most[key] = rows, most


def collect(images: ImageCollection, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor],
            limit: int | None = None, batch_size: int = BATCH_SIZE) -> Features:
    """Reads at most `limit` images and computes what is wanted. Images are decoded while a network is at work.

    Raises DataError where features of single images would not fit in memory, or an image cannot be read.
    """
    merged = _merge(wants)
    chosen = order(0, images.count, 0)[:limit]
    ranks, numbers = np.argsort(chosen), np.sort(chosen).tolist()
    features = Features(ranks)
    stores = [_Store(want, extractors[want.extractor].outputs[want.output], features, ranks) for want in merged]
    _check_memory(images.name, stores)

    def extract(batch: Tensor) -> int:
        outputs = {name: extractors[name](batch) for name in {want.extractor for want in merged}}
        for store in stores:
            store.add(outputs[store.want.extractor][store.want.output].cpu())
        return len(batch)

    with Progress(len(numbers), f"features of {images.name}", "images") as progress:
        for count in map_behind(extract, _batches(images, numbers, batch_size)):
            progress.show(progress.done + count)
    for store in stores:
        store.finish()
    return features


def _merge(wants: Iterable[Want]) -> list[Want]:
    """One for each output, of all that is wanted of it."""
    merged: dict[tuple[str, str], Want] = {}
    for want in wants:
        key = want.extractor, want.output
        other = merged.get(key, Want(*key))
        rows = None if None in (want.rows, other.rows) else max(want.rows or 0, other.rows or 0)
        merged[key] = Want(*key, rows, want.spread or other.spread)
    return list(merged.values())


def _batches(images: ImageCollection, numbers: list[int], batch_size: int) -> Iterator[Tensor]:
    """uint8 (B,3,H,W)."""
    for start in range(0, len(numbers), batch_size):
        yield torch.from_numpy(np.stack([images.read(i) for i in numbers[start : start + batch_size]]))


class _Store:
    """Takes an output batch by batch."""

    def __init__(self, want: Want, dimension: int, features: Features, ranks: np.ndarray) -> None:
        self.want, self._features, self._ranks, self._dimension = want, features, ranks, dimension
        self._most = len(ranks) if want.rows is None else min(want.rows, len(ranks))
        self.bytes = 4 * self._most * dimension
        self._seen = self._kept = self._filled = 0
        self._rows: Tensor | None = None
        self._spread = Statistics(dimension) if want.spread else None
        self._chunk = torch.empty(_CHUNK, dimension) if want.spread else None

    def add(self, batch: Tensor) -> None:
        """float32 (B, D)."""
        if not torch.isfinite(batch).all():
            raise DataError(f"{self.want.extractor}: gave features that are not finite. Fetch its file again.")
        if self._most:
            if self._rows is None:
                self._rows = torch.empty(self._most, self._dimension)
            wanted = batch[torch.from_numpy(self._ranks[self._seen : self._seen + len(batch)] < self._most)]
            self._rows[self._kept : self._kept + len(wanted)] = wanted
            self._kept += len(wanted)
        self._seen += len(batch)
        if self._chunk is not None:
            self._spread_rows(batch)

    def _spread_rows(self, rows: Tensor) -> None:
        assert self._chunk is not None and self._spread is not None
        while len(rows):
            part = rows[: _CHUNK - self._filled]
            self._chunk[self._filled : self._filled + len(part)] = part
            self._filled, rows = self._filled + len(part), rows[len(part) :]
            if self._filled == _CHUNK:
                self._spread.update(self._chunk.numpy())
                self._filled = 0

    def finish(self) -> None:
        key = self.want.extractor, self.want.output
        if self._spread is not None and self._chunk is not None:
            self._spread.update(self._chunk[: self._filled].numpy())
            self._features.spreads[key] = self._spread
        if self._rows is not None:
            self._features.keep(key, self._rows, self._most)


def _check_memory(name: str, stores: list[_Store]) -> None:
    needed = sum(store.bytes for store in stores)
    if needed > MOST_BYTES:
        raise DataError(f"{name}: features of single images would take {files.show_bytes(needed)} of memory, more than "
                        f"{files.show_bytes(MOST_BYTES)}. Use fewer images with --limit.")
