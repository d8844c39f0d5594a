"""A search in parts finds what one process finds: the same bytes, ties and twins and all."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bricscli.app import main
from bricscli.data.collection import ImageCollection, find_images
from bricscli.data.images import Pixels, encode_png
from bricscli.errors import BricsError, DataError
from bricscli.metrics.embeddings import Embedding, lpips_embedding, pixel_embedding
from bricscli.metrics.neighbours import Nearest
from bricscli.parts import Part
from bricscli.run.lock import lock_folder
from bricscli.tasks import reference_stream
from bricscli.tasks.nn_search import Search

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_stream, "BLOCK", 10)


def folder_of(path: Path, images: list[Pixels]) -> Path:
    path.mkdir()
    for number, image in enumerate(images):
        (path / f"{number:03}.png").write_bytes(encode_png(image))
    return path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six samples; 47 training images, of which some are there several times, in blocks of different parts."""
    root, generator = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    train = [generator.integers(0, 256, (3, 32, 32), np.uint8) for _ in range(47)]
    train[12] = train[33] = train[46] = train[5]
    train[40] = train[21][:, :, ::-1]
    samples = [train[46], train[21], *(generator.integers(0, 256, (3, 32, 32), np.uint8) for _ in range(4))]
    return folder_of(root / "samples", samples), folder_of(root / "train", train)


@pytest.fixture(scope="module")
def sides(places: tuple[Path, Path]) -> tuple[ImageCollection, ImageCollection]:
    return find_images(places[0]), find_images(places[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def alex() -> Embedding:
    torch.manual_seed(0)
    return lpips_embedding("lpips-alex", None, CPU)


@pytest.mark.parametrize(("count", "embedding"), [(1, pixel_embedding(CPU)), (2, pixel_embedding(CPU)),
                                                  (3, pixel_embedding(CPU)), (7, pixel_embedding(CPU)), (2, alex())])
def test_every_number_of_parts_gives_the_same_bytes(count: int, embedding: Embedding, tmp_path: Path,
                                                    sides: tuple[ImageCollection, ImageCollection]) -> None:
    """With five neighbours some lie in every part; the memory of each part is its own business."""
    options: dict[str, Any] = {"k": 5, "mirror": True, "own": 20}
    result = Search(*sides, embedding, tmp_path / "whole", **options).finish()
    assert [n["index"] for n in result["queries"][0]["neighbours"][:4]] == [5, 12, 33, 46], "equals by number"
    for number in range(count, 0, -1):
        if number != 2 or count == 7:  # one is missing, and done in the end
            memory = 0.004 if number % 2 else 0.0012
            Search(*sides, embedding, tmp_path / "parts", memory=memory, **options).keep_part(Part(number, count))
    assert not (tmp_path / "parts" / "neighbours.json").exists()
    assert Search(*sides, embedding, tmp_path / "parts", **options).finish() == result
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_part_is_not_searched_again_and_goes_on(tmp_path: Path, sides: tuple[ImageCollection, ImageCollection],
                                                  monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped in its third piece; and once it is done, and the result is."""
    seen: list[range] = []
    chunk = reference_stream.ReferenceStream._chunk

    def stopping(stream: reference_stream.ReferenceStream, numbers: range, digests: bool) -> Any:
        seen.append(numbers)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return chunk(stream, numbers, digests)

    monkeypatch.setattr(reference_stream.ReferenceStream, "_chunk", stopping)
    monkeypatch.setattr(reference_stream, "CHUNK", 4)

    def work() -> Search:
        return Search(*sides, pixel_embedding(CPU), tmp_path / "out", k=3, save_every=0)

    with pytest.raises(KeyboardInterrupt):
        work().keep_part(Part(1, 2))
    for _ in range(2):
        work().keep_part(Part(1, 2))
    expected = [range(4), range(4, 8), range(8, 10), range(20, 24), range(24, 28), range(28, 30), range(40, 44),
                range(44, 47)]
    assert seen[:3] == expected[:3] and seen[-5:] == expected[3:] and len(seen) <= 11
    assert "goes on after" in capsys.readouterr().out
    before = len(seen)
    work().finish()
    assert {i // 10 % 2 for numbers in seen[before:] for i in numbers} == {1}, "only the other part was searched"
    before = len(seen)
    (tmp_path / "out" / "part-1-of-2").mkdir()  # as if killed at the very end
    work().finish()
    work().keep_part(Part(2, 2))
    assert len(seen) == before
    assert sorted(contents(tmp_path / "out")) == ["closest.png", "neighbours.json", "run.lock", "sheet.png"]


def test_parts_of_another_plan_or_search_are_refused(tmp_path: Path, sides: tuple[ImageCollection, ImageCollection]
                                                     ) -> None:
    def work(**changes: Any) -> Search:
        return Search(*sides, pixel_embedding(CPU), tmp_path / "out", **changes)

    work().keep_part(Part(1, 3))
    with pytest.raises(DataError, match=r"out: holds parts K/3, which do not go with parts K/2\. Go on with those"):
        work().keep_part(Part(1, 2))
    for some in (Part(1, 3), None):
        with pytest.raises(DataError, match="holds another search, with another k"):
            work(k=4).keep_part(some) if some else work(k=4).finish()
    with (lock_folder(tmp_path / "out" / "part-1-of-3"),
          pytest.raises(BricsError, match=f"part-1-of-3: is in use by process {os.getpid()}")):
        work().keep_part(Part(1, 3))


def test_merging_takes_the_nearest_and_the_first_among_equals() -> None:
    def found(*pairs: tuple[float, int]) -> Nearest:
        distance, index = ([pair[part] for pair in pairs] for part in (0, 1))
        return Nearest(torch.tensor([distance], dtype=torch.float64), torch.tensor([index], dtype=torch.int64),
                       torch.tensor([[i % 2 == 1 for i in index]]))

    state = found((1.0, 9), (2.0, 3), (float("inf"), -1))
    state.merge(found((1.0, 4), (2.0, 1), (2.0, 8)))
    assert state.index.tolist() == [[4, 9, 1]] and state.distance.tolist() == [[1.0, 1.0, 2.0]]
    assert state.mirrored.tolist() == [[False, True, True]]
    state.merge(found((float("inf"), -1), (float("inf"), -1), (float("inf"), -1)))
    assert state.index.tolist() == [[4, 9, 1]]


def test_the_command(places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    def brics(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["brics", *words])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    samples, train = places
    words = ["nn-search", str(samples), "--ref", str(train), "--metric", "pixel"]
    assert brics(*words, "--out", str(tmp_path / "whole")) == 0
    assert brics(*words, "--out", str(tmp_path / "out"), "--part", "1/2") == 0
    assert "part 1/2 is done. When all parts are, the same command without --part" in capsys.readouterr().out
    monkeypatch.setattr("bricscli.tasks.devices.run_copies", lambda lines, _: [brics(*line) for line in lines])
    assert brics(*words, "--out", str(tmp_path / "out"), "--devices=2") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
