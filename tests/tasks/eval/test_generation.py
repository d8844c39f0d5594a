"""Samples against a reference: the right distance, the protocol beside it, and no number that must not be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bricscli.data.collection import ImageCollection, open_folder
from bricscli.data.images import encode_png
from bricscli.data.loader import order
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.metrics import METRICS
from bricscli.metrics.features import EXTRACTORS
from bricscli.metrics.frechet import Gaussian, Statistics, frechet_distance
from bricscli.metrics.inception_score import inception_score
from bricscli.metrics.kernel_distance import kernel_distance
from bricscli.metrics.neighbourhoods import density_coverage, precision_recall
from bricscli.metrics.protocols import PROTOCOLS, MetricSpec
from bricscli.tasks.eval import generation
from bricscli.tasks.eval.generation import Plan, choose_plan, evaluate_generation, evaluate_random, load_extractors
from bricscli.tasks.eval.references import ImageReference, StoredReference
from bricscli.tasks.eval.results import describe_result, save_result
from bricscli.weights import MissingWeights

Make = Callable[..., ImageCollection]
ALL = {"fid": MetricSpec("quadrants"), "kid": MetricSpec("quadrants", settings={"subsets": 3, "size": 20}),
       "is": MetricSpec("quadrants", "logits", settings={"splits": 2}, needs_reference=False),
       "precision": MetricSpec("quadrants", settings={"k": 3}, limit=40),
       "recall": MetricSpec("quadrants", settings={"k": 3}, limit=40),
       "f1": MetricSpec("quadrants", settings={"k": 3}, limit=40),
       "density": MetricSpec("quadrants", settings={"k": 5}), "coverage": MetricSpec("quadrants", settings={"k": 5})}
PLAN = Plan("brics2023", ALL, {})


@pytest.fixture(autouse=True)
def _quadrants_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(generation.EXTRACTORS, "quadrants", EXTRACTORS["random"])


def features(quadrants: Any, images: ImageCollection, output: str = "features") -> Any:
    return quadrants(torch.from_numpy(next(images.batches(images.count))))[output]


# Which metrics


def test_every_metric_of_every_protocol_is_known_and_can_be_measured() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.metrics, name
        for metric, spec in protocol.metrics.items():
            assert METRICS[metric].of == "generation"
            assert spec.output in EXTRACTORS[spec.extractor].outputs
            assert metric in (*generation._FRECHET, *generation._NEIGHBOURHOODS, "kid", "is")


def test_a_protocol_and_its_metrics_by_name() -> None:
    assert choose_plan("brics2023").metrics == PROTOCOLS["brics2023"].metrics
    assert list(choose_plan("brics2023", [" is", "fid"]).metrics) == ["is", "fid"]
    for protocol, names, words in (("brics", None, "--protocol: `brics` is unknown. There are: brics2023, ldm"),
                                   ("brics2023", ["fd_dinov2"], "--protocol edm2 has it"),
                                   ("brics2023", ["precisoin"], "Did you mean `precision`"),
                                   ("brics2023", [], "names no metric")):
        with pytest.raises(RecipeError, match=words):
            choose_plan(protocol, names)


def test_statistics_that_do_not_say_are_taken_for_those_of_fid() -> None:
    assert choose_plan("brics2023").extractors == ["inception", "clip", "vgg16"]
    assert choose_plan("cleanfid", ["kid", "clip_fid"]).extractors == ["clip", "inception_clean"]


def test_all_missing_files_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRICS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    plan = choose_plan("brics2023")
    with pytest.raises(MissingWeights) as caught:
        load_extractors(plan, torch.device("cpu"))
    assert len(caught.value.lines) == len(plan.extractors)
    some = Plan("brics2023", {"fid": MetricSpec("inception"), "fd_random": MetricSpec("random")}, {})
    with pytest.raises(MissingWeights, match="--skip-missing"):
        load_extractors(some, torch.device("cpu"))
    kept, loaded = load_extractors(some, torch.device("cpu"), skip_missing=True)
    assert (list(kept.metrics), list(loaded)) == (["fd_random"], ["random"])
    assert "brics doctor" in kept.left_out["fid"]
    with pytest.raises(MissingWeights):  # nothing would be left to measure
        load_extractors(plan, torch.device("cpu"), skip_missing=True)


# The numbers


def test_each_metric_is_that_of_its_own_features(collection: Make, quadrants: Any) -> None:
    samples, real = collection(60, seed=1), collection(70, seed=2)
    result = evaluate_generation(samples, ImageReference(real), PLAN, {"quadrants": quadrants}, force=True)
    assert quadrants.seen == 130  # once each
    a, b = features(quadrants, samples), features(quadrants, real)
    sides = []
    for rows in (a, b):
        sides.append(Statistics(4))
        sides[-1].update(rows.numpy())
    value = {name: entry["value"] for name, entry in result["metrics"].items()}
    assert value["fid"] == pytest.approx(frechet_distance(*sides), rel=1e-6)
    kid = kernel_distance(a.numpy(), b.numpy(), subsets=3, size=20)
    assert (value["kid"], result["metrics"]["kid"]["std"]) == pytest.approx(kid)
    assert value["is"] == pytest.approx(inception_score(features(quadrants, samples, "logits").numpy(), splits=2)[0])
    assert (value["density"], value["coverage"]) == density_coverage(a, b)
    few = (features(quadrants, images)[np.sort(order(0, images.count, 0)[:40])] for images in (samples, real))
    assert (value["precision"], value["recall"]) == precision_recall(*few)
    assert 0 < value["precision"] <= 1 and value["f1"] == pytest.approx(
        2 * value["precision"] * value["recall"] / (value["precision"] + value["recall"]))


def test_the_whole_protocol_goes_into_the_file(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    samples, real = collection(60, seed=1), collection(70, seed=2, split="train", preparation={"resize": "adm"})
    result = evaluate_generation(samples, ImageReference(real), PLAN, {"quadrants": quadrants}, force=True, limit=50)
    path = save_result(result, tmp_path)
    assert path.name == "brics2023-set1-set2-train-limit50.json" and json.loads(path.read_text()) == result
    assert result["samples"] == samples.describe(50) and result["reference"] == real.describe(None)
    assert result["reference"]["preparation"] == {"resize": "adm"}
    assert result["metrics"]["kid"]["settings"] == {"subsets": 3, "size": 20}
    assert result["extractors"]["quadrants"]["sha256"] == "d" * 64
    assert [reason.split(":")[0] for reason in result["forced"]] == ["samples set1", "reference set2"]
    words = "\n".join(describe_result(result))
    for part in ("50 of 60 images of set1 against 70 images of set2, split train, protocol brics2023",
                 "FORCED, comparable with nobody's: samples set1: 50 images, fewer than 10,000",
                 "how the images of set1 were prepared is not known"):
        assert part in words


def test_metrics_of_one_protocol_add_up_in_one_file(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    sides = collection(60, seed=1), ImageReference(collection(70, seed=2, split="train"))

    def save(*names: str) -> dict[str, Any]:
        plan = Plan("brics2023", {name: ALL[name] for name in names}, {})
        result = evaluate_generation(*sides, plan, {"quadrants": quadrants}, force=True)
        return dict(json.loads(save_result(result, tmp_path).read_text()))

    save("fid", "is")
    assert list(save("kid")["metrics"]) == ["fid", "is", "kid"]
    assert len(list(tmp_path.iterdir())) == 1


# What is refused


def test_what_must_not_be_compared_is_refused_before_the_work(collection: Make, quadrants: Any) -> None:
    with pytest.raises(MismatchError, match="60 images, fewer than 10,000"):
        evaluate_generation(collection(60), ImageReference(collection(70)), PLAN, {"quadrants": quadrants})
    assert quadrants.seen == 0


def test_a_filter_of_another_program_is_refused(collection: Make, quadrants: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bricscli.tasks.eval.comparable.LEAST_IMAGES", 10)
    ours, theirs = ({"crop": "center", "resize": name} for name in ("lanczos", "adm"))
    samples, same = collection(60, preparation=ours), collection(70, seed=1, preparation=ours)
    plan = Plan("brics2023", {"fid": ALL["fid"]}, {})
    assert evaluate_generation(samples, ImageReference(same), plan, {"quadrants": quadrants})["forced"] == []
    other = ImageReference(collection(70, seed=1, preparation=theirs))
    with pytest.raises(MismatchError, match="resized by `lanczos`, those of the reference set1 by `adm`"):
        evaluate_generation(samples, other, plan, {"quadrants": quadrants})
    assert len(evaluate_generation(samples, other, plan, {"quadrants": quadrants}, force=True)["forced"]) == 1


def test_statistics_tell_what_they_can(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    about: dict[str, Any] = {"name": "church.npz", "images": None, "of": None, "width": None, "height": None,
                             "preparation": None}
    reference = StoredReference(Gaussian(np.zeros(4), np.eye(4)), "quadrants", None, about)
    result = evaluate_generation(collection(60), reference, PLAN, {"quadrants": quadrants}, force=True)
    assert set(result["metrics"]) == {"fid", "is"}
    assert "needs the reference's images" in result["left_out"]["precision"]
    assert "how the images of church.npz were prepared is not known" in result["open_questions"]
    about["statistics"] = "e" * 64  # as of a file
    stored = evaluate_generation(collection(60), reference, PLAN, {"quadrants": quadrants}, force=True)
    assert save_result(stored, tmp_path).name == "brics2023-set0-church.npz-folder-statistics.json"
    with pytest.raises(MismatchError, match=r"church.npz: kid cannot be measured against it"):
        evaluate_generation(collection(60), reference, Plan("brics2023", {"kid": ALL["kid"]}, {}),
                            {"quadrants": quadrants}, force=True)


# The distance on random features


def smooth(seed: int, count: int, size: int = 16) -> np.ndarray:
    """(N,3,H,W) uint8 that differ in more than noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(c.transpose(1, 2, 0)).resize((size, size))).transpose(2, 0, 1) for c in coarse])


