"""One step: what it computes, what it changes, and that it changes nothing when a number is not finite."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bricscli.diffusion.denoiser import KEY_CODES, Weight, denoise, draw_times
from bricscli.diffusion.guidance import drop_labels
from bricscli.diffusion.schedule import Flow
from bricscli.nn.noise import Noise
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.runtime import generator_for
from bricscli.training import steps
from bricscli.training.learner import Learner, NonFiniteError
from bricscli.training.steps import AutoencoderStep, DiffusionStep

MakeAutoencoder = Callable[..., AutoencoderRecipe]
MakeDiffusion = Callable[..., DiffusionRecipe]
CPU = torch.device("cpu")


def batch(seed: int = 0, count: int = 4) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def codes(seed: int = 0, count: int = 4) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def everything(step: AutoencoderStep | DiffusionStep) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in (step.weights() | step.training_state()).items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Perceptual(nn.Module):
    """A stand-in: 3 times the mean absolute difference."""

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        return 3 * (fake - real).abs().mean()


class Kink(nn.Module):
    """A finite loss whose gradient is not: the root of 0."""

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        return (fake - fake.detach()).square().sum().sqrt()


def test_a_step_is_equation_5_for_each_of_the_two_players(tiny_autoencoder: MakeAutoencoder) -> None:
    """Against a step written out here: no gradient of one player's loss moves the other."""
    recipe = tiny_autoencoder(losses={"l2": 20, "perceptual": 5, "adversarial": 0.7, "gradient_penalty": 4})
    step = AutoencoderStep(recipe, CPU, Perceptual())
    for number in range(3):
        assert step.critic is not None
        model, critic = copy.deepcopy(step.generator.model), copy.deepcopy(step.critic.model).requires_grad_(True)
        state = [copy.deepcopy(player.optimiser.state_dict()) for player in (step.generator, step.critic)]
        real = batch(number)
        log = step(number, real)

        fake = model.reconstruct(real, Noise(generator_for(3, "precision", number))).image
        code_std, real_score = model.encode(real).std(), critic(real).mean()
        l2, perceptual, score = (fake - real).square().mean(), 3 * (fake - real).abs().mean(), critic(fake)
        loss = 20 * l2 + 5 * perceptual - 0.7 * score.mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        mix = torch.rand(4, generator=generator_for(3, "penalty", number)).view(4, 1, 1, 1)
        between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        wasserstein = critic(fake.detach()).mean() - critic(real).mean()
        critic_gradients = torch.autograd.grad(wasserstein + 4 * penalty, list(critic.parameters()))
        players = (step.generator.model, model, gradients, state[0], 1e-15), (
            step.critic.model, critic, critic_gradients, state[1], 1e-8)
        for moved, module, expected, adam_state, epsilon in players:
            optimiser = torch.optim.Adam(module.parameters())
            optimiser.load_state_dict(adam_state)
            optimiser.param_groups[0] |= {"lr": 2e-3, "betas": (0.0, 0.99), "eps": epsilon}
            for ours, parameter, gradient in zip(moved.parameters(), module.parameters(), expected, strict=True):
                assert ours.grad is not None
                torch.testing.assert_close(ours.grad, gradient, rtol=1e-4, atol=1e-5)
                # Adam turns a gradient that is 0 but for rounding into a whole step: so from here on with theirs
                parameter.grad = ours.grad.clone()
            optimiser.step()
            assert same(moved.state_dict(), module.state_dict())
        wanted = {"loss": loss, "l2": l2, "perceptual": perceptual, "generator": -score.mean(), "code_std": code_std,
                  "gradient": torch.stack([g.norm() for g in gradients]).norm(),
                  "critic": wasserstein, "penalty": penalty, "real_score": real_score, "fake_score": score.mean(),
                  "critic_gradient": torch.stack([g.norm() for g in critic_gradients]).norm()}
        assert log.keys() == wanted.keys()
        assert log == pytest.approx({name: value.item() for name, value in wanted.items()}, rel=1e-4, abs=1e-6)


def test_what_a_step_changes(tiny_autoencoder: MakeAutoencoder) -> None:
    step = AutoencoderStep(tiny_autoencoder(), CPU, None)
    before = everything(step)
    step(0, batch())
    after = everything(step)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in unchanged if before[name].abs().max() > 0} == set(), "all weights moved"
    assert {name.split(".")[1] for name in after.keys() - before.keys()} == {"optimiser"}
    decay = 0.1  # of the first update, (1 + 0) / (10 + 0)
    for name in step.weights():
        torch.testing.assert_close(after[name], decay * before[name] + (1 - decay) * after[f"generator.model.{name}"])


