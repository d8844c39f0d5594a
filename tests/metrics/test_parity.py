"""Whole metrics, from images to the number, against the programs that papers name. Random weights, the same in both."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bricscli.errors import DataError
from bricscli.metrics.features.inception import CleanInceptionFeatures, InceptionFeatures
from bricscli.metrics.frechet import Statistics, frechet_distance
from bricscli.metrics.inception_score import inception_score
from bricscli.metrics.kernel_distance import kernel_distance
from bricscli.metrics.reconstruction import psnr, ssim
from bricscli.weights import load_state

Photos = tuple[Tensor, Tensor]
TOLERANCE = 1e-4


class Pictures(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    sides = []
    for features in (a, b):
        sides.append(Statistics(features.shape[1]))
        sides[-1].update(features)
    return frechet_distance(*sides)


@pytest.fixture(scope="module")
def fidelity(weights_folder: Path, photos: Photos) -> dict[str, float]:
    """What `torch_fidelity.calculate_metrics` says of the photos."""
    import torch_fidelity

    return torch_fidelity.calculate_metrics(
        input1=Pictures(photos[0]), input2=Pictures(photos[1]), fid=True, isc=True, kid=True, kid_subsets=5,
        kid_subset_size=8, isc_splits=3, cuda=False, cache=False, verbose=False, batch_size=12, save_cpu_ram=True,
        feature_extractor_weights_path=str(weights_folder / "weights-inception-2015-12-05-6726825d.pth"))


@pytest.fixture(scope="module")
def ours(weights_folder: Path, photos: Photos) -> list[dict[str, np.ndarray]]:
    state = torch.load(weights_folder / "weights-inception-2015-12-05-6726825d.pth", weights_only=True)
    extract = InceptionFeatures(state)
    return [{output: values.numpy() for output, values in extract(images).items()} for images in photos]


def test_fid_is_torch_fidelitys(fidelity: dict[str, float], ours: list[dict[str, np.ndarray]]) -> None:
    found = distance(ours[0]["features"], ours[1]["features"])
    assert found == pytest.approx(fidelity["frechet_inception_distance"], rel=TOLERANCE)


def test_inception_score_is_torch_fidelitys(fidelity: dict[str, float], ours: list[dict[str, np.ndarray]]) -> None:
    expected = fidelity["inception_score_mean"], fidelity["inception_score_std"]
    assert expected[0] > 1.0002  # random weights know few classes: what counts is what lies above 1
    assert inception_score(ours[0]["logits"], splits=3) == pytest.approx(expected, abs=1e-6)


def test_kid_is_torch_fidelitys(fidelity: dict[str, float], ours: list[dict[str, np.ndarray]]) -> None:
    """Which multiplies in float32."""
    expected = fidelity["kernel_inception_distance_mean"], fidelity["kernel_inception_distance_std"]
    found = kernel_distance(ours[0]["features"], ours[1]["features"], subsets=5, size=8)
    assert found == pytest.approx(expected, rel=TOLERANCE)


def test_clean_fid_is_clean_fids(weights_folder: Path, photos: Photos, tmp_path: Path) -> None:
    """Its own folders, loader, resize, network wrapper and distance."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid import fid
        from cleanfid.inception_torchscript import InceptionV3W

        for side, images in zip("ab", photos, strict=True):
            (tmp_path / side).mkdir()
            for i, image in enumerate(images):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / side / f"{i:03}.png")
        network = InceptionV3W(str(weights_folder), download=False).eval()
        theirs = [fid.get_folder_features(str(tmp_path / side), network, num_workers=0, device=torch.device("cpu"),
                                          mode="clean", verbose=False) for side in "ab"]
    extract = CleanInceptionFeatures(weights_folder / "inception-2015-12-05.pt")
    found = [extract(images)["features"].numpy() for images in photos]
    for a, b in zip(found, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * abs(b).max())
    a, b = (features[:, :64].astype(np.float64) for features in found)  # SciPy's root of 2048 takes 10 s
    assert distance(a, b) == pytest.approx(fid.fid_from_feats(*(x[:, :64].astype(np.float64) for x in theirs)),
                                           rel=TOLERANCE)


def pair() -> Photos:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(3, 3, 6, 8, generator=generator)
    a = (128 + 50 * torch.nn.functional.interpolate(coarse, size=(48, 61), mode="bicubic")).clamp(0, 255)
    b = (a + 15 * torch.randn(a.shape, generator=generator)).clamp(0, 255)
    return a.round().byte(), b.round().byte()


def test_psnr_is_torchmetrics_and_scikit_images() -> None:
    from skimage.metrics import peak_signal_noise_ratio
    from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr

    for a, b, found in zip(*pair(), psnr(*pair()).tolist(), strict=True):
        assert found == pytest.approx(peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255), rel=1e-9)
        assert found == pytest.approx(float(torchmetrics_psnr(b / 255, a / 255, data_range=1.0)), rel=1e-5)


def test_ssim_is_scikit_images() -> None:
    from skimage.metrics import structural_similarity

    for a, b, found in zip(*pair(), ssim(*pair()).tolist(), strict=True):
        expected = structural_similarity(a.numpy(), b.numpy(), data_range=255, channel_axis=0, gaussian_weights=True,
                                         sigma=1.5, use_sample_covariance=False)
        assert found == pytest.approx(float(expected), rel=TOLERANCE)


def test_ssim_is_torchmetrics_before_it_counted_the_border() -> None:
    """Later versions pad the border and count it: what lies inside is the same."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (x.double() / 255 for x in pair())
    _, whole = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
    assert whole.shape == a.shape
    inside = whole[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    torch.testing.assert_close(ssim(*pair()), inside.double(), rtol=TOLERANCE, atol=0)


def test_random_files_are_not_taken_for_pretrained_ones(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is what keeps them apart."""
    monkeypatch.setenv("BRICS_WEIGHTS", str(weights_folder))
    with pytest.raises(DataError, match="SHA-256 begins"):
        load_state("inception_fidelity")
