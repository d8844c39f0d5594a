"""The order of training is a pure function of (seed, count, step); batches follow it however they are read."""

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bricscli.data.loader import Array, BatchReader, flips, in_order, order, series
from bricscli.data.shards import Split, write_shards
from bricscli.errors import DataError


def decode(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8).copy()


def plain(i: int) -> bytes:
    return bytes([i, 0, i])


def mirrored(i: int) -> bytes:
    return bytes([i, 1, i])


@pytest.fixture
def split(tmp_path: Path) -> Split:
    samples = (("train", f"{i:06d}", {"npy": plain(i), "flip.npy": mirrored(i)}) for i in range(10))
    return write_shards(tmp_path / "set", {"kind": "key_codes"}, samples, samples_per_shard=4).split("train")


def reader(split: Split, batch_size: int = 4, seed: int = 7, **options: Any) -> BatchReader:
    return BatchReader(split, decode, "npy", batch_size, seed, **options)


def test_each_epoch_sees_every_sample_once() -> None:
    for count in (*range(300), 10_007, 65_536, 65_537):
        for epoch in (0, 1_000_000):
            assert np.array_equal(np.sort(order(3, count, epoch)), np.arange(count)), (count, epoch)


def test_a_place_is_computed_by_itself() -> None:
    places = np.array([9_999, 0, 17, 17, 5_000])
    assert order(3, 10_007, 2, places).tolist() == order(3, 10_007, 2)[places].tolist()
    assert order(3, 10, 0, places[:0]).tolist() == []


def test_a_place_among_millions_needs_no_more_memory_than_one_of_few() -> None:
    """What a resumed run and a new epoch cost: nothing is made that is as long as the data set."""
    series(0, 3_033_042, np.arange(1))  # NumPy itself loads something at the first
    tracemalloc.start()
    try:
        first = 5 * 3_033_042 - 32
        assert len(set(series(0, 3_033_042, np.arange(first, first + 64)).tolist())) == 64
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_order_is_the_same_on_every_machine() -> None:
    assert order(0, 8, 0).tolist() == [6, 1, 7, 4, 2, 3, 0, 5]
    assert order(0, 3_033_042, 7, np.arange(4)).tolist() == [2088129, 563493, 1552798, 396865]
    assert flips(0, 0, 8).tolist() == [True, True, True, False, False, True, False, False]


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(order(seed, 100, epoch)) for seed in (0, 1) for epoch in range(20)}
    assert len(orders) == 40


@pytest.mark.parametrize("count", [4, 9])
def test_the_order_is_fair(count: int) -> None:
    """Every sample stands equally often at every place, and every pair equally often at the first two."""
    epochs = 4000
    orders = np.stack([order(1, count, epoch) for epoch in range(epochs)])
    table = np.stack([np.bincount(column, minlength=count) for column in orders.T])
    pairs = np.bincount(orders[:, 0] * count + orders[:, 1], minlength=count * count).reshape(count, count)
    for found, share in ((table, 1 / count), (pairs[~np.eye(count, dtype=bool)], 1 / (count * (count - 1)))):
        assert np.abs(found - epochs * share).max() < 5 * np.sqrt(epochs * share)


def test_an_epoch_tells_nothing_of_the_next() -> None:
    """Samples keep neither their places nor their neighbours: as often as chance has it, once in each epoch."""
    orders = [order(5, 997, epoch) for epoch in range(300)]
    places = np.arange(997)
    for one, other in (*itertools.pairwise(orders), *((found, places) for found in orders)):
        assert abs(np.corrcoef(one, other)[0, 1]) * np.sqrt(996) < 5
    kept = [np.sum(one == other) for one, other in itertools.pairwise(orders)]
    followed = [np.sum(np.diff(found) == 1) for found in orders]
    assert all(abs(np.mean(counts) - 1) < 5 / np.sqrt(300) for counts in (kept, followed))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_series_does_not_depend_on_how_it_is_cut(batch_size: int) -> None:
    whole = series(2, 10, np.arange(64))
    assert whole.tolist() == np.concatenate([order(2, 10, epoch) for epoch in range(7)])[:64].tolist()
    parts = [series(2, 10, np.arange(start, min(start + batch_size, 64))) for start in range(0, 64, batch_size)]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_half_are_mirrored_and_each_step_differently() -> None:
    masks = np.stack([flips(5, step, 64) for step in range(200)])
    assert 0.48 < masks.mean() < 0.52
    assert len({mask.tobytes() for mask in masks}) == 200
    assert (flips(6, 0, 64) != masks[0]).any()


