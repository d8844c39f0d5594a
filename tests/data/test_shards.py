"""Shards: complete, reproducible, checked when read, and readable by webdataset's own loader."""

import gc
import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import webdataset

from bricscli.data import shards
from bricscli.data.shards import Sample, ShardSet, write_shards
from bricscli.errors import DataError

HEADER = {"kind": "images", "note": "ünï"}


def samples(train: int = 7, val: int = 3) -> Iterator[Sample]:
    for i in range(train):
        yield "train", f"{i:06d}", {"png": f"image {i}".encode() * 90, "flip.npy": b"mirrored %d" % i}
    for i in range(val):
        yield "val", f"v{i:05d}", {"png": b"val %d" % i, "flip.npy": b""}


@pytest.fixture
def dataset(tmp_path: Path) -> ShardSet:
    return write_shards(tmp_path / "set", HEADER, samples(), samples_per_shard=3)


def test_what_was_written_is_read(dataset: ShardSet) -> None:
    train, val = dataset.split("train"), dataset.split("val")
    assert dataset.splits == {"train": 7, "val": 3}
    assert [shard.samples for shard in dataset.shards] == [3, 3, 1, 3]
    assert [len(train), len(val)] == [7, 3]
    assert train.keys == [f"{i:06d}" for i in range(7)] and val.keys[2] == "v00002"
    assert train.extensions == ["flip.npy", "png"]
    assert [train.read(i) for i in range(7)] == [f"image {i}".encode() * 90 for i in range(7)]
    assert train.read(6, "flip.npy") == b"mirrored 6" and val.read(0, "flip.npy") == b""


def test_the_manifest_says_what_is_there(dataset: ShardSet) -> None:
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    assert manifest["schema"] == 2 and manifest["kind"] == "images" and manifest["note"] == "ünï"
    assert {key: dataset.header[key] for key in HEADER} == HEADER
    assert set(dataset.header) == {*HEADER, "schema", "splits", "index"}
    assert dataset.digest == hashlib.sha256((dataset.path / "manifest.json").read_bytes()).hexdigest()
    listed = 0
    for shard, listing in zip(dataset.shards, manifest["shards"], strict=True):
        data = (dataset.path / shard.name).read_bytes()
        assert shard.facts() == listing
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
        with tarfile.open(dataset.path / shard.name) as tar:
            for (name, offset, size, crc32), member in zip(shard.members, tar, strict=True):
                file = tar.extractfile(member)
                assert file is not None
                content = file.read()
                assert (name, size, crc32) == (member.name, len(content), zlib.crc32(content))
                assert data[offset : offset + size] == content
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                listed += 1
    assert listed == 20


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_the_shards(dataset: ShardSet) -> None:
    paths = [str(dataset.path / shard.name) for shard in dataset.shards if shard.split == "train"]
    seen = list(webdataset.WebDataset(paths, shardshuffle=False))
    gc.collect()  # webdataset leaves closing its files to the collector
    assert [sample["__key__"] for sample in seen] == dataset.split("train").keys
    assert [sample["png"] for sample in seen] == [dataset.split("train").read(i) for i in range(7)]
    assert seen[6]["flip.npy"] == b"mirrored 6"


def test_same_samples_same_bytes(dataset: ShardSet, tmp_path: Path) -> None:
    again = write_shards(tmp_path / "again", HEADER, samples(), samples_per_shard=3)
    assert again.digest == dataset.digest
    for shard in dataset.shards:
        assert (again.path / shard.name).read_bytes() == (dataset.path / shard.name).read_bytes()


def test_many_threads_read_with_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_OPEN_FILES", 2)
    split = write_shards(tmp_path / "set", HEADER, samples(40, 1), samples_per_shard=4).split("train")
    with ThreadPoolExecutor(8) as pool:
        numbers = [i * 7 % 40 for i in range(400)]
        assert list(pool.map(split.read, numbers)) == [f"image {i}".encode() * 90 for i in numbers]


