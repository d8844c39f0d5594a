"""Filling holes: what is kept stays, what is filled is the seed's alone, and a folder goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bricscli.data.pairs import find_pairs
from bricscli.data.pictures import read_about, read_picture
from bricscli.data.windows import MOST_SHRINKING, extend, plan_crop
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.nn.unet import UNet
from bricscli.runtime import PASS_WIDTH
from bricscli.tasks.choices import Asked, Blend
from bricscli.tasks.inpainting.inpaint import Inpainted, inpaint_to_folder
from bricscli.tasks.inpainting.inpainter import Inpainter, Job, prepare_inpainter

CPU = torch.device("cpu")
Filling = Any  # tests/tasks/conftest.py


def picture(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth, so that means say something."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, len(mode)), dtype=np.uint8)
    return Image.fromarray(small, mode).resize((width, height), Image.Resampling.BICUBIC)


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture(scope="module")
def inpainter(filling: Filling) -> Inpainter:
    return prepare_inpainter(filling.blended, CPU, asked=Asked(steps=3), decoder="plain")[0]


@pytest.fixture(scope="module")
def asymmetric(filling: Filling) -> Inpainter:
    return prepare_inpainter(filling.blended, CPU, asked=Asked(steps=3))[0]


@pytest.fixture(scope="module")
def concat(filling: Filling) -> Inpainter:
    return prepare_inpainter(filling.concat, CPU, asked=Asked(steps=3))[0]


def first(images: Iterator[Image.Image]) -> np.ndarray:
    return np.asarray(next(images))


CASES = {"native": ((16, 16), (4, 4, 10, 10)), "beside": ((40, 56), (3, 41, 11, 50)), "low": ((20, 16), (0, 2, 6, 9)),
         "shrunk": ((60, 50), (10, 10, 40, 38)), "tiled": ((18, 50), (2, 3, 6, 47))}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("blend", ["paste", "feather:3"])
def test_kept_pixels_are_kept_and_old_ones_have_no_influence(inpainter: Inpainter, asymmetric: Inpainter, case: str,
                                                             blend: str) -> None:
    """By the plain decoder pasted, by the one that is shown kept pixels with a feather."""
    shape, edges = CASES[case]
    image, mask = picture(*shape), box(*shape, *edges)
    assert (plan_crop(mask, 16).side > MOST_SHRINKING * 16) == (case == "tiled")
    vandal = np.asarray(image).copy()
    vandal[mask] = 255 - vandal[mask]
    model = inpainter if blend == "paste" else asymmetric
    filled = first(model.fill(image, mask, blend=blend))
    assert np.array_equal(filled[~mask], np.asarray(image)[~mask])
    assert not np.array_equal(filled[mask], np.asarray(image)[mask])
    assert np.array_equal(filled, first(model.fill(Image.fromarray(vandal), mask, blend=blend)))


def test_none_shows_what_the_decoder_makes_of_kept_pixels(inpainter: Inpainter) -> None:
    image, mask = picture(40, 40), box(40, 40, 4, 4, 9, 9)
    filled, pasted = (first(inpainter.fill(image, mask, blend=blend)) for blend in ("none", "paste"))
    assert np.array_equal(filled[mask], pasted[mask])
    changed = (filled != np.asarray(image)).any(2)
    assert changed[:16, :16].mean() > 0.9 and not changed[16:].any() and not changed[:, 16:].any()
    with pytest.raises(RecipeError, match=r"`none` needs a hole that fits into one window"):
        next(inpainter.fill(picture(20, 20), box(20, 20, 1, 1, 8, 8), blend="none", window="tile"))


def test_alpha_is_kept_and_what_is_filled_is_opaque(inpainter: Inpainter) -> None:
    image, mask = picture(20, 20, mode="RGBA"), box(20, 20, 4, 4, 9, 9)
    filled = first(inpainter.fill(image, mask))
    assert filled.shape == (20, 20, 4) and np.array_equal(filled[~mask], np.asarray(image)[~mask])
    assert (filled[mask, 3] == 255).all()


def test_what_is_filled_lands_at_its_place(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model that continues what surrounds the hole, a slope goes on through it, in every kind of window."""
    monkeypatch.setattr(Inpainter, "_fill_windows", lambda self, holes, way, tick: [
        extend(hole.picture, hole.mask) for hole in holes])
    slope = np.add.outer(np.arange(60) * 2, np.arange(110))[..., None].repeat(3, 2).astype(np.uint8)
    for edges, window in (((20, 30, 26, 36), "crop"), ((10, 30, 45, 70), "crop"), ((10, 30, 26, 50), "tile")):
        mask = box(60, 110, *edges)
        filled = first(inpainter.fill(Image.fromarray(slope), mask, window=window, blend="paste")).astype(int)
        error = np.abs(filled - slope)[mask]
        assert error.mean() < 12, (edges, window, error.mean())


