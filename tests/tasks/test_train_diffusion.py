"""Training on key codes: on the right ones only, with all that sampling needs kept in the run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bricscli import files
from bricscli.data.images import to_uint8
from bricscli.errors import BricsError, DataError, MismatchError, RecipeError
from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.recipe.specs import SamplingSpec
from bricscli.run.checkpoint import list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics
from bricscli.tasks.draw import draw_latents, iter_samples
from bricscli.tasks.encode import CODE, decode_code, encode
from bricscli.tasks.models import load_denoiser
from bricscli.tasks.prepare import prepare_toy
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import describe_plan, train_denoiser

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_a_run_holds(trained: Trained) -> None:
    run = trained.diffusion
    assert {"autoencoder.safetensors", "recipe.yaml", "run.json", "metrics.jsonl", "sheets", "checkpoints"} <= {
        path.name for path in run.path.iterdir()}
    newest = list_checkpoints(trained.autoencoder.checkpoints)[-1]
    assert run.autoencoder_path.read_bytes() == (newest / "weights.safetensors").read_bytes()
    assert [line["images_seen"] for line in read_metrics(run.metrics_path)] == [4, 8, 12, 16, 20, 24]
    sheets = sorted(run.sheets.iterdir())
    assert len(sheets) == 4
    with Image.open(sheets[-1]) as sheet:
        assert sheet.size == (8 * 16 + 9 * 2, 2 * 16 + 3 * 2)


def test_the_same_command_again_does_nothing(copied: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.diffusion.checkpoints.rglob("*")}
    train_denoiser(copied.diffusion_recipe, copied.autoencoder.path, copied.diffusion.path, device=CPU)
    assert {path: path.stat().st_mtime_ns for path in copied.diffusion.checkpoints.rglob("*")} == before
    assert "already trained" in capsys.readouterr().out


def test_training_sees_codes_and_mirrored_codes(
    trained: Trained, tmp_path: Path, tiny_diffusion: Callable[..., DiffusionRecipe]
) -> None:
    """`flip: false` trains on other batches than `flip: true`; two equal runs are the same bytes."""
    def weights(name: str, **training: object) -> bytes:
        recipe = tiny_diffusion(training={"images": 8, "warmup_images": 0, **training})
        run = train_denoiser(recipe, trained.autoencoder.path, tmp_path / name, device=CPU)
        return (list_checkpoints(run.checkpoints)[-1] / "training.safetensors").read_bytes()

    assert weights("a") == weights("b") != weights("c", flip=False)


@pytest.mark.parametrize("method", ["ldm", "vqgan", "rq_vae"], indirect=True)
def test_latents_that_are_no_key_codes(
    trained: Trained, tmp_path: Path, tiny_autoencoder: Callable[..., AutoencoderRecipe],
    tiny_diffusion: Callable[..., DiffusionRecipe], method: dict[str, Any]
) -> None:
    """latent-diffusion: the cache's deviation is x_0's unit; what is drawn is snapped before it is decoded."""
    autoencoder = tiny_autoencoder(**method | {"training": {"images": 4}, "losses": {"adversarial": 0}})
    first = train_autoencoder(autoencoder, trained.data, tmp_path / "first", device=CPU)
    codes = encode(first, trained.data, device=CPU)
    run = train_denoiser(tiny_diffusion(), first.path, tmp_path / "run", device=CPU)
    denoiser = load_denoiser(run, CPU)
    assert denoiser.prior.scaling.unit == codes.header["latents"]["std"]
    split, shape = codes.split("train"), denoiser.autoencoder.code_shape
    latents = torch.from_numpy(np.stack([decode_code(split.read(i, CODE), shape) for i in range(len(split))])).float()
    assert 0.8 < float(denoiser.prior.scaling.to_x_0(latents).std()) < 1.25, "the mirrored ones count as well"
    sampling, model = SamplingSpec(steps=3), denoiser.autoencoder.model
    drawn = draw_latents(denoiser.prior, range(3), sampling, CPU)
    with torch.no_grad():
        images = to_uint8(model.decode(model.bottleneck.snap(drawn)))
    batch = next(iter_samples(denoiser, range(3), sampling, CPU))
    assert (batch.images.int() - images.int()).abs().max() <= 1, "another width of the pass rounds elsewhere"
    assert drawn.abs().max() <= codes.header["latents"]["largest"] * (1 + 1e-6)


def test_codes_of_another_checkpoint_are_refused(copied: Trained) -> None:
    """Nothing is made; `--checkpoint` with the one that made the codes is accepted."""
    run = copied.autoencoder
    older = list_checkpoints(run.checkpoints)[-2]
    encode(run, copied.data, device=CPU, checkpoint=older.name)
    before = listing(copied.root)
    with pytest.raises(MismatchError, match=r"was encoded by checkpoint") as caught:
        train_denoiser(copied.diffusion_recipe, run.path, copied.root / "new", device=CPU)
    assert caught.value.exit_code == 4 and listing(copied.root) == before
    train_denoiser(copied.diffusion_recipe, run.path, copied.root / "new", device=CPU, checkpoint=older.name)
    kept = RunDirectory.open(copied.root / "new").autoencoder_path
    assert files.sha256_file(kept) == files.sha256_file(older / "weights.safetensors")
    with pytest.raises(MismatchError, match=r"began with autoencoder"):
        train_denoiser(copied.diffusion_recipe, run.path, copied.diffusion.path, device=CPU, checkpoint=older.name)


def test_a_run_goes_on_with_the_codes_it_began_with(copied: Trained, tmp_path: Path) -> None:
    """The same autoencoder, but other images encoded: other data."""
    other = prepare_toy(tmp_path / "other", resolution=16, count=40, seed=9, val_fraction=0.3, workers=1).dataset.path
    encode(copied.autoencoder, other, device=CPU)
    with pytest.raises(DataError, match=r"is not the data set that .* began with"):
        train_denoiser(copied.diffusion_recipe, copied.autoencoder.path, copied.diffusion.path, device=CPU)


def test_what_is_refused_leaves_nothing(copied: Trained, tiny_diffusion: Callable[..., DiffusionRecipe]) -> None:
    recipe, run = copied.diffusion_recipe, copied.autoencoder
    cases: list[tuple[type[BricsError], str, Callable[[], object]]] = [
        (DataError, "no such run",
         lambda: train_denoiser(recipe, copied.root / "none", copied.root / "new", device=CPU)),
        (MismatchError, "not of an? autoencoder",
         lambda: train_denoiser(recipe, copied.diffusion.path, copied.root / "new", device=CPU)),
        (RecipeError, "training.seed: 3 -> 4",
         lambda: train_denoiser(tiny_diffusion(training={"seed": 4}), run.path, copied.diffusion.path, device=CPU)),
        (RecipeError, "was made with another recipe", lambda: train_denoiser(recipe, run.path, run.path, device=CPU)),
    ]
    before = listing(copied.root)
    for kind, words, job in cases:
        with pytest.raises(kind, match=words):
            job()
    assert listing(copied.root) == before
    shutil.rmtree(run.codes)
    with pytest.raises(DataError, match=r"no key codes yet"):
        train_denoiser(recipe, run.path, copied.root / "new", device=CPU)
    assert not (copied.root / "new").exists()


def test_plan(trained: Trained, tmp_path: Path) -> None:
    lines = describe_plan(trained.diffusion_recipe, trained.autoencoder.path)
    assert "on key codes of 8x8x2" in lines[0] and "28 train, 12 val" in lines[1]
    assert len(lines) == 4 and "28 samples" in lines[2]
    lines = describe_plan(trained.diffusion_recipe, tmp_path / "not-yet")  # the recipe toy.yaml tells the shape
    toy = load_recipe("toy.yaml")
    assert isinstance(toy, AutoencoderRecipe)
    assert f"on key codes of {toy.code_size}x{toy.code_size}x{toy.bottleneck.channels}" in lines[0]
    assert "brics encode --run" in lines[1]
    with pytest.raises(MismatchError):
        describe_plan(trained.diffusion_recipe, trained.diffusion.path)