def test_a_flipped_bit_is_found_where_it_is(dataset: ShardSet) -> None:
    train = dataset.split("train")
    shard = dataset.shards[1]
    path = dataset.path / shard.name
    data = bytearray(path.read_bytes())
    member = next(member for member in shard.members if member.name == "000004.png")
    data[member.offset + 5] ^= 1
    path.write_bytes(data)
    assert train.read(3) and train.read(5)
    with pytest.raises(DataError, match=re.escape(f"{path}: 000004.png: damaged")):
        train.read(4)
    ShardSet.open(dataset.path)  # the length is right
    with pytest.raises(DataError, match=r"train-00001.tar: damaged"):
        dataset.verify()


def test_verify_accepts_what_is_whole_and_names_what_is_gone(dataset: ShardSet) -> None:
    dataset.verify()
    (dataset.path / "val-00000.tar").unlink()
    with pytest.raises(DataError, match=r"val-00000.tar: cannot be read \(No such file"):
        dataset.verify()


def test_an_empty_or_short_shard_is_never_a_short_epoch(dataset: ShardSet) -> None:
    path = dataset.path / "train-00002.tar"
    data = path.read_bytes()
    for length in (0, 511, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"train-00002.tar: truncated"):
            ShardSet.open(dataset.path)
    path.write_bytes(data + b"\0")
    with pytest.raises(DataError, match="too long"):
        ShardSet.open(dataset.path)
    path.unlink()
    with pytest.raises(DataError, match=r"train-00002.tar: listed in manifest.json, but No such file"):
        ShardSet.open(dataset.path)


def test_a_shard_cut_after_opening_is_an_error(dataset: ShardSet) -> None:
    train = dataset.split("train")
    (dataset.path / "train-00000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"000000.png: damaged"):
        train.read(0)


def test_a_stranger_among_the_shards_is_an_error(dataset: ShardSet) -> None:
    (dataset.path / "train-00003.tar").write_bytes((dataset.path / "train-00000.tar").read_bytes())
    with pytest.raises(DataError, match=r"train-00003.tar: not listed"):
        ShardSet.open(dataset.path)


def test_no_data_set(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="no prepared data set"):
            ShardSet.open(path)


def test_questions_that_have_no_answer(dataset: ShardSet) -> None:
    with pytest.raises(DataError, match="has no split `test`; there is train, val"):
        dataset.split("test")
    with pytest.raises(DataError, match=r"000000.npy: no such file; there is flip.npy, png"):
        dataset.split("train").read(0, "npy")
    with pytest.raises(IndexError):
        dataset.split("train").read(7)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (("train", "../a", {"png": b""}), "bad or repeated"),
        (("train", "a", {"p/ng": b""}), "bad or repeated"),
        (("train", "000000", {"png": b""}), "bad or repeated"),
        (("val", "000000", {"png": b""}), "listed twice"),
        (("train", "a.b", {"png": b""}), "lack files"),
        (("train", "x", {"other": b""}), "lack files"),
        (("train", "x", {}), "no files"),
        (("train", "x" * 97, {"png": b""}), "bad or repeated"),
    ],
)
def test_bad_samples_leave_nothing_behind(tmp_path: Path, bad: Any, reason: str) -> None:
    def wrong() -> Iterator[Sample]:
        yield "train", "000000", {"png": b"1"}
        yield bad
        yield "val", "000001", {"png": b"1"}

    with pytest.raises(ValueError, match=reason):
        write_shards(tmp_path / "set", HEADER, wrong())
    assert list(tmp_path.iterdir()) == []


def test_the_samples_of_a_split_follow_one_another(tmp_path: Path) -> None:
    mixed = [(split, f"{i}", {"png": b"1"}) for i, split in enumerate(("train", "val", "train"))]
    with pytest.raises(ValueError, match="split train do not follow one another"):
        write_shards(tmp_path / "set", HEADER, mixed)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_written_over(dataset: ShardSet) -> None:
    before = dataset.digest
    with pytest.raises(DataError):
        write_shards(dataset.path, HEADER, samples(2, 1))
    assert ShardSet.open(dataset.path).digest == before
