"""Verdicts on what a recipe expects: pass and fail where a number counts, else why it does not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bricscli.files import write_json
from bricscli.recipe.load import dump_recipe, load_recipe, recipe_from_dict
from bricscli.recipe.recipes import Recipe
from bricscli.run.checkpoint import checkpoint_digest, save_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.tasks.reporting.expected import Verdict, count_verdicts, judge, verdict_table
from bricscli.tasks.reporting.run_results import RunResults

PSNR = 30.0


def expecting(name: str, **expected: tuple[float, float]) -> Recipe:
    values = load_recipe(name).model_dump(mode="json")
    values["expected"] = {metric: {"value": value, "tolerance": tolerance, "source": "a test"}
                          for metric, (value, tolerance) in expected.items()}
    return recipe_from_dict(values)


def make_run(path: Path, recipe: Recipe, *, seen: int | None = None, overrides: Any = ()) -> tuple[RunDirectory, str]:
    run = RunDirectory.create(path, recipe, {"overrides": overrides})
    step = -(-(recipe.training.images if seen is None else seen) // recipe.training.batch_size)
    path = save_checkpoint(run.checkpoints, step, {"w": torch.ones(2)}, {}, {}, dump_recipe(recipe))
    digest = checkpoint_digest(path)
    assert digest
    return run, digest


def evaluate(run: RunDirectory, digest: str, *, name: str = "lsun-church", split: str = "val", value: float = PSNR,
             limit: int = 6, moved: float = 0.0) -> None:
    """Leaves what `brics eval reconstruction` leaves."""
    write_json(run.evals / f"reconstruction-{name}-{split}-{moved:g}.json", {
        "kind": "reconstruction", "metrics": {"psnr": {"label": "PSNR", "unit": "dB", "mean": value, "std": 0.0}},
        "images": {"name": name, "split": split, "images": limit, "of": 6, "width": 16, "height": 16, "sha256": "a"},
        "autoencoder": digest, "keys_moved_by_cells": moved, "protocol": "per image", "versions": {}})


def verdict(run: RunDirectory) -> Verdict:
    (only,) = judge(RunResults(run))
    return only


@pytest.mark.parametrize(("expected", "tolerance", "status"), [
    (30.0, 0.0, "pass"), (30.4, 0.5, "pass"), (29.5, 0.5, "pass"), (30.6, 0.5, "fail"), (29.4, 0.5, "fail")])
def test_pass_and_fail(tmp_path: Path, expected: float, tolerance: float, status: str) -> None:
    run, digest = make_run(tmp_path / "run", expecting("church64x4.yaml", psnr=(expected, tolerance)))
    evaluate(run, digest)
    found = verdict(run)
    assert (found.status, found.value, found.reasons) == (status, PSNR, ())
    (row,) = verdict_table([found]).rows
    assert row[0] == "PSNR"
    assert [(cell.text, cell.tone, cell.note) for cell in row[1]] == [
        (status, status, ""), ("30 ± 0 dB", "value", ""), (f"{expected:g}, tolerance {tolerance:g}", "", "a test")]


def test_not_measured(tmp_path: Path) -> None:
    run, digest = make_run(tmp_path / "run", expecting("church64x4.yaml", psnr=(30, 1), ssim=(0.8, 0.1)))
    assert {v.status for v in judge(RunResults(run))} == {"not measured"}
    evaluate(run, digest)
    assert count_verdicts(judge(RunResults(run))) == "1 pass, 1 not measured"


@pytest.mark.parametrize(("made", "measured", "reason"), [
    ({"seen": 1_200_000}, {}, "after 1,200,000 of 4,000,000 images of training"),
    ({"overrides": ["training.images=800", "description=x"]}, {}, "the recipe was changed: training.images=800"),
    ({"overrides": None}, {}, "run.json does not say whether the recipe was changed by --set"),
    ({}, {"limit": 4}, "over 4 of 6 images of the val split"),
    ({}, {"name": "ffhq"}, "measured on ffhq, split val, not on the val split of lsun-church"),
    ({}, {"split": "train"}, "measured on lsun-church, split train, not on the val split of lsun-church"),
    ({}, {"moved": 0.5}, "measured of moved keys")])
def test_what_cannot_be_compared(tmp_path: Path, made: dict[str, Any], measured: dict[str, Any], reason: str) -> None:
    run, digest = make_run(tmp_path / "run", expecting("church64x4.yaml", psnr=(30, 1)), **made)
    evaluate(run, digest, **measured)
    found = verdict(run)
    assert (found.status, found.value, found.reasons) == ("not comparable", PSNR, (reason,))


def test_of_weights_that_are_gone(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "run", expecting("church64x4.yaml", psnr=(30, 1)))
    evaluate(run, "0" * 64)
    assert verdict(run).reasons == ("measured of weights that the run has no more",)


def test_changing_words_changes_nothing(tmp_path: Path) -> None:
    run, digest = make_run(tmp_path / "run", expecting("church64x4.yaml", psnr=(30, 1)),
                           overrides=["description=mine", "expected.psnr.tolerance=1.0"])
    evaluate(run, digest)
    assert verdict(run).status == "pass"


def test_the_number_with_fewest_reservations_counts(tmp_path: Path) -> None:
    run, digest = make_run(tmp_path / "run", expecting("church64x4.yaml", psnr=(30, 1)))
    evaluate(run, digest, split="train", value=50.0)
    evaluate(run, digest, moved=0.5, value=10.0)
    assert verdict(run).status == "not comparable"
    evaluate(run, digest, value=29.5)
    assert (verdict(run).status, verdict(run).value) == ("pass", 29.5)


def test_forced_numbers_of_samples_do_not_count(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "run", expecting("church64x4-diffusion.yaml", fid=(3.97, 0.5)))
    side = {"name": "samples", "images": 64, "of": 64, "width": 16, "height": 16, "sha256": "a"}
    result = {"kind": "generation", "protocol": "brics2023", "metrics": {"fid": {"label": "FID", "value": 4.0}},
              "forced": ["samples: 64 images, fewer than 10,000"], "left_out": {}, "anchors": {}, "samples": side,
              "reference": side | {"name": "lsun-church", "split": "train"}, "extractors": {}, "versions": {}}
    write_json(run.evals / "generation.json", result)
    found = verdict(run)
    assert found.status == "not comparable" and found.value == 4.0
    assert "forced: samples: 64 images, fewer than 10,000" in found.reasons and len(found.reasons) > 1