def of(images: np.ndarray, **changes: Any) -> ImageCollection:
    return ImageCollection("images", len(images), lambda i: images[i], images.shape[2:], "digest", **changes)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(evaluate_random(of(a), of(b))["metrics"]["fd_random"]["value"])


def test_frechet_distance_of_a_set_to_itself_and_to_others() -> None:
    a = smooth(0, 80)
    assert distance(a, a) == pytest.approx(0, abs=1e-5)
    assert 0.01 < distance(a, smooth(1, 80)) < distance(a, 255 - smooth(1, 80) // 2) / 5


def test_it_says_what_it_is_and_needs_no_protocol(tmp_path: Path) -> None:
    result = evaluate_random(of(smooth(5, 70)), of(smooth(6, 66), split="all"), limit=65,
                             anchors={"the same": of(smooth(5, 70))})
    assert list(result["metrics"]) == ["fd_random"] and "not FID" in result["metrics"]["fd_random"]["label"]
    assert (result["protocol"], result["forced"], result["open_questions"]) == (None, [], [])
    assert result["extractors"]["random"]["sha256"] is None
    assert result["anchors"]["the same"]["images"] == 70
    chosen = next(of(smooth(5, 70)).batches(65, limit=65))
    assert result["metrics"]["fd_random"]["value"] == pytest.approx(distance(chosen, smooth(6, 66)), rel=1e-5)
    path = save_result(result, tmp_path / "evals")
    assert path.name == "fd_random-images-images-all-limit65.json" and str(tmp_path) not in path.read_text()


def test_another_filter_is_another_distance() -> None:
    ours, theirs = ({"crop": "center", "resize": name} for name in ("lanczos", "adm"))
    with pytest.raises(MismatchError, match="resized by `lanczos`, those of the reference images by `adm`"):
        evaluate_random(of(smooth(0, 62), preparation=ours), of(smooth(1, 62), preparation=theirs))


def test_few_images_are_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    distance(smooth(0, 61), smooth(1, 62))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "61 images for 62 features" in warnings[0]


def test_jpeg_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, image in enumerate(smooth(0, 62)):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}.jpg")
    evaluate_random(open_folder(tmp_path), of(smooth(1, 62)))
    assert "JPEG" in capsys.readouterr().err


def test_different_resolutions_and_single_images_are_refused() -> None:
    with pytest.raises(DataError, match="are 16x16, those of images 24x24"):
        distance(smooth(0, 3), smooth(1, 3, 24))
    with pytest.raises(DataError, match="at least 2"):
        distance(smooth(0, 1), smooth(1, 3))


def test_the_same_images_give_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i, image in enumerate(smooth(0, 62)):
        (tmp_path / "a" / f"{i:02d}.png").write_bytes(encode_png(image))
    paths = [save_result(evaluate_random(open_folder(tmp_path / "a"), of(smooth(1, 62))), tmp_path / name)
             for name in ("one", "two")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
