"""Reconstructions: the right images, the right numbers, the protocol beside them, one line where it cannot be."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bricscli.data.collection import ImageCollection, find_images, open_folder, open_prepared
from bricscli.data.images import encode_png, to_float, to_uint8
from bricscli.data.shards import write_shards
from bricscli.errors import BricsError, DataError, MismatchError, RecipeError
from bricscli.metrics.frechet import Statistics, frechet_distance
from bricscli.metrics.reconstruction import psnr, ssim
from bricscli.tasks.eval import reconstruction as task
from bricscli.tasks.eval.results import describe_result, save_result
from bricscli.weights import MissingWeights


def pictures(seed: int, count: int, size: int = 16) -> np.ndarray:
    """(N,3,H,W) uint8, smooth enough to differ in more than noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(c.transpose(1, 2, 0)).resize((size, size))).transpose(2, 0, 1) for c in coarse]
    )


def save_folder(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        (folder / f"{i:06d}.png").write_bytes(encode_png(image))
    return folder


def save_data(path: Path, train: np.ndarray, val: np.ndarray, kind: str = "images") -> Path:
    def samples() -> Iterator[tuple[str, str, dict[str, bytes]]]:
        for split, images in (("train", train), ("val", val)):
            for i, image in enumerate(images):
                yield split, f"{split}{i:06d}", {"png": encode_png(image)}

    write_shards(path, {"kind": kind, "resolution": int(train.shape[-1])}, samples())
    return path


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    save_data(root / "lsun-church", pictures(0, 12), pictures(1, 5))
    save_data(root / "lsun-tower", pictures(2, 4), pictures(3, 3))
    return root


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRICS_WEIGHTS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))


# What is measured


@pytest.mark.parametrize(("split", "count"), [("train", 12), ("val", 5), ("all", 17)])
def test_a_prepared_set_by_name(data_root: Path, split: str, count: int) -> None:
    images = find_images("lsun-church", split, data_root)
    assert (images.count, images.split, images.shape) == (count, split, (16, 16))
    found = np.concatenate(list(images.batches(4)))
    expected = {"train": pictures(0, 12), "val": pictures(1, 5)}
    assert np.array_equal(found, np.concatenate(list(expected.values())) if split == "all" else expected[split])


def test_a_unique_part_of_the_name_is_enough(data_root: Path) -> None:
    assert find_images("tower", "val", data_root).name == "lsun-tower"
    assert find_images(data_root / "lsun-church").name == "lsun-church"
    with pytest.raises(DataError, match="lsun-church or lsun-tower"):
        find_images("lsun", "all", data_root)
    with pytest.raises(DataError, match="lsun-church, lsun-tower"):
        find_images("bedroom", "all", data_root)


def test_a_folder_of_images_in_the_order_of_names(tmp_path: Path) -> None:
    images = pictures(0, 6)
    folder = save_folder(tmp_path / "samples", images)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image either")
    collection = open_folder(folder)
    assert np.array_equal(np.concatenate(list(collection.batches(4))), images)
    first = collection.digest
    (folder / "000003.png").write_bytes(encode_png(255 - images[3]))
    assert open_folder(folder).digest != first


def test_a_limit_chooses_from_everywhere_and_always_the_same(tmp_path: Path) -> None:
    collection = open_folder(save_folder(tmp_path / "samples", pictures(0, 40)))
    chosen = np.concatenate(list(collection.batches(3, limit=8)))
    assert np.array_equal(chosen, np.concatenate(list(collection.batches(8, limit=8))))
    where = [next(i for i in range(40) if np.array_equal(collection.read(i), image)) for image in chosen]
    assert where == sorted(set(where))
    assert max(where) > 20
    assert collection.used(8) == 8
    assert collection.used(100) == sum(map(len, collection.batches(7, limit=100))) == 40


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "000001.png").write_bytes(b"text"), "000001.png: not an image"),
        (lambda folder: (folder / "000001.png").write_bytes(encode_png(pictures(0, 1, 20)[0])), "is 20x20"),
        (lambda folder: [p.unlink() for p in folder.iterdir()], "holds no images"),
    ],
)
def test_a_folder_that_cannot_be_measured(tmp_path: Path, spoil: object, message: str) -> None:
    folder = save_folder(tmp_path / "samples", pictures(0, 3))
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(DataError, match=message):
        list(open_folder(folder).batches(2))


def test_key_codes_are_not_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds key_codes, not images"):
        open_prepared(save_data(tmp_path / "codes", pictures(0, 2), pictures(1, 2), kind="key_codes"))


