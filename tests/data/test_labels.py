"""Labels come back as they were written, without a read; and what is no label is named."""

from pathlib import Path

import pytest

from bricscli.data.labels import LABEL, encode_label, read_labels
from bricscli.data.shards import Split, write_shards
from bricscli.errors import DataError


def write(folder: Path, members: list[dict[str, bytes]]) -> Split:
    samples = (("train", f"{i:06d}", contents) for i, contents in enumerate(members))
    return write_shards(folder, {"kind": "images"}, samples, samples_per_shard=4).split("train")


def test_labels_in_the_order_of_the_samples(tmp_path: Path) -> None:
    wanted = [0, 10, 3, 1, 11, 0, 999, 100, 99]
    split = write(tmp_path / "set", [{LABEL: encode_label(label), "png": b"x"} for label in wanted])
    assert split.read(1, LABEL) == b"10", "WebDataset's convention: the number as text"
    assert read_labels(split, 1000).tolist() == wanted
    for shard in split._folder.glob("*.tar"):
        shard.unlink()
    assert read_labels(split, 1000).tolist() == wanted, "from the manifest alone"


@pytest.mark.parametrize("contents", [b"8", b"", b"-1", b"x", b"1\n", b"01"])
def test_what_is_no_class_is_named(tmp_path: Path, contents: bytes) -> None:
    split = write(tmp_path / "set", [{LABEL: b"7"}, {LABEL: contents}, {LABEL: b"9"}])
    with pytest.raises(DataError, match=r"train-00000.tar: 000001.cls: is no class from 0 to 7\. Delete"):
        read_labels(split, 8)


def test_samples_without_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"000000.cls: no such file; there is png"):
        read_labels(write(tmp_path / "set", [{"png": b"x"}]), 8)