@pytest.mark.parametrize("method", ["blended", "repaint"])
def test_a_variant_is_the_seeds_alone(inpainter: Inpainter, method: str) -> None:
    """Whatever is filled beside it: other variants, other pictures, tiles or none, and in whatever order."""
    image, mask = picture(30, 30), box(30, 30, 4, 4, 12, 12)
    wide, hole = picture(18, 50, 4), box(18, 50, 2, 3, 6, 47)
    four = [np.asarray(filled) for filled in inpainter.fill(image, mask, seed=5, variants=4, method=method)]
    assert np.array_equal(first(inpainter.fill(image, mask, seed=5, method=method)), four[0])
    assert all(not np.array_equal(one, other) for one, other in pairwise(four))
    assert not np.array_equal(first(inpainter.fill(image, mask, seed=6, method=method)), four[0])
    others = [Job(image, mask, 5, variant) for variant in (3, 1, 2)]
    jobs = [Job(wide, hole, 1, 0), *others, *[Job(image, mask, 9, 0)] * 5]
    mixed = [np.asarray(filled) for filled in inpainter.fill_all(jobs, method=method)]
    assert all(np.array_equal(mixed[place], four[variant]) for place, variant in ((1, 3), (2, 1), (3, 2)))
    assert np.array_equal(mixed[0], first(inpainter.fill(wide, hole, seed=1, method=method)))


