"""The folder of samples: what it keeps, what it refuses, and who reads it."""

import json
import multiprocessing
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bricscli.data import samples
from bricscli.data.collection import find_images, open_folder
from bricscli.data.images import Pixels, encode_png
from bricscli.data.marks import digest_settings, encode_sample
from bricscli.data.samples import SampleFolder, newest_samples, sheet_path, strict_settings
from bricscli.data.shards import ShardSet, read_manifest
from bricscli.errors import BricsError, DataError
from bricscli.tasks.prepare import prepare_toy

VERSIONS = {"torch": "2.15.0"}


def settings(format: str, **more: Any) -> dict[str, Any]:
    return {"format": format, "resolution": 8, "denoiser": {"run": "toy", "digest": "a" * 64},
            "sampling": {"sampler": "heun", "steps": 4}, **more}


def png(seed: int) -> bytes:
    return encode_sample(pixels(seed), seed, digest_settings(strict_settings(settings("png"))))


def pixels(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (3, 8, 8)).astype(np.uint8)


def create(path: Path, format: str, **more: Any) -> SampleFolder:
    return SampleFolder.create(path, settings(format, **more), VERSIONS)


def fill(path: Path, format: str, seeds: Sequence[int]) -> SampleFolder:
    folder = create(path, format)
    for start in range(0, len(seeds), 5):
        folder.add({seed: png(seed) for seed in seeds[start : start + 5]})
    folder.finish()
    return SampleFolder.open(path)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SEEDS_PER_SHARD", 8)


@pytest.mark.parametrize("format", ["png", "shards"])
def test_what_was_added_is_there(tmp_path: Path, format: str) -> None:
    seeds = [0, 1, 2, 5, 6, 7, 8, 9, 23, 24, 1_000_000]
    folder = fill(tmp_path / "x", format, seeds)
    assert folder.seeds == seeds and folder.header["seeds"] == "0-2,5-9,23-24,1000000"
    assert all(folder.holds(seed) and folder.read(seed) == png(seed) for seed in seeds)
    assert fill(tmp_path / "x", format, [3, 25]).seeds == sorted([*seeds, 3, 25]), "shards are extended"
    assert all(SampleFolder.open(tmp_path / "x").read(seed) == png(seed) for seed in (*seeds, 3, 25))


def test_shards_do_not_depend_on_how_seeds_were_asked_for(tmp_path: Path) -> None:
    parts: dict[str, list[Sequence[int]]] = {
        "once": [range(30)], "twice": [range(12), range(30)], "in parts": [range(20, 30), [3], range(20)]}
    for name, asked in parts.items():
        for seeds in asked:
            fill(tmp_path / name, "shards", seeds)
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in parts]
    assert contents[0] == contents[1] == contents[2]
    lock, index, *others = sorted(contents[0])
    assert [lock, *others] == [".lock", "manifest.json", *(f"samples-0000{i}.tar" for i in range(4))]
    assert index.startswith("index-")


def test_shards_are_for_everybody(tmp_path: Path) -> None:
    """A ShardSet of ours, a tar file for others, and what WebDataset's own reader finds."""
    wds = pytest.importorskip("webdataset")
    fill(tmp_path, "shards", range(20))
    data = ShardSet.open(tmp_path)
    data.verify()
    assert data.splits == {"samples": 20} and data.split("samples").read(19) == png(19)
    with tarfile.open(tmp_path / "samples-00002.tar") as tar:
        assert tar.getnames() == [f"{seed:06d}.png" for seed in range(16, 20)]
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    found = {sample["__key__"]: sample["png"] for sample in wds.WebDataset(urls, shardshuffle=False)}
    assert found == {f"{seed:06d}": png(seed) for seed in range(20)}


def test_both_formats_are_measured_as_a_plain_folder_of_their_images(tmp_path: Path) -> None:
    """Exactly the samples: no stranger's picture, no contact sheet; and the digest tells the images alone."""
    seeds = [999_999, 3, 1_000_000, 12]
    (tmp_path / "plain").mkdir()
    for seed in seeds:
        (tmp_path / "plain" / f"{seed:06d}.png").write_bytes(png(seed))
    for name in ("png", "shards"):
        fill(tmp_path / name, name, sorted(seeds))
        (tmp_path / name / "sheet.png").write_bytes(encode_png(np.zeros((3, 20, 20), np.uint8)))
    plain, *others = (open_folder(tmp_path / name) for name in ("plain", "png", "shards"))
    for other in (*others, find_images(tmp_path / "png"), find_images(tmp_path / "shards")):
        assert (other.count, other.shape, other.digest) == (4, (8, 8), plain.digest)
        assert np.array_equal(np.concatenate(list(other.batches(3))), np.concatenate(list(plain.batches(3))))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "gone"])
