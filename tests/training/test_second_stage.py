"""A diffusion step with the latent perceptual loss, and one that begins with given weights."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from bricscli.build import build_autoencoder, build_latent_perceptual
from bricscli.diffusion.denoiser import KEY_CODES, denoise, draw_times
from bricscli.losses.latent_perceptual import LatentPerceptualLoss
from bricscli.nn.autoencoder import Autoencoder
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.runtime import generator_for
from bricscli.training.steps import DiffusionStep

MakeDiffusion = Callable[..., DiffusionRecipe]
CPU = torch.device("cpu")
SPEC = {"latent_perceptual": {"weight": 0.5}}


@pytest.fixture
def autoencoder(tiny_autoencoder: Callable[..., AutoencoderRecipe]) -> Autoencoder:
    torch.manual_seed(0)
    model = build_autoencoder(tiny_autoencoder()).eval().requires_grad_(False)
    torch.nn.init.normal_(model.retrieval.get_parameter("table"))  # as it starts, the key says next to nothing
    return model


def codes(seed: int = 0) -> Tensor:
    return torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def step_with(recipe: DiffusionRecipe, autoencoder: Autoencoder) -> DiffusionStep:
    assert recipe.latent_perceptual
    step = DiffusionStep(recipe, CPU, KEY_CODES, channels=2, size=8,
                         perceptual=build_latent_perceptual(recipe.latent_perceptual, autoencoder, 16))
    torch.nn.init.normal_(step.denoiser.model.out.weight, generator=torch.Generator().manual_seed(0))
    return step


@pytest.mark.parametrize("predicts", ["eps", "v", "x_0", "flow"])
def test_the_loss_is_equation_3(tiny_diffusion: MakeDiffusion, autoencoder: Autoencoder, predicts: str) -> None:
    """Against a step written out here; the autoencoder stays as it was."""
    recipe = tiny_diffusion(**SPEC, denoising={"predicts": predicts}, training={"gradient_clip": 0})
    step = step_with(recipe, autoencoder)
    model, before = copy.deepcopy(step.denoiser.model), copy.deepcopy(autoencoder.state_dict())
    log = step(1, codes())
    t = draw_times(4, generator_for(3, "time", 1))
    noise = torch.randn(4, 2, 8, 8, generator=generator_for(3, "noise", 1))
    denoised = denoise(model, step.schedule, KEY_CODES.to_x_0(codes()), t, noise)
    measure = LatentPerceptualLoss(autoencoder.iter_features, 16, threshold=3.0)
    inside = denoised.log_snr >= -2 * torch.tensor(3.0).log()
    assert inside.sum() in (2, 3), "or the gate is not seen"
    term = measure.distance(list(autoencoder.iter_features(codes()[inside])),
                            list(autoencoder.iter_features(KEY_CODES.to_latent(denoised.x_0[inside])))).sum() / 4
    loss = denoised.loss + 0.5 * term
    loss.backward()
    assert {name: log[name] for name in ("loss", "denoising", "latent_perceptual")} == pytest.approx(
        {"loss": loss.item(), "denoising": denoised.loss.item(), "latent_perceptual": term.item()}, rel=1e-5)
    for ours, wanted in zip(step.denoiser.model.parameters(), model.parameters(), strict=True):
        assert ours.grad is not None and wanted.grad is not None
        torch.testing.assert_close(ours.grad, wanted.grad, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in autoencoder.state_dict().items())
    assert not any("autoencoder" in name or "retrieval" in name for name in step.training_state() | step.weights())


def test_parts_add_up(tiny_diffusion: MakeDiffusion, autoencoder: Autoencoder) -> None:
    """Also where the gate is shut for a whole part."""
    whole = step_with(tiny_diffusion(**SPEC), autoencoder)
    parts = step_with(tiny_diffusion(**SPEC, training={"accumulate": 4}), autoencoder)
    assert parts(0, codes()) == pytest.approx(whole(0, codes()), rel=1e-4)


def test_bf16_leaves_the_decoder_in_fp32(tiny_diffusion: MakeDiffusion, autoencoder: Autoencoder) -> None:
    seen = set()
    for module in autoencoder.modules():
        module.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    exact, half = (step_with(tiny_diffusion(**SPEC, training={"precision": precision}), autoencoder)
                   for precision in ("fp32", "bf16"))
    wanted, found = exact(0, codes()), half(0, codes())
    assert seen == {torch.float32}
    for name in ("denoising", "latent_perceptual"):
        assert found[name] != wanted[name] and found[name] == pytest.approx(wanted[name], rel=0.05), name


def test_beyond_the_gate_nothing_is_decoded(tiny_diffusion: MakeDiffusion) -> None:
    """The step is then that of the first stage, to the last bit."""

    def iter_features(code: Tensor) -> Iterator[Tensor]:
        raise AssertionError("decoded")

    recipe = tiny_diffusion(**SPEC)
    shut = DiffusionStep(recipe, CPU, KEY_CODES, channels=2, size=8,
                         perceptual=LatentPerceptualLoss(iter_features, 16, 1e-9))
    plain = DiffusionStep(tiny_diffusion(), CPU, KEY_CODES, channels=2, size=8)
    log, wanted = shut(0, codes()), plain(0, codes())
    assert log == wanted | {"denoising": wanted["loss"], "latent_perceptual": 0.0}
    assert all(torch.equal(value, plain.weights()[name]) for name, value in shut.weights().items())


def test_it_learns(tiny_diffusion: MakeDiffusion, autoencoder: Autoencoder) -> None:
    """One batch by heart: both losses fall."""
    recipe = tiny_diffusion(**SPEC, denoising={"predicts": "v"}, training={"decay_images": 0, "learning_rate": 3e-3})
    step = step_with(recipe, autoencoder)
    logs = [step(2, codes()) for _ in range(60)]
    for name, share in (("denoising", 0.3), ("latent_perceptual", 0.6)):  # the latter is divided by what moves
        assert logs[-1][name] < share * logs[0][name], (name, logs[0], logs[-1])


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_given_weights_are_where_model_and_average_begin(tiny_diffusion: MakeDiffusion, ema: float) -> None:
    first = DiffusionStep(tiny_diffusion(training={"seed": 8}), CPU, KEY_CODES, channels=2, size=8)
    second = DiffusionStep(tiny_diffusion(training={"ema": ema}), CPU, KEY_CODES, channels=2, size=8,
                           weights=first.weights())
    for weights in (second.weights(), second.denoiser.model.state_dict()):
        assert all(torch.equal(value, weights[name]) for name, value in first.weights().items())
    second(0, codes())
    again = DiffusionStep(tiny_diffusion(training={"seed": 8}), CPU, KEY_CODES, channels=2, size=8)
    assert all(torch.equal(value, again.weights()[name]) for name, value in first.weights().items()), "copies"
