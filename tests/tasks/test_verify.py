"""`brics verify`: what is whole passes, and damage of every kind to checkpoints, samples and runs is named."""

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bricscli.data import samples
from bricscli.data.filled import FilledFolder
from bricscli.data.manifest import read_manifest, write_manifest
from bricscli.data.marks import digest_settings, encode_sample
from bricscli.data.samples import SampleFolder, strict_settings
from bricscli.errors import DataError
from bricscli.run.checkpoint import latest_checkpoint, list_checkpoints, save_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.tasks.encode import encode
from bricscli.tasks.sample import sample_to_folder
from bricscli.tasks.verify import TRAIN, verify

Trained = Any  # tests/tasks/conftest.py
CPU = torch.device("cpu")


def problems(path: Path, quick: bool = False) -> list[str]:
    return [problem for checked in verify(path, quick=quick) for problem in checked.problems]


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def flip(path: Path, bit: int = -4) -> None:
    path.write_bytes(flipped(path.read_bytes(), bit % (8 * path.stat().st_size)))


def png(seed: int, settings: Mapping[str, Any] = {}) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    return encode_sample(image, seed, digest_settings(strict_settings(settings)))


def draw(path: Path, format: str, seeds: Sequence[int] = range(12)) -> Path:
    settings = {"format": format, "resolution": 8, "denoiser": {"run": "toy", "digest": "a" * 64}}
    folder = SampleFolder.create(path, settings, {"torch": "2.15"})
    folder.add({seed: png(seed, settings) for seed in seeds})
    folder.finish()
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    averages = {0.999: {"a": torch.ones(3)}}
    return save_checkpoint(tmp_path, 10, {"a": torch.zeros(3)}, {"b": torch.ones(2)}, {"step": 10}, "kind: x", averages)


CHECKPOINT_FILES = ["weights.safetensors", "weights-0.999.safetensors", "training.safetensors", "state.json"]


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_every_flip_of_a_checkpoint_is_named(checkpoint: Path, name: str) -> None:
    """By reading again, and by going on, which does not use it."""
    assert problems(checkpoint) == []
    path, dice = checkpoint / name, random.Random(1)
    whole = path.read_bytes()
    for bit in dice.sample(range(8 * len(whole)), min(60, 8 * len(whole))):
        path.write_bytes(flipped(whole, bit))
        (line,) = problems(checkpoint)
        assert line.startswith(f"{checkpoint}: {name} is damaged")
        with pytest.raises(DataError, match="none of its 1 checkpoints is intact"):
            latest_checkpoint(checkpoint.parent)
    for data in (whole[:-1], whole + b"\0", b"", bytes(len(whole))):
        path.write_bytes(data)
        assert problems(checkpoint)[0].startswith(f"{checkpoint}: {name} is damaged")
    path.unlink()
    assert problems(checkpoint) == [f"{checkpoint}: {name} is missing. {TRAIN}"]


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flip_of_a_checkpoints_manifest(checkpoint: Path, every: int) -> None:
    """It has no digest of its own and needs none: all that it says is held against what is there."""
    path = checkpoint / "manifest.json"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), every):
        path.write_bytes(flipped(whole, bit))
        assert problems(checkpoint), (bit, flipped(whole, bit))


def test_what_else_can_be_wrong_with_a_checkpoint(checkpoint: Path) -> None:
    other = save_checkpoint(checkpoint.parent, 20, {"a": torch.ones(3)}, {"b": torch.ones(2)}, {"step": 20}, "kind: x")
    (checkpoint / "more.safetensors").write_bytes(b"")
    (line,) = problems(checkpoint)
    assert line == f"{checkpoint / 'more.safetensors'}: belongs to nothing in manifest.json. Move it elsewhere."
    (checkpoint / "more.safetensors").unlink()
    shutil.copy(other / "weights.safetensors", checkpoint / "weights.safetensors")
    assert ["weights.safetensors is damaged" in line for line in problems(checkpoint)] == [True]
    (checkpoint / "state.json").unlink()
    assert len(problems(checkpoint)) == 2, "every one of them"
    assert problems(checkpoint.parent) == problems(checkpoint), "a folder of checkpoints"
    shutil.rmtree(checkpoint)
    shutil.copytree(other, checkpoint)
    assert problems(checkpoint) == [f"{checkpoint}: manifest.json is damaged (it is of step 20). {TRAIN}"]
    (checkpoint / "manifest.json").unlink()
    assert f"{checkpoint}: manifest.json is missing. {TRAIN}" in problems(checkpoint)


