"""Fréchet distance between two Gaussians fitted to features (Heusel et al., arXiv:1706.08500v6, Eq. 6).

d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)),   everything in float64.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Spread(Protocol):
    """What a Fréchet distance needs of a set of features: `mean` (D,), `covariance` (D, D)."""

    @property
    def mean(self) -> Array: ...

    @property
    def covariance(self) -> Array: ...


class Gaussian(NamedTuple):
    """The same, finished."""

    mean: Array
    covariance: Array


class Statistics:
    """Mean and covariance of features that arrive in pieces; memory does not grow with their number."""

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.mean = np.zeros(dimension)
        self._scatter: Array = np.zeros((dimension, dimension))  # sum of (x - mean)(x - mean)^T

    def update(self, features: NDArray[np.floating]) -> None:
        """Add a batch of shape (N, D)."""
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != self.mean.size:
            raise ValueError(f"features of shape (N, {self.mean.size}) expected, got {batch.shape}")
        if len(batch) == 0:
            return
        if not np.isfinite(batch).all():
            raise ValueError("features hold values that are not finite")
        other = Statistics(self.mean.size)
        other.count, other.mean = len(batch), batch.mean(axis=0)
        centred = batch - other.mean
        other._scatter = centred.T @ centred
        self.merge(other)

    def merge(self, other: "Statistics") -> None:
        """Add what `other` has seen (Chan, Golub and LeVeque 1979: exact up to rounding)."""
        count = self.count + other.count
        if count == 0:
            return
        difference = other.mean - self.mean
        self._scatter = (
            self._scatter + other._scatter + np.outer(difference, difference) * (self.count * other.count / count)
        )
        self.mean = self.mean + difference * (other.count / count)
        self.count = count

    @property
    def covariance(self) -> Array:
        """Unbiased (divided by N - 1), as in numpy.cov and every published FID."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, there are {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(a: Spread, b: Spread) -> float:
    """The squared Fréchet distance, as FID is printed; at least 0."""
    return gaussian_distance(a.mean, a.covariance, b.mean, b.covariance)


def gaussian_distance(mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array) -> float:
    """The same of two Gaussians.

    tr (C_a C_b)^(1/2) is taken as the trace of (C_a^(1/2) C_b C_a^(1/2))^(1/2): symmetric, so eigenvalues are real and
    singular covariances (fewer samples than dimensions) need no jitter.
    """
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ covariance_b @ root
    cross = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    difference = mean_a - mean_b
    distance = difference @ difference + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
    return max(0.0, float(distance))  # rounding alone can take equal inputs below 0
