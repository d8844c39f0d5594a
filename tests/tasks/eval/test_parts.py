"""Features in parts: the same result by any number of processes, in batches of any size, and whatever is damaged."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bricscli.app import main
from bricscli.data.collection import ImageCollection
from bricscli.data.images import encode_png
from bricscli.errors import BricsError, MismatchError
from bricscli.metrics.features import load_extractor
from bricscli.metrics.protocols import MetricSpec
from bricscli.parts import Part
from bricscli.runtime import one_thread_each
from bricscli.tasks.eval import collecting, generation
from bricscli.tasks.eval.collecting import Place, Want, collect, collect_part
from bricscli.tasks.eval.generation import RANDOM, Comparison, Plan
from bricscli.tasks.eval.kept import KEPT
from bricscli.tasks.eval.references import ImageReference, StatisticsWork
from bricscli.tasks.eval.results import save_result

Make = Callable[..., ImageCollection]
CPU = torch.device("cpu")
RANDOM_PLAN = Plan(None, RANDOM, {})
#: Both outputs, of all images and of some.
FULL_PLAN = Plan("brics2023", {
    "fid": MetricSpec("quadrants"), "precision": MetricSpec("quadrants", settings={"k": 3}, limit=20),
    "is": MetricSpec("quadrants", "logits", {"splits": 2, "shuffle": False}, needs_reference=False)}, {})


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (collecting, generation):
        monkeypatch.setattr(module, "CHUNK", 8)
    monkeypatch.setitem(generation.EXTRACTORS, "quadrants", generation.EXTRACTORS["random"])


def comparison(collection: Make, extractors: Any, results: Path | None, plan: Plan = FULL_PLAN, **changes: Any
               ) -> Comparison:
    changes = {"force": True, "limit": 50, **changes}
    return Comparison(collection(60, seed=1), ImageReference(collection(37, seed=2)), plan, extractors, results=results,
                      **changes)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_every_number_of_parts_gives_the_same_bytes(collection: Make, quadrants: Any, tmp_path: Path, count: int
                                                    ) -> None:
    extractors = {"quadrants": quadrants}
    whole = save_result(comparison(collection, extractors, None).measure(), tmp_path / "whole").read_bytes()
    done = [comparison(collection, extractors, tmp_path).keep_part(Part(i + 1, count)) for i in range(count)]
    assert sum(chunks for chunks, _ in done) == 7 + 5 and not any(there for _, there in done)
    assert comparison(collection, extractors, tmp_path).keep_part(Part(1, count)) == (done[0][0], done[0][0])
    before, work = quadrants.seen, comparison(collection, extractors, tmp_path)
    assert save_result(work.measure(), tmp_path).read_bytes() == whole
    assert quadrants.seen == before, "nothing was computed again"
    work.forget()
    assert not (tmp_path / KEPT).exists()


def test_what_is_missing_or_damaged_is_computed(collection: Make, quadrants: Any, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    extractors = {"quadrants": quadrants}
    whole = comparison(collection, extractors, None).measure()
    for number in (1, 2):
        comparison(collection, extractors, tmp_path).keep_part(Part(number, 2))
    kept = sorted(tmp_path.glob(f"{KEPT}/*/samples/*"))
    assert [path.name for path in kept] == [f"quadrants-{number:05}.safetensors" for number in range(7)]
    kept[0].unlink()
    flipped = bytearray(kept[1].read_bytes())
    flipped[-3] ^= 1
    kept[1].write_bytes(flipped)
    kept[2].write_bytes(kept[2].read_bytes()[:-4])
    kept[3].write_bytes(kept[4].read_bytes())  # whole, in another's place
    before = quadrants.seen
    assert comparison(collection, extractors, tmp_path).measure() == whole
    assert quadrants.seen - before == 4 * 8
    said = capsys.readouterr().err
    assert said.count("is damaged; its features are computed again") == 3
    assert comparison(collection, extractors, tmp_path).keep_part(Part(1, 1)) == (12, 8), "a part makes them again"
    assert comparison(collection, extractors, tmp_path).keep_part(Part(1, 1)) == (12, 12)


def test_nothing_of_another_evaluation_is_used(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    extractors = {"quadrants": quadrants}
    kept = comparison(collection, extractors, tmp_path).kept
    assert kept == comparison(collection, extractors, tmp_path).kept
    others = [comparison(collection, extractors, tmp_path, limit=40).kept,
              comparison(collection, extractors, tmp_path, FULL_PLAN_OTHER_ROWS).kept,
              Comparison(collection(60, seed=1), ImageReference(collection(37, seed=3)), FULL_PLAN, extractors,
                         force=True, limit=50, results=tmp_path).kept]
    quadrants.digest = "e" * 64
    others.append(comparison(collection, extractors, tmp_path).kept)
    assert len({kept, *others}) == 5
    with pytest.raises(MismatchError, match="fewer than 10,000"):
        comparison(collection, extractors, tmp_path, force=False)


FULL_PLAN_OTHER_ROWS = Plan("brics2023", FULL_PLAN.metrics | {
    "precision": MetricSpec("quadrants", settings={"k": 3}, limit=21)}, {})


def test_only_images_that_count_are_seen(collection: Make, quadrants: Any, tmp_path: Path) -> None:
    """Of a network whose features of some images are wanted, and no spread."""
    images, wants, extractors = collection(30), [Want("quadrants", rows=9)], {"quadrants": quadrants}
    found = collect(images, wants, extractors)
    assert quadrants.seen == 9
    assert [collect_part(images, wants, extractors, Part(i, 2), Place(CPU, tmp_path)) for i in (1, 2)] == [(2, 0)] * 2
    quadrants.seen = 0
    assert torch.equal(collect(images, wants, extractors, place=Place(CPU, tmp_path)).rows("quadrants"),
                       found.rows("quadrants"))
    assert quadrants.seen == 0


def test_batches_of_any_size_give_the_same_features(collection: Make) -> None:
    """Of real convolutions, whose rounding depends on how many images they see at once."""
    extractors, wants = {"random": load_extractor("random")}, [Want("random", spread=True, rows=None)]
    images = collection(21)
    found = [collect(images, wants, extractors, batch_size=size) for size in (None, 1, 3, 8)]
    for other in found[1:]:
        assert torch.equal(other.rows("random"), found[0].rows("random"))
        assert np.array_equal(other.spread("random").covariance, found[0].spread("random").covariance)


def test_any_number_of_threads_gives_the_same_features() -> None:
    """Of a product whose rounding depends on how many threads share it."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(512, 25088, generator=generator)
    passes = [torch.rand(32, 25088, generator=generator) for _ in range(3)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            inside = one_thread_each(lambda x: (torch.get_num_threads(), x @ weight.T), passes, CPU)
            assert [count for count, _ in inside] == [1, 1, 1] and torch.get_num_threads() == threads
            found.append(torch.cat([product for _, product in inside]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[1], found[0]) and torch.equal(found[2], found[0])


def test_statistics_in_parts(collection: Make, tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "photos", 20), tmp_path / "church.safetensors"

    def work(out: Path) -> StatisticsWork:
        return StatisticsWork(str(folder), None, tmp_path, "random", out, CPU)

    work(tmp_path / "whole.safetensors").save()
    assert [work(out).keep_part(Part(i, 2)) for i in (1, 2)] == [(2, 0), (1, 0)]
    assert (tmp_path / f"church-{KEPT}").is_dir() and not out.exists()
    work(out).save()
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not (tmp_path / f"church-{KEPT}").exists()


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(1000 * seed + i).integers(0, 256, (3, 16, 16)).astype(np.uint8)
        (folder / f"{i}.png").write_bytes(encode_png(pixels))
    return folder


def test_a_data_set_of_the_same_name_does_not_replace_the_result(collection: Make, quadrants: Any, tmp_path: Path
                                                                 ) -> None:
    def save(digest: str) -> Path:
        reference = ImageReference(dataclasses.replace(collection(30, seed=2), digest=digest))
        result = Comparison(collection(30), reference, FULL_PLAN, {"quadrants": quadrants}, force=True).measure()
        return save_result(result, tmp_path)

    first, second = save("a" * 64), save("b" * 64)
    assert second.stem == f"{first.stem}-bbbbbbbb"
    assert (save("a" * 64), save("b" * 64)) == (first, second)
    assert [json.loads(path.read_text())["reference"]["sha256"][0] for path in (first, second)] == ["a", "b"]


def brics(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["brics", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In parts by hand, then as copies, which get a part each and the samples by name."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "samples", 20)
    pictures(tmp_path / "real", 20, seed=1)
    words = ["eval", "fid", "--samples", "samples", "--ref", "real", "--features", "random"]
    assert brics(*words, "--out", "whole", monkeypatch=monkeypatch) == 0
    assert brics(*words, "--part", "2/2", monkeypatch=monkeypatch) == 0
    assert "part 2/2 is done: 2 chunks. When all parts are, the same command without --part" in capsys.readouterr().out
    assert brics(*words, "--part", "2/2", "--devices", "2", monkeypatch=monkeypatch) == 2
    assert brics(*words, "--part", "3/2", monkeypatch=monkeypatch) == 2
    assert "Write the part's number" in capsys.readouterr().err
    assert brics(*words, "--split", "bogus", monkeypatch=monkeypatch) == 2
    started: list[Any] = []

    def copies(lines: Any, environments: Any) -> None:
        started.extend(zip(lines, environments, strict=True))
        for line in lines:
            assert brics(*line, monkeypatch=monkeypatch) == 0

    monkeypatch.setattr("bricscli.tasks.devices.run_copies", copies)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(2)))
    assert brics(*words, "--devices", "2", monkeypatch=monkeypatch) == 0
    assert [(line[-2:], environment) for line, environment in started] == [
        (["--part", f"{i}/2"], {"OMP_NUM_THREADS": "1"}) for i in (1, 2)]
    (result,) = Path("evals").iterdir()
    assert result.read_bytes() == next(Path("whole").iterdir()).read_bytes()


def test_a_copy_that_fails_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(lines: Any, environments: Any) -> None:
        raise BricsError("process 2 of 2: was ended")

    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "samples", 2)
    monkeypatch.setattr("bricscli.tasks.devices.run_copies", fail)
    assert brics("eval", "fid", "--samples", "samples", "--ref", "samples", "--features", "random", "--devices", "2",
                 monkeypatch=monkeypatch) == 1
    assert not Path("evals").exists()