@pytest.mark.parametrize("format", ["png", "shards"])
def test_damage_is_noticed_and_mended(tmp_path: Path, format: str, damage: str) -> None:
    whole, hurt = fill(tmp_path / "whole", format, range(12)), fill(tmp_path / "hurt", format, range(12))
    path = tmp_path / "hurt" / ("000003.png" if format == "png" else "samples-00000.tar")
    data = path.read_bytes()
    middle = 600 if format == "shards" else len(data) // 2  # of an image's bytes, not between two
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    path.unlink()
    if damage != "gone":
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "flipped": flipped}[damage])
    lost = [seed for seed in range(12) if not hurt.holds(seed)]
    assert lost == ([3] if format == "png" else list(range(8)))
    with pytest.raises(DataError, match="The same `brics sample` again draws what is damaged"):
        [hurt.image(seed) for seed in range(12)]
    again = create(tmp_path / "hurt", format)
    again.add({seed: png(seed) for seed in lost})
    again.finish()
    assert all(SampleFolder.open(tmp_path / "hurt").read(seed) == whole.read(seed) for seed in range(12))


def test_a_damaged_shard_keeps_what_is_intact(tmp_path: Path) -> None:
    """Where only some of its seeds are asked for again, the others of which not a bit has changed stay."""
    folder = fill(tmp_path, "shards", range(8))
    _, (shard,) = read_manifest(tmp_path)
    offset = next(member.offset for member in shard.members if member.name == "000006.png")
    data = bytearray((tmp_path / shard.name).read_bytes())
    data[offset + 50] ^= 4
    (tmp_path / shard.name).write_bytes(data)
    assert not folder.holds(2)
    assert fill(tmp_path, "shards", [2]).seeds == [0, 1, 2, 3, 4, 5, 7]
    ShardSet.open(tmp_path).verify()


@pytest.mark.parametrize("format", ["png", "shards"])
def test_killed_between_a_file_and_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    fill(tmp_path / "whole", format, range(12))
    fill(tmp_path / "x", format, range(4))
    before = {path: path.read_bytes() for path in (tmp_path / "x").iterdir() if path.suffix in (".json", ".bin")}
    fill(tmp_path / "x", format, range(4, 12))
    for path, data in before.items():
        path.write_bytes(data)
    folder = create(tmp_path / "x", format)
    assert folder.seeds == [0, 1, 2, 3] and [folder.holds(seed) for seed in folder.seeds] == [format == "png"] * 4
    fill(tmp_path / "x", format, range(12))
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}


def test_an_index_of_a_killed_process_goes(tmp_path: Path) -> None:
    """Killed before the manifest named it, or before the one of before was removed: the same command again mends it."""
    fill(tmp_path, "shards", range(12))
    (index,) = tmp_path.glob("index-*")
    (tmp_path / "index-0123456789abcdef.bin").write_bytes(index.read_bytes())
    create(tmp_path, "shards")
    assert list(tmp_path.glob("index-*")) == [index]


def test_shards_of_schema_1_are_continued(tmp_path: Path) -> None:
    """Their manifest had no index."""
    header, shards = read_manifest(fill(tmp_path, "shards", range(12)).path)
    old = {key: value for key, value in header.items() if key != "index"} | {"schema": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(old | {"shards": [shard.as_json() for shard in shards]}))
    next(tmp_path.glob("index-*")).unlink()
    SampleFolder.create(tmp_path, settings("shards"), {"torch": "3"})
    assert fill(tmp_path, "shards", range(12, 20)).seeds == list(range(20))
    ShardSet.open(tmp_path).verify()


def draw_some(path: Path, format: str, seeds: Sequence[int]) -> None:
    samples.SEEDS_PER_SHARD = 8
    fill(path, format, seeds)


@pytest.mark.parametrize("format", ["png", "shards"])
def test_processes_in_one_folder_do_each_other_no_harm(tmp_path: Path, format: str) -> None:
    """Seeds of their own, of others, and within the same shards: all of them are there and listed."""
    context = multiprocessing.get_context("fork")
    asked = [range(40), range(1, 90, 2), range(0, 90, 2), range(60, 70)]
    processes = [context.Process(target=draw_some, args=(tmp_path, format, list(seeds))) for seeds in asked]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    folder = SampleFolder.open(tmp_path)
    assert folder.seeds == list(range(90)) and all(folder.read(seed) == png(seed) for seed in folder.seeds)
    if format == "shards":
        ShardSet.open(tmp_path).verify()
    assert not list(tmp_path.glob(".brics-tmp-*"))