def test_windows_share_passes(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight pictures cost what one does; and the count of answers is the one that progress is told by."""
    forward, sizes = UNet.forward, list[int]()

    def counted(self: UNet, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(x))
        return forward(self, x, *rest)

    monkeypatch.setattr(UNet, "forward", counted)
    shares: list[float] = []
    jobs = [Job(picture(30, 30, seed), box(30, 30, 4, 4, 12, 12), 0, 0) for seed in range(PASS_WIDTH["cpu"])]
    list(inpainter.fill_all(jobs, progress=shares.append))
    assert sizes == [PASS_WIDTH["cpu"]] * 4
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0])
    shares.clear()
    list(inpainter.fill(picture(18, 50), box(18, 50, 2, 3, 6, 47), progress=shares.append))
    assert len(shares) > 8 and shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_progress_may_end_it(inpainter: Inpainter) -> None:
    class Enough(Exception):
        pass

    def stop(share: float) -> None:
        raise Enough

    with pytest.raises(Enough):
        next(inpainter.fill(picture(30, 30), box(30, 30, 4, 4, 12, 12), progress=stop))


def test_grow_draws_more_anew_but_changes_the_hole_only(inpainter: Inpainter, filling: Filling) -> None:
    image, mask = picture(30, 30), box(30, 30, 4, 4, 12, 12)
    grown, _ = prepare_inpainter(filling.blended, CPU, asked=Asked(steps=3), decoder="plain", grow=1)
    one, other = first(inpainter.fill(image, mask)), first(grown.fill(image, mask))
    assert not np.array_equal(one, other) and np.array_equal(other[~mask], np.asarray(image)[~mask])


def test_the_decoder_that_is_shown_what_is_kept(filling: Filling, inpainter: Inpainter, asymmetric: Inpainter,
                                                tmp_path: Path) -> None:
    assert asymmetric.decoder is not None and asymmetric.decoder.name == "toy-inpaint"
    image, mask = picture(16, 16), box(16, 16, 4, 4, 12, 12)
    assert not np.array_equal(first(asymmetric.fill(image, mask, blend="none")),
                              first(inpainter.fill(image, mask, blend="none")))
    assert asymmetric.describe()["decoder"] == asymmetric.decoder.digest
    named, line = prepare_inpainter(filling.blended, CPU, autoencoder=filling.decoder)
    assert named.decoder is not None and line is None
    found, line = prepare_inpainter(filling.first.diffusion, CPU, runs=tmp_path)
    assert found.decoder is None and line is not None and "Using the plain one" in line
    with pytest.raises(DataError, match=r"there is no mask-conditioned decoder of autoencoder .* --decoder plain"):
        prepare_inpainter(filling.first.diffusion, CPU, runs=tmp_path, decoder="asymmetric")
    with pytest.raises(MismatchError, match=r"its decoder cannot be told what is kept"):
        prepare_inpainter(filling.blended, CPU, autoencoder=filling.first.autoencoder)
    with pytest.raises(RecipeError, match=r"--decoder is plain. Leave one out"):
        prepare_inpainter(filling.blended, CPU, autoencoder=filling.decoder, decoder="plain")
    with pytest.raises(RecipeError, match=r"--decoder: `large` is unknown. There are: asymmetric, plain"):
        prepare_inpainter(filling.blended, CPU, decoder="large")


def test_concat_sees_what_surrounds_the_hole(concat: Inpainter) -> None:
    image, mask = picture(16, 16), box(16, 16, 4, 4, 12, 12)
    assert concat.choose().method == "concat" and concat.methods == ["concat"]
    filled = first(concat.fill(image, mask, blend="paste"))
    assert np.array_equal(filled[~mask], np.asarray(image)[~mask])


def test_methods_and_what_goes_with_them(inpainter: Inpainter, concat: Inpainter, filling: Filling) -> None:
    assert inpainter.choose().method == "blended" and inpainter.choose().sampling.sampler == "dpmpp_2m"
    way = inpainter.choose("repaint")
    assert (way.sampling.sampler, way.resamplings, way.jump) == ("ddpm", 5, 5)
    assert way.evaluations(inpainter.denoiser.prior) == 5 * 3 + 1
    with pytest.raises(RecipeError, match=r"--method: `paint` is unknown. There are: blended, repaint, concat"):
        inpainter.choose("paint")
    with pytest.raises(MismatchError, match=r"toy-diffusion was not trained to fill holes, and `concat` needs "):
        inpainter.choose("concat")
    with pytest.raises(MismatchError, match=r"toy-inpaint-diffusion was trained to fill .* `blended` needs .* was not"):
        concat.choose("blended")

    def choose(method: str, **words: Any) -> Any:
        asked = Asked(**{key: words.pop(key) for key in ("sampler", "steps", "guidance", "eta") if key in words})
        return prepare_inpainter(filling.blended, CPU, asked=asked, decoder="plain", **words)[0].choose(method)

    assert choose("repaint", eta=0.5).sampling.sampler == "ddim"
    for method, words, says in (
            ("repaint", {"sampler": "heun"}, "--sampler: `repaint` goes by ddpm or ddim, not by `heun`"),
            ("blended", {"resamplings": 3}, "--resamplings: belongs to `repaint`, not to `blended`"),
            ("blended", {"jump": 3}, "--jump: belongs to `repaint`"),
            ("repaint", {"resamplings": 0}, "--resamplings: 0 is out of range. Choose 1 to 1000"),
            ("blended", {"grow": -1}, "--grow: -1 is out of range. Choose 0 to 64"),
            ("blended", {"only": "cat"}, "--class: toy-diffusion was trained without classes"),
            ("blended", {"steps": 0}, "--steps: 0 is out of range")):
        with pytest.raises(RecipeError, match=says):
            choose(method, **words)


@pytest.mark.parametrize("text", ["paist", "feather", "feather:0", "feather:300", "feather:x", ""])
def test_blends_that_there_are_not(text: str) -> None:
    with pytest.raises(RecipeError, match=r"There are: none, paste, feather:8"):
        Blend.parse(text)


def test_masks_that_do_not_fit(inpainter: Inpainter) -> None:
    for mask, says in ((np.ones((9, 9), bool), "the mask is 9x9, the picture is 30x20"),
                       (np.zeros((20, 30), bool), "replaces nothing"),
                       (np.ones((20, 30), bool), "replaces everything")):
        with pytest.raises(DataError, match=says):
            next(inpainter.fill(picture(20, 30), mask))


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("abcde"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        picture(20 + number, 24, number).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_folder_of_filled_pictures(inpainter: Inpainter, folder: Path) -> None:
    out, pairs = folder / "deep" / "out", find_pairs(folder / "pictures", "box:3", None, 7)
    done = inpaint_to_folder(inpainter, pairs, out, variants=2)
    assert done == Inpainted(new=10, kept=0, sheet=folder / "deep" / "out-sheet.png")
    written = [f"{name}-{variant}.png" for name in "abcde" for variant in (1, 2)]
    assert names(out) == [".lock", *written, "manifest.json"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "inpainted" and list(manifest["pictures"]) == list("abcde")
    assert manifest["method"] == "blended" and manifest["blend"] == "feather:8" and manifest["sampling"]["steps"] == 3
    assert manifest["denoiser"] == {"run": "toy-diffusion", "digest": inpainter.denoiser.digest}
    assert str(folder) not in (out / "manifest.json").read_text()
    for pair in pairs:
        image, mask = pair.load()
        for variant, filled in enumerate(inpainter.fill(image, mask, seed=7, variants=2), 1):
            data = (out / f"{pair.name}-{variant}.png").read_bytes()
            assert np.array_equal(np.asarray(read_picture(data, "x")), np.asarray(filled)), "the file is `fill`'s"
            about = read_about(data)
            assert (about["seed"], about["variant"], about["method"]) == (7, variant, "blended")
            assert about["denoiser"]["digest"] == inpainter.denoiser.digest and about["brics"]
            assert about["mask"] == manifest["pictures"][pair.name]["mask"] and str(folder) not in json.dumps(about)
    with Image.open(done.sheet or "") as sheet:
        assert sheet.size == (4 * 28 + 4, sum(20 + n + 4 for n in range(5)) + 4)


def test_what_is_there_is_kept_and_what_is_damaged_is_not(inpainter: Inpainter, folder: Path) -> None:
    out, pairs = folder / "out", find_pairs(folder / "pictures", "box:3", None, 7)
    inpaint_to_folder(inpainter, pairs[:3], out, variants=2)
    before = {name: (out / name).read_bytes() for name in names(out)}
    (out / "a-2.png").unlink()
    (out / "b-1.png").write_bytes(before["b-1.png"][:-3])
    (out / ".brics-tmp-c-1.png-999999999").write_bytes(b"half")
    done = inpaint_to_folder(inpainter, pairs, out, variants=3)
    assert (done.new, done.kept) == (11, 4)
    after = {name: (out / name).read_bytes() for name in names(out)}
    assert all(after[name] == data for name, data in before.items() if name.endswith(".png")) and len(after) == 17
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert inpaint_to_folder(inpainter, pairs, out, variants=3).new == 0
    assert (out / "manifest.json").stat().st_mtime_ns == stamp


def test_pictures_filled_otherwise_are_not_mixed(inpainter: Inpainter, folder: Path) -> None:
    out, pairs = folder / "out", find_pairs(folder / "pictures", "box:3", None, 7)[:2]
    inpaint_to_folder(inpainter, pairs, out)
    before = {name: (out / name).read_bytes() for name in names(out)}
    for words, other, says in (
            ({"blend": "paste"}, pairs, r"filled in another way \(blend feather:8, not paste\)"),
            ({"method": "repaint"}, pairs, r"method blended, not repaint"),
            ({"window": "tile"}, pairs, "window auto, not tile"),
            ({}, find_pairs(folder / "pictures", "box:3", None, 8), r"holds a filled otherwise \(seed 7, not 8\)"),
            ({}, find_pairs(folder / "pictures", "box:4", None, 7), r"holds a filled otherwise \(mask "),
            ({"invert": True}, pairs, r"holds a filled otherwise \(mask ")):
        with pytest.raises(DataError, match=says):
            inpaint_to_folder(inpainter, other, out, **words)
    (folder / "in-the-way").write_text("")
    for place, says in (("pictures", "is the folder of the pictures"), ("in-the-way", "is not a folder"),
                        ("other", "holds images that `brics inpaint` did not make")):
        (folder / "other").mkdir(exist_ok=True)
        (folder / "other" / "x.png").write_bytes(b"")
        with pytest.raises(DataError, match=says):
            inpaint_to_folder(inpainter, pairs, folder / place)
    (out / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json: is damaged"):
        inpaint_to_folder(inpainter, pairs, out)
    assert {name: (out / name).read_bytes() for name in names(out)} == before | {"manifest.json": b"{"}


def test_a_bad_picture_is_told_before_anything_is_written(inpainter: Inpainter, folder: Path) -> None:
    (folder / "pictures" / "d.png").write_bytes((folder / "pictures" / "d.png").read_bytes()[:70])
    with pytest.raises(DataError, match=r"d.png: ") as caught:
        inpaint_to_folder(inpainter, find_pairs(folder / "pictures", "box:3", None, 7), folder / "out")
    assert not (folder / "out").exists() and len(caught.value.lines) == 1
    with pytest.raises(RecipeError, match=r"--variants: 0 is out of range"):
        inpaint_to_folder(inpainter, [], folder / "out", variants=0)


def test_killed_half_way_and_started_again(filling: Filling, folder: Path) -> None:
    """kill -9 of the command between two pictures: then the bytes of a folder that was filled at one go."""
    words = ["inpaint", str(folder / "pictures"), "--mask", "box:3", "--seed", "7", "--variants", "8", "--steps", "9",
             "--run", str(filling.blended.path), "--decoder", "plain", "--out", str(folder / "killed")]
    process = subprocess.Popen([sys.executable, "-m", "bricscli", *words], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    manifest, patience = folder / "killed" / "manifest.json", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < patience:
        if manifest.exists() and '"1":' in manifest.read_text():
            break
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(list((folder / "killed").glob("*.png"))) < 40
    inpainter, _ = prepare_inpainter(filling.blended, CPU, asked=Asked(steps=9), decoder="plain")
    pairs = find_pairs(folder / "pictures", "box:3", None, 7)
    done = inpaint_to_folder(inpainter, pairs, folder / "killed", variants=8)
    assert done.new > 0 and done.kept > 0
    inpaint_to_folder(inpainter, pairs, folder / "whole", variants=8)
    assert {name: (folder / "killed" / name).read_bytes() for name in names(folder / "killed")} == {
        name: (folder / "whole" / name).read_bytes() for name in names(folder / "whole")}
