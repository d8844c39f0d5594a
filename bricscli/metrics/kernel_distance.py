"""Kernel Inception Distance (Bińkowski et al., arXiv:1801.01401v5, section 4): the squared MMD of two sets of features.

k(x, y) = (x·y / D + 1)^3, unbiased over pairs of different images, so that it is near 0, also below, for sets that are
alike, however few the images. The mean over random subsets, drawn as torch-fidelity draws them: its numbers agree.
"""

import numpy as np
from numpy.typing import NDArray

from bricscli.errors import DataError


def kernel_distance(
    a: NDArray[np.floating], b: NDArray[np.floating], subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Features (N,D) and (M,D) -> mean and standard deviation over `subsets` pairs of subsets, in float64.

    The deviation is the spread of single subsets, no error of the mean. Raises DataError where either set has fewer
    than `size` rows.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features (N,D) and (M,D) expected, got {a.shape} and {b.shape}")
    if (fewest := min(len(a), len(b))) < size:
        raise DataError(
            f"KID: subsets of {size} images cannot be drawn from {fewest}. Use more images, or smaller subsets."
        )
    random = np.random.RandomState(seed)  # torch-fidelity's, whose stream numpy has frozen
    distances = np.empty(subsets)
    for i in range(subsets):
        x = a[random.choice(len(a), size, replace=False)].astype(np.float64)
        y = b[random.choice(len(b), size, replace=False)].astype(np.float64)
        distances[i] = _squared_mmd(x, y)
    return float(distances.mean()), float(distances.std())


def _squared_mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Of two sets of one size m: pairs of one set without the diagonal, all pairs of both sets."""
    m = len(x)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(within / (m * (m - 1)) - 2 * _kernel(x, y).mean())


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x @ y.T / x.shape[1] + 1) ** 3
