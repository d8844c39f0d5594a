"""The Fréchet distance against closed forms and against SciPy's matrix root."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from bricscli.metrics.frechet import Statistics, frechet_distance, gaussian_distance


def statistics_of(features: np.ndarray) -> Statistics:
    statistics = Statistics(features.shape[1])
    statistics.update(features)
    return statistics


def correlated(seed: int, count: int, dimension: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((dimension, dimension)) * np.geomspace(1, 1e-3, dimension)
    return generator.standard_normal((count, dimension)) @ mixing.T + generator.standard_normal(dimension)


def scipy_distance(a: np.ndarray, b: np.ndarray) -> float:
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(c_a + c_b - 2 * np.real(sqrtm(c_a @ c_b))))


@pytest.mark.parametrize("dimension", [1, 3, 40])
def test_agrees_with_scipy(dimension: int) -> None:
    a, b = correlated(0, 300, dimension), correlated(1, 200, dimension)
    if dimension == 1:
        expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    else:
        expected = scipy_distance(a, b)
    assert frechet_distance(statistics_of(a), statistics_of(b)) == pytest.approx(expected, rel=1e-6)


def test_commuting_covariances_have_a_closed_form() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))
    s, t = np.array([1.0, 2, 3, 4, 5]), np.array([5.0, 0.5, 3, 1, 0])  # standard deviations, one of them zero
    shift = np.arange(5.0)
    found = gaussian_distance(shift, rotation * s**2 @ rotation.T, 0 * shift, rotation * t**2 @ rotation.T)
    assert found == pytest.approx((shift**2).sum() + ((s - t) ** 2).sum(), rel=1e-8)


def test_fewer_samples_than_dimensions() -> None:
    """Singular covariances: SciPy's root of them is not exact, the distance of a set to itself is."""
    a = correlated(0, 10, 64)
    assert frechet_distance(statistics_of(a), statistics_of(a)) == pytest.approx(0, abs=1e-6 * a.var(0).sum())
    shifted = a + 2.0
    assert frechet_distance(statistics_of(a), statistics_of(shifted)) == pytest.approx(4 * 64, rel=1e-6)


def test_is_symmetric() -> None:
    a, b = statistics_of(correlated(0, 100, 20)), statistics_of(correlated(1, 100, 20))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


@pytest.mark.parametrize("cuts", [[1], [50, 51], [10, 90], list(range(1, 100))])
def test_pieces_give_what_the_whole_gives(cuts: list[int]) -> None:
    features = correlated(2, 100, 8) + 1e4  # far from 0, where sums of squares would lose the digits
    pieces = Statistics(8)
    for part in np.split(features.astype(np.float64), cuts):
        pieces.update(part)
    assert pieces.count == 100
    np.testing.assert_allclose(pieces.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(pieces.covariance, np.cov(features, rowvar=False), rtol=1e-7, atol=1e-12)


def test_merging_ranks_gives_what_one_process_gives() -> None:
    features = correlated(3, 90, 6)
    left, right = statistics_of(features[:25]), statistics_of(features[25:])
    left.merge(right)
    np.testing.assert_allclose(left.covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-14)
    assert right.count == 65


@pytest.mark.parametrize("bad", [np.zeros((3, 4)), np.zeros(5), np.full((2, 5), np.nan)])
def test_bad_features_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features"):
        Statistics(5).update(bad)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        _ = statistics_of(np.zeros((1, 3))).covariance
