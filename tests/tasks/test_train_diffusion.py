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
from bricscli.recipe.diffusion_specs import SamplingSpec
from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints, load_checkpoint
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
    info = run.info
    wrong: list[dict[str, Any]] = [{}, {"latents": {"std": 0.0, "largest": 1.0}}, {"latents": {"std": 1.0}}]
    for said in wrong:
        origin = {key: value for key, value in info["autoencoder"].items() if key != "latents"}
        files.write_json(run.info_path, info | {"autoencoder": origin | said})
        with pytest.raises(DataError, match=r"run.json: does not say how far the latents spread"):
            load_denoiser(run, CPU)
        with pytest.raises(BricsError):
            train_denoiser(tiny_diffusion(), first.path, tmp_path / "second", device=CPU, start=run.path)
    assert not (tmp_path / "second").exists()


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
    with pytest.raises(DataError, match=r"no codes yet"):
        train_denoiser(recipe, run.path, copied.root / "new", device=CPU)
    assert not (copied.root / "new").exists()


def test_plan(trained: Trained, tmp_path: Path) -> None:
    lines = describe_plan(trained.diffusion_recipe, trained.autoencoder.path)
    assert "on codes of 8x8x2" in lines[0] and "28 train, 12 val" in lines[1]
    assert len(lines) == 4 and "28 samples" in lines[2]
    lines = describe_plan(trained.diffusion_recipe, tmp_path / "not-yet")  # the recipe toy.yaml tells the shape
    toy = load_recipe("toy.yaml")
    assert isinstance(toy, AutoencoderRecipe)
    assert f"on codes of {toy.code_size}x{toy.code_size}x{toy.bottleneck.channels}" in lines[0]
    assert "brics encode --run" in lines[1]
    with pytest.raises(MismatchError):
        describe_plan(trained.diffusion_recipe, trained.diffusion.path)


# A second stage


def second_stage(tiny_diffusion: Callable[..., DiffusionRecipe], **changes: Any) -> DiffusionRecipe:
    return tiny_diffusion(**({"latent_perceptual": {"weight": 0.1}, "training": {"images": 16}} | changes))