def test_the_critic_waits_for_its_start(tiny_autoencoder: MakeAutoencoder) -> None:
    step = AutoencoderStep(tiny_autoencoder(losses={"adversarial_start": 4}), CPU, None)
    before = everything(step)
    assert step(0, batch()).keys() == {"loss", "l2", "gradient", "code_std"}
    after = everything(step)
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("critic."))
    assert {"generator", "critic", "penalty"} <= step(1, batch()).keys()


def test_a_weight_of_0_turns_its_term_off(tiny_autoencoder: MakeAutoencoder) -> None:
    def first(**losses: float) -> tuple[AutoencoderStep, dict[str, float]]:
        step = AutoencoderStep(tiny_autoencoder(losses=losses), CPU, Perceptual())
        return step, step(0, batch())

    _, log = first(l2=0, perceptual=0, adversarial=1)
    assert log["loss"] == pytest.approx(log["generator"])
    _, log = first(l2=0, perceptual=2, adversarial=1)
    assert log["loss"] == pytest.approx(2 * log["perceptual"] + log["generator"])
    step, log = first(l2=20, perceptual=0, adversarial=0)
    assert step.critic is None and "generator" not in log and "critic" not in log
    assert log["loss"] == pytest.approx(20 * log["l2"])
    assert not any(name.startswith("critic") for name in step.training_state())
    step, log = first(l2=20, adversarial=1, gradient_penalty=0)
    assert "penalty" not in log and "critic" in log
    plain = AutoencoderStep(tiny_autoencoder(losses={"adversarial": 0}), CPU, None)
    with_penalty, _ = first(l2=20, adversarial=1, gradient_penalty=4)
    plain(0, batch())
    found, alike, other = (s.generator.model.state_dict() for s in (step, with_penalty, plain))
    assert same(found, alike), "the penalty is the critic's alone"
    assert not same(found, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(tiny_autoencoder: MakeAutoencoder, value: float) -> None:
    step = AutoencoderStep(tiny_autoencoder(), CPU, None)
    step(0, batch())
    before, bad = everything(step), batch()
    bad[0, 0, 0, 0] = value
    with pytest.raises(NonFiniteError) as caught:
        step(1, bad)
    assert str(caught.value) == "loss"
    assert same(everything(step), before)


def test_a_gradient_that_is_not_finite_changes_nothing(tiny_autoencoder: MakeAutoencoder) -> None:
    step = AutoencoderStep(tiny_autoencoder(losses={"perceptual": 1}), CPU, Kink())
    before = everything(step)
    with pytest.raises(NonFiniteError) as caught:
        step(0, batch())
    assert str(caught.value) == "gradient of the loss"
    assert same(everything(step), before)


@pytest.mark.parametrize(("penalty", "name"), [
    (lambda critic, real, fake, mix: critic(real).sum() * float("inf"), "critic's loss"),
    (lambda critic, real, fake, mix: Kink()(critic(fake), critic(real)), "gradient of the critic's loss")])
def test_a_critic_that_is_not_finite_changes_nothing(
    tiny_autoencoder: MakeAutoencoder, monkeypatch: pytest.MonkeyPatch, penalty: Callable[..., Tensor], name: str
) -> None:
    step = AutoencoderStep(tiny_autoencoder(), CPU, None)
    step(0, batch())
    before = everything(step)
    monkeypatch.setattr(steps, "gradient_penalty", penalty)
    with pytest.raises(NonFiniteError) as caught:
        step(1, batch())
    assert str(caught.value) == name
    assert same(everything(step), before)


def test_gradients_are_clipped_to_their_norm() -> None:
    layer, slope = nn.Linear(3, 1, bias=False), torch.tensor([3.0, 0.0, 4.0])
    for largest, wanted in ((0.0, [3, 0, 4]), (1.0, [0.6, 0, 0.8]), (10.0, [3, 0, 4])):
        learner = Learner(layer, torch.optim.Adam(layer.parameters()), [], largest)
        assert learner.differentiate("loss", [layer(slope).sum()]) == pytest.approx(5)
        assert layer.weight.grad is not None
        assert layer.weight.grad.flatten().tolist() == pytest.approx(wanted, rel=1e-4)


def test_steps_are_a_function_of_seed_and_number(
    tiny_autoencoder: MakeAutoencoder, tiny_diffusion: MakeDiffusion
) -> None:
    def one(seed: int, number: int) -> list[dict[str, Tensor]]:
        torch.manual_seed(torch.seed())  # whatever was drawn before
        a = AutoencoderStep(tiny_autoencoder(training={"seed": seed}), CPU, None)
        b = DiffusionStep(tiny_diffusion(training={"seed": seed}), CPU, KEY_CODES, channels=2, size=8)
        a(number, batch())
        b(number, codes())
        return [everything(a), everything(b)]

    reference = one(3, 5)
    for found, wanted in zip(one(3, 5), reference, strict=True):
        assert same(found, wanted)
    for other in (one(4, 5), one(3, 6)):
        for found, wanted in zip(other, reference, strict=True):
            assert not same(found, wanted)


@pytest.mark.parametrize(("weight", "gamma"), [("eps", 5.0), ("min_snr", 2.0)])
@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_diffusion_step(tiny_diffusion: MakeDiffusion, predicts: str, weight: Weight, gamma: float) -> None:
    """Against a step written out here: prediction on 2 z - 1, clipped, with the warm-up's learning rate."""
    denoising = {"predicts": predicts, "weight": weight, "gamma": gamma}
    recipe = tiny_diffusion(denoising=denoising, schedule={"kind": "flow"}, training={"gradient_clip": 0.05})
    step = DiffusionStep(recipe, CPU, KEY_CODES, channels=2, size=8)
    model, key_code = copy.deepcopy(step.denoiser.model), codes()
    before = everything(step)
    log = step(1, key_code)
    t = draw_times(4, generator_for(3, "time", 1))
    noise = torch.randn(4, 2, 8, 8, generator=generator_for(3, "noise", 1))
    loss = denoise(model, step.schedule, KEY_CODES.to_x_0(key_code), t, noise, weight=weight, gamma=gamma).loss
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    torch.optim.Adam(model.parameters(), lr=8e-4 * 5 / 8).step()  # 4 images were seen, 8 are the warm-up
    assert log == pytest.approx({"loss": loss.item(), "gradient": norm.item()})
    assert norm > 0.05, "or nothing was clipped"
    for (name, a), b in zip(step.denoiser.model.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7), name
    assert any(not torch.equal(before[name], value) for name, value in step.weights().items()), "averaged weights"
    assert (model.predicts, step.schedule, step.averaged.predicts) == (predicts, Flow(), predicts)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_of_codes_add_up_to_it(tiny_diffusion: MakeDiffusion, parts: int) -> None:
    whole = DiffusionStep(tiny_diffusion(), CPU, KEY_CODES, channels=2, size=8)
    divided = DiffusionStep(tiny_diffusion(training={"accumulate": parts}), CPU, KEY_CODES, channels=2, size=8)
    log, seen = whole(0, codes()), []
    divided.denoiser.model.register_forward_hook(lambda module, given, answer: seen.append(len(answer)))
    assert divided(0, codes()) == pytest.approx(log, rel=1e-5)
    assert seen == [4 // parts] * parts
    for a, b in zip(divided.denoiser.model.parameters(), whole.denoiser.model.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


LABELLED: dict[str, Any] = {"denoiser": {"classes": 3}}


def test_labels_are_told_but_for_those_dropped_at_a_step(tiny_diffusion: MakeDiffusion) -> None:
    """A pure function of seed and step, however the batch is divided; and what is told is learnt by its own row."""
    label = torch.arange(32) % 3

    def told(number: int, **training: Any) -> tuple[list[int], DiffusionStep]:
        recipe = tiny_diffusion(**LABELLED, training={"batch_size": 32, "label_dropout": 0.4} | training)
        step, heard = DiffusionStep(recipe, CPU, KEY_CODES, channels=2, size=8), list[int]()
        step.denoiser.model.register_forward_pre_hook(lambda module, given: heard.extend(given[2].tolist()))
        for parameter in step.denoiser.model.parameters():  # where layers end in zeros nothing comes back
            nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
        step(number, codes(count=32), label)
        return heard, step

    heard, step = told(5)
    assert heard == told(5)[0] == told(5, accumulate=4)[0] == drop_labels(
        label, 0.4, 3, torch.rand(32, generator=generator_for(3, "label", 5))).tolist()
    assert len({tuple(found) for found in (heard, told(6)[0], told(5, seed=4)[0])}) == 3
    assert 4 < heard.count(3) < 22
    assert all(found in (3, true) for found, true in zip(heard, label.tolist(), strict=True))
    assert told(5, label_dropout=0.0)[0] == label.tolist()
    gradient = step.denoiser.model.label.weight.grad
    assert gradient is not None and (gradient.abs().sum(1) > 0).all()


def test_a_labelled_step_loads_what_it_saved(tiny_diffusion: MakeDiffusion) -> None:
    class Step(DiffusionStep):
        def __call__(self, step: int, key_code: Tensor, *more: Tensor | None) -> dict[str, float]:
            return super().__call__(step, key_code, torch.tensor([0, 2, step % 3, 1]))

    recipe = tiny_diffusion(**LABELLED, training={"label_dropout": 0.5})
    check_that_it_loads_what_it_saved(lambda: Step(recipe, CPU, KEY_CODES, channels=2, size=8), codes)


def test_bf16_of_a_denoiser_is_autocast_and_close(tiny_diffusion: MakeDiffusion) -> None:
    """Weights and averages stay fp32; the loss agrees to bfloat16's 8 bits."""
    exact = DiffusionStep(tiny_diffusion(), CPU, KEY_CODES, channels=2, size=8)
    half = DiffusionStep(tiny_diffusion(training={"precision": "bf16"}), CPU, KEY_CODES, channels=2, size=8)
    for step in (exact, half):  # a network that starts at 0 gives 0 in any precision
        torch.nn.init.normal_(step.denoiser.model.out.weight, generator=torch.Generator().manual_seed(0))
    wanted, found = exact(0, codes())["loss"], half(0, codes())["loss"]
    assert found != wanted and found == pytest.approx(wanted, rel=0.02)
    assert {tensor.dtype for tensor in half.weights().values()} == {torch.float32}


@pytest.mark.parametrize("predicts", ["eps", "v", "x_0", "flow"])
def test_every_prediction_learns_one_batch(tiny_diffusion: MakeDiffusion, predicts: str) -> None:
    recipe = tiny_diffusion(denoising={"predicts": predicts, "weight": "min_snr"},
                            training={"decay_images": 0, "learning_rate": 3e-3})
    step = DiffusionStep(recipe, CPU, KEY_CODES, channels=2, size=8)
    losses = [step(2, codes())["loss"] for _ in range(60)]  # after the warm-up; the number draws times and noise
    assert losses[-1] < 0.1 * losses[0], losses


def test_a_diffusion_step_that_is_not_finite_changes_nothing(tiny_diffusion: MakeDiffusion) -> None:
    step = DiffusionStep(tiny_diffusion(), CPU, KEY_CODES, channels=2, size=8)
    step(0, codes())
    before = everything(step)
    with pytest.raises(NonFiniteError):
        step(1, torch.full((4, 2, 8, 8), float("nan")))
    assert same(everything(step), before)


def test_each_player_steps_along_its_own_gradient(tiny_autoencoder: MakeAutoencoder) -> None:
    """The generator's loss leaves nothing in the critic, and the critic's nothing in the generator."""
    step = AutoencoderStep(tiny_autoencoder(losses={"adversarial": 1}), CPU, None)
    assert step.critic is not None
    generator, critic = step.generator.model, step.critic.model
    seen: list[tuple[list[Tensor | None], list[Tensor | None]]] = []

    def record(learner: Learner) -> None:
        differentiate = learner.differentiate

        def recorded(name: str, losses: Iterable[Tensor]) -> float:
            norm = differentiate(name, losses)
            seen.append(tuple([None if p.grad is None else p.grad.clone() for p in player.parameters()]
                              for player in (generator, critic)))  # type: ignore[arg-type]
            return norm

        learner.differentiate = recorded  # type: ignore[method-assign]

    record(step.generator)
    record(step.critic)
    for number in range(2):
        step(number, batch(number))
        (_, critic_before), (generator_after, _) = seen[-2:]
        generator_before = seen[-2][0]
        if number == 0:
            assert all(gradient is None for gradient in critic_before)
        else:  # still those of its last step
            for gradient, last in zip(critic_before, seen[-3][1], strict=True):
                assert gradient is not None and last is not None and torch.equal(gradient, last)
        for gradient, before in zip(generator_after, generator_before, strict=True):
            assert gradient is not None and before is not None and torch.equal(gradient, before)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_it(tiny_autoencoder: MakeAutoencoder, parts: int) -> None:
    """The same gradients and the same log, but for rounding: float32's in a mean of 4."""
    whole = AutoencoderStep(tiny_autoencoder(), CPU, None)
    divided = AutoencoderStep(tiny_autoencoder(training={"accumulate": parts}), CPU, None)
    found, log = divided(0, batch()), whole(0, batch())
    assert found.keys() == log.keys()
    assert divided.critic is not None and whole.critic is not None
    for ours, theirs in ((divided.generator, whole.generator), (divided.critic, whole.critic)):
        for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
            assert a.grad is not None and b.grad is not None
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    del log["code_std"]  # no mean over images
    assert {name: found[name] for name in log} == pytest.approx(log, rel=1e-3, abs=1e-4)


def test_bf16_is_autocast_and_close(tiny_autoencoder: MakeAutoencoder) -> None:
    """Weights and averages stay fp32; the losses agree to bfloat16's 8 bits."""
    exact = AutoencoderStep(tiny_autoencoder(), CPU, None)
    half = AutoencoderStep(tiny_autoencoder(training={"precision": "bf16"}), CPU, None)
    for step in (exact, half):  # entries as they start give next to no image
        assert isinstance(step.generator.model.retrieval, FeatureGrid)
        torch.nn.init.normal_(step.generator.model.retrieval.table, generator=torch.Generator().manual_seed(0))
    wanted, found = exact(0, batch()), half(0, batch())
    for name in ("l2", "real_score", "fake_score"):
        assert found[name] != wanted[name] and found[name] == pytest.approx(wanted[name], rel=0.05, abs=0.01), name
    assert found["penalty"] == pytest.approx(wanted["penalty"], rel=0.05), "always fp32"
    assert {tensor.dtype for tensor in half.weights().values()} == {torch.float32}


def test_every_method_learns_one_batch(tiny_autoencoder: MakeAutoencoder, method: dict[str, Any]) -> None:
    recipe = tiny_autoencoder(**({"losses": {"adversarial": 0}} | method))
    step = AutoencoderStep(recipe, CPU, None)
    terms = [name for name in ("l1", "l2") if getattr(recipe.losses, name)]
    colours = batch()[..., :1, :1].expand(-1, -1, 16, 16)
    losses = [step(number, colours)[terms[0]] for number in range(30)]
    assert losses[-1] < 0.8 * losses[0], losses


def test_several_averages(tiny_diffusion: MakeDiffusion) -> None:
    """Each is what training with it alone gives, and they go on where they stopped."""
    def make(*ema: float) -> DiffusionStep:
        return DiffusionStep(tiny_diffusion(training={"ema": list(ema)}), CPU, KEY_CODES, channels=2, size=8)

    both, first, second = make(0.5, 0.2), make(0.5), make(0.2)
    for number in range(8):  # decays warm up from 0.1: from the third update on, they differ
        for step in (both, first, second):
            step(number, codes(number))
        if number == 4:
            stopped, both = both, make(0.5, 0.2)
            both.load(stopped.weights(), everything(stopped), stopped.more_averages())
    assert first.more_averages() == {} and both.more_averages().keys() == {0.2}
    assert same(both.weights(), first.weights()) and same(both.more_averages()[0.2], second.weights())
    assert not same(first.weights(), second.weights())
    with pytest.raises(RuntimeError):
        make(0.5, 0.2).load(first.weights(), everything(first), first.more_averages())


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["autoencoder", "diffusion"])
def test_a_step_loads_what_it_saved(
    tiny_autoencoder: MakeAutoencoder, tiny_diffusion: MakeDiffusion, ema: float, kind: str
) -> None:
    def make() -> AutoencoderStep | DiffusionStep:
        if kind == "autoencoder":
            return AutoencoderStep(tiny_autoencoder(training={"ema": ema}), CPU, None)
        return DiffusionStep(tiny_diffusion(training={"ema": ema}), CPU, KEY_CODES, channels=2, size=8)

    check_that_it_loads_what_it_saved(make, batch if kind == "autoencoder" else codes)
    assert any(".model." in name for name in make().training_state()) == bool(ema)


def test_every_method_loads_what_it_saved(tiny_autoencoder: MakeAutoencoder, method: dict[str, Any]) -> None:
    check_that_it_loads_what_it_saved(lambda: AutoencoderStep(tiny_autoencoder(**method), CPU, None), batch)


def check_that_it_loads_what_it_saved(
    make: Callable[[], AutoencoderStep | DiffusionStep], data: Callable[[int], Tensor]
) -> None:
    """2 steps, and 2 more after loading, leave the bytes of 4."""
    whole = make()
    for number in range(4):
        whole(number, data(number))
    first, second = make(), make()
    for number in range(2):
        first(number, data(number))
    second.load({k: v.clone() for k, v in first.weights().items()}, everything(first))
    for number in (2, 3):
        second(number, data(number))
    assert same(everything(whole), everything(second))
