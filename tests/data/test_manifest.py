"""The manifest and its index: what was written is read, quickly, and what anybody changed is refused in one line."""

import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bricscli.data import manifest
from bricscli.data.manifest import read_manifest, read_shard, write_manifest
from bricscli.data.shards import ShardSet, write_shards
from bricscli.errors import DataError

HEADER = {"kind": "images", "source": {"name": "toy"}}
Manifest = dict[str, Any]


@pytest.fixture
def dataset(tmp_path: Path) -> ShardSet:
    """Shards of 2, 1 and 1 samples of two files."""
    drawn = [("train", f"{i:06d}"[3 * (i == 2) :], {"png": b"x" * (600 * i), "cls": b"7"}) for i in range(3)]
    return write_shards(tmp_path / "set", HEADER, [*drawn, ("val", "v_-Z", {"png": b"v", "cls": b"3"})], 2)


def seal(values: Manifest) -> str:
    """As a stranger would who knows how it is done."""
    values.pop("checksum", None)
    text = json.dumps(values, indent=1).removesuffix("\n}")
    return f'{text},\n "checksum": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def reseal(dataset: ShardSet, change: Callable[[bytearray], object]) -> None:
    """Changes the index, and the manifest so that it names what there is."""
    path = dataset.path / "manifest.json"
    values = json.loads(path.read_text())
    old = dataset.path / values["index"]["name"]
    data = bytearray(old.read_bytes())
    old.unlink()
    change(data)
    digest = hashlib.sha256(data).hexdigest()
    values["index"] |= {"name": f"index-{digest[:16]}.bin", "bytes": len(data), "sha256": digest}
    (dataset.path / values["index"]["name"]).write_bytes(data)
    path.write_text(seal(values))


def put(place: int, form: str, value: int) -> Callable[[bytearray], object]:
    return lambda data: struct.pack_into(form, data, place, value)


