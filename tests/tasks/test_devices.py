"""`--devices N`: which parts by which processes, each with what; and on which GPUs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bricscli.app import app
from bricscli.errors import RecipeError
from bricscli.parts import Part
from bricscli.tasks.devices import run_parts

Trained = Any  # tests/tasks/conftest.py
Started = list[tuple[list[str], dict[str, str]]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What would be run; on a machine of eight cores."""
    found: Started = []

    def run(words: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]) -> None:
        found.extend((list(some), dict(environment)) for some, environment in zip(words, environments, strict=True))

    monkeypatch.setattr("bricscli.tasks.devices.run_copies", run)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_cores_are_shared(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    run_parts(["encode"], 3, "cpu")
    assert started == [(["encode", "--part", f"{i}/3"], {"OMP_NUM_THREADS": "2"}) for i in (1, 2, 3)]
    started.clear()
    run_parts(["encode"], 20, "cpu")
    assert {environment["OMP_NUM_THREADS"] for _, environment in started} == {"1"}
    started.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run_parts(["encode"], 2, "cpu")
    assert [environment for _, environment in started] == [{}, {}], "what was set stays"


@pytest.mark.parametrize(("visible", "names"), [(None, ["0", "1", "2"]), ("5,7,1", ["5", "7", "1"])])
def test_each_has_a_gpu(started: Started, monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
                        ) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    run_parts(["sample"], 3, "auto")
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in started] == names
    with pytest.raises(RecipeError, match=r"--devices: 4 are more than the 3 GPUs"):
        run_parts(["sample"], 4, "cuda")
    started.clear()
    run_parts(["sample"], 4, "cpu")
    assert not any("CUDA_VISIBLE_DEVICES" in environment for _, environment in started)


@pytest.mark.parametrize(("number", "of", "devices"), [(1, 1, 3), (2, 3, 2), (3, 3, 4)])
def test_the_parts_of_a_part_are_that_part(started: Started, number: int, of: int, devices: int) -> None:
    run_parts([], devices, "cpu", Part(number, of))
    each = [Part(*map(int, words[-1].split("/"))) for words, _ in started]
    for chunk in range(50):
        assert sum(part.takes(chunk) for part in each) == Part(number, of).takes(chunk)


@pytest.mark.parametrize(("devices", "device", "words"), [
    (0, "cpu", "--devices: 0 is too few"), (33, "cpu", "--devices: 33 are too many"),
    (2, "cuda:1", "--devices: does not go with --device cuda:1")])
def test_what_does_not_fit(started: Started, devices: int, device: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        run_parts([], devices, device)
    assert os.environ.get("OMP_NUM_THREADS") is None and not started


def test_encode_gathers_its_codes_alone(copied: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of samples in the same run are somebody else's, who may still be at work."""
    gathered: list[Path] = []
    monkeypatch.setattr("bricscli.tasks.devices.run_parts", lambda *arguments: None)

    def gather(place: Path) -> list[str]:
        gathered.append(place)
        return []

    monkeypatch.setattr("bricscli.tasks.gather.gather", gather)
    run = copied.autoencoder
    app(["encode", "--run", str(run.path), "--data", str(copied.data), "--devices", "2"], standalone_mode=False)
    assert gathered == [run.codes]
