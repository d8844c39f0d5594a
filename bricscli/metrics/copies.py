"""Which samples are nearer to a training image than training images are to each other.

How near is too near depends on the data: the scale is the distance of training images, chosen at random, to their own
nearest other training image. A sample counts as a copy where it is nearer than the r-th smallest of S such distances,
r = max(1, floor(quantile S)). If samples were like further images of the same kind, each would be that near with
probability r / (S + 1): some are called copies by chance, and how many is known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Copies:
    """What the distances say."""

    threshold: float  #: a sample nearer than this counts as a copy, and one at distance 0
    rank: int  #: r: the threshold is the r-th smallest of the training images' own distances
    own: int  #: S: how many own distances there are
    count: int  #: copies
    identical: int  #: of these, samples with distance 0
    expected: float  #: copies expected by chance, if samples were like further training images
    probability: float  #: of at least as many copies by chance
    median: float  #: of the samples' nearest distances
    own_median: float
    own_smallest: float

    @property
    def ratio(self) -> float:
        """Of the medians. Below 1: samples in general are nearer than training images are to each other."""
        return self.median / self.own_median if self.own_median else math.inf


def judge_copies(nearest: Sequence[float], own: Sequence[float], quantile: float = 0.01) -> Copies | None:
    """`nearest`: of each sample, the distance to its nearest training image. None where there is no `own` distance."""
    scale = np.sort([distance for distance in own if math.isfinite(distance)])
    if not len(scale):
        return None
    distances = np.asarray(nearest, np.float64)
    rank = max(1, math.floor(quantile * len(scale)))
    threshold = float(scale[rank - 1])
    count = int(((distances < threshold) | (distances == 0)).sum())
    return Copies(
        threshold, rank, len(scale), count, int((distances == 0).sum()), len(distances) * rank / (len(scale) + 1),
        chance_of(count, len(distances), rank, len(scale)), float(np.median(distances)), float(np.median(scale)),
        float(scale[0]))


def chance_of(count: int, samples: int, rank: int, own: int) -> float:
    """The probability of `count` or more of `samples` numbers below the `rank`-th smallest of `own` others.

    All of them exchangeable, without ties: a beta-binomial distribution, whatever theirs is.
    """
    if count == 0:
        return 1.0

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    rest = own - rank + 1
    terms = [-math.log(samples + 1) - log_beta(j + 1, samples - j + 1)
             + log_beta(j + rank, samples - j + rest) - log_beta(rank, rest) for j in range(count, samples + 1)]
    return min(1.0, sum(map(math.exp, terms)))


def share_below(distance: float, own: Sequence[float]) -> float:
    """Of the training images' own distances, how many are smaller: 0 to 1."""
    return float(np.mean(np.asarray(own) < distance))
