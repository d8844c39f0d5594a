"""A run that begins with another's weights and whose decoder is told what is kept: made, resumed, found, refused."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bricscli.errors import BricsError, DataError, InterruptedRun, MismatchError, RecipeError
from bricscli.nn.decoders.conditional import Kept
from bricscli.parallel.world import World
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints, load_checkpoint, save_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics
from bricscli.tasks import train_ae
from bricscli.tasks.models import find_inpainting_decoder, load_autoencoder, load_denoiser, load_inpainting_decoder
from bricscli.tasks.train_ae import describe_plan, train_autoencoder

CPU = torch.device("cpu")
MakeRecipe = Callable[..., AutoencoderRecipe]
Trained = Any  # tests/tasks/conftest.py


@pytest.fixture
def recipe(tiny_autoencoder: MakeRecipe) -> AutoencoderRecipe:
    return tiny_autoencoder(losses={"adversarial": 0}, decoder={"conditional": {"channels": 4}},
                            training={"images": 12})


def train(trained: Trained, recipe: AutoencoderRecipe, path: Path, start: Path | None = None, **options: Any) -> Any:
    return train_autoencoder(recipe, trained.data, path, device=CPU, start=start or trained.autoencoder.path, **options)


def test_a_decoder_for_the_codes_of_another_run(copied: Trained, recipe: AutoencoderRecipe) -> None:
    """Found by the autoencoder's digest, loaded for its denoiser, its codes bit for bit the same."""
    base = load_autoencoder(copied.autoencoder, CPU)
    assert find_inpainting_decoder(copied.root, base.digest) is None
    older = train(copied, recipe, copied.root / "older")
    run = train(copied, recipe, copied.root / "inpaint")
    assert run.info["from"] == {"run": "toy", "digest": base.digest}
    for path in older.checkpoints.glob("*"):
        os.utime(path, (1, 1))
    found = find_inpainting_decoder(copied.root, base.digest)
    assert found is not None and found.name == "inpaint"
    assert find_inpainting_decoder(copied.root, "0" * 64) is None
    denoiser = load_denoiser(copied.diffusion, CPU)
    loaded = load_inpainting_decoder(found, denoiser, CPU)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.model.encode(images), base.model.encode(images))
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., :5] = 1
    code = base.model.encode(images)
    filled = loaded.model.decode_latent(code, Kept(images, mask))
    assert torch.equal(filled[..., 5:], images[..., 5:]) and not torch.isclose(filled[..., :5], images[..., :5]).all()
    assert not torch.equal(loaded.model.decode(code), base.model.decode(code)), "the decoder has learned"


def test_the_preview_shows_four_rows(trained: Trained, recipe: AutoencoderRecipe, tmp_path: Path) -> None:
    """Original, masked, plain, conditional: 12 pictures in rows of 8."""
    run = train(trained, recipe, tmp_path / "run")
    with Image.open(sorted(run.sheets.iterdir())[-1]) as sheet:
        assert sheet.size == (2 + 8 * 18, 2 + 2 * 4 * 18)
    *_, last = read_metrics(run.metrics_path)
    assert last["val_psnr_masked"] > last["val_psnr"]


