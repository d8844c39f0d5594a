"""Training on images: the right ones, the right losses, and nothing begun that cannot be ended."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from bricscli import weights
from bricscli.build import build_autoencoder, build_discriminator, count_parameters
from bricscli.data.images import decode_image
from bricscli.data.shards import ShardSet
from bricscli.errors import DataError
from bricscli.losses.perceptual import PerceptualLoss
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints
from bricscli.run.log import read_metrics
from bricscli.tasks.models import load_autoencoder
from bricscli.tasks.prepare import prepare_toy
from bricscli.tasks.train_ae import (
    compare_sheet,
    describe_plan,
    encoded_checkpoints,
    entries_hit,
    load_perceptual,
    train_autoencoder,
)
from bricscli.weights import MissingWeights

CPU = torch.device("cpu")
MakeRecipe = Callable[..., AutoencoderRecipe]
Trained = Any  # tests/tasks/conftest.py


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A file that passes for pretrained SqueezeNet."""
    torch.manual_seed(11)
    state = squeezenet1_1(weights=None).state_dict()
    save_file(state, tmp_path / "squeezenet1_1.safetensors")
    monkeypatch.setenv("BRICS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    file = dataclasses.replace(weights.WEIGHTS["squeezenet1_1"], files={"squeezenet1_1.safetensors": None})
    monkeypatch.setitem(weights.WEIGHTS, "squeezenet1_1", file)
    return state


def test_the_perceptual_loss_has_the_pretrained_weights(
    tiny_autoencoder: MakeRecipe, pretrained: dict[str, torch.Tensor]
) -> None:
    loss = load_perceptual(tiny_autoencoder(losses={"perceptual": 1, "perceptual_network": "squeezenet1_1"}))
    assert isinstance(loss, PerceptualLoss)
    found = next(iter(loss.stages.state_dict().values()))
    assert torch.equal(found, pretrained["features.0.weight"])
    assert load_perceptual(tiny_autoencoder(losses={"perceptual": 0})) is None


def test_missing_weights_stop_it_before_anything_is_made(
    trained: Trained, tiny_autoencoder: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("BRICS_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises(MissingWeights, match=r"vgg16"):
        train_autoencoder(tiny_autoencoder(losses={"perceptual": 5}), trained.data, tmp_path / "run", device=CPU)
    assert list(tmp_path.iterdir()) == []


def test_the_perceptual_loss_is_used(
    trained: Trained, tiny_autoencoder: MakeRecipe, tmp_path: Path, pretrained: dict[str, torch.Tensor]
) -> None:
    losses = {"adversarial": 0, "l2": 2, "perceptual": 3, "perceptual_network": "squeezenet1_1"}
    recipe = tiny_autoencoder(data={"resolution": 32}, retrieval={"size": 16}, losses=losses,
                              training={"images": 4})
    data = prepare_toy(tmp_path / "data", resolution=32, count=8, val_fraction=0.5, workers=1).dataset.path
    (line,) = read_metrics(train_autoencoder(recipe, data, tmp_path / "run", device=CPU).metrics_path)
    assert line["perceptual"] > 0
    assert line["loss"] == pytest.approx(2 * line["l2"] + 3 * line["perceptual"], rel=1e-5)


def test_a_run_goes_on_with_the_data_it_began_with(copied: Trained, tmp_path: Path) -> None:
    other = prepare_toy(tmp_path / "other", resolution=16, count=40, seed=9, val_fraction=0.3, workers=1).dataset.path
    with pytest.raises(DataError, match=r"other: is not the data set that .* began with"):
        train_autoencoder(copied.autoencoder_recipe, other, copied.autoencoder.path, device=CPU)


def test_mirroring_is_the_recipes(trained: Trained, tiny_autoencoder: MakeRecipe, tmp_path: Path) -> None:
    def weights_of(name: str, flip: bool) -> bytes:
        recipe = tiny_autoencoder(data={"flip": flip}, losses={"adversarial": 0}, training={"images": 8})
        run = train_autoencoder(recipe, trained.data, tmp_path / name, device=CPU)
        return (list_checkpoints(run.checkpoints)[-1] / "training.safetensors").read_bytes()

    assert weights_of("a", True) == weights_of("b", True) != weights_of("c", False)


def test_the_checkpoint_that_was_encoded_stays(copied: Trained) -> None:
    newest = list_checkpoints(copied.autoencoder.checkpoints)[-1]
    assert [checkpoint_digest(path) for path in encoded_checkpoints(copied.autoencoder)] == [checkpoint_digest(newest)]
    for path in copied.autoencoder.codes.iterdir():
        path.unlink()
    assert encoded_checkpoints(copied.autoencoder) == []


def test_the_log_tells_how_much_of_the_grids_is_hit(trained: Trained) -> None:
    """With the preview, and as the preview's images hit them then."""
    lines = read_metrics(trained.autoencoder.metrics_path)
    shares = [line["entries_hit"] for line in lines if "entries_hit" in line]
    assert shares and all(0 < share <= 1 for share in shares)
    assert [line["images_seen"] for line in lines if "entries_hit" in line] == [
        line["images_seen"] for line in lines if "val_psnr" in line]
    model = load_autoencoder(trained.autoencoder, CPU).model
    split = ShardSet.open(trained.data).split("val")
    val = torch.from_numpy(np.stack([decode_image(split.read(i)) for i in range(len(split))]))
    assert entries_hit(model, val, CPU) == {"entries_hit": pytest.approx(shares[-1])}
    assert entries_hit(model, val[:1], CPU)["entries_hit"] < shares[-1]


def test_without_grids_no_entries_are_hit(
    trained: Trained, tiny_autoencoder: MakeRecipe, tmp_path: Path
) -> None:
    recipe = tiny_autoencoder(bottleneck={"kind": "kl", "channels": 2}, retrieval={"kind": "none"},
                              losses={"adversarial": 0}, training={"images": 4})
    (line,) = read_metrics(train_autoencoder(recipe, trained.data, tmp_path / "run", device=CPU).metrics_path)
    assert "val_psnr" in line and "entries_hit" not in line


def test_the_plan_counts_the_parts_that_there_are(
    trained: Trained, tiny_autoencoder: MakeRecipe, method: dict[str, Any]
) -> None:
    recipe = tiny_autoencoder(**method)
    model, critic = build_autoencoder(recipe), build_discriminator(recipe)
    lines = describe_plan(recipe, trained.data)
    counts = {line.split()[0]: float(line.split()[1]) for line in lines if "M parameters" in line}
    parts = {"encoder": model.encoder, "bottleneck": model.bottleneck, "grids": model.retrieval,
             "decoder": model.decoder, "discriminator": critic}
    wanted = {name: count_parameters(part) / 1e6 for name, part in parts.items() if count_parameters(part)}
    assert counts == {name: pytest.approx(count, abs=0.0051) for name, count in wanted.items()}
    entries = [line for line in lines if "grid entries" in line]
    assert len(entries) == ("grids" in wanted) and all(line.startswith("grids ") for line in entries)
    assert len({line.index("M parameters") for line in lines if "M parameters" in line}) == 1, "one column"
    assert any("28 train, 12 val" in line for line in lines)


def test_a_plan_without_a_critic(trained: Trained, tiny_autoencoder: MakeRecipe) -> None:
    assert not any("discriminator" in line
                   for line in describe_plan(tiny_autoencoder(losses={"adversarial": 0}), trained.data))


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_sheets_show_originals_above_reconstructions(count: int) -> None:
    real = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    image = compare_sheet(real, real + 200, columns=2)
    rows = -(-count // 2)
    first_column = [int(value) for value in image[0, :, 3] if value in (0, 200)]
    changes = [value for value, before in zip(first_column, [None, *first_column], strict=False) if value != before]
    assert changes == [0, 200] * rows
    assert (image == 200).sum() == (image == 0).sum() == count * 3 * 4 * 4