def test_a_second_stage_begins_with_the_averaged_weights(
    copied: Trained, tiny_diffusion: Callable[..., DiffusionRecipe], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is learned, they are still there at the end; where something is, it is from there."""
    first = copied.diffusion
    newest = list_checkpoints(first.checkpoints)[-1]
    still = second_stage(tiny_diffusion, training={"images": 8, "learning_rate": 1e-30})
    run = train_denoiser(still, copied.autoencoder.path, copied.root / "still", device=CPU, start=first.path)
    found, wanted = (load_checkpoint(list_checkpoints(other.checkpoints)[-1]).weights for other in (run, first))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert run.info["from"] == {"run": "toy-diffusion", "digest": checkpoint_digest(newest)}
    line = read_metrics(run.metrics_path)[0]
    assert line["loss"] == pytest.approx(line["denoising"] + 0.1 * line["latent_perceptual"])
    assert "random weights" not in capsys.readouterr().err


def test_a_second_stage_goes_on_without_from_and_with_no_other(
    copied: Trained, tiny_diffusion: Callable[..., DiffusionRecipe]
) -> None:
    """Stopped and started again it leaves the bytes of one that was not."""
    recipe, codes, first = second_stage(tiny_diffusion), copied.autoencoder.path, copied.diffusion.path
    whole = train_denoiser(recipe, codes, copied.root / "whole", device=CPU, start=first)
    run = train_denoiser(recipe, codes, copied.root / "run", device=CPU, start=first, save_every=0)
    newest, *_ = reversed(list_checkpoints(run.checkpoints))
    wanted = (newest / "training.safetensors").read_bytes()
    assert wanted == (list_checkpoints(whole.checkpoints)[-1] / "training.safetensors").read_bytes()
    shutil.rmtree(newest)
    train_denoiser(recipe, codes, run.path, device=CPU)
    assert (newest / "training.safetensors").read_bytes() == wanted
    train_denoiser(recipe, codes, run.path, device=CPU, start=first)
    with pytest.raises(MismatchError, match=r"run: began with the weights .* of `toy-diffusion`, --from gives .* of "
                                            r"`whole`\. Choose another --run, or leave --from out"):
        train_denoiser(recipe, codes, run.path, device=CPU, start=whole.path)
    with pytest.raises(MismatchError, match=r"toy-diffusion: began with random weights, --from gives"):
        train_denoiser(copied.diffusion_recipe, codes, first, device=CPU, start=whole.path)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(MismatchError, match=r"of `whole`\. Choose another --run, or delete it, as"):
        train_denoiser(recipe, codes, run.path, device=CPU, start=whole.path)
    with pytest.raises(DataError, match=r"was to begin with the weights .* of `toy-diffusion` .*Pass --from again"):
        train_denoiser(recipe, codes, run.path, device=CPU)


def test_first_stages_that_do_not_fit_leave_nothing(
    copied: Trained, tiny_diffusion: Callable[..., DiffusionRecipe]
) -> None:
    codes, first = copied.autoencoder, copied.diffusion
    other = copied.root / "other"
    shutil.copytree(first.path, other)
    info = RunDirectory.open(other).info
    files.write_json(other / "run.json", info | {"autoencoder": {"run": "else", "digest": "0" * 64}})
    labelled = copied.root / "labelled"
    shutil.copytree(first.path, labelled)
    files.write_json(labelled / "run.json", info | {"classes": {"day": 20, "night": 8}})
    empty = copied.root / "empty"
    shutil.copytree(first.path, empty, ignore=shutil.ignore_patterns("checkpoints"))
    cases: list[tuple[type[BricsError], str, dict[str, Any], Path]] = [
        (DataError, "no such run", {}, copied.root / "none"),
        (DataError, "empty: has no checkpoint yet", {}, empty),
        (MismatchError, "not of a diffusion model", {}, codes.path),
        (MismatchError, "codes of autoencoder 00000000 .`else`.", {}, other),
        (MismatchError, "knows the classes day, night, these codes have none", {}, labelled),
        (MismatchError, r"another denoiser than the recipe \(denoiser.blocks: 1 -> 2\)", {"denoiser": {"blocks": 2}},
         first.path),
        (MismatchError, r"\(schedule.kind: 'chen_cosine' -> 'flow'", {"schedule": {"kind": "flow"}}, first.path),
        (MismatchError, r"\(denoising.predicts: 'eps' -> 'v'\)", {"denoising": {"predicts": "v"}}, first.path),
        (RecipeError, "latent_perceptual.blocks: the autoencoder's decoder has 2, not 3",
         {"latent_perceptual": {"blocks": 3}}, first.path),
        (RecipeError, "sampling.start, --start: 1e-12 leaves hardly any noise", {"sampling": {"start": 1e-12}},
         first.path),
    ]
    before = listing(copied.root)
    for kind, words, changes, start in cases:
        with pytest.raises(kind, match=words) as caught:
            train_denoiser(second_stage(tiny_diffusion, **changes), codes.path, copied.root / "new", device=CPU,
                           start=start)
        assert len(caught.value.lines) == 1
    assert listing(copied.root) == before
    with pytest.raises(MismatchError, match=r"denoiser.blocks: 1 -> 2"):
        describe_plan(second_stage(tiny_diffusion, denoiser={"blocks": 2}), codes.path, first.path)


def test_without_from_a_latent_perceptual_loss_is_allowed_but_told(
    copied: Trained, tiny_diffusion: Callable[..., DiffusionRecipe], capsys: pytest.CaptureFixture[str]
) -> None:
    train_denoiser(second_stage(tiny_diffusion), copied.autoencoder.path, copied.root / "new", device=CPU)
    assert "is for a second stage of training, and this run begins with random weights" in capsys.readouterr().err
    assert "from" not in RunDirectory.open(copied.root / "new").info
