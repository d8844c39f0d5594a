"""`brics prepare`: all images, in one order, split by content, the same bytes whoever does the work; or nothing."""

import gc
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import webdataset
from PIL import Image

from bricscli.commands.prepare import prepare as command
from bricscli.data import sources, toy
from bricscli.data.images import ImageError, Pixels, decode_image, encode_png, to_pixels
from bricscli.data.labels import read_labels
from bricscli.data.resize import RESIZES
from bricscli.data.shards import ShardSet, write_shards
from bricscli.data.sources.listing import Listing
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.tasks import prepare
from bricscli.tasks.prepare import Prepared, prepare_folder, prepare_source, prepare_toy
from bricscli.tasks.prepare import prepare as prepare_items

A = TypeVar("A")


def picture(seed: int, width: int = 24, height: int = 18) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(folder: Path, count: int, start: int = 0) -> Path:
    """`count` images in three formats, some of them in sub-folders."""
    for i in range(start, start + count):
        path = folder / ("deep/er" if i % 3 else "") / f"{i:03d}.{('png', 'bmp', 'tif')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", 12)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def read_all(dataset: ShardSet) -> dict[str, tuple[str, Pixels, dict[str, str]]]:
    """key -> (split, pixels, origin)"""
    found = {}
    for name in dataset.splits:
        split = dataset.split(name)
        for i, key in enumerate(split.keys):
            found[key] = name, decode_image(split.read(i), 16), json.loads(split.read(i, "json"))
    return found


def test_every_image_is_there_once(photos: Path, tmp_path: Path) -> None:
    done = prepare_folder(tmp_path / "set", folder=photos, resolution=16, val_fraction=0.25)
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    found = read_all(done.dataset)
    assert done.dataset.splits == {"train": 9, "val": 3} and not done.already
    assert sorted(found) == [f"{i:06d}" for i in range(12)]
    for key, (_, pixels, origin) in found.items():
        path = photos / names[int(key)]
        assert origin == {"source": names[int(key)], "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        assert (pixels == to_pixels(RESIZES["lanczos"](Image.open(path), 16))).all()


def test_the_manifest_says_how_it_was_made(photos: Path, tmp_path: Path) -> None:
    (photos / "notes.txt").write_text("x")
    (photos / "000 copy.png").write_bytes((photos / "000.png").read_bytes())
    done = prepare_folder(tmp_path / "set", folder=photos, resolution=16)
    header = done.dataset.header
    assert {key: header[key] for key in ("kind", "resolution", "crop", "resize", "format", "val_fraction")} == {
        "kind": "images", "resolution": 16, "crop": "center", "resize": "lanczos", "format": "png",
        "val_fraction": 0.05}
    assert header["first_duplicates"] == [["000 copy.png", "000.png"]]
    assert header["source"]["name"] == "folder" and header["source"]["images"] == 13
    assert (done.ignored, done.duplicates, done.rejected) == (1, 1, [])
    assert str(tmp_path) not in (done.dataset.path / "manifest.json").read_text()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_it(photos: Path, tmp_path: Path) -> None:
    dataset = prepare_folder(tmp_path / "set", folder=photos, resolution=16).dataset
    paths = [str(dataset.path / shard.name) for shard in dataset.shards]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
    gc.collect()  # webdataset leaves closing its files to the collector
    found = read_all(dataset)
    assert sorted(sample["__key__"] for sample in samples) == sorted(found)
    for sample in samples:
        assert (sample["png"].transpose(2, 0, 1) == found[sample["__key__"]][1]).all()


def test_validation_images_are_chosen_by_content_alone(photos: Path, tmp_path: Path) -> None:
    def val_digests(folder: Path, out: str) -> set[str]:
        dataset = prepare_folder(tmp_path / out, folder=folder, resolution=16, val_fraction=0.25).dataset
        return {origin["sha256"] for split, _, origin in read_all(dataset).values() if split == "val"}

    before = val_digests(photos, "a")
    assert before == set(sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.rglob("*.*"))[:3])
    for i, path in enumerate(sorted(photos.rglob("*.*"))):
        path.rename(photos / f"{(i * 5) % 12}{path.suffix}")
    assert val_digests(photos, "b") == before


