"""Precision, recall, density and coverage against brute force in float64, and what must hold of any of them."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from bricscli.errors import DataError
from bricscli.metrics.neighbourhoods import Neighbourhoods, _Pairs, density_coverage, f1, precision_recall

Array = np.ndarray


def brute_force(fake: Array, real: Array, k: int) -> tuple[float, float, float, float]:
    """All distances at once, each summed in float64."""
    fake, real = fake.astype(np.float64), real.astype(np.float64)
    within_real, within_fake = (np.sort(cdist(x, x, "sqeuclidean"), axis=1)[:, k] for x in (real, fake))  # [0]: itself
    between = cdist(fake, real, "sqeuclidean")
    inside_real, inside_fake = between < within_real[None], between < within_fake[:, None]
    return (float(inside_real.any(1).mean()), float(inside_fake.any(0).mean()),
            float(inside_real.sum(1).mean() / k), float(inside_real.any(0).mean()))


def all_four(found: Neighbourhoods, k: int) -> tuple[float, float, float, float]:
    return found.precision(k), found.recall(k), found.density(k), found.coverage(k)


def clouds(case: str) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    fake, real = random.standard_normal((150, 12)) * 1.2, random.standard_normal((210, 12))
    if case == "far from 0":  # |a|^2 + |b|^2 - 2ab in float32 would have no digit left
        fake, real = fake + 3e3, real + 3e3
    elif case == "an outlier":
        fake[0] *= 1e4
    elif case == "repeated":
        fake[:60] = real[:60]
        fake[60:90], real[100:110] = fake[60], real[100]
    elif case == "on a lattice":  # most distances occur many times over
        fake, real = np.round(fake[:, :3]), np.round(real[:, :3])
    elif case == "equidistant":
        fake, real = np.eye(210)[:150] + 7, np.eye(210) + 7
    elif case == "many dimensions":
        scale = np.geomspace(1, 0.05, 700)
        fake, real = (random.standard_normal((n, 700)) * scale for n in (150, 210))
    return fake.astype(np.float32), real.astype(np.float32)


CASES = ["plain", "far from 0", "an outlier", "repeated", "on a lattice", "equidistant", "many dimensions"]


@pytest.mark.parametrize("memory", [2**14, 2**28])
@pytest.mark.parametrize("case", CASES)
def test_equals_brute_force_in_float64(case: str, memory: int) -> None:
    fake, real = clouds(case)
    found = Neighbourhoods(fake, real, (1, 3, 5), memory)
    for k in (1, 3, 5):
        assert all_four(found, k) == pytest.approx(brute_force(fake, real, k), abs=1e-12)
    assert precision_recall(fake, real, 3, memory) == all_four(found, 3)[:2]
    assert density_coverage(fake, real, 5, memory) == all_four(found, 5)[2:]


@pytest.mark.parametrize("case", CASES)
def test_swapped_arguments_give_swapped_answers(case: str) -> None:
    fake, real = clouds(case)
    precision, recall = precision_recall(fake, real, memory=2**14)
    assert precision_recall(real, fake, memory=2**14) == (recall, precision)
    if case == "plain":
        assert precision != recall


def test_fakes_are_the_first_argument() -> None:
    """One tight cluster within wide reals is precise and recalls little."""
    random = np.random.default_rng(1)
    real = random.standard_normal((300, 2))
    fake = real[:1] + 1e-3 * random.standard_normal((300, 2))
    precision, recall = precision_recall(fake, real)
    assert precision > 0.95 and recall < 0.05
    density, coverage = density_coverage(fake, real)
    assert density > 0.5 and coverage < 0.05


def test_a_set_is_as_precise_as_can_be_of_itself() -> None:
    real = clouds("plain")[1]
    found = Neighbourhoods(real, real.copy())
    assert all_four(found, 3) == (1, 1, 1, 1)  # each ball holds its own centre and the k - 1 that are nearer
    assert precision_recall(real, real + 1000) == (0, 0)


def test_a_ball_does_not_hold_its_edge() -> None:
    """On a line: the 1-neighbour balls of 0, 1, 3 have radii 1, 1, 2; those of the fakes 10, 11, 12 hold no real."""
    real = np.array([[0.0], [1.0], [3.0]])
    assert precision_recall(np.array([[5.0], [100.0], [200.0]]), real, k=1)[0] == 0
    assert precision_recall(np.array([[4.99], [100.0], [200.0]]), real, k=1)[0] == pytest.approx(1 / 3)
    assert density_coverage(np.array([[0.5], [0.6], [0.7]]), real, k=1) == (2.0, pytest.approx(2 / 3))


@pytest.mark.parametrize("case", ["plain", "many dimensions"])
def test_agrees_with_torch_fidelity(case: str) -> None:
    """It takes less or equal, which is the same where no two images are the same."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    fake, real = clouds(case)
    theirs = prc_features_to_metric(torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=3, verbose=False)
    precision, recall = precision_recall(fake, real)
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    assert f1(precision, recall) == pytest.approx(theirs["f_score"], rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_bounds_hold(case: str) -> None:
    fake, real = clouds(case)
    exact = torch.from_numpy(cdist(fake.astype(np.float64), real.astype(np.float64), "sqeuclidean"))
    pairs = _Pairs(torch.from_numpy(fake), torch.from_numpy(real), 2**15)
    blocks = 0
    for rows, columns, lower, upper in pairs.iter_blocks(0, 1):
        assert (lower <= exact[rows, columns]).all() and (exact[rows, columns] <= upper).all()
        assert (upper - lower).max() < 1e-3 * exact.max()
        blocks += 1
    assert blocks > 1


def test_f1_of_nothing_is_nothing() -> None:
    assert f1(0, 0) == 0 and f1(0.75, 0.75) == 0.75 and f1(0.5, 1) == pytest.approx(2 / 3)


def test_bad_features_are_refused() -> None:
    x = np.zeros((4, 2), np.float32)
    with pytest.raises(DataError, match="5 neighbours need at least 6 images on each side, there are 4"):
        Neighbourhoods(x, np.zeros((9, 2), np.float32))
    with pytest.raises(ValueError, match="features"):
        precision_recall(x, np.zeros((9, 3), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        precision_recall(x, np.full((9, 2), np.nan, np.float32))
