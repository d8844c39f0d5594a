"""The order of training, and batches in that order.

Sample g of the endless training series is a pure function of (seed, data set, g): epochs are permutations, one after
the other. So a resumed run needs to know its step and nothing else, and prefetching or caching changes no value.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from bricscli.data.shards import Split
from bricscli.errors import DataError

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Decode = Callable[[bytes], Array]

#: What the numbers drawn from a seed are for: the two uses share none.
_ORDER, _FLIP = 1, 2
#: Of the cipher that the order is: so many that permutations of a few samples are equally frequent too.
_ROUNDS = 16


def _raw(seed: int, use: int, index: int, count: int) -> Words:
    """`count` random 64-bit words. NumPy promises the streams of SeedSequence and Philox, not those of `Generator`."""
    return np.random.Philox(np.random.SeedSequence((seed, use, index))).random_raw(count)


def order(seed: int, count: int, epoch: int, places: Indices | None = None) -> Indices:
    """What stands at `places` (default: all) of the permutation of 0..count-1 in which an epoch sees the samples.

    Each place is computed by itself, in time and memory that do not depend on `count`: a Feistel cipher whose halves
    are a digit below `width` and one below `height`, width * height being just above `count`; a result that is no
    sample is enciphered again until it is one ("cycle walking": Black and Rogaway, "Ciphers with Arbitrary Finite
    Domains", 2002).
    """
    places = np.arange(count) if places is None else places
    if not places.size:
        return places.astype(np.int64)
    width = math.isqrt(count - 1) + 1 if count > 1 else 1
    height = -(-count // width)
    keys = _raw(seed, _ORDER, epoch, _ROUNDS)
    found = _encipher(places.astype(np.uint64), np.uint64(width), np.uint64(height), keys)
    while (outside := np.flatnonzero(found >= count)).size:
        found[outside] = _encipher(found[outside], np.uint64(width), np.uint64(height), keys)
    return found.astype(np.int64)


def series(seed: int, count: int, numbers: Indices) -> Indices:
    """Which sample stands at each of these numbers of the endless series: one epoch after the other."""
    epochs, places = np.divmod(numbers, count)
    found = np.empty_like(places)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        found[here] = order(seed, count, epoch, places[here])
    return found


def _encipher(values: Words, width: np.uint64, height: np.uint64, keys: Words) -> Words:
    """A permutation of 0..width*height-1 at `values`: each digit in turn is moved by a random function of the other."""
    high, low = np.divmod(values, width)
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        low = (low + _mix(high, even) % width) % width
        high = (high + _mix(low, odd) % height) % height
    return high * width + low


def _mix(values: Words, key: np.uint64) -> Words:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the outputs of the stream that begins at `key`, by number."""
    mixed = key + values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def flips(seed: int, step: int, batch_size: int) -> npt.NDArray[np.bool_]:
    """Which samples of batch `step` are mirrored: (batch_size,), each with probability 1/2."""
    return _raw(seed, _FLIP, step, batch_size) >> np.uint64(63) == 1


class BatchReader:
    """Batch `step` of training: samples step*B ... step*B + B-1 of the endless series, or those `rows` of them.

    `decode` turns a sample's file into an array of one shape. Files are read and decoded by threads, one step ahead;
    decoded samples stay in memory where all of them fit into `cache_bytes`. Neither changes a value.

    With `flip_extension` the mirrored sample is a file of its own (key codes), and the mask has already been applied;
    without it the caller mirrors the samples that the mask names.
    """

    def __init__(
        self,
        split: Split,
        decode: Decode,
        extension: str,
        batch_size: int,
        seed: int,
        flip_extension: str | None = None,
        rows: range | None = None,
        cache_bytes: int = 2 << 30,
        threads: int | None = None,
    ) -> None:
        if not len(split):
            raise DataError(f"split `{split.name}` holds no samples. Prepare more images.")
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.rows = range(batch_size) if rows is None else rows
        self._decode = decode
        self._extensions = (extension,) if flip_extension is None else (extension, flip_extension)
        first = self._decoded(0, 0)
        self.shape, self.dtype = first.shape, first.dtype
        self._cache: list[Array] | None = None
        if first.nbytes * len(split) * len(self._extensions) <= cache_bytes:
            self._cache = [np.empty((len(split), *self.shape), self.dtype) for _ in self._extensions]
            self._cached = np.zeros((len(self._extensions), len(split)), bool)
        self._pool = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), "brics-read")
        self._ahead: tuple[int, list[Future[Array]]] = (-1, [])

    @property
    def mirrors(self) -> bool:
        """Whether mirrored samples are files of their own, and the mask is applied here."""
        return len(self._extensions) == 2

    def indices(self, step: int) -> Indices:
        """(rows,) numbers of the samples of batch `step`, within the split."""
        return series(self.seed, len(self.split), step * self.batch_size + np.array(self.rows))

    def keys(self, step: int) -> list[str]:
        """Of the samples of batch `step`."""
        return [self.split.key(i) for i in self.indices(step)]

    def batch(self, step: int) -> tuple[Array, npt.NDArray[np.bool_]]:
        """(rows, *shape) samples, and (rows,) bool: which of them are mirrored.

        Raises:
            DataError: a sample is damaged.
        """
        jobs, mask = self._jobs(step)
        ahead, futures = self._ahead
        if ahead != step:
            self._drop(futures)
            futures = self._start(jobs)
            self._ahead = step, futures
        loaded = [future.result() for future in futures]
        batch = np.stack(loaded) if self._cache is None else np.stack([self._cache[kind][i] for kind, i in jobs])
        self._ahead = step + 1, self._start(self._jobs(step + 1)[0])
        return batch, mask

    def close(self) -> None:
        self._drop(self._ahead[1])
        self._pool.shutdown()

    def __enter__(self) -> "BatchReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _jobs(self, step: int) -> tuple[list[tuple[int, int]], npt.NDArray[np.bool_]]:
        """For each sample of a batch which file (0, or 1: mirrored) of which sample is read; and the flip mask."""
        mask = flips(self.seed, step, self.batch_size)[self.rows.start:self.rows.stop]
        kinds = mask if len(self._extensions) == 2 else np.zeros_like(mask)
        return list(zip(kinds.astype(int).tolist(), self.indices(step).tolist(), strict=True)), mask

    def _start(self, jobs: list[tuple[int, int]]) -> list[Future[Array]]:
        """Reads what is not in memory yet."""
        missing = jobs if self._cache is None else [job for job in jobs if not self._cached[job]]
        return [self._pool.submit(self._load, *job) for job in missing]

    def _load(self, kind: int, i: int) -> Array:
        array = self._decoded(kind, i)
        if array.shape != self.shape or array.dtype != self.dtype:
            found, expected = f"{array.dtype} {array.shape}", f"{self.dtype} {self.shape}"
            raise DataError(f"{self.split.where(i, self._extensions[kind])}: is {found}, the others are {expected}.")
        if self._cache is not None:
            self._cache[kind][i] = array
            self._cached[kind, i] = True
        return array

    def _decoded(self, kind: int, i: int) -> Array:
        return read_sample(self.split, i, self._decode, self._extensions[kind])

    @staticmethod
    def _drop(futures: list[Future[Array]]) -> None:
        for future in futures:
            future.cancel()


def read_sample(split: Split, i: int, decode: Decode, extension: str) -> Array:
    """Sample i of a split, decoded. Raises DataError where it is damaged."""
    data = split.read(i, extension)
    try:
        return decode(data)
    except ValueError as error:
        raise DataError(f"{split.where(i, extension)}: {error}.") from error


def in_order(split: Split, decode: Decode, extension: str, batch_size: int) -> Iterator[Array]:
    """The samples of a split, once, in their own order: (<= batch_size, *shape) at a time."""
    for start in range(0, len(split), batch_size):
        numbers = range(start, min(start + batch_size, len(split)))
        yield np.stack([read_sample(split, i, decode, extension) for i in numbers])
