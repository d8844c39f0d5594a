"""Keys that were moved: by how much, which way, and by nothing but the seed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bricscli.build import build_autoencoder
from bricscli.errors import MismatchError
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.runtime import generator_for
from bricscli.tasks.eval.perturbed import perturbed
from bricscli.tasks.models import LoadedAutoencoder

R_MAX = 8


def loaded(recipe: AutoencoderRecipe) -> LoadedAutoencoder:
    torch.manual_seed(0)
    model = build_autoencoder(recipe).eval().requires_grad_(False)
    model.encoder.out.weight *= 0.5  # keys around a half, so that few moves need to be clamped
    return LoadedAutoencoder("toy", recipe, model, "digest", Path("weights"))


@pytest.fixture
def autoencoder(tiny_autoencoder: Callable[..., AutoencoderRecipe]) -> LoadedAutoencoder:
    """Codes of 8x8x2, each key tiled to 2x2 pixels."""
    return loaded(tiny_autoencoder(data={"resolution": 16}, retrieval={"size": 16, "r_max": R_MAX},
                                   decoder={"channels": [8]}))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def keys_looked_up(autoencoder: LoadedAutoencoder, reconstruct: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The tiled keys that reach the grids."""
    seen: list[Tensor] = []
    hook = autoencoder.model.retrieval.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    reconstruct(images)
    hook.remove()
    (keys,) = seen
    return keys


@pytest.mark.parametrize("cells", [0.5, 0.125, 2.0])
def test_every_key_moves_by_as_many_cells(autoencoder: LoadedAutoencoder, images: Tensor, cells: float) -> None:
    before = keys_looked_up(autoencoder, autoencoder.model, images)
    moved = keys_looked_up(autoencoder, perturbed(autoencoder, cells), images) - before
    assert before.min() > 0.25 and before.max() < 0.75, "none is clamped"
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, cells / R_MAX), rtol=0, atol=1e-6)  # float32's
    up = (moved > 0).float()
    assert up.mean().item() == pytest.approx(0.5, abs=4 * 0.5 / len(up.flatten()) ** 0.5)  # 4 deviations of a coin
    tiles = up.unflatten(-1, (8, 2)).unflatten(-3, (8, 2))
    assert (tiles[..., 0, :, 0] != tiles[..., 1, :, 1]).float().mean() > 0.4, "every pixel has a sign of its own"
    for other in (up.flip(0), up.flip(1)):
        assert 0.4 < (up == other).float().mean() < 0.6, "and so has every image and channel"


def test_keys_stay_in_the_grid(autoencoder: LoadedAutoencoder, images: Tensor) -> None:
    before = keys_looked_up(autoencoder, autoencoder.model, images)
    keys = keys_looked_up(autoencoder, perturbed(autoencoder, R_MAX), images)
    assert keys.unique().tolist() == [0, 1]
    keys = keys_looked_up(autoencoder, perturbed(autoencoder, R_MAX / 2), images)
    ends = torch.stack([(before - 0.5).clamp(0, 1), (before + 0.5).clamp(0, 1)])
    assert (keys - ends).abs().min(0).values.max() < 1e-6
    assert 0.2 < ((keys == 0) | (keys == 1)).float().mean() < 0.8, "some are clamped, others are not"


def test_the_seed_alone_decides(autoencoder: LoadedAutoencoder, images: Tensor) -> None:
    torch.manual_seed(5)
    whole = keys_looked_up(autoencoder, perturbed(autoencoder, 0.5, seed=3), images)
    torch.manual_seed(6)
    again = perturbed(autoencoder, 0.5, seed=3)
    parts = torch.cat([keys_looked_up(autoencoder, again, part) for part in images.split([1, 3])])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)  # of the encoder, at another batch size
    assert not torch.equal(keys_looked_up(autoencoder, perturbed(autoencoder, 0.5, seed=4), images), whole)
    same = [perturbed(autoencoder, 0.5)(images) for _ in range(2)]
    assert torch.equal(*same)


@pytest.mark.parametrize("sizes", [[4], [1, 3], [2, 2], [1, 1, 1, 1]])
def test_an_image_draws_by_its_place_alone(autoencoder: LoadedAutoencoder, images: Tensor, sizes: list[int]) -> None:
    reconstruct, place = perturbed(autoencoder, 0.5, seed=3), 0
    for batch in images.split(sizes):
        before = keys_looked_up(autoencoder, autoencoder.model, batch)
        for up in keys_looked_up(autoencoder, reconstruct, batch) > before:
            assert torch.equal(up, torch.randint(2, up.shape, generator=generator_for(3, "perturb", place)).bool())
            place += 1


def test_no_cells_is_the_reconstruction(autoencoder: LoadedAutoencoder, images: Tensor) -> None:
    assert torch.equal(perturbed(autoencoder, 0.0)(images), autoencoder.model(images))
    assert not torch.equal(perturbed(autoencoder, 0.5)(images), autoencoder.model(images))


def test_grids_of_one_feature_give_the_same_image(autoencoder: LoadedAutoencoder, images: Tensor) -> None:
    assert isinstance(autoencoder.model.retrieval, FeatureGrid)
    autoencoder.model.retrieval.table.fill_(0.3)
    torch.testing.assert_close(perturbed(autoencoder, 0.5)(images), autoencoder.model(images))


def test_without_grids_there_is_nothing_to_move(tiny_autoencoder: Callable[..., AutoencoderRecipe]) -> None:
    plain = loaded(tiny_autoencoder(bottleneck={"kind": "kl", "channels": 2}, retrieval={"kind": "none"}))
    with pytest.raises(MismatchError, match=r"^toy: has no feature grids, so --perturb means nothing\."):
        perturbed(plain, 0.5)
