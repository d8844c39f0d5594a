"""Copies: the limit, what is below it, and how often chance alone is."""

import math
from fractions import Fraction

import numpy as np
import pytest

from bricscli.metrics.copies import chance_of, judge, second_ratio, share_below


def test_the_limit_is_an_order_statistic() -> None:
    own = np.random.default_rng(0).permutation(np.arange(1, 501) / 100).tolist()
    verdict = judge([0.049, 0.05, 0.051, 3.0], own, 0.01)
    assert verdict is not None
    assert (verdict.limit, verdict.rank, verdict.own, verdict.count) == (0.05, 5, 500, 1)
    assert verdict.own_smallest == 0.01 and verdict.own_median == 2.505
    assert verdict.expected == pytest.approx(4 * 5 / 501)
    assert [verdict.below(x) for x in (0.0499, 0.05)] == [True, False]


def test_too_few_for_the_quantile() -> None:
    verdict = judge([1.0, 3.0], [2.0, 4.0, 5.0], 0.01)
    assert verdict is not None and (verdict.limit, verdict.rank, verdict.count) == (2.0, 1, 1)
    assert verdict.expected == pytest.approx(2 / 4)
    for own in ([], [math.inf], [2.0], [2.0, math.inf]):
        assert judge([1.0], own) is None, "one number is no scale"


def test_identical_images_are_below_any_limit() -> None:
    verdict = judge([0.0, 0.1], [0.0, 1.0])
    assert verdict is not None and (verdict.limit, verdict.count, verdict.zero) == (0.0, 1, 1)


@pytest.mark.parametrize(("samples", "rank", "own"), [(64, 5, 500), (10, 1, 3), (300, 3, 300)])
def test_chance_counts_the_orders_in_which_numbers_can_come(samples: int, rank: int, own: int) -> None:
    """j samples before the r-th of the own ones, r - 1 own ones among them: C(j + r - 1, j) C(n - j + S - r, n - j)."""
    ways = [math.comb(j + rank - 1, j) * math.comb(samples - j + own - rank, samples - j) for j in range(samples + 1)]
    assert sum(ways) == math.comb(samples + own, own)
    for count in (0, 1, 2, samples // 3, samples):
        expected = float(Fraction(sum(ways[count:]), sum(ways)))
        assert chance_of(count, samples, rank, own) == pytest.approx(expected, rel=1e-9, abs=0)


def test_chance_is_what_happens() -> None:
    """Samples like training images: as many below as expected, so many as often as said."""
    generator = np.random.default_rng(1)
    verdicts = [judge(numbers[:40].tolist(), numbers[40:].tolist(), 0.05)
                for numbers in generator.gamma(3.0, size=(4000, 140))]
    counts = np.array([v.count for v in verdicts if v is not None])
    assert verdicts[0] is not None
    assert counts.mean() == pytest.approx(verdicts[0].expected, rel=0.1)
    assert (counts >= 4).mean() == pytest.approx(chance_of(4, 40, 5, 100), rel=0.15)


def test_numbers_beside_the_own_ones() -> None:
    assert share_below(2.5, [1.0, 2.0, 3.0, 4.0]) == 0.5
    assert (second_ratio(1.0, 4.0), second_ratio(0.0, 2.0)) == (0.25, 0.0)
    assert (second_ratio(0.0, 0.0), second_ratio(1.0, math.inf)) == (1.0, 1.0), "nothing stands out"
