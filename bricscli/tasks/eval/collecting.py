"""Features of a collection of images, computed in one pass that all metrics share: an image is decoded once.

Of an extractor's output a metric wants the mean and the covariance, or the features of single images, or both. Which
images stand for the collection where a metric uses fewer than there are is chosen at random once and for all; fewer are
always among those of more.

Chunks of fixed images are computed one after the other, or by several processes, each of which keeps those of its part
for the process that measures. Networks see images in passes of one width, one pass to a thread, so that nobody's
features depend on the batch, the number of cores, or who computed what.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bricscli import files
from bricscli.data.collection import ImageCollection
from bricscli.data.loader import order
from bricscli.data.workers import map_behind
from bricscli.errors import DataError
from bricscli.metrics.features import FeatureExtractor
from bricscli.metrics.features.pixels import full_precision
from bricscli.metrics.frechet import Spread, Statistics
from bricscli.parts import WHOLE, Part
from bricscli.run.log import Progress
from bricscli.runtime import PASS_WIDTH, one_thread_each
from bricscli.tasks.eval.kept import read_chunk, write_chunk

#: Images at a time, at least.
BATCH_SIZE = 32
#: Images of a chunk: rows by which mean and covariance grow, and what one process of several computes at a time.
CHUNK = 1024
#: Features of single images may fill so much memory.
MOST_BYTES = 8 << 30

#: Extractor -> output -> float32 (N, D).
Outputs = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Place:
    """Where features are computed, and the folder in which those of finished chunks are kept; None: nowhere."""

    device: torch.device
    kept: Path | None = None


#: On the CPU, and nothing is kept.
HERE = Place(torch.device("cpu"))


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
            limit: int | None = None, batch_size: int | None = None, place: Place = HERE) -> Features:
    """What is wanted of at most `limit` images. Images are decoded while a network is at work.

    Chunks that are kept at `place` are not computed again. Raises DataError where features of single images would not
    fit in memory, or an image cannot be read.
    """
    work = _Work(images, _merge(wants), extractors, limit, place)
    features = Features(work.ranks)
    stores = [_Store(want, extractors[want.extractor].outputs[want.output], features, work.ranks)
              for want in work.wants]
    _check_memory(images.name, stores)
    for chunk in _chunks(work, WHOLE, batch_size):
        outputs = chunk.kept | chunk.computed
        for store in stores:
            name = store.want.extractor
            store.add(outputs[name][store.want.output], work.ranks[work.rows(name, chunk.number)])
    for store in stores:
        store.finish()
    return features


def collect_part(images: ImageCollection, wants: Iterable[Want], extractors: Mapping[str, FeatureExtractor], part: Part,
                 place: Place, limit: int | None = None) -> tuple[int, int]:
    """Keeps the features of a part's chunks at `place`, for `collect`. How many chunks it has; how many were there.

    Raises DataError where an image cannot be read, BricsError where the disk is full or refuses.
    """
    work, there, count = _Work(images, _merge(wants), extractors, limit, place), 0, 0
    assert place.kept is not None
    for chunk in _chunks(work, part, None):
        for name, outputs in chunk.computed.items():
            write_chunk(place.kept, name, chunk.number, outputs)
        there, count = there + (not chunk.computed), count + 1
    return count, there


class _Work:
    """Which images go through which extractor. Positions count the chosen images in the order of the collection."""

    def __init__(self, images: ImageCollection, wants: list[Want], extractors: Mapping[str, FeatureExtractor],
                 limit: int | None, place: Place) -> None:
        chosen = order(0, images.count, 0)[:limit]
        self.images, self.wants, self.place = images, wants, place
        self.ranks, self.numbers = np.argsort(chosen), np.sort(chosen)
        self.extractors = {name: extractors[name] for name in dict.fromkeys(want.extractor for want in wants)}
        self._most = {name: max(len(chosen) if want.spread or want.rows is None else want.rows
                                for want in wants if want.extractor == name) for name in self.extractors}

    def outputs(self, extractor: str) -> dict[str, int]:
        """Those wanted, with their dimension."""
        dimensions = self.extractors[extractor].outputs
        return {want.output: dimensions[want.output] for want in self.wants if want.extractor == extractor}

    def positions(self, chunk: int) -> range:
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.numbers)))

    def rows(self, extractor: str, chunk: int) -> np.ndarray:
        """Positions of the chunk's images that an extractor has to see."""
        positions = np.asarray(self.positions(chunk), np.int64)
        return positions[self.ranks[positions] < self._most[extractor]]

    def read_kept(self, chunk: int) -> Outputs:
        found: Outputs = {}
        for name in self.extractors if self.place.kept else ():
            assert self.place.kept is not None
            shapes = {output: (len(self.rows(name, chunk)), size) for output, size in self.outputs(name).items()}
            outputs = read_chunk(self.place.kept, name, chunk, shapes)
            if outputs is not None:
                found[name] = outputs
        return found

    def compute(self, extractor: str, images: Tensor) -> dict[str, Tensor]:
        """uint8 (B,3,H,W) -> float32 (B,D) of each output, on the CPU, in passes of one width."""
        width = PASS_WIDTH[self.place.device.type]

        def run(part: Tensor) -> dict[str, Tensor]:
            padded = torch.cat([part, part[:1].expand(width - len(part), *part.shape[1:])])
            found = self.extractors[extractor](padded)
            return {output: found[output][: len(part)].cpu() for output in self.outputs(extractor)}

        with full_precision(self.place.device):  # around all threads: what it sets is the process's
            passes = one_thread_each(run, images.split(width), self.place.device)
        outputs = {output: torch.cat([found[output] for found in passes]) for output in passes[0]}
        if not all(rows.isfinite().all() for rows in outputs.values()):  # before anything of it is kept
            raise DataError(f"{extractor}: gave features that are not finite. Fetch its file again.")
        return outputs


