"""The step of a conditional decoder: what learns, how fast, from what; everything else stays bit for bit."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bricscli.build import build_autoencoder
from bricscli.data.masks import draw_training_masks
from bricscli.nn.decoders.conditional import Kept
from bricscli.nn.noise import Noise
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.runtime import generator_for
from bricscli.training.steps import AutoencoderStep

CPU = torch.device("cpu")
MakeRecipe = Callable[..., AutoencoderRecipe]
CONDITIONAL = {"channels": 4, "decoder_rate": 0.25}
#: One of each way to fill the four places, RQ's codebook among them, which moves without gradients.
WAYS: dict[str, dict[str, Any]] = {
    "brics": {"decoder": {"conditional": CONDITIONAL}, "losses": {"adversarial": 0}},
    "rq": {"bottleneck": {"kind": "rq", "channels": 8, "entries": 16, "depth": 2}, "retrieval": {"kind": "none"},
           "decoder": {"kind": "conv", "channels": 8, "multipliers": [1, 2], "blocks": 1, "conditional": CONDITIONAL}},
    "kl": {"bottleneck": {"kind": "kl", "channels": 2}, "retrieval": {"kind": "none"},
           "decoder": {"kind": "movq", "channels": 8, "multipliers": [1, 2], "blocks": 1, "conditional": CONDITIONAL}}}


def real(seed: int = 0) -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def masks(step: int = 0) -> Tensor:
    return torch.from_numpy(draw_training_masks("mixed", 3, step, 4, 16, 0.5))


def base_weights(recipe: AutoencoderRecipe) -> dict[str, Tensor]:
    torch.manual_seed(99)
    return copy.deepcopy(build_autoencoder(recipe).state_dict())


@pytest.mark.parametrize("way", WAYS)
def test_only_the_decoder_learns(tiny_autoencoder: MakeRecipe, way: str) -> None:
    recipe = tiny_autoencoder(**WAYS[way])
    start = base_weights(recipe)
    step = AutoencoderStep(recipe, CPU, None, start)
    for number in range(2):
        step(number, real(number), masks(number))
    for name, tensor in step.generator.model.state_dict().items():
        moved = not torch.equal(tensor, start[name])
        assert moved == name.startswith("decoder."), name
    for name, tensor in step.averaged.state_dict().items():
        assert name.startswith("decoder.") or torch.equal(tensor, start[name]), "averages of what stands still"
    assert all(p.grad is None for name, p in step.generator.model.named_parameters() if not name.startswith("decoder."))
    assert not [name for name in step.training_state() if name.startswith("generator.optimiser.encoder")]


def test_two_learning_rates(tiny_autoencoder: MakeRecipe) -> None:
    """Adam's first step is as long as the learning rate."""
    recipe = tiny_autoencoder(**WAYS["brics"], training={"ema": 0, "learning_rate": 1e-3})
    start = base_weights(recipe)
    step = AutoencoderStep(recipe, CPU, None, start)
    step(0, real(), masks())
    moved = {name: (tensor - start[name]).abs().max().item() for name, tensor in step.averaged.state_dict().items()}
    assert max(moved[name] for name in moved if name.startswith("decoder.condition")) == pytest.approx(1e-3, rel=1e-3)
    plain = [moved[name] for name in moved if name.startswith("decoder.") and "condition" not in name]
    assert max(plain) == pytest.approx(0.25e-3, rel=0.02), "the mapping's weights are large, and rounded so"


def test_a_concatenation_is_as_slow_as_the_decoder(tiny_autoencoder: MakeRecipe) -> None:
    """It starts as the identity, and the plain decoder's features go through it."""
    recipe = tiny_autoencoder(**WAYS["brics"] | {"decoder": {"conditional": CONDITIONAL | {"blend": "concatenation"}}},
                              training={"ema": 0, "learning_rate": 1e-3})
    step = AutoencoderStep(recipe, CPU, None, base_weights(recipe))
    step(0, real(), masks())
    condition = step.averaged.decoder.condition
    assert condition is not None
    moved = [(conv.get_parameter("weight")[:, :, 0, 0] - torch.eye(*conv.get_parameter("weight").shape[:2])).abs().max()
             for conv in condition.mix]
    assert max(moved).item() == pytest.approx(0.25e-3, rel=1e-3)


def test_the_loss_is_that_of_the_whole_picture(tiny_autoencoder: MakeRecipe) -> None:
    """As written out here: codes of the whole picture with the noise of relaxed precision, the rest told."""
    recipe = tiny_autoencoder(**WAYS["brics"])
    start = base_weights(recipe)
    model = build_autoencoder(recipe)
    model.load_state_dict(start)
    log = AutoencoderStep(recipe, CPU, None, start)(5, real(), masks())
    image = model.reconstruct(real(), Noise(generator_for(3, "precision", 5)), Kept(real(), masks().float())).image
    assert log["loss"] == pytest.approx(20 * float((image - real()).square().mean().detach()), rel=1e-5)
    assert 0 < int(masks().all((1, 2, 3)).sum()) < 4, "both kinds are among them"


def test_a_bottlenecks_own_loss_is_left_out(tiny_autoencoder: MakeRecipe) -> None:
    recipe = tiny_autoencoder(**WAYS["kl"] | {"losses": {"adversarial": 0, "l2": 1}})
    log = AutoencoderStep(recipe, CPU, None, base_weights(recipe))(0, real(), masks())
    assert log["loss"] == pytest.approx(log["l2"], rel=1e-6)


def test_parts_add_up(tiny_autoencoder: MakeRecipe) -> None:
    whole, parts = (tiny_autoencoder(**WAYS["brics"], training={"accumulate": count}) for count in (1, 4))
    start = base_weights(whole)
    logs = [AutoencoderStep(recipe, CPU, None, start)(0, real(), masks()) for recipe in (whole, parts)]
    for name in ("loss", "gradient"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-4)


def test_another_decoder_takes_what_fits(tiny_autoencoder: MakeRecipe) -> None:
    """A wider one of the same kind makes the same images, of another kind only the codes are the same."""
    narrow = tiny_autoencoder(losses={"adversarial": 0})
    start = base_weights(narrow)
    base = build_autoencoder(narrow)
    base.load_state_dict(start)
    wide = tiny_autoencoder(decoder={"channels": [20, 12], "extra_layers": 1, "conditional": CONDITIONAL})
    model = build_autoencoder(wide)
    model.begin_with(start)
    torch.testing.assert_close(model(real()), base(real()), rtol=1e-4, atol=1e-4)
    other = build_autoencoder(tiny_autoencoder(decoder=WAYS["kl"]["decoder"]))
    other.begin_with(start)
    assert torch.equal(other.encode(real()), base.encode(real()))
    with pytest.raises(RuntimeError):
        build_autoencoder(tiny_autoencoder(encoder={"channels": 16})).begin_with(start)
