"""Which images a name and a split stand for."""

import os
from pathlib import Path

import pytest

from bricscli.data.collection import find_images, open_folder
from bricscli.data.images import encode_png
from bricscli.data.toy import draw
from bricscli.errors import DataError
from bricscli.tasks.prepare import prepare_toy


def test_a_split_is_chosen_or_the_default(tmp_path: Path) -> None:
    prepare_toy(tmp_path / "toy", resolution=8, count=10, val_fraction=0.2, workers=1)
    counts = {(split, default): find_images("toy", split, tmp_path, default=default).count
              for split in (None, "train", "val", "all") for default in ("all", "val")}
    assert counts == {(None, "all"): 10, (None, "val"): 2, ("train", "all"): 8, ("train", "val"): 8,
                      ("val", "all"): 2, ("val", "val"): 2, ("all", "all"): 10, ("all", "val"): 10}


def test_a_plain_folder_has_no_split(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(draw(0, 0, 8)))
    images = find_images(tmp_path, default="val")
    assert (images.count, images.split) == (1, None)
    with pytest.raises(DataError) as refused:
        find_images(tmp_path, "val")
    assert str(refused.value) == f"{tmp_path}: is a plain folder, which has no split `val`. Leave --split out."
    with pytest.raises(DataError, match="nowhere: neither a folder nor a prepared data set"):
        find_images(tmp_path / "nowhere", "val")


def test_names_need_not_be_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe.png")).write_bytes(encode_png(draw(0, 0, 8)))
    images = find_images(tmp_path)
    assert images.about(0) == {"name": r"\xff\xfe.png"} and len(images.digest) == 64


@pytest.mark.parametrize("text", ["{}", "{oops", ""])
def test_a_damaged_manifest_is_no_plain_folder(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(draw(0, 0, 8)))
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_folder(tmp_path)


def test_links_lead_to_images_of_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    (folder / "below").mkdir(parents=True)
    for path in (folder / "below" / "a.png", tmp_path / "secret.png"):
        path.write_bytes(encode_png(draw(0, 0, 8)))
    (folder / "b.png").symlink_to(folder / "below" / "a.png")
    (folder / "c.png").symlink_to(tmp_path / "secret.png")
    (folder / "d.png").symlink_to(folder / "d.png")
    assert [open_folder(folder).about(i)["name"] for i in range(open_folder(folder).count)] == ["b.png", "below/a.png"]
