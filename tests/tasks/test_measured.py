"""Which evaluations count for a recipe, and what must be said beside them. No model is trained: only digests count."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bricscli.data.collection import ImageCollection
from bricscli.metrics.reconstruction import psnr
from bricscli.recipe.load import dump_recipe, load_recipe
from bricscli.recipe.recipes import DiffusionRecipe, Recipe
from bricscli.run.checkpoint import checkpoint_digest, save_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.tasks.eval.generation import evaluate_random
from bricscli.tasks.eval.reconstruction import evaluate_reconstruction
from bricscli.tasks.eval.results import save_result
from bricscli.tasks.measured import Found, find_measured

CHURCH, DIFFUSION = load_recipe("church64x4.yaml"), load_recipe("church64x4-diffusion.yaml")
FINISHED = 4_000_000


def make_run(path: Path, recipe: Recipe, images_seen: int = FINISHED) -> tuple[RunDirectory, str]:
    """A run with one checkpoint, and its digest."""
    run = RunDirectory.create(path, recipe, {})
    step = -(-images_seen // recipe.training.batch_size)
    weights = {"w": torch.tensor([float(len(path.name)), float(step)])}
    digest = checkpoint_digest(save_checkpoint(run.checkpoints, step, weights, {}, {}, dump_recipe(recipe)))
    assert digest
    return run, digest


def pictures(name: str = "lsun-church", split: str | None = "val", count: int = 6) -> ImageCollection:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16)).astype(np.uint8)
    return ImageCollection(name, count, lambda i: pixels[i], (16, 16), "digest", split)


def evaluate(run: RunDirectory, digest: str | None, images: ImageCollection | None = None, share: float = 0.9,
             **options: Any) -> float:
    """Leaves what `brics eval reconstruction` leaves; returns the PSNR."""
    result = evaluate_reconstruction(lambda image: image * share, images or pictures(), {"psnr": psnr},
                                     autoencoder=digest, **options)
    save_result(result, run.evals)
    return result["metrics"]["psnr"]["mean"]


def test_nothing_is_measured_where_nobody_measured(tmp_path: Path) -> None:
    assert find_measured(CHURCH, tmp_path / "runs") == {}
    make_run(tmp_path / "runs" / "church64x4", CHURCH)
    assert find_measured(CHURCH, tmp_path / "runs") == {}


def test_a_finished_run_on_its_whole_val_split_counts_as_it_is(tmp_path: Path) -> None:
    value = evaluate(*make_run(tmp_path / "any-name", CHURCH))
    found = find_measured(CHURCH, tmp_path)
    assert found.keys() == {"psnr"}
    assert (found["psnr"].value, found["psnr"].notes) == (value, ())
    assert found["psnr"].std is not None and found["psnr"].std > 0
    assert find_measured(load_recipe("ffhq64x4.yaml"), tmp_path) == {}


@pytest.mark.parametrize("override", ["training.seed=1", "bottleneck.noise=false", "training.batch_size=10"])
def test_another_recipe_is_another_model(tmp_path: Path, override: str) -> None:
    evaluate(*make_run(tmp_path / "church64x4", load_recipe("church64x4.yaml", [override])))
    assert find_measured(CHURCH, tmp_path) == {}


FOREIGN = ["[]", "null", "7", "{}", "{", '{"kind": "reconstruction"}', '{"kind": "reconstruction", "images": []}',
           '{"kind": "reconstruction", "images": {"name": "lsun-church", "split": "val"}, "autoencoder": "DIGEST"}']


@pytest.mark.parametrize("text", FOREIGN)
def test_a_file_of_somebody_elses_is_left_out(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, digest = make_run(tmp_path / "church64x4", CHURCH)
    value = evaluate(run, digest)
    (run.evals / "another.json").write_text(text.replace("DIGEST", digest))
    assert find_measured(CHURCH, tmp_path)["psnr"].value == value
    assert "another.json: is left out, it or the record of its samples cannot be read." in capsys.readouterr().err


@pytest.mark.parametrize("metrics", [[], {"psnr": 7}, {"psnr": {}}, {"psnr": {"mean": None}},
                                     {"psnr": {"mean": 7.0, "std": "no"}}])
def test_metrics_that_are_none(tmp_path: Path, metrics: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run, digest = make_run(tmp_path / "church64x4", CHURCH)
    evaluate(run, digest)
    (path,) = run.evals.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": metrics}))
    assert find_measured(CHURCH, tmp_path) == {}
    assert f"{path.name}: is left out" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", [
    lambda run, digest: evaluate(run, digest, pictures("photos")),
    lambda run, digest: evaluate(run, digest, pictures(split="train")),
    lambda run, digest: evaluate(run, digest, pictures(split=None)),
    lambda run, digest: evaluate(run, digest, moved=0.5),
    lambda run, digest: evaluate(run, "0" * 64),
    lambda run, digest: evaluate(run, None),
    lambda run, digest: (run.evals.mkdir(), (run.evals / "reconstruction.json").write_text("{")),
], ids=["other data", "training images", "a folder", "moved keys", "another checkpoint", "unknown weights", "damaged"])
def test_what_does_not_count(tmp_path: Path, spoil: Callable[[RunDirectory, str | None], Any]) -> None:
    spoil(*make_run(tmp_path / "church64x4", CHURCH))
    assert find_measured(CHURCH, tmp_path) == {}


def test_what_is_said_beside_it(tmp_path: Path) -> None:
    run, digest = make_run(tmp_path / "church64x4", CHURCH, images_seen=1_200_000)
    evaluate(run, digest, limit=4)
    assert find_measured(CHURCH, tmp_path)["psnr"].notes == (
        "after 1,200,000 of 4,000,000 images of training", "over 4 of 6 images of the val split")


def test_of_several_runs_the_one_with_fewest_reservations(tmp_path: Path) -> None:
    evaluate(*make_run(tmp_path / "a", CHURCH, images_seen=12), share=0.5)
    best = evaluate(*make_run(tmp_path / "b", CHURCH), share=0.8)
    evaluate(*make_run(tmp_path / "c", CHURCH, images_seen=24), share=0.6)
    assert find_measured(CHURCH, tmp_path)["psnr"].value == best


def test_a_run_that_cannot_be_read_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "broken", CHURCH)[0].recipe_path.write_text("kind: nothing\n")
    value = evaluate(*make_run(tmp_path / "church64x4", CHURCH))
    assert find_measured(CHURCH, tmp_path)["psnr"].value == value
    assert "broken: is left out" in capsys.readouterr().err


# Samples


def sample(path: Path, *, autoencoder: Recipe = CHURCH, reference: str = "lsun-church", drawn: str | None = None,
           steps: int = 30, split: str | None = "all") -> float:
    """Leaves what `brics sample` and `brics eval fid` leave; returns the distance."""
    assert isinstance(DIFFUSION, DiffusionRecipe)
    run, digest = make_run(path, DIFFUSION, images_seen=25_600_000)
    make_run(path.parent / "kept", autoencoder)
    weights = next((path.parent / "kept" / "checkpoints").iterdir()) / "weights.safetensors"
    run.autoencoder_path.write_bytes(weights.read_bytes())
    samples = pictures("samples", None, 70)
    samples.drawn = {"denoiser": {"digest": drawn or digest},
                     "sampling": DIFFUSION.sampling.model_dump() | {"steps": steps}}
    result = evaluate_random(samples, pictures(reference, split, 80))
    save_result(result, run.evals)
    return result["metrics"]["fd_random"]["value"]


def test_samples(tmp_path: Path) -> None:
    value = sample(tmp_path / "church64x4-diffusion")
    assert find_measured(DIFFUSION, tmp_path) == {
        "fd_random": Found(value, None, ("over 70 samples, the paper's over 50,000",))}


def test_samples_drawn_otherwise(tmp_path: Path) -> None:
    sample(tmp_path / "church64x4-diffusion", steps=9)
    assert "drawn with other settings than the recipe's" in find_measured(DIFFUSION, tmp_path)["fd_random"].notes


@pytest.mark.parametrize(("split", "said"), [
    ("train", ()), ("all", ()), ("val", ("against 80 of 80 images of the val split",)),
    (None, ("against 80 of 80 images of a folder",))])
def test_what_samples_are_compared_with(tmp_path: Path, split: str | None, said: tuple[str, ...]) -> None:
    sample(tmp_path / "church64x4-diffusion", split=split)
    assert find_measured(DIFFUSION, tmp_path)["fd_random"].notes[1:] == said


@pytest.mark.parametrize(("change", "said"), [
    ({"forced": ["samples: JPEG"]}, "forced: samples: JPEG"),
    ({"protocol": "adm"}, "by protocol adm, the paper's is brics2023"),
    ({"reference": {"name": "lsun-church", "images": None, "of": None}}, "against statistics of others"),
])
def test_numbers_of_another_protocol_and_forced_ones(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    sample(tmp_path / "church64x4-diffusion")
    (path,) = (tmp_path / "church64x4-diffusion" / "evals").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert said in find_measured(DIFFUSION, tmp_path)["fd_random"].notes


def test_a_part_of_the_reference(tmp_path: Path) -> None:
    sample(tmp_path / "church64x4-diffusion")
    (path,) = (tmp_path / "church64x4-diffusion" / "evals").iterdir()
    result = json.loads(path.read_text())
    result["reference"]["of"] = 126_227
    path.write_text(json.dumps(result))
    assert "against 80 of 126,227 images of the all split" in find_measured(DIFFUSION, tmp_path)["fd_random"].notes


@pytest.mark.parametrize("drawn", ["{", [], {}, {"denoiser": 7}, {"denoiser": {"digest": "0" * 64}}])
def test_a_damaged_record_of_samples(tmp_path: Path, drawn: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sample(tmp_path / "church64x4-diffusion")
    (path,) = (tmp_path / "church64x4-diffusion" / "evals").iterdir()
    result = json.loads(path.read_text())
    result["samples"]["drawn"] = drawn
    path.write_text(json.dumps(result))
    assert find_measured(DIFFUSION, tmp_path) == {}


def test_samples_of_nobody(tmp_path: Path) -> None:
    sample(tmp_path / "church64x4-diffusion")
    (path,) = (tmp_path / "church64x4-diffusion" / "evals").iterdir()
    result = json.loads(path.read_text())
    del result["samples"]["drawn"]
    path.write_text(json.dumps(result))
    assert find_measured(DIFFUSION, tmp_path) == {}


def test_the_current_folder_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("church64x4.yaml").write_text(dump_recipe(load_recipe("ffhq64x4.yaml")))
    sample(tmp_path / "runs" / "church64x4-diffusion")
    assert find_measured(DIFFUSION, tmp_path / "runs").keys() == {"fd_random"}


@pytest.mark.parametrize("spoilt", [{"autoencoder": load_recipe("ffhq64x4.yaml"), "reference": "ffhq"},
                                    {"autoencoder": DIFFUSION},
                                    {"autoencoder": load_recipe("church64x4-kl.yaml")},
                                    {"reference": "ffhq"}, {"drawn": "0" * 64}],
                         ids=["another data set's", "no autoencoder", "another autoencoder", "other reference",
                              "another denoiser"])
def test_samples_that_do_not_count(tmp_path: Path, spoilt: dict[str, Any]) -> None:
    sample(tmp_path / "church64x4-diffusion", **spoilt)
    assert find_measured(DIFFUSION, tmp_path) == {}