def refused(path: Path) -> str:
    """The one line."""
    with pytest.raises(DataError, match="Delete the data set and make it again") as error:
        ShardSet.open(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_index_is_what_its_description_says(dataset: ShardSet) -> None:
    """Read with nothing but the words in data/index.py."""
    about = json.loads((dataset.path / "manifest.json").read_text())["index"]
    data = (dataset.path / about["name"]).read_bytes()
    assert (about["extensions"], about["key_bytes"], about["bytes"]) == (["cls", "png"], 6, 4 * (2 * 16 + 6))
    members = [struct.unpack_from("<QII", data, 16 * i) for i in range(8)]
    assert members[:4] == [member[1:] for member in dataset.shards[0].members]
    assert data[8 * 16 :] == b"000000" + b"000001" + b"002\0\0\0" + b"v_-Z\0\0"
    assert [split.keys for split in map(dataset.split, ("train", "val"))] == [["000000", "000001", "002"], ["v_-Z"]]
    assert dataset.split("train").key(2) == "002" and dataset.split("train").read(2) == b"x" * 1200


def test_writing_again_leaves_one_index(dataset: ShardSet) -> None:
    """Also with fewer shards; the header that was read may be written as it is."""
    header, shards = read_manifest(dataset.path)
    write_manifest(dataset.path, header, shards)
    assert ShardSet.open(dataset.path).digest == dataset.digest
    (dataset.path / shards[2].name).unlink()
    write_manifest(dataset.path, header, shards[:2])
    assert ShardSet.open(dataset.path).splits == {"train": 3}
    assert len(list(dataset.path.glob("index-*"))) == 1
    write_manifest(dataset.path, header, [])
    assert read_manifest(dataset.path)[1] == [] and not list(dataset.path.glob("index-*"))


def test_shards_that_do_not_go_together(dataset: ShardSet, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", HEADER, [("train", "x", {"png": b""})])
    again = write_shards(tmp_path / "again", HEADER, [("train", "000001", {"png": b"", "cls": b""})])
    with pytest.raises(ValueError, match="lack files"):
        write_manifest(dataset.path, HEADER, [*dataset.shards, *other.shards])
    with pytest.raises(ValueError, match="000001 is listed twice"):
        write_manifest(dataset.path, HEADER, [*dataset.shards, *again.shards])
    assert ShardSet.open(dataset.path).digest == dataset.digest


def test_a_manifest_that_is_replaced_while_it_is_read(dataset: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its index is gone by then, and another there: both are read again."""
    read, found = manifest._read_text, list[bytes]()

    def late(path: Path) -> bytes:
        found.append(read(path))
        if len(found) == 1:
            write_manifest(dataset.path, HEADER, dataset.shards[:2])
        return found[-1]

    monkeypatch.setattr(manifest, "_read_text", late)
    assert read_manifest(dataset.path)[1] == dataset.shards[:2] and len(found) == 2


def test_schema_1_is_read(dataset: ShardSet) -> None:
    """Shards that list their members, no index, no checksum; written again it is as of today."""
    path = dataset.path / "manifest.json"
    head = {"schema": 1, **HEADER, "splits": dataset.splits}
    path.write_text(json.dumps(head | {"shards": [shard.as_json() for shard in dataset.shards]}))
    next(dataset.path.glob("index-*")).unlink()
    old = ShardSet.open(dataset.path)
    old.verify()
    assert old.shards == dataset.shards and old.split("train").read(1) == b"x" * 600
    assert [shard.members for shard in old.shards] == [shard.members for shard in dataset.shards]
    write_manifest(dataset.path, old.header, old.shards)
    assert ShardSet.open(dataset.path).digest == dataset.digest


def test_a_shard_goes_through_json(dataset: ShardSet) -> None:
    for shard in dataset.shards:
        again = read_shard(json.loads(json.dumps(shard.as_json())))
        assert again == shard and again.members == shard.members


def drop_members(m: list[Any]) -> None:
    del m[1]


@pytest.mark.parametrize(("change", "reason"), [
    (drop_members, "lack files"),
    (lambda m: m.append(m[0]), "do not follow one another"),
    (lambda m: m.insert(1, m[0]), "twice|lack"),
    (lambda m: m.insert(1, m.pop(2)), "do not follow one another"),
    (lambda m: m[0].__setitem__(0, "../../evil.png"), "bad file name"),
    (lambda m: m[0].__setitem__(0, "a" * 97 + ".cls"), "bad file name"),
    (lambda m: m[0].__setitem__(1, -512), "bad numbers"),
    (lambda m: m[0].__setitem__(1, 1024), "does not lie where"),
    (lambda m: m[0].__setitem__(2, 1 << 40), "bad numbers"),
    (lambda m: m[0].__setitem__(2, "9"), "bad numbers"),
    (lambda m: m[3].__setitem__(2, 1 << 31), "lies outside"),
    (lambda m: m[3].__setitem__(3, 1 << 32), "bad numbers"),
    (lambda m: m[3].append(1), "arguments"),
    (lambda m: m.clear(), "without samples"),
])
def test_a_record_that_cannot_be(dataset: ShardSet, change: Callable[[list[Any]], object], reason: str) -> None:
    entry = json.loads(json.dumps(dataset.shards[0].as_json()))
    change(entry["members"])
    with pytest.raises((ValueError, TypeError), match=reason):
        read_shard(entry)


@pytest.mark.parametrize("change", [
    lambda m: m.update(schema=3),
    lambda m: m.update(schema=1),
    lambda m: m.update(schema=[]),
    lambda m: m.pop("schema"),
    lambda m: m.pop("kind"),
    lambda m: m.pop("splits"),
    lambda m: m["splits"].update(train=6),
    lambda m: m.pop("index"),
    lambda m: m.update(shards=[], splits={}),
    lambda m: m["shards"].append(m["shards"][0]),
    lambda m: m["shards"].pop(),
    lambda m: m["shards"][0].update(name="../train-00000.tar"),
    lambda m: m["shards"][0].update(name="/etc/passwd.tar"),
    lambda m: m["shards"][0].update(name=None),
    lambda m: m["shards"][0].update(sha256="0"),
    lambda m: m["shards"][0].update(samples=1),
    lambda m: m["shards"][0].update(samples=-2),
    lambda m: m["shards"][0].update(samples=True),
    lambda m: m["shards"][0].update(samples=10**30),
    lambda m: m["shards"][0].update(bytes=1024),
    lambda m: m["shards"][0].update(bytes="many"),
    lambda m: m["shards"][0].update(more=1),
    lambda m: m["shards"][0].update(contents=1),
    lambda m: m["shards"][0].pop("split"),
    lambda m: m["shards"].insert(0, m["shards"].pop(1)),
    lambda m: m.update(shards=None),
    lambda m: m.update(index=None),
    lambda m: m["index"].update(name="../index-0123456789abcdef.bin"),
    lambda m: m["index"].update(name="/dev/zero"),
    lambda m: m["index"].update(name="index-0123456789abcdef.bin"),
    lambda m: m["index"].update(bytes=1 << 60),
    lambda m: m["index"].update(sha256="0" * 64),
    lambda m: m["index"].update(extensions=["cls"]),
    lambda m: m["index"].update(extensions=["cls", "cls"]),
    lambda m: m["index"].update(extensions=["../x", "png"]),
    lambda m: m["index"].update(extensions=[]),
    lambda m: m["index"].update(extensions=3),
    lambda m: m["index"].update(key_bytes=0),
    lambda m: m["index"].update(key_bytes=5),
    lambda m: m["index"].update(key_bytes=-6),
    lambda m: m["index"].update(key_bytes=6.0),
])
def test_an_altered_manifest_is_refused(dataset: ShardSet, change: Callable[[Manifest], object]) -> None:
    """Sealed again, so that only what it says tells."""
    path = dataset.path / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(seal(values))
    assert "manifest.json" in refused(dataset.path)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_no_byte_of_a_manifest_can_change(dataset: ShardSet, every: int) -> None:
    path = dataset.path / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), every):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert "manifest.json" in refused(dataset.path), place
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(dataset.path)
    path.write_bytes(whole)
    assert ShardSet.open(dataset.path).digest == dataset.digest


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\xff", '{"schema": 2}'])
def test_a_manifest_that_is_none(dataset: ShardSet, text: str) -> None:
    (dataset.path / "manifest.json").write_text(text, encoding="latin-1")
    assert "not a manifest" in refused(dataset.path)


def test_a_damaged_index_is_named(dataset: ShardSet) -> None:
    path = next(dataset.path.glob("index-*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 4]) + whole[101:])
    assert re.search(r"index-\w+\.bin is damaged", refused(dataset.path))
    for data in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(data)
        assert re.search(r"index-\w+\.bin is of another length", refused(dataset.path))
    path.unlink()
    assert re.search(r"index-\w+\.bin: listed in manifest.json, but No such file", refused(dataset.path))


@pytest.mark.parametrize(("change", "reason"), [
    (put(0, "<Q", 0), "'000000.cls' does not lie where"),
    (put(16, "<Q", (1 << 64) - 512), "'000000.png' does not lie where"),
    (put(2 * 16, "<Q", 513), "'000001.cls' does not lie where"),
    (put(8, "<I", 513), "'000000.png' does not lie where"),
    (put(3 * 16 + 8, "<I", (1 << 32) - 1), "train-00000.tar: '000001.png' lies outside"),
    (put(8 * 16, "B", ord("/")), "bad keys"),
    (put(8 * 16, "B", ord(".")), "bad keys"),
    (put(8 * 16, "B", 0xE4), "bad keys"),
    (put(8 * 16, "B", 0), "bad keys"),
    (put(8 * 16 + 2, "B", 0), "bad keys"),
    (put(8 * 16 + 5, "B", ord("1")), "000001 is listed twice"),
    (lambda data: data.extend(b"\0"), "another number of samples"),
    (lambda data: data.clear(), "another number of samples"),
])
def test_a_hostile_index_is_refused(dataset: ShardSet, change: Callable[[bytearray], object], reason: str) -> None:
    reseal(dataset, lambda data: None)
    assert ShardSet.open(dataset.path).splits == dataset.splits, "the test's own sealing is right"
    reseal(dataset, change)
    assert re.search(reason, refused(dataset.path))