@pytest.fixture(params=["png", "shards"])
def drawn(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(samples, "SEEDS_PER_SHARD", 8)
    return draw(tmp_path / "samples", request.param)


def test_every_flip_of_samples_is_named(drawn: Path) -> None:
    assert problems(drawn) == []
    dice = random.Random(2)
    for path in sorted(drawn.iterdir())[1:]:
        whole = path.read_bytes()
        for bit in dice.sample(range(8 * len(whole)), 40):
            path.write_bytes(flipped(whole, bit))
            lines = problems(drawn)
            named = "manifest.json" if path.suffix in (".json", ".bin") else path.name  # whose index it is
            assert any(named in line for line in lines), (path, bit)
        path.write_bytes(whole)
    assert problems(drawn) == []


def test_what_else_can_be_wrong_with_samples(drawn: Path) -> None:
    one, other, *_ = (path for path in sorted(drawn.iterdir()) if path.suffix in (".png", ".tar"))
    data, second = one.read_bytes(), other.read_bytes()
    for damage in (data[: len(data) // 2], b"", bytes(len(data)), data[:-1], data + b"\0"):
        one.write_bytes(damage)
        assert any(str(one) in line for line in problems(drawn)), damage[:9]
    one.unlink()
    assert len(lines := problems(drawn)) == 1 and str(one) in lines[0] and problems(drawn, quick=True) == lines
    one.write_bytes(data)
    added = drawn / f"added{one.suffix}"
    added.write_bytes(second)
    assert problems(drawn) == [f"{added}: belongs to nothing in manifest.json. Move it elsewhere."]
    added.unlink()
    assert problems(drawn) == []
    if one.suffix == ".tar":  # a PNG says of itself whose it is
        one.write_bytes(second)
        other.write_bytes(data)
        assert all(any(str(path) in line for line in problems(drawn)) for path in (one, other))


def test_quick_reads_no_contents(drawn: Path) -> None:
    path = next(path for path in sorted(drawn.iterdir()) if path.suffix in (".png", ".tar"))
    flip(path, 8 * 700 if path.suffix == ".tar" else 8 * 60)
    assert problems(drawn, quick=True) == [] and problems(drawn) != []


def test_filled_pictures(tmp_path: Path) -> None:
    about = {"a": {"image": "1", "mask": "2", "seed": 0}}
    folder = FilledFolder.create(tmp_path / "filled", {"method": "blended"}, {"torch": "2"}, about)
    folder.add([("a", 0, png(0)), ("a", 1, png(1))], about)
    assert problems(folder.path) == []
    (folder.path / "a-1.png").write_bytes(png(1))
    (folder.path / "a-2.png").unlink()
    (folder.path / "b-1.png").write_bytes(png(1))
    assert [re.split(r" \(|\. ", line.removeprefix(f"{folder.path}/"))[0] for line in problems(folder.path)] == [
        "a-1.png: damaged", "a-2.png: listed in manifest.json, but it is missing",
        "b-1.png: belongs to nothing in manifest.json"]


def test_a_way_from_pictures_to_samples_is_whole(copied: Trained) -> None:
    sample_to_folder(copied.diffusion, copied.diffusion.samples, seeds=range(3), device=CPU)
    places = (copied.data, copied.autoencoder.path, copied.diffusion.path)
    checked = [found for path in places for found in verify(path)]
    assert [found.problems for found in checked if found.problems] == []
    said = {found.path.relative_to(copied.root).as_posix(): found.found for found in checked}
    assert said["data"] == "images, 2 shards with 40 samples, 80 files"
    assert said["toy/codes"] == "key codes, 2 shards with 40 samples, 80 files"
    assert said["toy-diffusion/samples"] == "3 samples"
    assert {"toy-diffusion/autoencoder.safetensors", *(f"{run}/{name}" for run in ("toy", "toy-diffusion") for name in (
        "recipe.yaml", "run.json", "metrics.jsonl", "sheets"))} <= said.keys()
    assert sum(name.startswith("toy/checkpoints/step-") for name in said) == 2


RUN_DAMAGES: dict[str, Callable[[RunDirectory], object]] = {
    "recipe.yaml": lambda run: run.recipe_path.write_text("kind: [oops"),
    "run.json": lambda run: run.info_path.write_text("{"),
    "metrics.jsonl": lambda run: run.metrics_path.write_text("{}\nnonsense\n"),
    "weights.safetensors": lambda run: flip(list_checkpoints(run.checkpoints)[0] / "weights.safetensors"),
    "autoencoder.safetensors": lambda run: flip(run.autoencoder_path),
    "autoencoder.safetensors: is missing": lambda run: run.autoencoder_path.unlink(),
    ".png": lambda run: next(run.sheets.iterdir()).write_bytes(b"none"),
    "evals/x.json": lambda run: run.evals.mkdir() or (run.evals / "x.json").write_text("[1"),  # type: ignore[func-returns-value]
    "evals/s.safetensors": lambda run: run.evals.mkdir() or (run.evals / "s.safetensors").write_bytes(b"no"),  # type: ignore[func-returns-value]
}


def test_a_manifest_without_end_is_a_line(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text("[" * 100_000)
    (line,) = problems(checkpoint)
    assert line.startswith(f"{checkpoint}: manifest.json is damaged")


@pytest.mark.parametrize("named", RUN_DAMAGES)
def test_what_can_be_wrong_with_a_run(copied: Trained, named: str) -> None:
    run = copied.diffusion
    RUN_DAMAGES[named](run)
    assert any(named in line for line in problems(run.path)), problems(run.path)


def test_codes_of_another_checkpoint(copied: Trained) -> None:
    run = copied.autoencoder
    header, shards = read_manifest(run.codes)
    write_manifest(run.codes, header | {"autoencoder": {"run": "toy", "digest": "0" * 64}}, shards)
    (line,) = problems(run.path)
    assert line.startswith(f"{run.codes}: was encoded by checkpoint 00000000, which the run has not")
    (run.codes / shards[0].name).unlink()
    assert len(problems(run.path)) == 2
    shutil.rmtree(run.codes)
    encode(run, copied.data, device=CPU)
    assert problems(run.path) == []


def test_results_and_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "neighbours.json").write_text(json.dumps({"kind": "neighbours"}))
    (tmp_path / "found" / "sheet.png").write_bytes(png(0))
    assert problems(tmp_path / "found") == problems(tmp_path / "found" / "neighbours.json") == []
    (tmp_path / "found" / "sheet.png").write_bytes(png(0)[:50])
    assert ["sheet.png: cannot be decoded" in line for line in problems(tmp_path / "found")] == [True]
    (tmp_path / "empty").mkdir()
    for name, said in (("empty", "holds nothing that brics wrote"), ("nowhere", "no such file or folder")):
        with pytest.raises(DataError, match=said):
            problems(tmp_path / name)
    (tmp_path / "found" / "run.lock").write_text("")
    (tmp_path / "found" / "sheet.png").unlink()
    assert problems(tmp_path / "found") == []
    with pytest.raises(DataError, match=r"run\.lock: is nothing that brics wrote"):
        problems(tmp_path / "found" / "run.lock")
