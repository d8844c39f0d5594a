"""Folders of samples: of one kind only, kept whole, continued."""

import errno
import importlib.metadata
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bricscli import files
from bricscli.data.images import decode_image, encode_png, sheet
from bricscli.data.samples import SampleFolder, newest_samples
from bricscli.errors import BricsError, DataError, MismatchError, RecipeError
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.unet import UNet
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.run.provenance import describe_process
from bricscli.runtime import PASS_WIDTH
from bricscli.tasks.choices import Asked
from bricscli.tasks.models import load_denoiser
from bricscli.tasks.sample import Sampled, sample_to_folder

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py


def test_folder_of_samples(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "samples"
    done = sample_to_folder(trained.diffusion, out, seeds=range(999999, 1000002), device=CPU)
    assert done == Sampled(new=3, kept=0, redone=0, sheet=tmp_path / "deep" / "samples-sheet.png")
    assert names(out) == [".lock", "1000000.png", "1000001.png", "999999.png", "manifest.json"]
    drawn = [decode_image((out / f"{seed}.png").read_bytes(), 16) for seed in range(999999, 1000002)]
    assert done.sheet is not None and np.array_equal(decode_image(done.sheet.read_bytes()), sheet(np.stack(drawn), 3))
    manifest = json.loads((out / "manifest.json").read_text())
    loaded = load_denoiser(trained.diffusion, CPU)
    (versions,) = manifest.pop("versions")
    assert versions["torch"] == importlib.metadata.version("torch") and versions.keys() == {"brics", "torch", "python"}
    assert len(manifest.pop("checksum")) == 64 and manifest == {
        "schema": 2, "kind": "samples", "format": "png", "resolution": 16, "seeds": "999999-1000001",
        "denoiser": {"run": "toy-diffusion", "digest": loaded.digest}, "autoencoder": loaded.autoencoder.digest,
        "data": trained.autoencoder.info["data"], "ema": 0.9, "dtype": "float32", "device": "cpu", "splits": {},
        "shards": [],
        "class": None,
        "sampling": {"sampler": "dpmpp_2m", "steps": 4, "grid": "log_snr", "eta": 0.0, "start": 0.97, "guidance": 1.0}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def count_calls(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], name: str) -> list[int]:
    """The batch size of every call of a method from now on."""
    method, sizes = getattr(kind, name), list[int]()

    def counted(self: nn.Module, batch: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(batch))
        return method(self, batch, *rest)

    monkeypatch.setattr(kind, name, counted)
    return sizes


@pytest.mark.parametrize("format", ["png", "shards"])
def test_files_are_the_same_at_any_batch_size(trained: Trained, tmp_path: Path, format: str) -> None:
    folders = [tmp_path / str(size) for size in (1, 7, 64)]
    for out in folders:
        sample_to_folder(trained.diffusion, out, seeds=range(11), device=CPU, batch_size=int(out.name), format=format)
    assert len({tuple((out / name).read_bytes() for name in names(out)) for out in folders}) == 1
    assert SampleFolder.open(folders[0]).seeds == list(range(11))


def test_small_batches_pay_for_no_padding(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, UNet, "forward")
    sample_to_folder(trained.diffusion, tmp_path / "out", seeds=range(16), device=CPU, batch_size=1,
                     asked=Asked(steps=3))
    assert set(calls) == {PASS_WIDTH["cpu"]} and len(calls) == 16 // PASS_WIDTH["cpu"] * (3 + 1)


def test_what_is_there_already_is_kept(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole ones; the damaged are drawn again, leftovers swept, other people's files left alone."""
    out = tmp_path / "samples"
    sample_to_folder(trained.diffusion, out, seeds=range(8), device=CPU)
    first = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.png")}
    damaged = {"000001.png": b"", "000003.png": first["000003.png"][0][:-1],
               "000005.png": encode_png(np.zeros((3, 8, 8), np.uint8)), "000006.png": b"not a picture"}
    for name, data in damaged.items():
        (out / name).write_bytes(data)
    (out / "000002.png").unlink()
    (out / ".brics-tmp-000003.png-999999999").write_bytes(b"half of one")
    (out / "notes.txt").write_text("mine")
    done = sample_to_folder(trained.diffusion, out, seeds=range(10), device=CPU)
    assert (done.new, done.kept, done.redone) == (2, 3, 5)
    assert names(out) == [".lock", *(f"00000{i}.png" for i in range(10)), "manifest.json", "notes.txt"]
    for name, (data, time) in first.items():
        assert (out / name).read_bytes() == data
        assert ((out / name).stat().st_mtime_ns == time) == (name not in {"000002.png", *damaged})
    assert "sampling: 10 of 10 images" in capsys.readouterr().err
    before = (out / "manifest.json").stat().st_mtime_ns
    done = sample_to_folder(trained.diffusion, out, seeds=range(10), device=CPU)
    assert (done.new, done.kept, done.redone) == (0, 10, 0)
    assert (out / "manifest.json").stat().st_mtime_ns == before, "not drawn into"


def test_images_drawn_in_another_way_are_not_mixed(copied: Trained, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    sample_to_folder(copied.diffusion, out, seeds=range(1), device=CPU)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    asked: list[tuple[dict[str, Any], str]] = [
        ({"asked": Asked(steps=5)}, "sampling.steps 4, not 5"), ({"format": "shards"}, "format png, not shards"),
        ({"asked": Asked(sampler="ddim")}, "sampling.sampler dpmpp_2m, not ddim"),
        ({"asked": Asked(grid="trailing")}, "sampling.grid log_snr, not trailing"),
        ({"asked": Asked(start=0.9, steps=3)}, "sampling.steps 4, not 3; sampling.start 0.97, not 0.9")]
    for options, said in asked:
        with pytest.raises(DataError, match=rf"drawn in another way \({said}\)\. Choose another --out"):
            sample_to_folder(copied.diffusion, out, seeds=range(2), device=CPU, **options)
    newest, older = (list_checkpoints(copied.diffusion.checkpoints)[i] for i in (-1, -2))
    digests = [str(checkpoint_digest(path))[:8] for path in (newest, older)]
    shutil.rmtree(newest)
    with pytest.raises(DataError, match=rf"\(denoiser.digest {digests[0]}, not {digests[1]}\)"):
        sample_to_folder(copied.diffusion, out, seeds=range(2), device=CPU)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_renamed_run_and_another_torch_go_on(copied: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "samples"
    sample_to_folder(copied.diffusion, out, seeds=range(1), device=CPU)
    renamed = RunDirectory.open(copied.diffusion.path.rename(tmp_path / "renamed"))
    assert sample_to_folder(renamed, out, seeds=range(2), device=CPU).new == 1
    assert "warning" not in capsys.readouterr().err
    process = describe_process() | {"torch": "99.0"}
    monkeypatch.setattr("bricscli.tasks.sample.describe_process", lambda: process)
    assert sample_to_folder(renamed, out, seeds=range(3), device=CPU).new == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert line.startswith(f"brics: warning: {out}: holds samples of torch ") and "this is torch 99.0" in line
    header = SampleFolder.open(out).header
    assert [entry["torch"] for entry in header["versions"]] == [importlib.metadata.version("torch"), "99.0"]


@pytest.mark.parametrize("format", ["png", "shards"])
def test_a_full_disk_is_one_line_and_loses_nothing(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   format: str) -> None:
    """The writing thread's error comes up in the midst of sampling, and what was written before stays."""
    out, whole = tmp_path / "full", tmp_path / "whole"
    write, written = os.replace, itertools.count()
    monkeypatch.setattr("bricscli.data.samples.SEEDS_PER_SHARD", 8)

    def replace(source: Path, target: Path) -> None:
        if Path(target).suffix in (".png", ".tar") and next(written) >= (20 if format == "png" else 2):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(source, target)

    with monkeypatch.context() as full:
        full.setattr(os, "replace", replace)
        drawn = count_calls(full, Autoencoder, "decode")
        with pytest.raises(BricsError, match=r"No space left on device \(.*\)\. Make room there, then run") as caught:
            sample_to_folder(trained.diffusion, out, seeds=range(80), device=CPU, batch_size=8, format=format)
    assert len(caught.value.lines) == 1 and sum(drawn) <= 48, "at once, not at the end"
    assert SampleFolder.open(out).seeds == list(range(16))
    assert not any(name.startswith(".brics-tmp") for name in names(out))
    done = sample_to_folder(trained.diffusion, out, seeds=range(80), device=CPU, format=format)
    assert (done.new, done.kept, done.redone) == (64, 16, 0)
    sample_to_folder(trained.diffusion, whole, seeds=range(80), device=CPU, format=format)
    assert {name: (out / name).read_bytes() for name in names(out)} == {
        name: (whole / name).read_bytes() for name in names(whole)}


@pytest.mark.parametrize("format", ["png", "shards"])
def test_an_interrupt_keeps_what_was_drawn(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           format: str) -> None:
    decode, calls = Autoencoder.decode, itertools.count()

    def interrupted(self: Autoencoder, code: Tensor, *kept: Any) -> Tensor:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, code, *kept)

    monkeypatch.setattr(Autoencoder, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample_to_folder(trained.diffusion, tmp_path, seeds=range(80), device=CPU, batch_size=8, format=format)
    assert SampleFolder.open(tmp_path).seeds == list(range(24))


def test_a_sheet_that_cannot_be_written_is_a_warning(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    write = files.write_bytes

    def refuse(path: Path, data: bytes) -> None:
        if path.name == "samples-sheet.png":
            raise BricsError(f"{path}: could not be written: Read-only file system.")
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", refuse)
    done = sample_to_folder(trained.diffusion, tmp_path / "samples", seeds=range(3), device=CPU)
    assert (done.new, done.sheet) == (3, None)
    assert "brics: warning: " in capsys.readouterr().err and names(tmp_path) == ["samples"]


def test_places_that_cannot_be_written(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "samples"):
        with pytest.raises(DataError, match=r"is not a folder"):
            sample_to_folder(trained.diffusion, out, seeds=range(1), device=CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_autoencoders_run_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(MismatchError):
        sample_to_folder(trained.autoencoder, tmp_path / "out", seeds=range(1), device=CPU)
    assert not (tmp_path / "out").exists()


def test_a_start_at_data_is_refused_before_anything_is_written(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Choose a later start"):
        sample_to_folder(trained.diffusion, tmp_path / "out", seeds=range(1), device=CPU,
                         asked=Asked(start=1e-12))
    assert not (tmp_path / "out").exists()


def test_the_newest_samples(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder of samples"):
        newest_samples(tmp_path, tmp_path / "runs")
    for out in (tmp_path / "first", tmp_path / "runs" / "x" / "samples"):
        sample_to_folder(trained.diffusion, out, seeds=range(1), device=CPU)
    assert newest_samples(tmp_path, tmp_path / "runs") == tmp_path / "runs" / "x" / "samples"
    sample_to_folder(trained.diffusion, tmp_path / "first", seeds=range(2), device=CPU)
    assert newest_samples(tmp_path, tmp_path / "runs") == tmp_path / "first"