@pytest.mark.parametrize(("count", "fraction", "val"), [(2, 0.05, 1), (2, 0.99, 1), (10, 0.5, 5), (12, 0.01, 1)])
def test_both_splits_hold_images(tmp_path: Path, count: int, fraction: float, val: int) -> None:
    folder = fill(tmp_path / "photos", count)
    dataset = prepare_folder(tmp_path / "set", folder=folder, resolution=8, val_fraction=fraction).dataset
    assert dataset.splits == {"train": count - val, "val": val}


def copies(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        picture(seed, 8, 8).save(folder / f"copy{i}.png")


@pytest.mark.parametrize(("others", "fraction"), [(10, 0.25), (10, 0.05), (10, 0.5), (10, 0.9), (1, 0.5), (1, 0.05)])
@pytest.mark.parametrize("seed", range(4))
def test_copies_of_a_file_are_never_in_both_splits(tmp_path: Path, others: int, fraction: float, seed: int) -> None:
    folder = fill(tmp_path / "photos", others)
    copies(folder, 6, seed)
    found = read_all(prepare_folder(tmp_path / "set", folder=folder, resolution=16, val_fraction=fraction).dataset)
    val, train = ({o["sha256"] for s, _, o in found.values() if s == split} for split in ("val", "train"))
    assert val and train and not val & train and len(found) == others + 6
    assert max(val) < min(train)
    assert sum(split == "val" for split, _, _ in found.values()) >= round(fraction * (others + 6)) or others == 1


def test_copies_of_one_file_alone_are_refused(tmp_path: Path) -> None:
    copies(tmp_path / "photos", 4, 0)
    with pytest.raises(DataError, match=r"photos: all its 4 images are copies of one file\. Add others") as refused:
        prepare_folder(tmp_path / "set", folder=tmp_path / "photos", resolution=8)
    assert len(refused.value.lines) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_any_number_of_workers_writes_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    for workers in (1, 2, 3):
        prepare_folder(tmp_path / f"photos{workers}", folder=photos, resolution=16, workers=workers)
        prepare_toy(tmp_path / f"toy{workers}", resolution=16, count=40, workers=workers)
    for name in ("photos", "toy"):
        first = contents(tmp_path / f"{name}1")
        assert first == contents(tmp_path / f"{name}2") == contents(tmp_path / f"{name}3")
        assert "manifest.json" in first and len(first) == 4


def test_the_same_command_again_does_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_folder(tmp_path / "set", folder=photos, resolution=16)
    prepare_toy(tmp_path / "toy", resolution=16, count=5)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(prepare, "make", None)
    assert prepare_folder(tmp_path / "set", folder=photos, resolution=16).already
    assert prepare_toy(tmp_path / "toy", resolution=16, count=5).already
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_data_set_is_not_written_over(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    before = prepare_folder(out, folder=photos, resolution=16).dataset.digest
    with pytest.raises(DataError, match=r"another data set \(resolution 16, not 8\). Choose another --out"):
        prepare_folder(out, folder=photos, resolution=8)
    with pytest.raises(DataError, match=r"name folder, not toy"):
        prepare_toy(out, resolution=16)
    picture(99).save(photos / "000.png")
    with pytest.raises(DataError, match="made of other images"):
        prepare_folder(out, folder=photos, resolution=16)
    fill(photos, 1, start=12)
    with pytest.raises(DataError, match="images 12, not 13"):
        prepare_folder(out, folder=photos, resolution=16)
    assert ShardSet.open(out).digest == before


def test_key_codes_are_not_written_over(photos: Path, tmp_path: Path) -> None:
    samples = [("train", "000000", {"npy": b"code"})]
    digest = write_shards(tmp_path / "codes", {"kind": "key_codes"}, samples).digest
    for make in (
        lambda: prepare_folder(tmp_path / "codes", folder=photos, resolution=16),
        lambda: prepare_toy(tmp_path / "codes"),
    ):
        with pytest.raises(DataError, match="holds key_codes"):
            make()
    assert ShardSet.open(tmp_path / "codes").digest == digest


def test_a_damaged_data_set_is_not_taken_for_a_finished_one(photos: Path, tmp_path: Path) -> None:
    prepare_folder(tmp_path / "set", folder=photos, resolution=16)
    (tmp_path / "set" / "val-00000.tar").write_bytes(b"")
    with pytest.raises(DataError, match="truncated"):
        prepare_folder(tmp_path / "set", folder=photos, resolution=16)


def test_a_finished_data_set_is_read_again(photos: Path, tmp_path: Path) -> None:
    prepare_folder(tmp_path / "set", folder=photos, resolution=16)
    prepare_toy(tmp_path / "toy", resolution=16, count=5)
    for name in ("set", "toy"):
        data = bytearray((tmp_path / name / "train-00000.tar").read_bytes())
        data[600] ^= 1
        (tmp_path / name / "train-00000.tar").write_bytes(data)
    for make in (
        lambda: prepare_folder(tmp_path / "set", folder=photos, resolution=16),
        lambda: prepare_toy(tmp_path / "toy", resolution=16, count=5),
    ):
        with pytest.raises(DataError, match=r"train-00000\.tar: damaged"):
            make()


def test_what_others_left_beside_it_stays(tmp_path: Path) -> None:
    for name in (".tmp-x-99999999", ".brics-tmp-x-99999999"):
        (tmp_path / name).mkdir()
    prepare_toy(tmp_path / "toy", resolution=8, count=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".brics-tmp-x-99999999", ".tmp-x-99999999", "toy"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "toy", "resolution": 0}, "--resolution: 0 is out of range"),
        ({"source": "toy", "count": 0}, "--count: 0 is too few"),
        ({"source": "toy", "classes": True}, "--classes: goes with `folder`"),
        ({"source": "toy", "resize": "ldm"}, "--resize: goes with `folder`.*, not with `toy`"),
        ({"source": "toy", "format": "original"}, "--format: `original` goes with the others"),
        ({"source": "toy", "format": "jpg"}, r"--format: `jpg` is unknown\. There are: png, webp, original"),
        ({"source": "folder", "resolution": 8, "resize": "bicubic"}, r"--resize: `bicubic` is unknown\. There .* ldm"),
        ({"source": "folder", "resolution": 8, "resize": "ldm", "format": "original"}, "--resize: does not go with"),
        ({"source": "folder", "resolution": 8, "split": "all"}, "--split: goes with .*not with `folder`"),
        ({"source": "folder", "resolution": 8, "frames_per_video": 3}, "--frames-per-video: goes with .*not with `fo"),
        ({"source": "folder", "resolution": 8, "any_count": True}, "--any-count: goes with .*not with `folder`"),
        ({"source": "folder", "resolution": 8, "seed": 0}, "--seed: goes with `toy`"),
        ({"source": "folder", "resolution": 8, "count": 9}, "--count: goes with `toy`"),
        ({"source": "lsun"}, r"`lsun` is unknown\. There are: toy \(churches.*\), folder \(your"),
    ],
)
def test_options_that_do_not_fit(photos: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    folder = photos if options["source"] == "folder" else None
    with pytest.raises(RecipeError, match=words):
        command(out=tmp_path / "set", place=folder, **options)
    assert not (tmp_path / "set").exists()


def test_other_files_in_the_way_are_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(DataError, match=r"Choose another --out"):
            prepare_folder(tmp_path / name, folder=photos, resolution=16)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear" and (tmp_path / "file").read_text() == "x"


def test_an_empty_folder_may_become_the_data_set(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    assert prepare_folder(tmp_path / "set", folder=photos, resolution=16).dataset.splits == {"train": 11, "val": 1}


def test_an_unwritable_place_is_refused_before_the_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(prepare, "make", None)
    with pytest.raises(DataError, match="cannot be written"):
        prepare_folder(tmp_path / "file" / "set", folder=photos, resolution=16)
    with pytest.raises(DataError, match="cannot be written"):
        prepare_toy(tmp_path / "file" / "set", count=5)


def test_few_unreadable_files_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(199):
        (folder / f"{i:03d}.png").write_bytes(encode_png(picture(i, 8, 8)))
    (folder / "100b.jpg").write_text("this is a text")
    done = prepare_folder(tmp_path / "set", folder=folder, resolution=8, on_bad="skip")
    assert [tuple(entry) for entry in done.rejected] == [("100b.jpg", "not an image, or a damaged one")]
    assert sum(done.dataset.splits.values()) == 199
    val, train = done.dataset.split("val"), done.dataset.split("train")
    assert sorted(val.keys + train.keys) == [f"{i:06d}" for i in range(200) if i != 101]  # 100.png, 100b.jpg
    for split in (val, train):  # the bad file shifts no picture away from its name
        for i in range(len(split)):
            origin = json.loads(split.read(i, "json"))
            data = (folder / origin["source"]).read_bytes()
            assert origin["sha256"] == hashlib.sha256(data).hexdigest() and split.read(i) == data
    assert prepare_folder(tmp_path / "set", folder=folder, resolution=8).already


def test_too_many_unreadable_files_are_an_error(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 20)
    for name in "abcd":
        (folder / f"{name}.jpg").write_text("this is a text")
    with pytest.raises(DataError, match=r"4 of 24 image files cannot be read, more than 1%: a.jpg \(not") as refused:
        prepare_folder(tmp_path / "set", folder=folder, resolution=8, on_bad="skip")
    assert "c.jpg" in str(refused.value) and "d.jpg" not in str(refused.value) and "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_text_named_jpg_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("this is a text")
    with pytest.raises(DataError, match="none of its 1 image files can be read") as refused:
        prepare_folder(tmp_path / "set", folder=tmp_path / "photos", resolution=8)
    assert refused.value.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a single image"):
        prepare_folder(tmp_path / "set", folder=fill(tmp_path / "photos", 1), resolution=8)


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_missing_or_empty_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name):
        prepare_folder(tmp_path / "set", folder=tmp_path / name, resolution=8)
    assert not (tmp_path / "set").exists()


def test_an_upright_photograph_stays_upright(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 1)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned, plain = io.BytesIO(), picture(7, 16, 16)
    plain.transpose(Image.Transpose.ROTATE_180).save(turned, "PNG", exif=exif)
    (folder / "turned.png").write_bytes(turned.getvalue())
    found = read_all(prepare_folder(tmp_path / "set", folder=folder, resolution=16).dataset)
    assert (found["000001"][1] == to_pixels(plain)).all()


def test_a_file_that_is_too_large_is_rejected(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bricscli.data.sources.listing.MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match=r"none of its 12 image files can be read: 000.png"):
        prepare_folder(tmp_path / "set", folder=photos, resolution=8)


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """Three classes, whose names do not sort as the paths below them do; one image lies deeper."""
    for start, name in enumerate(["b-side", "b", "ä/deep"]):
        fill(tmp_path / "photos" / name, 4, start=100 * start)
    return tmp_path / "photos"


def test_folders_name_the_classes(kinds: Path, tmp_path: Path) -> None:
    dataset = prepare_folder(tmp_path / "set", folder=kinds, resolution=16, classes=True, val_fraction=0.25).dataset
    names = dataset.header["classes"]
    assert names == ["b", "b-side", "ä"] and dataset.splits == {"train": 9, "val": 3}
    seen = []
    for split in map(dataset.split, dataset.splits):
        for i, label in enumerate(read_labels(split, 3).tolist()):
            origin = json.loads(split.read(i, "json"))
            assert split.read(i, "cls") == str(label).encode() and origin["label"] == label
            assert origin["class"] == names[label] == origin["source"].split("/")[0]
            seen.append(label)
    assert sorted(seen) == [0] * 4 + [1] * 4 + [2] * 4


def test_classes_change_neither_the_pictures_nor_the_split(kinds: Path, tmp_path: Path) -> None:
    plain, labelled = (prepare_folder(tmp_path / str(classes), folder=kinds, resolution=16, classes=classes)
                       for classes in (False, True))
    for name in ("train", "val"):
        one, other = plain.dataset.split(name), labelled.dataset.split(name)
        assert one.keys == other.keys and one.extensions == ["json", "png"]
        assert [one.read(i) for i in range(len(one))] == [other.read(i) for i in range(len(other))]
    assert "classes" not in plain.dataset.header
    again = prepare_folder(tmp_path / "again", folder=kinds, resolution=16, classes=True, workers=2)
    assert contents(tmp_path / "again") == contents(tmp_path / "True")
    assert prepare_folder(again.dataset.path, folder=kinds, resolution=16, classes=True).already


def test_a_data_set_with_other_classes_is_not_taken_for_it(kinds: Path, tmp_path: Path) -> None:
    for made in (False, True):
        out = tmp_path / str(made)
        prepare_folder(out, folder=kinds, resolution=16, classes=made)
        words = r"classes b, b-side, ä, not none" if made else r"classes none, not b, b-side, ä"
        with pytest.raises(DataError, match=rf"holds another data set \({words}\)\. Choose another --out"):
            prepare_folder(out, folder=kinds, resolution=16, classes=not made)


def test_folders_that_make_no_classes(kinds: Path, tmp_path: Path) -> None:
    picture(1000).save(kinds / "zebra.png")
    picture(1001).save(kinds / "aardvark.png")
    with pytest.raises(DataError, match=r"photos: aardvark.png lies in none of the folders that name the classes\. Mo"):
        prepare_folder(tmp_path / "set", folder=kinds, resolution=16, classes=True)
    with pytest.raises(DataError, match=r"ä: all images lie in one folder, deep, and a single class tells nothing\. "):
        prepare_folder(tmp_path / "set", folder=kinds / "ä", resolution=16, classes=True)
    assert not (tmp_path / "set").exists()


def test_toy_pictures_are_the_drawings(tmp_path: Path) -> None:
    dataset = prepare_toy(tmp_path / "toy", resolution=16, count=30, seed=5, val_fraction=0.1).dataset
    found = read_all(dataset)
    assert dataset.splits == {"train": 27, "val": 3} and len(found) == 30
    for key, (_, pixels, origin) in found.items():
        assert (pixels == to_pixels(toy.draw(5, int(key), 16))).all()
        assert origin["source"] == f"toy:5:{int(key)}"
    source = dataset.header["source"]
    assert source.pop("sha256") and source == {
        "name": "toy", "version": toy.VERSION, "seed": 5, "count": 30, "images": 30}


def test_toy_validation_images_are_the_same_at_every_resolution(tmp_path: Path) -> None:
    val = [prepare_toy(tmp_path / str(r), resolution=r, count=50).dataset.split("val").keys for r in (8, 16)]
    assert val[0] == val[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolution": 7}, "--resolution: 7"),
        ({"resolution": 2048}, "--resolution: 2048"),
        ({"val_fraction": 0.0}, "--val-fraction: 0.0"),
        ({"val_fraction": 1.0}, "--val-fraction: 1.0"),
        ({"workers": 0}, "--workers: 0"),
        ({"count": 1}, "--count: 1"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        prepare_toy(tmp_path / "set", **options)
    assert list(tmp_path.iterdir()) == []


def test_progress_sees_every_image(photos: Path, tmp_path: Path) -> None:
    seen = []

    def progress(iterable: Iterable[A], total: int, description: str, unit: str, *, done: int = 0) -> Iterator[A]:
        for item in iterable:
            seen.append((total, description, unit))
            yield item

    prepare_folder(tmp_path / "set", folder=photos, resolution=8, progress=progress)
    assert seen == [(12, "hashing", "files")] * 12 + [(12, "preparing", "images")] * 12
    prepare_folder(tmp_path / "set", folder=photos, resolution=8, progress=progress)
    assert seen[24:] == [(12, "comparing", "files")] * 12


@pytest.mark.parametrize("what", [KeyboardInterrupt, BricsError])
def test_an_interruption_leaves_nothing_behind(photos: Path, tmp_path: Path, what: type[BaseException]) -> None:
    def progress(iterable: Iterable[A], total: int, description: str, unit: str, *, done: int = 0) -> Iterator[A]:
        for i, item in enumerate(iterable):
            if i == 5:
                raise what()
            yield item

    for make in (
        lambda: prepare_folder(tmp_path / "set", folder=photos, resolution=8, workers=2, progress=progress),
        lambda: prepare_toy(tmp_path / "set", resolution=8, count=9, progress=progress),
    ):
        with pytest.raises(what):
            make()
        assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@dataclass(frozen=True)
class Drawn:
    """An item of one colour."""

    name: str
    split: str | None = None
    label: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    fails: str = ""  #: "digest" or "load"
    content: str | None = None  #: None: the name

    def digest(self) -> str:
        if self.fails == "digest":
            raise ImageError("is gone")
        return hashlib.sha256((self.content or self.name).encode()).hexdigest()

    def read(self) -> bytes:
        return encode_png(self.load())

    def load(self) -> Image.Image:
        if self.fails == "load":
            raise ImageError("cannot be decoded: it is a test")
        return Image.new("RGB", (9, 12), (int(self.name) % 256, int(self.name) // 256, 0))


def listing(*items: Drawn, **options: Any) -> Listing:
    return Listing(items, 0, {"name": "drawn", "rule": "by hand"}, **options)


def colours(dataset: ShardSet) -> dict[str, dict[str, int]]:
    """split -> key -> the number that was drawn"""
    found: dict[str, dict[str, int]] = {}
    for name in dataset.splits:
        split = dataset.split(name)
        pixels = [decode_image(split.read(i), 8)[:, 0, 0].astype(int) for i in range(len(split))]
        found[name] = {key: r + 256 * g for key, (r, g, _) in zip(split.keys, pixels, strict=True)}
    return found


def test_a_split_that_the_source_fixes_is_kept(tmp_path: Path) -> None:
    items = [Drawn(str(i), "val" if i % 3 == 0 else "train") for i in range(10)]
    dataset = prepare_items(tmp_path / "set", listing(*items), resolution=8).dataset
    assert colours(dataset) == {"train": {f"{i:06d}": i for i in range(10) if i % 3},
                                "val": {f"{i:06d}": i for i in range(0, 10, 3)}}
    assert dataset.header["val_fraction"] is None and dataset.header["source"]["rule"] == "by hand"
    with pytest.raises(RecipeError, match="--val-fraction: does not go with drawn, which fixes the split itself"):
        prepare_items(tmp_path / "other", listing(*items), resolution=8, val_fraction=0.05)


def test_copies_in_both_splits_of_a_source_are_told(tmp_path: Path) -> None:
    """Only a source that fixes its splits can have them."""
    items = [Drawn("1", "train"), Drawn("01", "val", content="1"), Drawn("2", "val"), Drawn("02", "val", content="2")]
    header = prepare_items(tmp_path / "set", listing(*items), resolution=8).dataset.header
    assert (header["duplicates"], header["duplicates_between_splits"]) == (2, 1)
    assert header["first_duplicates"] == [["1", "01"], ["2", "02"]]


def test_a_split_may_be_empty_where_the_source_fixes_it(tmp_path: Path) -> None:
    items = [Drawn(str(i), "train") for i in range(3)]
    assert prepare_items(tmp_path / "set", listing(*items), resolution=8).dataset.splits == {"train": 3}


def test_facts_and_labels_go_into_the_samples(tmp_path: Path) -> None:
    items = [Drawn("0", "train", "b", {"text": "ä"}), Drawn("1", "train", "a")]
    split = prepare_items(tmp_path / "set", listing(*items, classes=["b", "a"]), resolution=8).dataset.split("train")
    found = [json.loads(split.read(i, "json")) for i in range(len(split))]
    assert [(o["class"], o["label"]) for o in found] == [("b", 0), ("a", 1)] and split.extensions == [
        "cls", "json", "png"]
    assert [o.get("facts") for o in found] == [{"text": "ä"}, None]


def test_other_facts_are_another_data_set(tmp_path: Path) -> None:
    def make(text: str) -> Prepared:
        return prepare_items(tmp_path / "set", listing(Drawn("0", facts={"text": text}), Drawn("1")), resolution=8)

    make("a")
    assert make("a").already
    with pytest.raises(DataError, match="made of other images"):
        make("b")


@pytest.mark.parametrize("samples_per_shard", [7, 1024])
def test_what_is_rejected_leaves_a_hole_and_moves_nothing(tmp_path: Path, samples_per_shard: int) -> None:
    """Whether an image fails early or late, the shards of the others are the same."""
    def make(name: str, *fails: tuple[int, str]) -> Prepared:
        items = [Drawn(str(i), "val" if i > 280 else "train", fails=dict(fails).get(i, "")) for i in range(300)]
        return prepare_items(tmp_path / name, listing(*items), resolution=8, samples_per_shard=samples_per_shard,
                             workers=1, on_bad="skip")

    whole = make("whole")
    done = make("holes", (5, "digest"), (14, "load"), (299, "load"))
    assert [entry.path for entry in done.rejected] == ["5", "14", "299"]
    assert [entry.reason for entry in done.rejected] == ["is gone", *["cannot be decoded: it is a test"] * 2]
    wanted = colours(whole.dataset)
    for name, missing in (("train", {5, 14}), ("val", {299})):
        assert colours(done.dataset)[name] == {k: v for k, v in wanted[name].items() if v not in missing}
    if samples_per_shard == 7:  # known before: the 6th; after that shards begin one later. Found late: a hole
        same = set(contents(tmp_path / "late").items()) if make("late", (14, "load")) else set()
        assert len(same & set(contents(tmp_path / "whole").items())) == len(whole.dataset.shards) - 1


def test_a_split_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    items = [Drawn(str(i)) for i in range(200)]
    first = min(items, key=lambda item: item.digest())
    items = [replace(item, fails="load" if item == first else "") for item in items]
    with pytest.raises(DataError, match=rf"drawn: no image of the val split can be read, such as {first.name} \(cann"):
        prepare_items(tmp_path / "set", listing(*items), resolution=8, val_fraction=0.001, on_bad="skip")
    assert list(tmp_path.iterdir()) == []


def test_the_work_is_given_up_where_too_much_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first of three shards, not after all: what is wrong with a hundred will not mend itself."""
    monkeypatch.setattr("bricscli.tasks.preparing.RUINED", 10)
    items = [Drawn(str(i), "train", fails="load" if i < 20 else "") for i in range(90)]
    seen = []

    def progress(iterable: Iterable[A], total: int, description: str, unit: str, *, done: int = 0) -> Iterator[A]:
        for item in iterable:
            seen.append(description)
            yield item

    with pytest.raises(DataError, match=r"drawn: 20 of 90 image files cannot be read so far, more than 1%: 0 \(cannot"):
        prepare_items(tmp_path / "set", listing(*items), resolution=8, samples_per_shard=30, progress=progress,
                      on_bad="skip")
    assert seen.count("preparing") == 30 and list(tmp_path.iterdir()) == []


def test_duplicates_are_counted_and_the_first_are_named(photos: Path, tmp_path: Path) -> None:
    for i in range(25):
        (photos / f"z{i:02d}.png").write_bytes((photos / "000.png").read_bytes())
    done = prepare_folder(tmp_path / "set", folder=photos, resolution=8)
    assert done.duplicates == 25
    assert done.dataset.header["first_duplicates"] == [["000.png", f"z{i:02d}.png"] for i in range(20)]


@pytest.mark.parametrize("resize", [name for name in RESIZES if name != "lanczos"])
def test_the_preset_is_used_and_recorded(photos: Path, tmp_path: Path, resize: str) -> None:
    dataset = prepare_folder(tmp_path / "set", folder=photos, resolution=16, resize=resize).dataset
    assert dataset.header["resize"] == resize
    found = read_all(dataset)
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    for key, (_, pixels, _) in found.items():
        assert (pixels == to_pixels(RESIZES[resize](Image.open(photos / names[int(key)]), 16))).all()
    with pytest.raises(DataError, match=f"resize {resize}, not lanczos"):
        prepare_folder(tmp_path / "set", folder=photos, resolution=16)


def test_toy_pictures_are_what_they_were(tmp_path: Path) -> None:
    """SHA-256 over the pixels, as version 0.1 drew and stored them."""
    total = hashlib.sha256()
    found = read_all(prepare_toy(tmp_path / "toy", resolution=16, count=20).dataset)
    for key in sorted(found):
        total.update(f"{found[key][0]}{key}".encode() + found[key][1].tobytes())
    assert total.hexdigest() == "33bbfacb5799e2b643665bdca3775054413c35f9667de1bc518e437dff0e23e4"


def test_a_source_with_a_place_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sources.SOURCES, "named", sources.Source("a collection", resolution=8, place=Path("put/here")))
    monkeypatch.setattr(prepare, "how_to_get", lambda word: f"{word}: get it and put it there.")
    with pytest.raises(DataError, match="named: get it and put it there"):
        prepare_source("named", None)
    fill(Path("put/here"), 4)
    monkeypatch.setattr(prepare, "open_source", lambda word, path: sources.open_source("folder", path))
    assert prepare_source("named", None).dataset.path == Path("data/named")
    assert prepare_source("named", Path("put/here"), resolution=9, out=Path("x")).dataset.header["resolution"] == 9
    assert list(Path("data").iterdir()) == [Path("data/named")]
