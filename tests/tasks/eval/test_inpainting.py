"""Fillings beside the originals: one filling, decoded in every way, over all pictures and over the widely masked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bricscli.data.collection import ImageCollection
from bricscli.data.masks import draw_mask
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.metrics.features import load_extractor
from bricscli.metrics.inpainting import hole_errors
from bricscli.tasks.choices import Asked
from bricscli.tasks.eval.inpainting import (
    describe_inpainting,
    evaluate_inpainting,
    load_judges,
    save_inpainting,
)
from bricscli.tasks.inpainting.fill import Hole, Holes, fill_latents
from bricscli.tasks.inpainting.inpainter import Inpainter, prepare_inpainter
from bricscli.weights import MissingWeights

CPU = torch.device("cpu")
ROWS = ["plain", "plain, pasted", "asymmetric", "plain, own codes", "plain, pasted, own codes", "asymmetric, own codes"]


@pytest.fixture(scope="module")
def inpainter(filling: Any) -> Inpainter:
    return prepare_inpainter(filling.blended, CPU, asked=Asked(steps=2))[0]


@pytest.fixture(scope="module")
def images() -> ImageCollection:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16)).astype(np.uint8)
    return ImageCollection("cats", 20, lambda i: pixels[i], (16, 16), "digest", "val")


@pytest.fixture(scope="module")
def result(inpainter: Inpainter, images: ImageCollection) -> dict[str, Any]:
    return evaluate_inpainting(inpainter, images, load_extractor("random"), {}, masks="half")


def test_every_way_has_its_row(result: dict[str, Any]) -> None:
    assert list(result["rows"]) == ROWS
    for row in result["rows"].values():
        assert set(row) == {"pre_error", "seam", "ring", "hole", "psnr", "fd_random"}
        assert all(np.isfinite(value) for means in row.values() for value in means.values())


def test_a_pasted_picture_keeps_what_is_kept_and_its_hole(result: dict[str, Any]) -> None:
    rows = result["rows"]
    for suffix in ("", ", own codes"):
        plain, pasted = rows[f"plain{suffix}"], rows[f"plain, pasted{suffix}"]
        assert pasted["pre_error"]["all"] == 0 < plain["pre_error"]["all"]
        assert pasted["hole"] == plain["hole"]
    assert rows["plain"]["hole"] != rows["plain, own codes"]["hole"]


def test_the_numbers_are_those_of_the_fillings(inpainter: Inpainter, images: ImageCollection, result: dict[str, Any]
                                               ) -> None:
    real = torch.from_numpy(next(images.batches(20)))
    mask = torch.from_numpy(np.stack([draw_mask("half", 0, i, 16, 16) for i in range(20)]))
    errors, way = [], inpainter.choose()
    for i in range(20):  # one at a time: batches change nothing
        holes = Holes([Hole(np.ascontiguousarray(real[i].permute(1, 2, 0).numpy()), mask[i].numpy(), (0, i, 0))])
        latent = fill_latents(inpainter.denoiser.prior, inpainter.denoiser.autoencoder.model, holes, way, CPU)
        fake = ((inpainter.decode(latent, holes, told=True) + 1) * 127.5 + 0.5).clamp(0, 255).floor().byte()
        errors.append(hole_errors(real[i : i + 1], fake, mask[i : i + 1]))
    for name in ("pre_error", "seam", "hole"):
        expected = torch.cat([error[name] for error in errors])
        found = result["rows"]["asymmetric"][name]
        assert found["all"] == pytest.approx(float(expected.mean()), rel=1e-9)
        share = mask.double().mean((1, 2))
        wide = (share >= 0.4) & (share <= 0.5)
        assert found["wide"] == pytest.approx(float(expected[wide].mean()), rel=1e-9)
    assert result["masks"]["wide"] == int(wide.sum()) > 1


def test_what_it_stands_on_goes_into_the_file(result: dict[str, Any], tmp_path: Path) -> None:
    path = save_inpainting(result, tmp_path)
    assert path.name == "inpainting-cats-val-half-blended.json" and json.loads(path.read_text()) == result
    assert result["images"]["images"] == 20 and result["masks"]["kind"] == "half" and result["evaluations"] == 3
    assert result["filling"]["decoder"] and result["filling"]["sampling"]["steps"] == 2
    lines = describe_inpainting(result)
    assert sum(line.startswith("asymmetric ") for line in lines) == 2 and "40 to 50 % masked" in "\n".join(lines)
    assert "filled by blended with 3 evaluations each" in lines[-1]


def test_a_plain_decoder_alone(filling: Any, images: ImageCollection) -> None:
    plain = prepare_inpainter(filling.blended, CPU, asked=Asked(steps=2), decoder="plain")[0]
    found = evaluate_inpainting(plain, images, load_extractor("random"), {}, limit=3)
    assert list(found["rows"]) == [name for name in ROWS if not name.startswith("asymmetric")]
    assert found["images"]["images"] == 3


def test_what_is_refused(inpainter: Inpainter, images: ImageCollection, quadrants: Any, tmp_path: Path,
                         monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MismatchError, match="20 images, fewer than 10,000"):
        evaluate_inpainting(inpainter, images, quadrants, {})
    small = ImageCollection("small", 2, lambda i: np.zeros((3, 8, 8), np.uint8), (8, 8), "digest")
    with pytest.raises(DataError, match="images are 8x8"):
        evaluate_inpainting(inpainter, small, load_extractor("random"), {})
    with pytest.raises(RecipeError, match="--lpips: `resnet` is unknown"):
        load_judges("random", "resnet", CPU)
    monkeypatch.setenv("BRICS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeights, match="alexnet"):
        load_judges("random", "alex", CPU)
