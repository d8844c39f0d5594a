"""Damage of every kind to shards, their index and their manifest: all of it is found, and never a short epoch.

What is found by reading again (data/audit.py), and by the ordinary way: opening the data set and reading every sample.
"""

import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import webdataset

from bricscli.data.audit import iter_shard_problems, iter_strangers
from bricscli.data.manifest import MANIFEST, read_manifest
from bricscli.data.shards import Sample, ShardSet, write_shards
from bricscli.errors import DataError

#: Of the one-bit flips of a file that a test makes.
FLIPS = 150
BLOCK = 512


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of four, four and three samples of two files, some of them empty, some longer than a block."""

    def samples() -> Iterator[Sample]:
        dice = random.Random(1)
        for i in range(11):
            yield "train" if i < 8 else "val", f"{i:06d}", {"png": dice.randbytes(i * 170), "cls": str(i).encode()}

    return write_shards(tmp_path_factory.mktemp("made") / "set", {"kind": "images"}, samples(), 4).path


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


def read_all(path: Path) -> int:
    """The ordinary way: every file of every sample. Raises DataError, or gives the number of samples."""
    data, count = ShardSet.open(path), 0
    for split in map(data.split, data.splits):
        for i in range(len(split)):
            for extension in split.extensions:
                split.read(i, extension)
            count += 1
    return count


def problems(path: Path) -> list[str]:
    try:
        header, shards = read_manifest(path)
    except DataError as error:
        return error.lines
    found = [problem for shard in shards for problem in iter_shard_problems(path, shard)]
    return [*found, *iter_strangers(path, {MANIFEST, header["index"]["name"], *(shard.name for shard in shards)})]


def is_refused(path: Path) -> bool:
    try:
        read_all(path)
    except DataError:
        return True
    return False


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_nothing_is_wrong_with_what_is_whole(dataset: Path) -> None:
    assert problems(dataset) == [] and read_all(dataset) == 11


def part_of(path: Path, place: int) -> str:
    """What of a shard lies at `place`: a header's or a file's name, or "padding"."""
    _, shards = read_manifest(path.parent)
    for member in next(shard for shard in shards if shard.name == path.name).members:
        if member.offset - BLOCK <= place < member.offset:
            return f"headers: {member.name}"
        if member.offset <= place < member.offset + member.size:
            return f"damaged: {member.name}"
    return "lies behind"


def test_every_flip_of_a_shard_is_named(dataset: Path) -> None:
    """Contents by their key, headers and padding too; reading notices those of contents, where it reads."""
    path, dice, parts = dataset / "train-00001.tar", random.Random(2), set()
    whole = path.read_bytes()
    for bit in dice.sample(range(8 * len(whole)), FLIPS):
        part = part_of(path, bit // 8)
        path.write_bytes(flipped(whole, bit))
        (first, digest) = problems(dataset)
        assert part in first and str(path) in first and "SHA-256" in digest
        assert is_refused(dataset) == part.startswith("damaged"), "headers and padding are not read"
        parts.add(part.split(":")[0])
    assert parts == {"headers", "damaged", "lies behind"}


def test_every_flip_of_the_index_is_refused(dataset: Path) -> None:
    path, dice = next(dataset.glob("index-*")), random.Random(3)
    whole = path.read_bytes()
    for bit in dice.sample(range(8 * len(whole)), FLIPS):
        path.write_bytes(flipped(whole, bit))
        (line,) = problems(dataset)
        assert path.name in line and is_refused(dataset)


def swap(one: Path, other: Path) -> None:
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def swap_members(path: Path) -> None:
    """The contents of two images of about one length change places, headers and padding with them."""
    data = bytearray((path / "train-00000.tar").read_bytes())
    _, (shard, *_) = read_manifest(path)
    places = {member.name: member.offset - BLOCK for member in shard.members}
    one, other, size = places["000000.cls"], places["000001.cls"], 2 * BLOCK
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    (path / "train-00000.tar").write_bytes(data)


def double_member(path: Path) -> None:
    """The first sample's label once more, behind the last file, as an appending tar would."""
    file = path / "train-00000.tar"
    data = file.read_bytes()
    last = read_manifest(path)[1][0].members[-1]
    end = last.offset + -(-last.size // BLOCK) * BLOCK
    file.write_bytes(data[:end] + data[: 2 * BLOCK] + data[end : len(data) - 2 * BLOCK])


def zero(path: Path, begin: float, end: float = 1.0) -> None:
    data = bytearray(path.read_bytes())
    first, last = int(begin * len(data)), int(end * len(data))
    data[first:last] = bytes(last - first)
    path.write_bytes(data)


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str, bool]] = {
    "a shard cut": (lambda p: (p / "val-00000.tar").write_bytes((p / "val-00000.tar").read_bytes()[:3000]),
                    r"val-00000.tar: truncated", True),
    "a shard that is longer": (lambda p: (p / "val-00000.tar").write_bytes((p / "val-00000.tar").read_bytes() + b"\0"),
                               r"val-00000.tar: too long", True),
    "a shard of zeros": (lambda p: zero(p / "train-00001.tar", 0), r"train-00001.tar: damaged: 000004.cls, ", True),
    "a shard half of zeros": (lambda p: zero(p / "train-00001.tar", 0.3), r"damaged headers: .*000007.png", True),
    "an empty shard": (lambda p: (p / "train-00001.tar").write_bytes(b""), r"train-00001.tar: truncated \(0", True),
    "a shard gone": (lambda p: (p / "train-00000.tar").unlink(), r"train-00000.tar: cannot be read \(No such", True),
    "two shards swapped": (lambda p: swap(p / "train-00000.tar", p / "train-00001.tar"), "train-00000.tar: damaged",
                           True),
    "two members swapped": (swap_members, r"damaged: 000000.cls, 000001.cls", True),
    "a member twice": (double_member, r"train-00000.tar: something lies behind its last file", False),
    "a shard twice": (lambda p: shutil.copy(p / "val-00000.tar", p / "val-00001.tar"),
                      r"val-00001.tar: belongs to nothing", True),
    "a file of somebody": (lambda p: (p / "notes.txt").write_text("mine"), r"notes.txt: belongs to nothing", False),
    "another index": (lambda p: (p / "index-0123456789abcdef.bin").write_bytes(b""), "cdef.bin: belongs to", False),
    "the index gone": (lambda p: next(p.glob("index-*")).unlink(), r"index-\w+.bin: listed in manifest.json", True),
    "the index of zeros": (lambda p: zero(next(p.glob("index-*")), 0), r"index-\w+.bin is damaged", True),
    "the manifest gone": (lambda p: (p / MANIFEST).unlink(), "no prepared data set", True),
    "the manifest of zeros": (lambda p: zero(p / MANIFEST, 0.5), "not a manifest", True),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(dataset: Path, name: str) -> None:
    """`refused`: the ordinary way stumbles over it too; what it does not use is left to `brics verify`."""
    damage, expected, refused = DAMAGES[name]
    sizes = {path: path.stat().st_size for path in dataset.iterdir()}
    damage(dataset)
    if "swapped" in name or "twice" in name:
        assert all(path.stat().st_size == size for path, size in sizes.items()) or "shards" in name, "not by length"
    found = problems(dataset)
    assert any(re.search(expected, line) for line in found), found
    assert is_refused(dataset) == refused


def test_everything_that_is_wrong_is_named(dataset: Path) -> None:
    """Not only the first: five damages, five names."""
    (dataset / "train-00000.tar").unlink()
    zero(dataset / "train-00001.tar", 0, 0.1)
    shutil.copy(dataset / "val-00000.tar", dataset / "val-00001.tar")
    zero(dataset / "val-00000.tar", 0.9)
    (dataset / "val-00000.tar").write_bytes((dataset / "val-00000.tar").read_bytes()[:-5])
    lines = problems(dataset)
    for name in ("train-00000.tar: cannot", "train-00001.tar: damaged: 000004.cls", "val-00000.tar: truncated",
                 "val-00001.tar: belongs"):
        assert any(name in line for line in lines), lines


def small_members(folder: Path) -> Path:
    """One shard of 335 samples of one short file: a tar's block of header and one of contents for each."""
    samples = (("train", f"{i:06d}", {"txt": b"%d" % i}) for i in range(335))
    return write_shards(folder, {"kind": "texts"}, samples, 335).path


def cut(path: Path, whole: bytes, length: int) -> None:
    path.write_bytes(whole[:length])


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_no_cut_of_a_shard_is_a_short_epoch(tmp_path: Path, every: int) -> None:
    """335 places: between members, within headers, within contents. Cut before opening, and after."""
    data = small_members(tmp_path / "set")
    path = data / "train-00000.tar"
    whole, dice = path.read_bytes(), random.Random(4)
    places = [BLOCK * dice.randrange(1, 2 * 335) + dice.choice((0, 0, 100, 300)) for _ in range(335)][::every]
    for place in places:
        opened = ShardSet.open(data).split("train")
        cut(path, whole, place)
        with pytest.raises(DataError, match=r"train-00000\.tar: truncated"):
            ShardSet.open(data)
        with pytest.raises(DataError, match=r"\.txt: damaged"):
            [opened.read(i, "txt") for i in range(len(opened))]
        assert any("truncated" in line for line in problems(data))
        path.write_bytes(whole)
    assert len(opened) == 335 and [opened.read(i, "txt") for i in range(335)] == [b"%d" % i for i in range(335)]


@pytest.mark.slow
def test_how_many_of_these_cuts_are_silent_for_others(tmp_path: Path) -> None:
    """webdataset's own loader on the same cuts: many give fewer samples and no error."""
    path = small_members(tmp_path / "set") / "train-00000.tar"
    whole, dice, silent = path.read_bytes(), random.Random(4), 0
    places = [BLOCK * dice.randrange(1, 2 * 335) + dice.choice((0, 0, 100, 300)) for _ in range(335)]
    for place in places:
        cut(path, whole, place)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                silent += len(list(webdataset.WebDataset([str(path)], shardshuffle=False))) < 335
        except Exception:  # loud
            pass
    print(f"{silent} of {len(places)} cuts are silent")
    assert silent > 0
