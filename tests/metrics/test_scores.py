"""KID and the Inception Score against torch-fidelity's functions and closed forms."""

import numpy as np
import pytest
import torch

from bricscli.errors import DataError
from bricscli.metrics.inception_score import inception_score
from bricscli.metrics.kernel_distance import kernel_distance


def features(seed: int, count: int, dimension: int = 48, shift: float = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)) + shift


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_kid_is_torch_fidelitys(shift: float) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = features(0, 90), features(1, 70, shift=shift)
    theirs = kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), kid_subsets=7, kid_subset_size=40,
                                    rng_seed=2020, verbose=False)
    found = kernel_distance(a, b, subsets=7, size=40)
    assert found == pytest.approx((theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]),
                                  rel=1e-9)


def test_kid_is_clean_fids_on_whole_sets() -> None:
    """Subsets of everything are the sets themselves, whatever is drawn."""
    from cleanfid.fid import kernel_distance as theirs

    a, b = features(0, 50), features(1, 50, shift=0.2)
    assert kernel_distance(a, b, 2, 50)[0] == pytest.approx(theirs(a, b, num_subsets=1), rel=1e-9)


def test_kid_of_two_pairs_by_hand() -> None:
    """D = 1, k(x,y) = (xy + 1)^3: k(0,1) = 1, k(2,3) = 343; between 1, 1, 27, 64."""
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    mean, std = kernel_distance(a, b, subsets=3, size=2)
    assert mean == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)
    assert std == pytest.approx(0, abs=1e-12)


def test_kid_is_not_biased_by_few_images() -> None:
    mean, std = kernel_distance(features(0, 400), features(1, 400), subsets=200, size=20)
    assert abs(mean) < 4 * std / 200**0.5


def test_kid_needs_enough_images() -> None:
    with pytest.raises(DataError, match="subsets of 1000 images cannot be drawn from 64"):
        kernel_distance(features(0, 64), features(1, 2000))
    with pytest.raises(ValueError, match="features"):
        kernel_distance(features(0, 64), features(1, 64, 3), size=4)


@pytest.mark.parametrize("shuffle", [True, False])
def test_inception_score_is_torch_fidelitys(shuffle: bool) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * features(0, 105, 30).astype(np.float32)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=shuffle)
    assert inception_score(logits, shuffle=shuffle) == pytest.approx(
        (theirs["inception_score_mean"], theirs["inception_score_std"]), rel=1e-9)


def test_inception_score_of_certain_classes_is_their_number() -> None:
    logits = np.where(np.arange(7)[None] == np.arange(70)[:, None] % 7, 1e4, 0)  # softmax of the others is exactly 0
    assert inception_score(logits, splits=2, shuffle=False)[0] == pytest.approx(7)
    assert inception_score(np.zeros((40, 7)), splits=4) == (pytest.approx(1), pytest.approx(0))


def test_inception_score_needs_an_image_for_each_split() -> None:
    with pytest.raises(DataError, match="10 splits need as many images, there are 9"):
        inception_score(np.zeros((9, 5)))
    with pytest.raises(ValueError, match="logits"):
        inception_score(np.zeros(9))
