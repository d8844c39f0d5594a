"""Inception Score (Salimans et al., arXiv:1606.03498v1, section 4): exp of the mean KL(p(y|x) || p(y)).

p(y|x) is Inception's softmax over 1008 classes, p(y) its mean over a split of the images. Between 1 and 1008; no real
image is asked. The number of images in a split decides it, so that it is printed with its splits.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bricscli.errors import DataError


def inception_score(
    logits: NDArray[np.floating], splits: int = 10, shuffle: bool = True, seed: int = 2020
) -> tuple[float, float]:
    """Logits (N, classes) -> mean and standard deviation over `splits`, in float64.

    Shuffled as torch-fidelity does; ADM's program keeps the order. Raises DataError for fewer images than splits.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits (N, classes) expected, got {logits.shape}")
    if len(logits) < splits:
        raise DataError(f"IS: {splits} splits need as many images, there are {len(logits)}. Use more images.")
    if shuffle:
        logits = logits[np.random.RandomState(seed).permutation(len(logits))]
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(logits[start:end].astype(np.float64)) for start, end in pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: NDArray[np.float64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    with np.errstate(divide="ignore", invalid="ignore"):  # a class that no image has: 0 · (-inf - -inf) counts 0
        terms = p * (log_p - np.log(p.mean(axis=0, keepdims=True)))
    return float(np.exp(np.where(p > 0, terms, 0).sum(axis=1).mean()))
