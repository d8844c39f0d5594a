"""Classes from folders to samples: labels go with their codes, are drawn by the seed, and are what the images show."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bricscli.data.labels import read_labels
from bricscli.data.shards import ShardSet
from bricscli.errors import DataError, RecipeError
from bricscli.recipe.diffusion_specs import SamplingSpec
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.tasks.choices import Asked
from bricscli.tasks.classes import check_conditions, draw_labels, open_labels
from bricscli.tasks.draw import iter_samples
from bricscli.tasks.encode import encode
from bricscli.tasks.models import load_denoiser
from bricscli.tasks.prepare import prepare_folder
from bricscli.tasks.sample import sample_to_folder
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py
MakeDiffusion = Callable[..., DiffusionRecipe]
CLASSES: dict[str, Any] = {"denoiser": {"classes": 2}, "training": {"images": 8}}
COUNTS = {"dark": 20, "light": 10}


@pytest.fixture(scope="module")
def labelled(
    tmp_path_factory: pytest.TempPathFactory, tiny_autoencoder: Callable[..., AutoencoderRecipe],
    tiny_diffusion: MakeDiffusion
) -> Path:
    """`data`, `toy` and `toy-diffusion`: 20 dark images and 10 light ones, a fifth of them to validate."""
    root = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (root / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 100, (16, 16, 3)) + (150 if name == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / name / f"{i}.png")
    prepare_folder(root / "data", folder=root / "photos", resolution=16, classes=True, val_fraction=0.2, workers=1)
    recipe = tiny_autoencoder(losses={"adversarial": 0}, training={"images": 8})
    run = train_autoencoder(recipe, root / "data", root / "toy", device=CPU)
    encode(run, root / "data", device=CPU)
    train_denoiser(tiny_diffusion(**CLASSES), run.path, root / "toy-diffusion", device=CPU)
    return root


def test_labels_go_with_their_codes(labelled: Path) -> None:
    images, codes = ShardSet.open(labelled / "data"), ShardSet.open(labelled / "toy" / "codes")
    assert codes.header["classes"] == images.header["classes"] == ["dark", "light"]
    for name in images.splits:
        one, other = images.split(name), codes.split(name)
        assert one.keys == other.keys and other.extensions == ["cls", "code.npy", "flip.npy"]
        assert read_labels(one, 2).tolist() == read_labels(other, 2).tolist()
        assert all(json.loads(one.read(i, "json"))["label"] == int(other.read(i, "cls")) for i in range(len(one)))


def test_the_run_names_its_classes(labelled: Path, trained: Trained) -> None:
    labels = read_labels(ShardSet.open(labelled / "data").split("train"), 2)
    counts = {"dark": int((labels == 0).sum()), "light": int((labels == 1).sum())}
    assert RunDirectory.open(labelled / "toy-diffusion").info["classes"] == counts and sum(counts.values()) == 24
    assert load_denoiser(RunDirectory.open(labelled / "toy-diffusion"), CPU).classes == counts
    assert "classes" not in trained.diffusion.info and load_denoiser(trained.diffusion, CPU).classes == {}


def test_training_hears_the_label_of_each_code(
    labelled: Path, tmp_path: Path, tiny_diffusion: MakeDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes whose values are their labels, all of one batch or more: what is told is what is shown."""
    from bricscli.tasks import train_diffusion as task

    labels = read_labels(ShardSet.open(labelled / "data").split("train"), 2).tolist()
    waiting = iter([labels[0], *labels * 9])  # one reading thread, and the first sample is read twice
    seen: list[tuple[list[float], list[int]]] = []

    class Step(task.DiffusionStep):
        def __call__(self, step: int, key_code: torch.Tensor, label: torch.Tensor | None = None,
                     *more: torch.Tensor | None) -> dict[str, float]:
            assert label is not None and label.dtype == torch.int64
            seen.append((key_code[:, 0, 0, 0].tolist(), label.tolist()))
            return super().__call__(step, key_code, label)

    monkeypatch.setattr(task, "DiffusionStep", Step)
    monkeypatch.setattr(task, "decode_code", lambda data, shape: np.full(shape, next(waiting), np.float16))
    monkeypatch.setattr("bricscli.data.loader.order", lambda seed, count, epoch, places: places)
    monkeypatch.setattr("bricscli.data.loader.os.cpu_count", lambda: 1)
    train_denoiser(tiny_diffusion(**CLASSES | {"training": {"images": 24, "flip": False}}), labelled / "toy",
                   tmp_path / "run", device=CPU)
    assert len(seen) == 6 and {value for values, _ in seen for value in values} == {0.0, 1.0}
    assert all(values == [float(label) for label in told] for values, told in seen)


def test_labels_and_averages_go_on_as_if_nothing_had_happened(labelled: Path, tiny_diffusion: MakeDiffusion,
                                                              tmp_path: Path) -> None:
    """Stopped and started again, every file of a checkpoint is that of a run that was not."""
    recipe = tiny_diffusion(denoiser={"classes": 2}, training={"images": 16, "ema": [0.9, 0.5], "label_dropout": 0.4})
    run = train_denoiser(recipe, labelled / "toy", tmp_path / "run", device=CPU, save_every=0)
    newest = list_checkpoints(run.checkpoints)[-1]
    wanted = {path.name: path.read_bytes() for path in newest.iterdir()}
    assert {"weights.safetensors", "weights-0.5.safetensors"} < wanted.keys()
    shutil.rmtree(newest)
    train_denoiser(recipe, labelled / "toy", run.path, device=CPU)
    assert {path.name: path.read_bytes() for path in newest.iterdir()} == wanted


