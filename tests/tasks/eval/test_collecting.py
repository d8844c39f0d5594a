"""One pass over the images gives every metric its features: the right ones, whatever the batches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bricscli.data.collection import ImageCollection
from bricscli.data.loader import order
from bricscli.errors import DataError
from bricscli.tasks.eval import collecting
from bricscli.tasks.eval.collecting import Want, collect

Make = Callable[..., ImageCollection]


def expected(images: ImageCollection, numbers: Any) -> np.ndarray:
    red = np.stack([images.read(int(i))[0] for i in numbers]).astype(np.float64) / 255
    return np.stack([red[:, y : y + 8, x : x + 8].mean((1, 2)) for y in (0, 8) for x in (0, 8)], 1)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_mean_and_covariance_are_those_of_all_images(collection: Make, quadrants: Any, batch_size: int) -> None:
    images = collection(30)
    want = Want("quadrants", spread=True)
    spread = collect(images, [want], {"quadrants": quadrants}, batch_size=batch_size).spread("quadrants")
    every = expected(images, range(30))
    np.testing.assert_allclose(spread.mean, every.mean(0), rtol=1e-6)
    np.testing.assert_allclose(spread.covariance, np.cov(every.T), rtol=1e-4, atol=1e-9)


def test_batches_change_no_bit(collection: Make, quadrants: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "CHUNK", 8)  # so that chunks are filled across batches
    wants = [Want("quadrants", spread=True, rows=9)]
    found = [collect(collection(30), wants, {"quadrants": quadrants}, batch_size=size) for size in (1, 5, 30)]
    for other in found[1:]:
        assert np.array_equal(other.spread("quadrants").covariance, found[0].spread("quadrants").covariance)
        assert torch.equal(other.rows("quadrants"), found[0].rows("quadrants"))


def test_every_image_is_seen_once_for_all_wants(collection: Make, quadrants: Any) -> None:
    wants = [Want("quadrants", spread=True), Want("quadrants", rows=5), Want("quadrants", "logits", rows=None),
             Want("quadrants", rows=12)]
    features = collect(collection(30), wants, {"quadrants": quadrants})
    assert quadrants.seen == features.count == 30
    assert features.rows("quadrants").shape == (12, 4)
    assert features.rows("quadrants", "logits").shape == (30, 2)


def test_fewer_rows_are_among_the_more_and_in_order(collection: Make, quadrants: Any) -> None:
    images, extractors = collection(40), {"quadrants": quadrants}
    for limit, rows, few in ((None, None, 10), (None, 25, 10), (30, 25, 10), (30, None, 40)):
        features = collect(images, [Want("quadrants", rows=rows)], extractors, limit)
        chosen = order(0, 40, 0)[:limit][:rows]
        np.testing.assert_allclose(features.rows("quadrants"), expected(images, sorted(chosen)), rtol=1e-5)
        np.testing.assert_allclose(features.rows("quadrants", limit=few), expected(images, sorted(chosen[:few])),
                                   rtol=1e-5)


def test_more_than_fits_in_memory_is_refused_before_the_work(collection: Make, quadrants: Any,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MOST_BYTES", 100)
    with pytest.raises(DataError, match="set0: features of single images would take 480 B of memory, more than 100 B"):
        collect(collection(30), [Want("quadrants", rows=None)], {"quadrants": quadrants})
    assert quadrants.seen == 0


def test_a_network_that_gives_no_numbers(collection: Make, quadrants: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = torch.full((4, 4), float("nan"))
    monkeypatch.setattr(type(quadrants), "__call__", lambda self, images: {"features": nothing})
    with pytest.raises(DataError, match="not finite"):
        collect(collection(4), [Want("quadrants", spread=True)], {"quadrants": quadrants})
