"""References: statistics that are kept are used again only while all that made them is the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bricscli.data.collection import ImageCollection
from bricscli.data.images import encode_png
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.metrics.features import EXTRACTORS
from bricscli.metrics.frechet import Gaussian, frechet_distance
from bricscli.tasks.eval.collecting import Want
from bricscli.tasks.eval.references import (
    ImageReference,
    StatisticsWork,
    StoredReference,
    open_reference,
    read_statistics,
    write_statistics,
)

Make = Callable[..., ImageCollection]
SPREAD = Want("quadrants", spread=True)


def prepared(collection: Make, folder: Path, **changes: Any) -> ImageReference:
    return ImageReference(collection(30, split="train", folder=folder, **changes))


def test_a_prepared_set_is_measured_once(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    first = prepared(collection, tmp_path).features([SPREAD], {"quadrants": quadrants}).spread("quadrants")
    again = prepared(collection, tmp_path).features([SPREAD], {"quadrants": quadrants}).spread("quadrants")
    assert quadrants.seen == 30
    assert np.array_equal(first.mean, again.mean) and np.array_equal(first.covariance, again.covariance)
    assert [path.name for path in (tmp_path / "statistics").iterdir()] == ["quadrants-train.safetensors"]


@pytest.mark.parametrize("change", [{"digest": "another"}, {"preparation": {"resize": "adm"}}, {"name": "renamed"}],
                         ids=lambda change: next(iter(change)))
def test_of_another_set_it_is_measured_again(collection: Make, quadrants: Any, tmp_path: Path, change: Any) -> None:
    prepared(collection, tmp_path).features([SPREAD], {"quadrants": quadrants})
    prepared(collection, tmp_path, **change).features([SPREAD], {"quadrants": quadrants})
    assert quadrants.seen == 60


def test_with_other_weights_it_is_measured_again(collection: Make, quadrants: Any, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(collection, tmp_path).features([SPREAD], {"quadrants": quadrants})
    monkeypatch.setattr(quadrants, "digest", "e" * 64)
    prepared(collection, tmp_path).features([SPREAD], {"quadrants": quadrants})
    assert quadrants.seen == 60


def test_kept_and_computed_come_together(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    prepared(collection, tmp_path).features([SPREAD], {"quadrants": quadrants})
    both = [SPREAD, Want("quadrants", rows=7)]
    features = prepared(collection, tmp_path).features(both, {"quadrants": quadrants})
    assert quadrants.seen == 30 + 7 and features.rows("quadrants").shape == (7, 4)
    assert features.spread("quadrants").mean.shape == (4,)


def test_folders_of_people_are_left_alone(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    ImageReference(collection(30)).features([SPREAD], {"quadrants": quadrants})
    prepared_part = ImageReference(collection(30, split="train", folder=tmp_path), limit=20)
    prepared_part.features([SPREAD], {"quadrants": quadrants})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_made_again(collection: Make, quadrants: Any, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    prepared(collection, tmp_path).features([SPREAD], {"quadrants": quadrants})
    (path,) = (tmp_path / "statistics").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    prepared(collection, tmp_path).features([SPREAD], {"quadrants": quadrants})
    assert quadrants.seen == 60 and path.read_bytes() == whole
    assert "not a statistics file that brics wrote" in capsys.readouterr().err


def test_a_file_carries_what_it_stands_on(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    images = collection(30, split="train", preparation={"resize": "lanczos"})
    spread = ImageReference(images).features([SPREAD], {"quadrants": quadrants}).spread("quadrants")
    path = tmp_path / "church.safetensors"
    write_statistics(path, spread, quadrants, images.describe(None))
    record, read = read_statistics(path)
    assert record["data"] == images.describe(None) and record["data"]["sha256"] == "digest0"
    assert record["extractor"] == {"name": "quadrants", "dimension": 4, "sha256": "d" * 64}
    assert {"brics", "torch", "pillow"} <= record["versions"].keys()
    assert np.array_equal(read.covariance, spread.covariance)
    reference = open_reference(path, None, tmp_path, assumed="other")
    assert reference.about["name"] == "set0" and len(reference.about["statistics"]) == 64
    assert frechet_distance(reference.features([SPREAD], {"quadrants": quadrants}).spread("quadrants"), spread) < 1e-9
    with pytest.raises(RecipeError, match="holds finished statistics"):
        open_reference(path, "val", tmp_path, assumed="other")


def spoil_shape(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    tensors["mean"] = tensors["mean"][:3].clone()


def spoil_numbers(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    tensors["covariance"][0, 0] = float("nan")


def spoil_a_bit(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    tensors["covariance"][1, 1] += 1e-12


def spoil_schema(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    record["schema"] = 99


def spoil_record(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    del record["data"]["name"]


@pytest.mark.parametrize("spoil", [spoil_shape, spoil_numbers, spoil_a_bit, spoil_schema, spoil_record])
def test_what_is_no_statistics_file(collection: Make, quadrants: Any, tmp_path: Path, spoil: Any) -> None:
    path, images = tmp_path / "x.safetensors", collection(30)
    write_statistics(path, Gaussian(np.zeros(4), np.eye(4)), quadrants, images.describe(None))
    record, tensors = read_statistics(path)[0], load_file(path)
    spoil(tensors, record)
    save_file(tensors, path, {"brics": json.dumps(record)})
    with pytest.raises(DataError, match=r"x\.safetensors: not a statistics file"):
        open_reference(path, None, tmp_path, assumed="random")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"{}"])
def test_what_is_no_safetensors_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(DataError, match="not a statistics file"):
        open_reference(tmp_path / "x.safetensors", None, tmp_path, assumed="random")


def test_files_of_others_say_little(tmp_path: Path, quadrants: Any) -> None:
    np.savez(tmp_path / "fid.npz", mu=np.zeros(4), sigma=np.eye(4))
    reference = open_reference(tmp_path / "fid.npz", None, tmp_path, assumed="quadrants")
    assert (reference.about["images"], reference.about["preparation"]) == (None, None)
    spread = reference.features([SPREAD], {"quadrants": quadrants}).spread("quadrants")
    assert np.array_equal(spread.covariance, np.eye(4))


def test_statistics_are_good_for_their_own_features_only(quadrants: Any) -> None:
    reference = StoredReference(Gaussian(np.zeros(4), np.eye(4)), "quadrants", "d" * 64, {"name": "x"})
    assert reference.lacks(SPREAD) is None
    assert "not of `clip`" in str(reference.lacks(Want("clip", spread=True)))
    assert "needs the reference's images" in str(reference.lacks(Want("quadrants", rows=None)))
    other = StoredReference(Gaussian(np.zeros(4), np.eye(4)), "quadrants", "e" * 64, {"name": "x"})
    for wrong, words in ((StoredReference(Gaussian(np.zeros(5), np.eye(5)), "quadrants", None, {"name": "x"}),
                          "has 5 features, `quadrants` gives 4"), (other, "computed with other weights")):
        with pytest.raises(BricsError, match=words):
            wrong.features([SPREAD], {"quadrants": quadrants})


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (3, 16, 16)).astype(np.uint8)
        (folder / f"{i}.png").write_bytes(encode_png(pixels))
    return folder


def test_nothing_but_statistics_is_replaced(tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "photos", 3), tmp_path / "x.safetensors"
    for _ in range(2):
        work = StatisticsWork(str(folder), None, tmp_path, "random", out, torch.device("cpu"))
        assert work.about["images"] == 3
        work.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "x.safetensors"]
    save_file({"w": torch.zeros(3)}, out)
    before = out.read_bytes()
    with pytest.raises(DataError, match="not a statistics file"):
        StatisticsWork(str(folder), None, tmp_path, "random", out, torch.device("cpu"))
    assert out.read_bytes() == before


def test_one_image_has_no_covariance(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 1 image; a covariance needs at least 2"):
        StatisticsWork(str(pictures(tmp_path / "one", 1)), None, tmp_path, "random", tmp_path / "x.safetensors",
                       torch.device("cpu"))


def test_published_names_are_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lsun_church_clean_trainfull_256\.npz"):
        open_reference("cleanfid:lsun_church:trainfull:256", None, tmp_path, assumed="inception_clean")
    assert "inception_clean" in EXTRACTORS
