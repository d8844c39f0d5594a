"""LSUN's databases: our reader finds what the lmdb package finds, and nothing that is damaged ends the process."""

import hashlib
import io
import pickle
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from PIL import Image

from bricscli.data.images import ImageError
from bricscli.data.sources import SOURCES, open_source
from bricscli.data.sources import lsun as module
from bricscli.data.sources.listing import Item
from bricscli.data.sources.lmdb_pages import read_table, read_value
from bricscli.errors import DataError

Picture = Callable[..., bytes]


def write(path: Path, values: list[bytes], keys: list[bytes] | None = None) -> list[bytes]:
    """A database as fyu/lsun's are: a folder, keys that are SHA-1 in hexadecimal. Returns the keys, in order."""
    keys = keys or [hashlib.sha1(value).hexdigest().encode() for value in values]
    path.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for key, value in zip(keys, values, strict=True):
            transaction.put(key, value)
    return sorted(keys)


def by_the_library(path: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as database, database.begin() as transaction:
        return dict(transaction.cursor())


@pytest.fixture
def church(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """20 training images, of which one is cut off and one is none, and 3 for validation."""
    values = [picture(i, "WEBP", 96, 112) for i in range(18)]
    write(tmp_path / "lsun/church_outdoor_train_lmdb", [*values, picture(18, "WEBP", 64, 64)[:-200], b"no image" * 9])
    write(tmp_path / "lsun/church_outdoor_val_lmdb", [picture(i, "WEBP", 112, 96) for i in range(100, 103)])
    monkeypatch.setitem(module.SCENES, "church_outdoor", 20)
    monkeypatch.setattr(module, "VALIDATION_IMAGES", 3)
    return tmp_path / "lsun"


def test_every_value_is_there_in_the_order_of_the_keys(church: Path) -> None:
    listing = open_source("lsun-church", church)
    assert len(listing.items) == 23 and listing.ignored == 0 and listing.classes is None
    wanted = [(f"{split}/{key.decode()}", split, value) for split in ("train", "val")
              for key, value in by_the_library(church / f"church_outdoor_{split}_lmdb").items()]
    assert [(item.name, item.split, item.read()) for item in listing.items] == wanted
    for item, (_, _, value) in zip(listing.items, wanted, strict=True):
        assert item.digest() == hashlib.sha256(value).hexdigest()
        assert (item.label, item.facts) == (None, {})
    assert listing.source == {"name": "lsun-church", "category": "church_outdoor", "split_rule": "LSUN's",
                              "expected": {"train": 20, "val": 3}}
    assert [item.name for item in listing.items[18:21]] == [name for name, _, _ in wanted[18:21]]
    assert listing.items[-1].name == wanted[-1][0]
    with pytest.raises(IndexError):
        listing.items[23]


def test_images_are_decoded_and_what_is_none_has_a_reason(church: Path) -> None:
    reasons = []
    for item in pickle.loads(pickle.dumps(list(open_source("lsun-church_outdoor", church).items))):
        try:
            image = item.load()
            assert (image.mode, image.size) == ("RGB", (96, 112) if item.split == "train" else (112, 96))
            assert image.tobytes() == Image.open(io.BytesIO(item.read())).convert("RGB").tobytes()
        except ImageError as error:
            reasons.append(str(error))
    assert len(reasons) == 2 and "not an image, or a damaged one" in reasons


def test_other_places_that_hold_one_database(church: Path) -> None:
    train, val = church / "church_outdoor_train_lmdb", church / "church_outdoor_val_lmdb"
    for place, count in ((train, 20), (train / "data.mdb", 20), (val, 3)):
        listing = open_source("lsun-church", place)
        assert (len(listing.items), {item.split for item in listing.items}) == (count, {None})
        assert listing.source["split_rule"] == "by content"
    val.rename(church / "elsewhere")
    assert {item.split for item in open_source("lsun-church", church).items} == {None}


def test_an_object_category(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cat", [picture(i, "WEBP") for i in range(4)])
    monkeypatch.setitem(module.OBJECTS, "cat", 4)
    assert len(open_source("lsun-cat", tmp_path).items) == 4
    assert SOURCES["lsun-tv-monitor"].expected == {"train": 2_463_284, "val": 0}


@pytest.mark.parametrize("count", [1, 3, 200, 3000])
def test_small_values_deep_trees_and_overwritten_entries(tmp_path: Path, count: int) -> None:
    """Values within the leaves, pages that are in use no more, keys of many lengths, two transactions."""
    dice = random.Random(count)
    keys = [hashlib.sha1(str(i).encode()).hexdigest()[: dice.randint(8, 40)].encode() for i in range(count)]
    values = [dice.randbytes(dice.choice([0, 1, 17, 900, 2500, 9000])) for _ in keys]
    write(tmp_path / "db", values, keys)
    write(tmp_path / "db", values[: count // 2], keys[-(count // 2) :] if count > 1 else [])
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for key in keys[::7]:
            transaction.delete(key)
    table = read_table(tmp_path / "db/data.mdb")
    found = {table.key(i): read_value(table.path, *table.value(i)) for i in range(len(table))}
    assert list(found.items()) == list(by_the_library(tmp_path / "db").items())


def test_counts(church: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SCENES, "church_outdoor", 126_227)
    with pytest.raises(DataError, match=r"data\.mdb: holds 20 images where LSUN's .* has 126,227 for train"):
        open_source("lsun-church", church)
    listing = open_source("lsun-church", church, any_count=True)
    assert len(listing.items) == 23 and listing.source["any_count"] is True
    assert listing.source["expected"]["train"] == 126_227 and listing.source["found"] == {"train": 20, "val": 3}


def test_every_part_of_a_half_copied_database_is_refused(church: Path) -> None:
    data = church / "church_outdoor_train_lmdb/data.mdb"
    whole = data.read_bytes()
    for share in (0.0, 0.001, 0.02, 0.3, 0.7, 0.999):
        data.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match="half-copied download"):
            open_source("lsun-church", church)


def test_pages_that_were_not_copied(tmp_path: Path) -> None:
    """Space was kept for the whole file, but the bytes never came: zeros, where pages should be."""
    dice = random.Random(5)
    sizes = [13_000, 20_000, 3_000, 8_000, 5_000, 30]
    write(tmp_path / "church_outdoor_train_lmdb", [dice.randbytes(size) for size in sizes])
    data = tmp_path / "church_outdoor_train_lmdb/data.mdb"
    whole = data.read_bytes()
    refused = rejected = 0
    for page in range(2, len(whole) // 4096):
        data.write_bytes(whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])
        try:
            items = open_source("lsun-church", tmp_path, any_count=True).items
        except DataError as error:
            assert "is damaged: a half-copied download?" in str(error)
            refused += 1
            continue
        rejected += sum(_fails(item) for item in items)
    # Every page but the last of a value, which is not filled; the last of the short one holds its head.
    assert (refused, rejected) == (1, sum(max(1, (size + 16) // 4096) for size in sizes if size > 100))


def test_pages_in_another_place(tmp_path: Path) -> None:
    """The head of one value where another's should be: never the other image in silence."""
    write(tmp_path / "church_outdoor_train_lmdb", [random.Random(i).randbytes(5000) for i in range(2)])
    data = tmp_path / "church_outdoor_train_lmdb/data.mdb"
    table = read_table(data)
    first, second = (table.value(i)[2] for i in range(2))
    whole = bytearray(data.read_bytes())
    whole[second * 4096 : (second + 1) * 4096] = whole[first * 4096 : (first + 1) * 4096]
    data.write_bytes(whole)
    assert [_fails(item) for item in open_source("lsun-church", tmp_path, any_count=True).items] == [False, True]


def _fails(item: Item) -> bool:
    try:
        item.read()
        return False
    except ImageError as error:
        assert "damaged" in str(error)
        return True


def test_no_damage_ends_the_process(tmp_path: Path) -> None:
    """A byte of any kind of page changed, 2000 times: values, a DataError or an ImageError, nothing else."""
    dice = random.Random(0)
    write(tmp_path / "db", [dice.randbytes(dice.choice([20, 300, 5000])) for _ in range(300)])
    data = tmp_path / "db/data.mdb"
    whole = data.read_bytes()
    outcomes = {"read": 0, "refused": 0, "rejected": 0}
    with open(data, "r+b") as file:
        for _ in range(2000):
            page = dice.choice([0, 1, *range(2, len(whole) // 4096)])
            where = page * 4096 + dice.choice([*range(16), dice.randrange(160), dice.randrange(4096)])
            file.seek(where)
            file.write(bytes([dice.randrange(256)]))
            file.flush()
            try:
                table = read_table(data)
                for i in dice.sample(range(len(table)), min(5, len(table))):
                    assert len(read_value(table.path, *table.value(i))) == table.value(i)[1]
                outcomes["read"] += 1
            except DataError:
                outcomes["refused"] += 1
            except ImageError:
                outcomes["rejected"] += 1
            file.seek(where)
            file.write(whole[where : where + 1])
    assert all(outcomes.values())


def test_a_tree_that_goes_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "db", [str(i).encode() * 40 for i in range(400)])
    data = tmp_path / "db/data.mdb"
    whole = bytearray(data.read_bytes())
    (root,) = struct.unpack_from("<Q", whole, 4096 + 16 + 24 + 48 + 40)
    assert struct.unpack_from("<QHH", whole, root * 4096) == (root, 0, 1)
    first, second = struct.unpack_from("<2H", whole, root * 4096 + 16)
    whole[root * 4096 + second : root * 4096 + second + 4] = whole[root * 4096 + first : root * 4096 + first + 4]
    data.write_bytes(whole)
    with pytest.raises(DataError, match="is damaged"):
        read_table(data)


def test_what_is_no_database(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "packed").mkdir()
    for name in ("packed/church_outdoor_train_lmdb.zip", "bedroom_train_lmdb.zip", "a.txt"):
        (tmp_path / name).write_bytes(b"PK\3\4")
    (tmp_path / "text").mkdir()
    (tmp_path / "text/data.mdb").write_bytes(b"hello" * 5000)
    write(tmp_path / "empty", [])
    with lmdb.open(str(tmp_path / "named"), max_dbs=2) as database:
        database.open_db(b"images")
    for name, words in {
        "none": "there is no such folder. Give",
        "packed": "holds no database church_outdoor_train_lmdb .*church_outdoor_train_lmdb.zip is packed: unpack it",
        "bedroom_train_lmdb.zip": "is packed, .*Unpack it, and give the folder bedroom_train_lmdb",
        "a.txt": "is a file",
        "text": "is no LMDB database",
        "empty": "is empty",
        "named": "holds databases of its own",
    }.items():
        with pytest.raises(DataError, match=words) as raised:
            open_source("lsun-church", tmp_path / name)
        assert "\n" not in str(raised.value)


def test_three_million_entries_are_bearable(tmp_path: Path) -> None:
    """A hundredth of them, and what they would come to."""
    keys = [hashlib.sha1(str(i).encode()).hexdigest().encode() for i in range(30_000)]
    write(tmp_path / "db", [b""] * len(keys), keys)
    table = read_table(tmp_path / "db/data.mdb")
    held = sum(sys.getsizeof(part) for part in (table._keys, table._ends, table._places, table._sizes))
    assert len(table) == 30_000 and held < 80 * len(table)
