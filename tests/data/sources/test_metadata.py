"""Folders with a metadata.jsonl: every line names one image that is there, and what it says of it is kept."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bricscli.data.sources import Listing, open_source
from bricscli.data.sources.metadata import MAX_LINE_BYTES
from bricscli.errors import DataError

Picture = Callable[..., bytes]


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    place = tmp_path / "photos"
    for i, name in enumerate(("b.png", "a.jpg", "deep/c.png", "spare.png")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(picture(i))
    return place


def write(folder: Path, *lines: dict[str, Any] | str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    encoded = (line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
               for line in lines)
    (folder / "metadata.jsonl").write_bytes(b"\n".join(encoded) + b"\n")
    return folder


def test_images_are_those_that_the_lines_name(folder: Path, picture: Picture) -> None:
    write(folder, {"file_name": "b.png", "text": "a nave, Köln", "tags": [1, None, {"x": 2.5}]}, "",
          {"file_name": "./deep//c.png"}, {"file_name": "a.jpg", "text": "tower"})
    listing = open_source("imagefolder", folder)
    assert [(item.name, item.split, item.label) for item in listing.items] == [
        ("a.jpg", None, None), ("b.png", None, None), ("deep/c.png", None, None)]
    assert [item.facts for item in listing.items] == [
        {"text": "tower"}, {"text": "a nave, Köln", "tags": [1, None, {"x": 2.5}]}, {}]
    assert [item.read() for item in listing.items] == [picture(1), picture(0), picture(2)]
    assert (listing.ignored, listing.classes) == (1, None)
    assert listing.source == {"name": "imagefolder", "split_rule": "by content"}


@pytest.mark.parametrize(("labels", "classes"), [(["dog", "cat", "dog"], ["cat", "dog"]), ([10, 9, 10], ["9", "10"])])
def test_labels_give_classes(folder: Path, labels: list[Any], classes: list[str]) -> None:
    names = ("a.jpg", "b.png", "deep/c.png")
    write(folder, *({"file_name": name, "label": label, "n": 1} for name, label in zip(names, labels, strict=True)))
    for wanted in (False, True):
        listing = open_source("imagefolder", folder, classes=wanted)
        assert listing.classes == classes
        assert [item.label for item in listing.items] == [str(label) for label in labels]
        assert all(item.facts == {"n": 1} for item in listing.items)


def test_one_label_for_all_is_no_class(folder: Path) -> None:
    write(folder, {"file_name": "a.jpg", "label": 1}, {"file_name": "b.png", "label": 1})
    listing = open_source("imagefolder", folder)
    assert listing.classes is None and [item.facts for item in listing.items] == [{"label": 1}] * 2
    with pytest.raises(DataError, match="gives no labels, or all the same"):
        open_source("imagefolder", folder, classes=True)


@pytest.mark.parametrize("other", ["cat", None, 1.5, True, "", [1]])
def test_labels_are_all_there_and_of_one_kind(folder: Path, other: object) -> None:
    write(folder, {"file_name": "a.jpg", "label": 1}, {"file_name": "b.png", "label": other})
    with pytest.raises(DataError, match=r"metadata.jsonl:2: its label is .*, where .*:1 has 1. Give every image one"):
        open_source("imagefolder", folder)


def splits(listing: Listing) -> dict[str, str | None]:
    return {item.name: item.split for item in listing.items}


@pytest.mark.parametrize("val", ["val", "validation"])
def test_folders_fix_the_splits(tmp_path: Path, picture: Picture, val: str) -> None:
    for i, name in enumerate(("train", val, "test")):
        write(tmp_path / name, {"file_name": "x.png"}, {"file_name": "y.png"} if name == "train" else "")
        (tmp_path / name / "x.png").write_bytes(picture(i))
        (tmp_path / name / "y.png").write_bytes(picture(i + 9))
    listing = open_source("imagefolder", tmp_path)
    assert splits(listing) == {"train/x.png": "train", "train/y.png": "train", f"{val}/x.png": "val"}
    assert listing.source["left_out"] == {"test": 1} and listing.ignored == 2
    (tmp_path / val / "metadata.jsonl").unlink()
    without = open_source("imagefolder", tmp_path)
    assert splits(without) == {"train/x.png": "train", "train/y.png": "train", "test/x.png": "val"}
    assert without.source == {"name": "imagefolder", "split_rule": "its folders; test serves as val"}
    (tmp_path / "test/metadata.jsonl").unlink()
    assert set(splits(open_source("imagefolder", tmp_path)).values()) == {None}
    write(tmp_path / val, {"file_name": "x.png"})
    (tmp_path / "train/metadata.jsonl").unlink()
    with pytest.raises(DataError, match="holds no train/"):
        open_source("imagefolder", tmp_path)
    write(tmp_path, {"file_name": "train/x.png"}, {"file_name": f"{val}/x.png"})
    with pytest.raises(DataError, match=f"there is another in {val}/"):
        open_source("imagefolder", tmp_path)
    (tmp_path / val / "metadata.jsonl").unlink()
    assert splits(open_source("imagefolder", tmp_path)) == {"train/x.png": "train", f"{val}/x.png": "val"}


BAD: dict[str, tuple[dict[str, Any] | str | bytes, str]] = {
    "up": ({"file_name": "../secret.png"}, "leads out of the folder. Write"),
    "up and down": ({"file_name": "deep/../../secret.png"}, "leads out of the folder. Write"),
    "absolute": ({"file_name": "/etc/passwd"}, "leads out of the folder"),
    "windows": ({"file_name": "..\\secret.png"}, "leads out of the folder"),
    "link": ({"file_name": "link.png"}, "is a link that leads out"),
    "linked folder": ({"file_name": "out/secret.png"}, "is a link that leads out"),
    "loop": ({"file_name": "loop"}, "there is no such file"),
    "missing": ({"file_name": "none.png"}, "there is no such file"),
    "folder": ({"file_name": "deep"}, "there is no such file"),
    "long": ({"file_name": "x" * 5000}, "there is no such file"),
    "twice": ({"file_name": "./a.jpg"}, "names a.jpg, as .*:1 does"),
    "no name": ({"text": "x"}, "has no file_name"),
    "number": ({"file_name": 3}, "has no file_name"),
    "nul": ({"file_name": "a\0.png"}, "has no file_name"),
    "list": ("[1]", "is no object"),
    "broken": ('{"file_name": "b.png"', "is no JSON"),
    "nan": ('{"file_name": "b.png", "x": NaN}', "is no JSON"),
    "digits": ('{"file_name": "b.png", "x": ' + "9" * 9000 + "}", "is no JSON"),
    "nested": ('{"file_name": "b.png", "x": ' + "[" * 30000 + "]" * 30000 + "}", "is no JSON"),
    "surrogate": ('{"file_name": "b.png", "x": "\\ud800"}', "is no JSON"),
    "bytes": (b'{"file_name": "\xff.png"}', "is no JSON"),
    "too long": ({"file_name": "b.png", "x": "x" * MAX_LINE_BYTES}, "more than 65,536 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named(folder: Path, name: str) -> None:
    (folder.parent / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "out").symlink_to(folder.parent)
    (folder / "loop").symlink_to(folder / "loop")
    line, words = BAD[name]
    write(folder, {"file_name": "a.jpg"}, line)
    with pytest.raises(DataError, match=rf"photos/metadata\.jsonl:2: .*{words}") as raised:
        open_source("imagefolder", folder)
    assert "\n" not in str(raised.value)


def test_links_within_the_folder_are_followed(folder: Path, picture: Picture) -> None:
    os.symlink("a.jpg", folder / "again.jpg")
    write(folder, {"file_name": "again.jpg"}, {"file_name": "a.jpg"})
    assert [item.read() for item in open_source("imagefolder", folder).items] == [picture(1)] * 2


def test_no_metadata(folder: Path) -> None:
    with pytest.raises(DataError, match=r"holds no metadata\.jsonl, nor do train/, val/ and test/"):
        open_source("imagefolder", folder)
    write(folder)
    with pytest.raises(DataError, match="is empty"):
        open_source("imagefolder", folder)
    with pytest.raises(DataError, match="there is no such folder"):
        open_source("imagefolder", folder / "none")