def test_what_differs_is_told(tmp_path: Path) -> None:
    create(tmp_path, "png", ema=0.999, cfg=None)
    before = (tmp_path / "manifest.json").read_bytes()
    other = {"sampling": {"sampler": "heun", "steps": 5}, "denoiser": {"run": "x", "digest": "b" * 64}, "ema": 0.9}
    with pytest.raises(DataError) as refused:
        create(tmp_path, "png", **other, cfg=2, extra=1)
    assert str(refused.value) == (
        f"{tmp_path}: holds samples that were drawn in another way (denoiser.digest aaaaaaaa, not bbbbbbbb; "
        "sampling.steps 4, not 5; ema 0.999, not 0.9; cfg none, not 2; extra none, not 1). "
        "Choose another --out, or delete it.")
    create(tmp_path, "png", ema=0.999, cfg=None, denoiser={"run": "renamed", "digest": "a" * 64})
    assert (tmp_path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", '{"schema": 1, "kind": "samples", "splits": {}, "shards": []}',
    '{"schema": 1, "kind": "samples", "splits": {}, "shards": [], "format": "png", "seeds": "x", "resolution": 8}',
    '{"schema": 1, "kind": "samples", "splits": {}, "shards": [], "format": "gif", "seeds": "", "resolution": 8}',
    '{"schema": 1, "kind": "samples", "splits": {}, "shards": [], "format": "png", "seeds": 3, "resolution": 8}',
    *(json.dumps({"schema": 1, "kind": "samples", **settings("png"), "versions": [VERSIONS], "seeds": "0-1",
                  "splits": {}, "shards": [], key: value}) for key, value in (
          ("seeds", "0-99999999999"), ("seeds", "0-5,0-5"), ("seeds", "5-3"), ("seeds", "-5"), ("resolution", "8"),
          ("versions", "2.15"), ("versions", ["2.15"]), ("versions", [{}]), ("versions", None), ("format", "shards")))])
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    fill(tmp_path, "png", range(2))
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest.json: is missing or damaged, and nothing else says what drew"):
        SampleFolder.open(tmp_path)
    with pytest.raises(DataError, match=r"is missing or damaged|drawn in another way"):
        create(tmp_path, "png")
    assert (tmp_path / "manifest.json").read_text() == text and (tmp_path / "000001.png").read_bytes() == png(1)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    prepare_toy(tmp_path / "data", resolution=8, count=4, val_fraction=0.5, workers=1)
    for name in ("images/holiday.png", "shards/x.tar"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, said in (("data", "holds images, not samples"), ("images", "brics did not draw"),
                       ("shards", "brics did not draw"), ("file", "is not a folder")):
        with pytest.raises(DataError, match=said):
            create(tmp_path / name, "png")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_no_samples_yet(tmp_path: Path) -> None:
    create(tmp_path / "x", "png")
    with pytest.raises(DataError, match="x: holds no samples yet"):
        open_folder(tmp_path / "x")
    with pytest.raises(DataError, match="is missing or damaged"):
        SampleFolder.open(tmp_path)


def test_the_sheet_is_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the folder: others who measure it would take every picture in it for a sample."""
    create(tmp_path / "x", "png")
    assert sheet_path(tmp_path / "x") == tmp_path / "x-sheet.png"
    monkeypatch.chdir(tmp_path / "x")
    assert sheet_path(Path(".")) == tmp_path / "x-sheet.png"
    assert sheet_path(Path("/")) == Path("/-sheet.png")


def test_what_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(BricsError, match=r"\.lock: could not be written: Is a directory"):
        create(tmp_path, "png")


def test_the_newest_are_those_drawn_last_and_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of samples here"):
        newest_samples(tmp_path, tmp_path / "runs")
    fill(tmp_path / "runs" / "toy" / "samples", "shards", range(2))
    fill(tmp_path / "first", "png", range(2))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    prepare_toy(tmp_path / "data", resolution=8, count=4, val_fraction=0.5, workers=1)
    assert newest_samples(tmp_path, tmp_path / "runs") == tmp_path / "first"
    fill(tmp_path / "runs" / "toy" / "samples", "shards", range(3))
    assert newest_samples(tmp_path, tmp_path / "runs") == tmp_path / "runs" / "toy" / "samples"


def test_the_manifest_is_json_of_a_few_lines(tmp_path: Path) -> None:
    fill(tmp_path, "png", range(50))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest.pop("checksum")) == 64 and manifest == {
        "schema": 2, "kind": "samples", **settings("png"), "versions": [VERSIONS], "seeds": "0-49", "splits": {},
        "shards": []}


def test_what_is_one_is_told_by_how_its_manifest_begins(tmp_path: Path) -> None:
    """The rest of it is not read, so that a data set's, of seconds, is not either."""
    fill(tmp_path / "samples", "shards", range(2))
    assert SampleFolder.is_one(tmp_path / "samples") and not SampleFolder.is_one(tmp_path)
    manifest = tmp_path / "samples" / "manifest.json"
    manifest.write_text(manifest.read_text()[:120])
    assert SampleFolder.is_one(tmp_path / "samples")
    with pytest.raises(DataError, match="is missing or damaged"):
        open_folder(tmp_path / "samples")
    manifest.write_text('{\n "schema": 1,\n "kind": "images",\n "note": "samples"')
    assert not SampleFolder.is_one(tmp_path / "samples")
