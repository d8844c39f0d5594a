"""FFHQ: every number once, and the published splits."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bricscli.data.sources import ffhq, open_source
from bricscli.errors import DataError, RecipeError

Picture = Callable[..., bytes]
SPLITS = ("taming", "all", "first60k")


@pytest.fixture
def faces(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five faces as they are published, beside their thumbnails."""
    monkeypatch.setattr(ffhq, "COUNT", 5)
    monkeypatch.setattr(ffhq, "_FIRST", 3)
    monkeypatch.setattr(ffhq, "taming_validation", lambda: frozenset({1, 4}))
    for i in range(5):
        for folder in ("images1024x1024/00000", "thumbnails128x128/00000"):
            path = tmp_path / "ffhq" / folder / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(i))
    (tmp_path / "ffhq/images1024x1024/LICENSE.txt").write_text("x")
    return tmp_path / "ffhq"


@pytest.mark.parametrize(("split", "val"), [("taming", {1, 4}), ("all", set()), ("first60k", {3, 4}), (None, {1, 4})])
def test_splits(faces: Path, picture: Picture, split: str | None, val: set[int]) -> None:
    listing = open_source("ffhq", faces, ffhq_split=split)
    assert [item.read() for item in listing.items] == [picture(i) for i in range(5)]
    assert [item.split for item in listing.items] == ["val" if i in val else "train" for i in range(5)]
    assert listing.source == {"name": "ffhq", "expected": 5, "ffhq_split": split or "taming"}
    assert (listing.ignored, listing.classes) == (1, None)


def test_other_places(faces: Path, tmp_path: Path, picture: Picture) -> None:
    """A flat folder of another size, and the archive of NVlabs' dataset_tool.py."""
    (tmp_path / "flat").mkdir()
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr("dataset.json", "{}")
        for i in (4, 2, 0, 1, 3):
            (tmp_path / f"flat/{i}.jpg").write_bytes(picture(i, "JPEG"))
            archive.writestr(f"00000/img{i:08d}.png", picture(i))
    flat, packed = (open_source("ffhq", tmp_path / name) for name in ("flat", "faces.zip"))
    assert [item.read() for item in flat.items] == [picture(i, "JPEG") for i in range(5)]
    assert [(item.name, item.read()) for item in packed.items] == [
        (f"00000/img{i:08d}.png", picture(i)) for i in range(5)]
    assert [item.split for item in packed.items] == ["train", "val", "train", "train", "val"] and packed.ignored == 1


def test_every_number_is_there_once(faces: Path, picture: Picture) -> None:
    images = faces / "images1024x1024"
    (images / "00000/00001.png").unlink()
    (images / "00000/00003.png").unlink()
    with pytest.raises(DataError, match="holds 3 images where FFHQ has 5; the first that is missing is 00001"):
        open_source("ffhq", faces)
    listing = open_source("ffhq", faces, any_count=True)
    assert [item.split for item in listing.items] == ["train", "train", "val"]
    assert listing.source["any_count"] is True and listing.source["found"] == 3
    (images / "00002.png").write_bytes(picture(2))
    with pytest.raises(DataError, match=r"00000/00002\.png and 00002\.png have the same number"):
        open_source("ffhq", faces, any_count=True)
    (images / "00002.png").rename(images / "00005.png")
    with pytest.raises(DataError, match=r"00005\.png has no number from 0 to 4 at its end"):
        open_source("ffhq", faces, any_count=True)
    (images / "00005.png").rename(images / "a.png")
    with pytest.raises(DataError, match=r"a\.png has no number from 0 to 4"):
        open_source("ffhq", faces)


def test_what_is_refused(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--split: `half` is unknown\. There are: taming, first60k, all"):
        open_source("ffhq", faces, ffhq_split="half")
    with pytest.raises(DataError, match="there is no such folder"):
        open_source("ffhq", tmp_path / "none")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(DataError, match="holds no images"):
        open_source("ffhq", tmp_path / "empty.zip", any_count=True)


def test_the_lists_of_taming_transformers() -> None:
    """Numbers that were read in the published list by eye, and ones of its list of training images."""
    val = ffhq.taming_validation()
    assert len(val) == 10_000 and min(val) == 0 and max(val) < 70_000
    assert {47234, 19351, 35914, 69674, 10174, 386, 21549, 59327, 35926, 28721, 6581, 59831, 68977, 61096} <= val
    assert val.isdisjoint({52535, 59777, 34697, 2469, 14829, 30422, 22439, 56510, 28266, 52481, 216, 54069})
    assert sum(number < 60_000 for number in val) == 8603