def test_goes_on_without_from_and_ends_with_the_same_bytes(
    trained: Trained, recipe: AutoencoderRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(trained, recipe, tmp_path / "whole")
    masks, calls = train_ae.training_masks, list[int]()

    def stop_once(recipe: AutoencoderRecipe, step: int, world: World) -> torch.Tensor | None:
        calls.append(step)
        if calls == [0, 1]:
            os.kill(os.getpid(), signal.SIGINT)
        return masks(recipe, step, world)

    monkeypatch.setattr(train_ae, "training_masks", stop_once)
    with pytest.raises(InterruptedRun):
        train(trained, recipe, tmp_path / "stopped")
    torch.randn(3)
    stopped = train_autoencoder(recipe, trained.data, tmp_path / "stopped", device=CPU)
    assert calls == [0, 1, 2]
    newest = [list_checkpoints(run.checkpoints)[-1] for run in (whole, stopped)]
    for name in ("weights.safetensors", "training.safetensors"):
        assert (newest[0] / name).read_bytes() == (newest[1] / name).read_bytes(), name
    assert whole.metrics_path.read_bytes() == stopped.metrics_path.read_bytes()


def test_wrong_beginnings_leave_nothing(
    trained: Trained, recipe: AutoencoderRecipe, tiny_autoencoder: MakeRecipe, tmp_path: Path
) -> None:
    inpaint = train(trained, recipe, tmp_path / "inpaint").path
    other_grids = recipe.model_copy(update={"retrieval": recipe.retrieval.model_copy(update={"levels": 2})})
    other_codes = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"blocks": 2})})
    larger = tiny_autoencoder(data={"resolution": 32}, retrieval={"size": 16}, losses={"adversarial": 0},
                              decoder={"conditional": {"channels": 4}})
    plain, base, run = trained.autoencoder_recipe, trained.autoencoder.path, tmp_path / "new"
    cases: list[tuple[AutoencoderRecipe, Path | None, type[BricsError], str]] = [
        (recipe, None, RecipeError, r"--from: decoder.conditional makes another decoder .* Pass its run"),
        (plain, base, RecipeError, r"--from: is for recipes with decoder.conditional.* Leave it out"),
        (recipe, tmp_path / "none", DataError, r"none: no such run. There are: inpaint"),
        (recipe, trained.diffusion.path, MismatchError, r"is the run of a diffusion model, not of an autoencoder"),
        (recipe, inpaint, MismatchError, r"is itself the run of a conditional decoder. Pass --from .* `toy`"),
        (other_grids, base, MismatchError, r"toy: makes other codes than the recipe \(retrieval.levels: 3.* 2"),
        (other_codes, base, MismatchError, r"toy: makes other codes than the recipe \(encoder.blocks: 1.* 2"),
        (larger, base, MismatchError, r"toy: makes other codes than the recipe \(.*data.resolution: 16.* 32"),
    ]
    for wrong, start, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            train_autoencoder(wrong, trained.data, run, device=CPU, start=start)
        assert len(caught.value.lines) == 1 and not run.exists()
    with pytest.raises(MismatchError, match="other codes"):
        describe_plan(other_codes, trained.data, base)


def test_a_run_goes_on_from_what_it_began_with(copied: Trained, recipe: AutoencoderRecipe, tmp_path: Path) -> None:
    run = train(copied, recipe, tmp_path / "run")
    newest = list_checkpoints(copied.autoencoder.checkpoints)[-1]
    weights = load_checkpoint(newest).weights
    changed = weights | {"decoder.to_rgb.0.bias": weights["decoder.to_rgb.0.bias"] + 1}
    save_checkpoint(copied.autoencoder.checkpoints, 99, changed, {}, {"step": 99}, load_checkpoint(newest).recipe_text)
    with pytest.raises(MismatchError, match=r"run: began with the weights .* of `toy`, --from gives .*leave --from o"):
        train(copied, recipe, run.path)


def test_decoders_of_other_codes_are_refused(copied: Trained, recipe: AutoencoderRecipe) -> None:
    run, denoiser = train(copied, recipe, copied.root / "inpaint"), load_denoiser(copied.diffusion, CPU)
    with pytest.raises(MismatchError, match=r"toy: its decoder cannot be told what is kept. Train one .* --from"):
        load_inpainting_decoder(copied.autoencoder, denoiser, CPU)
    with pytest.raises(MismatchError, match="is the run of a diffusion model"):
        load_inpainting_decoder(copied.diffusion, denoiser, CPU)
    newest = list_checkpoints(run.checkpoints)[-1]
    checkpoint = load_checkpoint(newest)
    save_checkpoint(run.checkpoints, 99, checkpoint.weights | {"encoder.out.bias": torch.ones(2)}, {}, {"step": 99},
                    checkpoint.recipe_text)
    with pytest.raises(MismatchError, match=r"step-0000099: encoder.out.bias is not that of autoencoder"):
        load_inpainting_decoder(run, denoiser, CPU)
    info = run.info | {"from": {"run": "other", "digest": "ab" * 32}}
    run.info_path.write_text(json.dumps(info))
    with pytest.raises(MismatchError, match=r"inpaint: began with autoencoder abababab \(`other`\), .* Choose another"):
        load_inpainting_decoder(run, denoiser, CPU)
    assert find_inpainting_decoder(copied.root, checkpoint_digest(newest) or "") is None
    run.info_path.write_text("broken")
    assert find_inpainting_decoder(copied.root, "ab" * 32) is None
    assert isinstance(run, RunDirectory)