def test_batches_are_the_permutations_one_after_the_other(split: Split) -> None:
    with reader(split) as batches:
        seen = np.concatenate([batches.batch(step)[0][:, 0] for step in range(15)])
    assert seen.tolist() == np.concatenate([order(7, 10, epoch) for epoch in range(6)]).tolist()


def test_a_batch_larger_than_the_data_set(split: Split) -> None:
    with reader(split, batch_size=25) as batches:
        assert np.bincount(batches.batch(0)[0][:, 0]).tolist() == [
            3 if i in order(7, 10, 2)[:5] else 2 for i in range(10)
        ]


@pytest.mark.parametrize("flip", [None, "flip.npy"])
def test_memory_threads_and_history_change_nothing(split: Split, flip: str | None) -> None:
    with reader(split, flip_extension=flip) as batches:
        straight = [batches.batch(step) for step in range(12)]
        again = [batches.batch(step) for step in (11, 3, 0)]  # now from memory
    for options in ({"cache_bytes": 0}, {"cache_bytes": 0, "threads": 1}, {"threads": 3}):
        with reader(split, flip_extension=flip, **options) as batches:
            jumps = {step: batches.batch(step) for step in (5, 6, 2, 11, 0, 3)}
        for step, (array, mask) in jumps.items():
            assert (array == straight[step][0]).all() and (mask == straight[step][1]).all()
    for step, (array, _) in zip((11, 3, 0), again, strict=True):
        assert (array == straight[step][0]).all()


def test_the_mask_chooses_the_mirrored_file(split: Split) -> None:
    with reader(split, flip_extension="flip.npy") as batches:
        for step in range(8):
            array, mask = batches.batch(step)
            assert (array[:, 1] == mask).all() and (array[:, 0] == batches.indices(step)).all()
            assert (mask == flips(7, step, 4)).all()


def test_without_a_mirrored_file_the_mask_is_for_the_caller(split: Split) -> None:
    with reader(split) as batches:
        masks = [batches.batch(step) for step in range(8)]
    assert any(mask.any() for _, mask in masks) and not any(array[:, 1].any() for array, _ in masks)


def test_a_batch_is_the_callers_own(split: Split) -> None:
    with reader(split) as batches:
        first = batches.batch(0)[0]
        kept = first.copy()
        first[:] = 99
        assert (batches.batch(0)[0] == kept).all()


def test_each_file_is_decoded_once_when_there_is_room(split: Split) -> None:
    count = 0

    def counting(data: bytes) -> Array:
        nonlocal count
        count += 1
        return decode(data)

    with BatchReader(split, counting, "npy", 10, 0, threads=1) as batches:
        for step in range(6):
            batches.batch(step)
    assert count <= 10 + 10 + 1  # the first, and those of a step that was begun before the one before it had ended


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_damaged_sample_stops_the_training_and_is_named(split: Split, cache_bytes: int) -> None:
    def strict(data: bytes) -> Array:
        if data[0] == 6:
            raise ValueError("not what it should be")
        return decode(data)

    with (
        BatchReader(split, strict, "npy", 5, 0, cache_bytes=cache_bytes) as batches,
        pytest.raises(DataError, match=r"train-00001.tar: 000006.npy: not what it should be"),
    ):
        for step in range(3):
            batches.batch(step)


def test_after_an_error_other_batches_can_be_read(split: Split) -> None:
    def strict(data: bytes) -> Array:
        if data[0] == 6:
            raise ValueError("not what it should be")
        return decode(data)

    with BatchReader(split, strict, "npy", 1, 2, threads=1) as batches:
        bad = next(step for step in range(30) if batches.indices(step) == [6])
        assert bad > 2
        batches.batch(0)
        with pytest.raises(DataError, match="000006"):
            batches.batch(bad)
        assert batches.batch(1)[0][0, 0] == batches.indices(1)[0]


def test_samples_of_another_shape_are_named(split: Split) -> None:
    def uneven(data: bytes) -> Array:
        return decode(data)[: 2 if data[0] == 3 else 3]

    with (
        BatchReader(split, uneven, "npy", 10, 0) as batches,
        pytest.raises(DataError, match=r"000003.npy: is uint8 \(2,\), the others are uint8 \(3,\)"),
    ):
        batches.batch(0)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        reader(Split("train", tmp_path, []))


def test_in_order_reads_all_once(split: Split) -> None:
    parts = list(in_order(split, decode, "npy", 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert np.concatenate(parts)[:, 0].tolist() == list(range(10))
