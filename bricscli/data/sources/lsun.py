"""LSUN (arXiv:1506.03365v3): one LMDB database for each category and split, whose values are encoded images.

The values' short side is 256 pixels; they are WebP today and were JPEG of quality 75 in the first release
(fyu/lsun, README.md), and the keys are hexadecimal digests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from bricscli.data.sources.listing import Item, Listing, ReadsBytes
from bricscli.data.sources.lmdb_pages import Table, read_table, read_value
from bricscli.errors import DataError

#: Training images of each scene category (validation: 300 each), as TensorFlow Datasets' catalogue (`lsun`) and
#: bytedance/Hammer (docs/dataset_preparation) list them.
SCENES = {
    "bedroom": 3_033_042,
    "bridge": 818_687,
    "church_outdoor": 126_227,
    "classroom": 168_103,
    "conference_room": 229_069,
    "dining_room": 657_571,
    "kitchen": 2_212_277,
    "living_room": 1_315_802,
    "restaurant": 626_331,
    "tower": 708_264,
}
VALIDATION_IMAGES = 300
#: Images of each object category, which have no validation split; from the second of the lists above.
OBJECTS = {
    "airplane": 1_530_696,
    "bicycle": 3_347_211,
    "bird": 2_310_362,
    "boat": 2_651_165,
    "bottle": 3_202_760,
    "bus": 695_891,
    "car": 5_520_756,
    "cat": 1_657_266,
    "chair": 5_037_807,
    "cow": 377_379,
    "dining_table": 1_537_123,
    "dog": 5_054_817,
    "horse": 2_000_340,
    "motorbike": 1_194_101,
    "person": 18_890_816,
    "potted_plant": 1_104_859,
    "sheep": 418_983,
    "sofa": 2_365_870,
    "train": 1_148_020,
    "tv-monitor": 2_463_284,
}
_DATA = "data.mdb"


@dataclass(frozen=True)
class LmdbItem(ReadsBytes):
    """A value of a database; see `listing.Item`."""

    path: str
    name: str
    offset: int
    size: int
    page: int
    split: str | None = None
    label: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> bytes:
        return read_value(self.path, self.offset, self.size, self.page)


class LmdbItems(Sequence[Item]):
    """The values of some databases, one after the other, made when they are asked for: 3 million are 0.2 GB."""

    def __init__(self, tables: Sequence[tuple[str, str | None, Table]]) -> None:
        """`tables`: what their names begin with, their split, and they themselves."""
        self._tables = list(tables)

    def __len__(self) -> int:
        return sum(len(table) for _, _, table in self._tables)

    @overload
    def __getitem__(self, i: int) -> Item: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[Item]: ...

    def __getitem__(self, i: int | slice) -> Item | Sequence[Item]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = i + len(self) if i < 0 else i
        for beginning, split, table in self._tables:
            if 0 <= i < len(table):
                return LmdbItem(table.path, f"{beginning}/{_text(table.key(i))}", *table.value(i), split)
            i -= len(table)
        raise IndexError("no such item")

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))


def open_lsun(path: Path, name: str, category: str, *, any_count: bool = False) -> Listing:
    """The images of one category, from the folder with `<category>_train_lmdb` and `<category>_val_lmdb`, or from one.

    Where both are there they fix the splits. `name` is the source's word.

    Raises:
        DataError: there is no such database, it is still a zip archive, is damaged, or holds another number of images
            than LSUN's and `any_count` is not set.
    """
    found = _databases(path, category)
    tables = {split: read_table(data) for split, data in found.items()}
    counts = {split: len(table) for split, table in tables.items()}
    expected = {split: expected_counts(category)[split] for split in tables}
    for split, count in counts.items():
        if not count:
            raise DataError(f"{found[split]}: is empty. Copy or download it again.")
        if count != expected[split] and not any_count:
            raise DataError(f"{found[split]}: holds {count:,} images where LSUN's {category} has {expected[split]:,} "
                            f"for {split} (a half-copied download?). Copy or download it again, or pass --any-count.")
    fixed = len(tables) > 1
    items = LmdbItems([(split, split if fixed else None, table) for split, table in tables.items()])
    source: dict[str, Any] = {"name": name, "category": category, "expected": expected,
                              "split_rule": "LSUN's" if fixed else "by content"}
    if counts != expected:
        source |= {"any_count": True, "found": counts}
    return Listing(items, 0, source)


def expected_counts(category: str) -> dict[str, int]:
    """Images of each split."""
    if category in SCENES:
        return {"train": SCENES[category], "val": VALIDATION_IMAGES}
    return {"train": OBJECTS[category], "val": 0}


def _databases(path: Path, category: str) -> dict[str, Path]:
    """The `data.mdb` of every split that is there."""
    if path.is_file() and path.name == _DATA:
        path = path.parent
    if path.is_file():
        if path.suffix.lower() == ".zip":
            raise DataError(f"{path}: is packed, and a database cannot be read in there. Unpack it, and give the "
                            f"folder {path.stem}.")
        raise DataError(f"{path}: is a file. Give the folder that holds {category}_train_lmdb.")
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder. Give the folder that holds {category}_train_lmdb.")
    if (path / _DATA).is_file():
        return {"val" if path.resolve().name.endswith("_val_lmdb") else "train": path / _DATA}
    places = {"train": [f"{category}_train_lmdb"], "val": [f"{category}_val_lmdb"]}
    if category in OBJECTS:
        places["train"] += [category, f"{category}_lmdb"]
    found = {split: path / name / _DATA for split, names in places.items() for name in reversed(names)
             if (path / name / _DATA).is_file()}
    if not found:
        packed = next((file for file in sorted(path.glob("*.zip")) if file.name.startswith(category)), None)
        raise DataError(f"{path}: holds no database {category}_train_lmdb or {category}_val_lmdb. "
                        + (f"{packed.name} is packed: unpack it there." if packed else "Give the folder that does."))
    return found


def _text(key: bytes) -> str:
    return key.decode() if key.isascii() and key.decode().isprintable() else key.hex()
