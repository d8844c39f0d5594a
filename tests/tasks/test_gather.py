"""Parts, by whomever and in whatever order, and what is gathered of them: the bytes of one process without parts."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bricscli.data.samples import SampleFolder
from bricscli.data.shards import ShardSet
from bricscli.data.sources.drawn import list_toy
from bricscli.data.unfinished import unfinished
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.parts import Part
from bricscli.run.directory import RunDirectory
from bricscli.tasks.choices import Asked
from bricscli.tasks.encode import encode, encode_part
from bricscli.tasks.gather import gather
from bricscli.tasks.prepare import prepare, prepare_part, prepare_toy
from bricscli.tasks.sample import sample_part, sample_to_folder

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py
TOY: dict[str, Any] = {"resolution": 8, "resize": None, "workers": 1, "samples_per_shard": 4, "val_fraction": 0.25}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Stage:
    """One of the three stages: where it ends, and how all or a part of it is made there."""

    def __init__(self, kind: str, trained: Trained, root: Path) -> None:
        self.kind, self.trained, self.root = kind, trained, root

    def place(self, name: str) -> Path:
        """What `gather` is given; for codes a run of its own, with the data in small shards."""
        if self.kind != "codes":
            return self.root / name
        if not (self.root / name).exists():
            shutil.copytree(self.trained.autoencoder.path, self.root / name / "toy")
            shutil.rmtree(self.root / name / "toy" / "codes")
        return self.root / name / "toy"

    def out(self, name: str) -> Path:
        return self.place(name) / "codes" if self.kind == "codes" else self.place(name)

    def make(self, name: str, part: Part | None = None) -> Any:
        place = self.place(name)
        if self.kind == "images":
            job = (place, list_toy(0, 19, 8))
            return prepare_part(*job, part, command=["prepare", "toy"], **TOY) if part else prepare(*job, **TOY)
        if self.kind == "codes":
            run, data = RunDirectory(place), small_shards(self.root)
            return encode_part(run, data, part, device=CPU) if part else encode(run, data, device=CPU)
        options: dict[str, Any] = {"seeds": [*range(20), 70, 71, 300], "device": CPU, "format": self.kind}
        if part:
            return sample_part(self.trained.diffusion, place, part, **options)
        return sample_to_folder(self.trained.diffusion, place, **options)


def small_shards(root: Path) -> Path:
    """17 images in 5 shards."""
    if not (root / "data").exists():
        prepare_toy(root / "data", count=17, **TOY | {"resolution": 16})
    return root / "data"


@pytest.fixture(params=["images", "codes", "png", "shards"])
def stage(request: pytest.FixtureRequest, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr("bricscli.data.samples.SEEDS_PER_SHARD", 8)
    monkeypatch.setattr("bricscli.tasks.sample_parts.SEEDS_PER_CHUNK", 8)
    return Stage(request.param, trained, tmp_path)


@pytest.fixture
def whole(stage: Stage) -> dict[str, bytes]:
    stage.make("whole")
    return contents(stage.out("whole"))


def test_parts_in_any_order_and_number_and_twice_give_the_same_bytes(stage: Stage, whole: dict[str, bytes]) -> None:
    for name, order in {"three": [Part(3, 3), Part(1, 3), Part(1, 3), Part(2, 3)],
                        "overlapping": [Part(2, 2), Part(1, 4), Part(3, 4), Part(1, 2)], "more": [
                            Part(i, 9) for i in range(1, 10)]}.items():
        shares = [stage.make(name, part) for part in order]
        assert not stage.out(name).exists(), "complete or absent"
        (line,) = gather(stage.place(name))
        assert "chunks are whole, and in place" in line
        assert contents(stage.out(name)) == whole, name
        assert not list(stage.out(name).parent.glob(".brics-*"))
        if name == "three":
            assert shares[2].resumed == shares[2].chunks > 0 and sum(s.chunks for s in shares) > shares[0].of
        assert gather(stage.place(name)) == [f"{stage.out(name)}: is complete; there are no parts to gather."]


def test_what_is_missing_or_damaged_is_told(stage: Stage, whole: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match="no parts were made there"):
        gather(stage.place("x"))
    for part in (Part(1, 4), Part(3, 4)):
        stage.make("x", part)
    parts = r"--part 2/4` and 4/4" if stage.kind in ("images", "codes") else r"--part 2/4`"
    with pytest.raises(DataError, match=rf"\d of \d chunks are missing .*: 1.*\. Make them with `.*{parts}") as no:
        gather(stage.place("x"))
    assert no.value.exit_code == 3 and not stage.out("x").exists()
    for part in (Part(2, 4), Part(4, 4)):
        stage.make("x", part)
    hurt = sorted(stage.out("x").parent.glob(".brics-part-*/*/data/*"))[0]
    data = bytearray(hurt.read_bytes())
    data[len(data) // 2] ^= 1
    hurt.write_bytes(data)
    with pytest.raises(DataError, match=r"1 of \d chunks are missing or damaged: 0\. .*--part 1/4`, or all"):
        gather(stage.place("x"))
    stage.make("x", Part(1, 4))
    gather(stage.place("x"))
    assert contents(stage.out("x")) == whole


def test_the_plain_command_closes_what_parts_have_made(stage: Stage, whole: dict[str, bytes],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    stage.make("x", Part(2, 2))
    stage.make("x")
    assert contents(stage.out("x")) == whole, "some of them"
    for part in (Part(1, 2), Part(2, 2)):
        stage.make("y", part)
    made: list[str] = []
    for module in ("encode._encode_shard", "preparing._write", "draw.draw_latents"):
        monkeypatch.setattr(f"bricscli.tasks.{module}", lambda *_: made.append(""))
    stage.make("y")
    assert contents(stage.out("y")) == whole and made == []
    share = stage.make("y", Part(1, 2))
    assert share.chunks == share.resumed, "there is nothing left to do"
    gather(stage.place("y"))
    assert contents(stage.out("y")) == whole
    assert not list(stage.out("y").parent.glob(".brics-*"))


def test_two_processes_with_the_same_part_do_no_harm(stage: Stage, whole: dict[str, bytes]) -> None:
    """Both at once; and whoever would close it meanwhile has to wait."""
    stage.place("x")
    parts = [Part(1, 2), Part(1, 2), Part(2, 2)]
    with ThreadPoolExecutor(3) as pool:  # each waits for a process
        assert all(calls > 0 for calls in pool.map(lambda part: in_child(lambda: stage.make("x", part)), parts))
    with unfinished(stage.out("x"), shared=True), pytest.raises(BricsError, match="is being made by another process"):
        gather(stage.place("x"))
    gather(stage.place("x"))
    assert contents(stage.out("x")) == whole


def test_who_is_too_late_is_told_and_harms_nothing(stage: Stage, whole: dict[str, bytes]) -> None:
    """As where a disk knows no locks: another closes what this one is still at work on."""
    said = r"another process has finished it\. There is nothing left to do"
    with pytest.raises(BricsError, match=said), unfinished(stage.out("x"), shared=True) as work:
        work.begin("0" * 16, {"kind": "images", "chunks": ["a"]})
        shutil.rmtree(work.folder)
        stage.make("x")
        work.write_files("a", {"a.png": b""}, {})
    assert contents(stage.out("x")) == whole


@pytest.mark.parametrize("format", ["png", "shards"])
def test_parts_extend_a_folder_of_samples(trained: Trained, tmp_path: Path, format: str) -> None:
    options: dict[str, Any] = {"device": CPU, "format": format}
    sample_to_folder(trained.diffusion, tmp_path / "whole", seeds=range(70), **options)
    sample_to_folder(trained.diffusion, tmp_path / "x", seeds=range(10, 20), **options)
    for part in (Part(1, 2), Part(2, 2)):
        sample_part(trained.diffusion, tmp_path / "x", part, seeds=range(70), **options)
    gather(tmp_path / "x")
    assert contents(tmp_path / "x") == contents(tmp_path / "whole")
    share = sample_part(trained.diffusion, tmp_path / "x", Part(1, 2), seeds=range(70), **options)
    assert share.resumed == share.chunks == 1
    assert "chunks are whole" in gather(tmp_path / "x")[0] and SampleFolder.open(tmp_path / "x").seeds == [*range(70)]


def test_parts_of_different_commands_are_not_mixed(tmp_path: Path) -> None:
    for resolution in (8, 9):
        prepare_part(tmp_path / "x", list_toy(0, 19, 8), Part(1, 2), **TOY | {"resolution": resolution})
    with pytest.raises(DataError, match=r"parts of 2 different commands, 0 of them complete\. Give the one you mean"):
        gather(tmp_path / "x")
    prepare_part(tmp_path / "x", list_toy(0, 19, 8), Part(2, 2), **TOY)
    gather(tmp_path / "x")
    assert ShardSet.open(tmp_path / "x").header["resolution"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["x"], "what the other had made is gone"


def test_what_parts_have_drawn_is_lost_to_no_other_command(trained: Trained, tmp_path: Path) -> None:
    """Other seeds go into the same folder; a mistyped command leaves them where they are."""
    out = tmp_path / "x"
    options: dict[str, Any] = {"device": CPU}
    for seeds, parts in ((range(128), [1]), (range(128, 256), [1, 2])):
        for number in parts:
            sample_part(trained.diffusion, out, Part(number, 2), seeds=seeds, **options)
    with pytest.raises(DataError, match=r"parts of 2 different commands, 1 of them complete\. Give the one you mean"):
        gather(out)
    with pytest.raises(RecipeError):
        sample_to_folder(trained.diffusion, out, seeds=range(3), asked=Asked(eta=2), **options)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / ".brics-part-x", tmp_path / ".brics-part-other")
    sample_to_folder(trained.diffusion, other, seeds=range(3), asked=Asked(steps=3), **options)
    assert len(list((tmp_path / ".brics-part-other").glob("*/records/*.json"))) == 3
    done = sample_to_folder(trained.diffusion, out, seeds=range(256), **options)
    assert (done.new, done.kept) == (64, 192) and not (tmp_path / ".brics-part-x").exists()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_neither_cores_nor_batches_change_a_byte(trained: Trained, tmp_path: Path, threads: Callable[[int], None],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    data, codes, samples = small_shards(tmp_path), [], []
    for cores, batch in ((1, 8), (2, 1), (3, 3)):
        threads(cores)
        monkeypatch.setattr("bricscli.tasks.encode.IMAGES_AT_A_TIME", batch)
        run = shutil.copytree(trained.autoencoder.path, tmp_path / f"{cores}" / "toy")
        codes.append(contents(encode(RunDirectory(run), data, device=CPU).path))
        sample_to_folder(trained.diffusion, tmp_path / f"samples{cores}", seeds=range(20), device=CPU,
                         batch_size=batch)
        samples.append(contents(tmp_path / f"samples{cores}"))
        assert torch.get_num_threads() == cores
    assert codes[0] == codes[1] == codes[2] and samples[0] == samples[1] == samples[2]


@pytest.mark.parametrize("every", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_point(stage: Stage, whole: dict[str, bytes], every: int) -> None:
    """All of it, and each time a part of it; then the same command again."""
    part = Part(1, 2)
    for given in (None, part):
        how = "in part" if given else "whole"
        stage.place(f"counted {how}")
        calls = in_child(partial(stage.make, f"counted {how}", given))
        assert calls > 20
        for point in range(every // 2 + 1, calls + 1, every):
            name = f"killed at {point} {how}"
            stage.place(name)
            assert in_child(partial(stage.make, name, given), kill=point) == -signal.SIGKILL
            if stage.out(name).exists() and stage.kind in ("images", "codes"):
                assert contents(stage.out(name)) == whole, "complete or absent"
            stage.make(name, given)
            if given:
                stage.make(name, Part(2, 2))
                gather(stage.place(name))
            assert contents(stage.out(name)) == whole, name
            assert not list(stage.out(name).parent.glob(f".brics-*{stage.out(name).name}*")), name


def in_child(make: Callable[[], object], kill: int = 0) -> int:
    """How many calls that make, move, remove or sync something were made; or -9: killed at one of them."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        torch.set_num_threads(1)  # others do not survive a fork
        calls = 0

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def inner(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return inner

        for name in ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            make()
            os.write(write, str(calls).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code or int(said)
