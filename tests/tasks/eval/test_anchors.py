"""The anchors of a Fréchet distance: real codes decoded, and codes whose values go together no more."""

from typing import Any

import numpy as np
import pytest
import torch

from bricscli.data.loader import order
from bricscli.errors import DataError
from bricscli.tasks.draw import decode_latents
from bricscli.tasks.encode import CODE, decode_code, open_codes
from bricscli.tasks.eval.anchors import decode_anchors, shuffle_positions
from bricscli.tasks.models import load_autoencoder

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py


def test_shuffling_keeps_the_values_of_every_position() -> None:
    codes = torch.rand(50, 2, 4, 4)
    shuffled = shuffle_positions(codes)
    assert shuffled.shape == codes.shape
    assert torch.equal(shuffled.sort(0).values, codes.sort(0).values)
    assert torch.equal(shuffle_positions(codes), shuffled), "the same every time"
    assert not torch.equal(shuffle_positions(codes, seed=1), shuffled)


def test_shuffling_leaves_nothing_together() -> None:
    """Where all values of a code are its number, what was one code is spread over many."""
    codes = torch.arange(200.0).view(200, 1, 1, 1).expand(200, 2, 4, 4)
    shuffled = shuffle_positions(codes).flatten(1)
    correlation = torch.corrcoef(shuffled.T)
    assert correlation.fill_diagonal_(0).abs().max() < 0.35
    assert (shuffled == torch.arange(200.0)[:, None]).float().mean() < 0.02


def test_decoded_anchors(trained: Trained) -> None:
    anchors = decode_anchors(trained.autoencoder.path, 6, CPU)
    assert list(anchors) == ["reconstructions of train images", "shuffled key codes"]
    autoencoder = load_autoencoder(trained.autoencoder, CPU)
    split = open_codes(trained.autoencoder, autoencoder).split("train")
    chosen = order(0, len(split), 0)[:6].tolist()
    codes = torch.from_numpy(np.stack([decode_code(split.read(i, CODE), (2, 8, 8)) for i in chosen]))
    for anchor, wanted in zip(anchors.values(), (codes, shuffle_positions(codes)), strict=True):
        found = np.concatenate(list(anchor.batches(4)))
        assert (anchor.count, anchor.shape, found.dtype) == (6, (16, 16), np.uint8)
        assert np.array_equal(found, decode_latents(autoencoder.model, wanted, CPU).numpy())


def test_too_few_codes(trained: Trained) -> None:
    with pytest.raises(DataError, match=r"has 28 train codes, 29 are needed. Pass --limit 28"):
        decode_anchors(trained.autoencoder.path, 29, CPU)
    with pytest.raises(DataError, match=r"no such run"):
        decode_anchors(trained.root / "nowhere", 2, CPU)
