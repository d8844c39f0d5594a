"""Faster or in less memory, but the same training."""

import copy
import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bricscli.diffusion.denoiser import KEY_CODES
from bricscli.errors import BricsError
from bricscli.nn.unet import UNet
from bricscli.recipe.recipes import DiffusionRecipe
from bricscli.training.acceleration import Acceleration
from bricscli.training.steps import DiffusionStep

MakeDiffusion = Callable[..., DiffusionRecipe]
CPU = torch.device("cpu")
CODES = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def make(recipe: DiffusionRecipe, **flags: bool) -> DiffusionStep:
    step = DiffusionStep(recipe, CPU, KEY_CODES, channels=2, size=8)
    Acceleration(**flags).apply(step.denoiser.model, torch.zeros_like(CODES), recipe.training.precision)
    return step


def train(step: DiffusionStep, steps: int = 3) -> dict[str, Tensor]:
    for number in range(steps):
        step(number, CODES)
    return {name: value.clone() for name, value in (step.weights() | step.training_state()).items()}


def test_recomputing_gives_the_same_bits(tiny_diffusion: MakeDiffusion) -> None:
    wanted, found = (train(make(tiny_diffusion(), gradient_checkpointing=on)) for on in (False, True))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_recomputing_keeps_less() -> None:
    """Counted in the bytes that autograd saves for the backward pass: at most half."""
    kept = {}
    for on in (False, True):
        torch.manual_seed(0)
        model = UNet(inputs=2, size=16, channels=16, multipliers=[1, 2], blocks=2, attention=[8], head_channels=8)
        Acceleration(gradient_checkpointing=on).apply(model, torch.zeros(4, 2, 16, 16), "fp32")
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        gc.collect()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = model(torch.randn(4, 2, 16, 16), torch.zeros(4))
        del y
        weights = sum(p.numel() * 4 for p in model.parameters())
        kept[on] = sum(saved.values()) - weights
    assert kept[True] < 0.5 * kept[False]


@pytest.mark.parametrize("flags", [{"channels_last": True}, {"compile": True},
                                   {"compile": True, "channels_last": True, "gradient_checkpointing": True}])
def test_the_same_training_but_for_rounding(
    tiny_diffusion: MakeDiffusion, monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool]
) -> None:
    """Names and shapes are the same, so any of them goes on from any other's checkpoint, also in the other layout.

    Traced and differentiated as by torch.compile, but without minutes of a C++ compiler.
    """
    monkeypatch.setattr(UNet, "compile", lambda self: nn.Module.compile(self, backend="aot_eager"))
    recipe = tiny_diffusion(training={"ema": [0.9, 0.5]})
    plain, fast = make(recipe), make(recipe, **flags)
    wanted, found = train(plain), train(fast)
    assert list(found) == list(wanted)
    for name, value in wanted.items():  # Adam turns rounding into steps of its rate, 8e-4 at most, where it is all
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    resumed, other = make(recipe, **flags), make(recipe)
    for step in (resumed, other):
        step.load(fast.weights(), fast.training_state(), fast.more_averages())
    assert fast.denoiser.optimiser.state_dict()["state"][0]["exp_avg"].stride() == (
        resumed.denoiser.optimiser.state_dict()["state"][0]["exp_avg"].stride())
    here, there = train(resumed, 2), train(other, 2)
    for name, value in train(fast, 2).items():
        assert torch.equal(here[name], value), name
        torch.testing.assert_close(there[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert copy.deepcopy(fast.denoiser.model).state_dict().keys() == fast.weights().keys()


def test_a_model_that_does_not_compile_is_told_in_a_line(
    tiny_diffusion: MakeDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: UNet, *arguments: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nmany\nlines")

    monkeypatch.setattr(UNet, "forward", fail)
    monkeypatch.setattr(UNet, "compile", lambda self: None)
    with pytest.raises(BricsError) as caught:
        make(tiny_diffusion(), compile=True)
    assert str(caught.value).startswith("--compile: torch could not compile the denoiser (RuntimeError: Invalid")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