def test_a_missing_split(data_root: Path) -> None:
    with pytest.raises(DataError, match="train, val"):
        find_images("tower", "test", data_root)


# Which measures


def test_names_of_metrics() -> None:
    assert task.choose_metrics(["psnr", " lpips", "psnr"]) == ["psnr", "lpips_alex", "lpips_vgg"]
    with pytest.raises(RecipeError, match="Did you mean `psnr`"):
        task.choose_metrics(["psrn"])
    with pytest.raises(RecipeError, match="`fid` is unknown"):
        task.choose_metrics(["fid"])
    with pytest.raises(RecipeError, match="names no metric"):
        task.choose_metrics([])


@pytest.mark.usefixtures("no_weights")
def test_missing_weights_are_said_before_the_work() -> None:
    assert set(task.load_measures(["psnr", "ssim"])) == {"psnr", "ssim"}
    with pytest.raises(MissingWeights, match="alexnet"):
        task.load_measures(task.choose_metrics(["psnr", "ssim", "lpips"]))
    with pytest.raises(MissingWeights, match="inception"):
        task.load_set_features(["psnr", "rfid"])
    assert task.load_set_features(["psnr"]) is None


# Reconstruction


def darker(images: Tensor) -> Tensor:
    return images * 0.8713 - 0.11037  # no value ends in exactly .5


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_reconstruction_is_measured_per_image_on_8_bits(data_root: Path, batch_size: int) -> None:
    images = find_images("lsun-church", "val", data_root)
    measures = task.load_measures(["psnr", "ssim"])
    result = task.evaluate_reconstruction(darker, images, measures, autoencoder="abc", batch_size=batch_size)
    original = torch.from_numpy(pictures(1, 5))
    rounded = ((darker(original.float() / 127.5 - 1) + 1) * 127.5).round().clamp(0, 255).byte()
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        values = measure(original, rounded).numpy()
        assert result["metrics"][name]["mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert result["metrics"][name]["std"] == pytest.approx(values.std(ddof=1), rel=1e-6)
    assert result["images"] == images.describe(None)
    assert result["images"]["images"] == 5
    assert result["autoencoder"] == "abc"


def test_an_autoencoder_that_gives_no_image(data_root: Path) -> None:
    images = find_images("lsun-church", "val", data_root)
    for broken in (lambda x: x * float("nan"), lambda x: x[..., :8]):
        with pytest.raises(BricsError, match="gave no image"):
            task.evaluate_reconstruction(broken, images, {"psnr": psnr})


def test_too_small_for_ssim(tmp_path: Path) -> None:
    images = open_folder(save_folder(tmp_path / "small", pictures(0, 2, 8)))
    with pytest.raises(DataError, match="8x8 is too small for SSIM"):
        task.evaluate_reconstruction(darker, images, {"ssim": ssim})


def test_rfid_is_the_distance_of_the_two_sets(data_root: Path, quadrants: Any) -> None:
    images = find_images("lsun-church", "train", data_root)
    with pytest.raises(MismatchError, match="12 images, fewer than 10,000"):
        task.evaluate_reconstruction(darker, images, {}, features=quadrants)
    result = task.evaluate_reconstruction(darker, images, {}, features=quadrants, force=True, batch_size=5)
    original = torch.from_numpy(pictures(0, 12))
    sides = []
    for side in (original, to_uint8(darker(to_float(original)))):
        sides.append(Statistics(4))
        sides[-1].update(quadrants(side)["features"].numpy())
    entry = result["metrics"]["rfid"]
    assert entry["value"] == pytest.approx(frechet_distance(*sides), rel=1e-9) and entry["value"] > 0.01
    assert entry["forced"] and entry["extractor"] == "quadrants"
    assert "FORCED" in describe_result(result)[0]


def saved(images: ImageCollection, folder: Path, *names: str, moved: float = 0.0, **changes: Any) -> dict[str, Any]:
    """What the file holds after one more evaluation."""
    result = task.evaluate_reconstruction(darker, images, task.load_measures(names), autoencoder="abc", moved=moved)
    return json.loads(save_result(result | changes, folder).read_text())


def test_metrics_of_the_same_reconstructions_add_up(data_root: Path, tmp_path: Path) -> None:
    images = find_images("tower", "val", data_root)
    both = saved(images, tmp_path / "both", "psnr", "ssim")
    one = saved(images, tmp_path, "psnr")
    assert list(one["metrics"]) == ["psnr"]
    assert saved(images, tmp_path, "ssim") == both and saved(images, tmp_path, "psnr") == both
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_part_of_the_images_does_not_replace_all_of_them(data_root: Path, tmp_path: Path) -> None:
    images = find_images("tower", "val", data_root)
    whole = saved(images, tmp_path, "psnr")
    part = task.evaluate_reconstruction(darker, images, task.load_measures(["psnr"]), autoencoder="abc", limit=2)
    assert save_result(part, tmp_path).name == "reconstruction-lsun-tower-val-limit2.json"
    assert json.loads((tmp_path / "reconstruction-lsun-tower-val.json").read_text()) == whole


def test_a_metric_that_was_measured_again_is_the_new_one(data_root: Path, tmp_path: Path) -> None:
    images = find_images("tower", "val", data_root)
    first = saved(images, tmp_path, "psnr", "ssim")
    new = {"psnr": first["metrics"]["psnr"] | {"mean": -1.0}}
    assert saved(images, tmp_path, metrics=new)["metrics"] == first["metrics"] | new


def test_versions_of_metrics_that_stay_stay_too(data_root: Path, tmp_path: Path) -> None:
    """`lpips` is named only where it measured something."""
    images = find_images("tower", "val", data_root)
    plain = saved(images, tmp_path / "plain", "psnr")
    with_lpips = {"versions": plain["versions"] | {"lpips": "0.1"}, "metrics": {"lpips_alex": {"mean": 1.0}}}
    wanted = {"metrics": plain["metrics"] | with_lpips["metrics"], "versions": with_lpips["versions"]}
    saved(images, tmp_path / "first", "psnr")
    assert saved(images, tmp_path / "first", **with_lpips) == plain | wanted
    saved(images, tmp_path / "last", **with_lpips)
    assert saved(images, tmp_path / "last", "psnr") == plain | wanted


@pytest.mark.parametrize("change", [
    {"autoencoder": "abd"}, {"protocol": "another"}, {"images": {"images": 2}}, {"versions": {"torch": "0"}},
    {"keys_moved_by_cells": 0.25}], ids=lambda change: next(iter(change)))
def test_metrics_of_other_reconstructions_go(data_root: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    images = find_images("tower", "val", data_root)
    first = saved(images, tmp_path, "psnr", moved=0.5)
    (path,) = tmp_path.glob("*.json")
    (name, value), = change.items()
    path.write_text(json.dumps(first | {name: first[name] | value if isinstance(value, dict) else value}))
    assert list(saved(images, tmp_path, "ssim", moved=0.5)["metrics"]) == ["ssim"]


@pytest.mark.parametrize("text", [
    "", "{", "3", "null", "[]", "{}", '{"metrics": {}}', '{"metrics": [], "versions": []}',
    '{"metrics": {"a": 1}, "versions": null}', '{"metrics": null, "versions": {}}', '{"metrics": 3, "versions": "x"}'])
def test_a_file_of_somebody_elses_is_replaced(data_root: Path, tmp_path: Path, text: str) -> None:
    images = find_images("tower", "val", data_root)
    wanted = saved(images, tmp_path, "psnr")
    (path,) = tmp_path.glob("*.json")
    path.write_text(text)
    assert saved(images, tmp_path, "psnr") == wanted
    path.write_bytes(b"\xff\xfe")
    assert saved(images, tmp_path, "psnr") == wanted


def test_moved_keys_are_recorded_and_kept_apart(data_root: Path, tmp_path: Path) -> None:
    images = find_images("tower", "val", data_root)
    still, moved = saved(images, tmp_path, "psnr"), saved(images, tmp_path, "psnr", moved=0.5)
    assert (still["keys_moved_by_cells"], moved["keys_moved_by_cells"]) == (0, 0.5)
    assert {path.name for path in tmp_path.glob("*.json")} == {
        "reconstruction-lsun-tower-val.json", "reconstruction-lsun-tower-val-perturbed0.5.json"}
    assert describe_result(still)[-1] == (
        "mean ± standard deviation per image, over 3 images of lsun-tower, split val")
    assert describe_result(moved)[-1] == (
        "mean ± standard deviation per image, over 3 images of lsun-tower, split val; every key was moved by +0.5 or "
        "-0.5 / r_max")


def test_the_same_inputs_give_the_same_file(data_root: Path, tmp_path: Path) -> None:
    images = find_images("tower", "val", data_root)
    paths = []
    for folder in ("one", "two"):
        result = task.evaluate_reconstruction(darker, images, {"psnr": psnr})
        paths.append(save_result(result, tmp_path / folder))
    assert paths[0].name == "reconstruction-lsun-tower-val.json"
    assert paths[0].read_bytes() == paths[1].read_bytes()
