"""Codes in (0, 1), and the noise of relaxed precision where, and only where, it belongs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bricscli.build import build_autoencoder
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.bottleneck import relax_precision
from bricscli.nn.noise import Noise
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.recipe.recipes import AutoencoderRecipe


@pytest.fixture
def model(tiny_autoencoder: Callable[..., AutoencoderRecipe]) -> Autoencoder:
    torch.manual_seed(0)
    return build_autoencoder(tiny_autoencoder())


def tiled_keys(model: Autoencoder, code: Tensor, generator: torch.Generator | None) -> Tensor:
    """What the grids are asked for when `code` is decoded: as after training, or with a generator as in training."""
    seen: list[Tensor] = []
    hooks = [model.encoder.register_forward_hook(lambda *_: torch.logit(code)),
             model.retrieval.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))]
    image = torch.zeros(len(code), 3, 16, 16)
    if generator is None:
        model(image)
    else:
        model.reconstruct(image, Noise(generator))
    for hook in hooks:
        hook.remove()
    return seen[0].detach()


def test_codes_lie_between_0_and_1(model: Autoencoder) -> None:
    code = model.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    assert code.shape == (2, 2, 8, 8)
    assert code.min() > 0 and code.max() < 1
    torch.nn.init.constant_(model.encoder.out.weight, 0)
    assert model.encoder.out.bias is not None
    torch.nn.init.constant_(model.encoder.out.bias, 2.0)
    torch.testing.assert_close(model.encode(torch.zeros(1, 3, 16, 16)), torch.full((1, 2, 8, 8), 0.880797))


def test_forward_is_encode_then_decode(model: Autoencoder) -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert model(images).shape == images.shape
    assert torch.equal(model(images), model.decode(model.encode(images)))


def test_noise_has_the_papers_deviation(model: Autoencoder) -> None:
    code = torch.full((64, 2, 4, 4), 0.5)  # tiled twice in each direction
    noise = tiled_keys(model, code, torch.Generator().manual_seed(0)) - 0.5
    assert noise.std().item() == pytest.approx(1 / (4 * 8), rel=0.02)
    assert abs(noise.mean().item()) < 0.001
    repeated = noise.reshape(64, 2, 4, 2, 4, 2)
    assert (repeated[..., 0, :, 0] != repeated[..., 1, :, 1]).float().mean() > 0.99, "every pixel has its own"
    again = tiled_keys(model, code, torch.Generator().manual_seed(0)) - 0.5
    assert torch.equal(noise, again)


def test_noise_stays_on_the_grid() -> None:
    noise = torch.tensor([-3.0, 0.0, 3.0])
    assert relax_precision(torch.zeros(3), 16, noise).tolist() == pytest.approx([0, 0, 3 / 64])
    assert relax_precision(torch.ones(3), 16, noise).tolist() == pytest.approx([1 - 3 / 64, 1, 1])


def test_no_noise_unless_asked_for(
    model: Autoencoder, tiny_autoencoder: Callable[..., AutoencoderRecipe]
) -> None:
    code = torch.rand(1, 2, 8, 8)
    torch.testing.assert_close(tiled_keys(model, code, None), code)
    exact = build_autoencoder(tiny_autoencoder(bottleneck={"noise": False}))
    torch.testing.assert_close(tiled_keys(exact, code, torch.Generator().manual_seed(0)), code)


def test_gradients_reach_the_encoder_through_the_noise(model: Autoencoder) -> None:
    assert isinstance(model.retrieval, FeatureGrid)
    torch.nn.init.normal_(model.retrieval.table)
    noise = Noise(torch.Generator().manual_seed(0))
    model.reconstruct(torch.rand(2, 3, 16, 16), noise).image.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.encoder.parameters() if p.ndim > 1)