def test_codes_and_recipe_must_agree(labelled: Path, trained: Trained, tiny_diffusion: MakeDiffusion,
                                     tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"codes: has no labels, and denoiser.classes is 2\. Prepare .* --classes and"):
        train_denoiser(tiny_diffusion(**CLASSES), trained.autoencoder.path, tmp_path / "run", device=CPU)
    with pytest.raises(RecipeError, match=r"denoiser.classes: is 3, but .*codes has 2 \(dark, light\)\. Write --set"):
        train_denoiser(tiny_diffusion(denoiser={"classes": 3}), labelled / "toy", tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()
    assert open_labels(ShardSet.open(labelled / "toy" / "codes"), tiny_diffusion()) is None, "unconditional: fine"


def test_a_label_is_its_seeds_own_draw_from_the_training_data() -> None:
    """3000 draws of 20, 0 and 10: shares within 4 standard deviations of 0.0086; the same beside any others."""
    classes = {"dark": 20, "none": 0, "light": 10}
    drawn = draw_labels(classes, range(3000))
    assert drawn is not None and drawn.dtype == torch.int64
    shares = (torch.bincount(drawn, minlength=3) / 3000).tolist()
    assert shares == pytest.approx([2 / 3, 0, 1 / 3], abs=0.035) and shares[1] == 0
    some = draw_labels(classes, [2999, 7])
    assert some is not None and some.tolist() == [drawn[2999], drawn[7]]
    one = draw_labels(classes, [5, 6], "light")
    assert one is not None and one.tolist() == [2, 2]
    assert draw_labels({}, [1, 2]) is None


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_seed_is_an_image_of_its_class(labelled: Path, guidance: float) -> None:
    """Whatever the batch, with one evaluation a step or two; the class is heard, and so is guidance."""
    denoiser = load_denoiser(RunDirectory.open(labelled / "toy-diffusion"), CPU)
    torch.manual_seed(0)
    for parameter in [*denoiser.prior.denoiser.parameters(), *denoiser.autoencoder.model.retrieval.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    asked: list[int] = []
    denoiser.prior.denoiser.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))

    def draw(seeds: list[int], batch_size: int = 64, only: str | None = None, w: float = guidance) -> dict[int, bytes]:
        sampling = SamplingSpec(steps=3, guidance=w)
        return {seed: image.numpy().tobytes()
                for batch in iter_samples(denoiser, seeds, sampling, CPU, batch_size, only)
                for seed, image in zip(batch.seeds, batch.images, strict=True)}

    everyone = list(range(11))
    reference = draw(everyone)
    assert set(asked) == {8} and len(asked) == 2 * 4 * (1 if guidance == 1 else 2), "passes of one width"
    assert draw(everyone[::-1], 3) == reference and draw([6], 1) == {6: reference[6]}
    labels = draw_labels(denoiser.classes, everyone)
    assert labels is not None and len(labels.unique()) == 2
    dark, light = draw(everyone, only="dark"), draw(everyone, only="light")
    for seed, label in enumerate(labels.tolist()):
        assert reference[seed] == (dark, light)[label][seed] != (light, dark)[label][seed]
    assert draw(everyone, w=guidance + 1) != reference


def test_folders_of_one_class(labelled: Path, tmp_path: Path) -> None:
    run, out = RunDirectory.open(labelled / "toy-diffusion"), tmp_path / "out"
    sample_to_folder(run, out, seeds=range(2), device=CPU, only="light", asked=Asked(guidance=2.0))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["class"] == "light" and manifest["sampling"]["guidance"] == 2
    for only, guidance in (("dark", 2.0), (None, 2.0), ("light", None)):
        with pytest.raises(DataError, match="drawn in another way"):
            sample_to_folder(run, out, seeds=range(2), device=CPU, only=only, asked=Asked(guidance=guidance))


@pytest.mark.parametrize(("only", "said"), [
    ("ligth", "--class: `ligth` is unknown to toy. Did you mean `light`?"),
    ("zebra", "--class: `zebra` is unknown to toy. There are: dark, light."),
])
def test_a_class_that_a_denoiser_does_not_know(tiny_diffusion: MakeDiffusion, only: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_conditions("toy", tiny_diffusion(**CLASSES), COUNTS, only, 1.0)
    assert list(caught.value.lines) == [said]
    check_conditions("toy", tiny_diffusion(**CLASSES), COUNTS, "light", 3.0)


def test_conditions_without_classes_or_dropped_labels(tiny_diffusion: MakeDiffusion) -> None:
    check_conditions("toy", tiny_diffusion(), {}, None, 1.0)
    with pytest.raises(RecipeError) as caught:
        check_conditions("toy", tiny_diffusion(), {}, "light", 2.0)
    assert list(caught.value.lines) == [
        "--class: toy was trained without classes. Leave it out.",
        "--guidance: 2 needs a denoiser with classes, which toy is not. Leave it out."]
    always = tiny_diffusion(denoiser={"classes": 2}, training={"label_dropout": 0.0})
    with pytest.raises(RecipeError, match="--guidance: 0 needs a denoiser whose labels were dropped now and then"):
        check_conditions("toy", always, COUNTS, None, 0.0)