@dataclass
class _Chunk:
    """Outputs of the images that each extractor has to see, of finished files and from now."""

    number: int
    kept: Outputs
    computed: Outputs


@dataclass
class _Batch:
    """Some images of a chunk, and what is kept of it; `last`: the chunk has no more."""

    chunk: int
    kept: Outputs
    positions: Sequence[int]
    images: Tensor | None
    last: bool


def _chunks(work: _Work, part: Part, batch_size: int | None) -> Iterator[_Chunk]:
    """The part's chunks, in order, with progress."""
    chunks = [number for number in range(-(-len(work.numbers) // CHUNK)) if part.takes(number)]
    threads = torch.get_num_threads() if work.place.device.type == "cpu" else 1
    size = batch_size or max(BATCH_SIZE, threads * PASS_WIDTH[work.place.device.type])

    def extract(batch: _Batch) -> tuple[_Batch, Outputs]:
        outputs: Outputs = {}
        if batch.images is None:
            return batch, outputs
        for name in work.extractors.keys() - batch.kept.keys():
            seen = np.isin(batch.positions, work.rows(name, batch.chunk))
            if seen.any():
                outputs[name] = work.compute(name, batch.images[torch.from_numpy(seen)])
        return batch, outputs

    total = sum(len(work.positions(number)) for number in chunks)
    with Progress(total, f"features of {work.images.name}", "images") as progress:
        found: list[Outputs] = []
        before = 0
        for batch, outputs in map_behind(extract, _batches(work, chunks, size)):
            found.append(outputs)
            if batch.last:
                missing = [name for name in work.extractors if name not in batch.kept]
                yield _Chunk(batch.chunk, batch.kept, {name: _joined(work, name, found) for name in missing})
                found, before = [], before + len(work.positions(batch.chunk))
            progress.show(before if batch.last else progress.done + len(batch.positions))


def _batches(work: _Work, chunks: Iterable[int], size: int) -> Iterator[_Batch]:
    """What is missing, at most `size` images at a time; of a chunk without any, one batch without images."""
    for chunk in chunks:
        kept = work.read_kept(chunk)
        missing = [work.rows(name, chunk) for name in work.extractors if name not in kept]
        positions = np.unique(np.concatenate(missing)).tolist() if missing else []
        for start in range(0, max(len(positions), 1), size):
            some = positions[start : start + size]
            images = np.stack([work.images.read(int(work.numbers[i])) for i in some]) if some else None
            yield _Batch(chunk, kept, some, None if images is None else torch.from_numpy(images),
                         start + size >= len(positions))


def _joined(work: _Work, extractor: str, found: list[Outputs]) -> dict[str, Tensor]:
    parts = [outputs[extractor] for outputs in found if extractor in outputs]
    return {output: torch.cat([part[output] for part in parts]) if parts else torch.empty(0, size)
            for output, size in work.outputs(extractor).items()}


def _merge(wants: Iterable[Want]) -> list[Want]:
    """One for each output, of all that is wanted of it."""
    merged: dict[tuple[str, str], Want] = {}
    for want in wants:
        key = want.extractor, want.output
        other = merged.get(key, Want(*key))
        rows = None if None in (want.rows, other.rows) else max(want.rows or 0, other.rows or 0)
        merged[key] = Want(*key, rows, want.spread or other.spread)
    return list(merged.values())


class _Store:
    """Takes an output chunk by chunk."""

    def __init__(self, want: Want, dimension: int, features: Features, ranks: np.ndarray) -> None:
        self.want, self._features, self._dimension = want, features, dimension
        self._most = len(ranks) if want.rows is None else min(want.rows, len(ranks))
        self.bytes = 4 * self._most * dimension
        self._filled = 0
        self._rows: Tensor | None = None
        self._spread = Statistics(dimension) if want.spread else None

    def add(self, chunk: Tensor, ranks: np.ndarray) -> None:
        """float32 (N, D), and the rank of each row's image."""
        if self._most:
            if self._rows is None:
                self._rows = torch.empty(self._most, self._dimension)
            wanted = chunk[torch.from_numpy(ranks < self._most)]
            self._rows[self._filled : self._filled + len(wanted)] = wanted
            self._filled += len(wanted)
        if self._spread is not None:
            self._spread.update(chunk.numpy())

    def finish(self) -> None:
        key = self.want.extractor, self.want.output
        if self._spread is not None:
            self._features.spreads[key] = self._spread
        if self._rows is not None:
            self._features.keep(key, self._rows, self._most)


def _check_memory(name: str, stores: list[_Store]) -> None:
    needed = sum(store.bytes for store in stores)
    if needed > MOST_BYTES:
        raise DataError(f"{name}: features of single images would take {files.show_bytes(needed)} of memory, more than "
                        f"{files.show_bytes(MOST_BYTES)}. Use fewer images with --limit.")
