"""Which samples are nearer to a training image than training images are to each other.

How near is too near depends on the data: the scale is what training images, chosen at random, have against all other
training images. A sample is below the limit where its number is smaller than the r-th smallest of S such numbers,
r = max(1, floor(quantile S)). If samples were like further images of the same kind, each would be that with probability
r / (S + 1): some are below it by chance, and how many is known.

Two numbers are judged so: the distance to the nearest training image, which tells copies; and that distance divided by
the one to the second nearest. The latter tells copies that were moved or changed so much that others are as near to
each other somewhere in the data, but not there (a local scale, as in Lowe's ratio test, IJCV 60(2), 2004, section 7.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: One number alone is no scale.
LEAST_OWN = 2


@dataclass(frozen=True)
class Verdict:
    """What numbers of samples are beside the same numbers of training images ("own"); small ones are suspect."""

    limit: float  #: a sample is below where its number is smaller than this, or 0
    rank: int  #: r: the limit is the r-th smallest of the own numbers
    own: int  #: S: how many own numbers there are
    count: int  #: samples below
    zero: int  #: of these, samples with the number 0
    expected: float  #: how many were below by chance, if samples were like further training images
    probability: float  #: of at least as many by chance
    median: float  #: of the samples
    own_median: float
    own_smallest: float

    def below(self, number: float) -> bool:
        return number < self.limit or number == 0

    @property
    def ratio(self) -> float:
        """Of the medians. Of distances, below 1: samples are nearer in general than training images to each other."""
        return self.median / self.own_median if self.own_median else math.inf


def judge(samples: Sequence[float], own: Sequence[float], quantile: float = 0.01) -> Verdict | None:
    """None where there are fewer than `LEAST_OWN` finite `own` numbers."""
    scale = np.sort([number for number in own if math.isfinite(number)])
    if len(scale) < LEAST_OWN:
        return None
    numbers = np.asarray(samples, np.float64)
    rank = max(1, math.floor(quantile * len(scale)))
    limit = float(scale[rank - 1])
    count = int(((numbers < limit) | (numbers == 0)).sum())
    return Verdict(
        limit, rank, len(scale), count, int((numbers == 0).sum()), len(numbers) * rank / (len(scale) + 1),
        chance_of(count, len(numbers), rank, len(scale)), float(np.median(numbers)), float(np.median(scale)),
        float(scale[0]))


def second_ratio(first: float, second: float) -> float:
    """Nearest distance over the second nearest: 0 to 1, small where one image stands out; 1 where there is no other."""
    return first / second if 0 < second < math.inf else 1.0


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


def share_below(number: float, own: Sequence[float]) -> float:
    """Of the own numbers, how many are smaller: 0 to 1."""
    return float(np.mean(np.asarray(own) < number))
