"""Known places under every sampler: what comes out, what the network sees, and how far from the true conditional.

The analytic case: x_0 = (a, b) jointly Gaussian, standard normal each, with correlation RHO. Then E[x_0 | x_t] is
linear, b given a is N(RHO a, 1 - RHO^2), and whatever a method draws for b can be held against that.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bricscli.diffusion.inpainting import (
    Known,
    Surrounded,
    count_evaluations,
    knowing,
    sample_blended,
    sample_repaint,
    surroundings_of,
    walk,
)
from bricscli.diffusion.samplers import ODE_SAMPLERS, SDE_SAMPLERS, Noise, Predict
from bricscli.diffusion.schedule import ChenCosine, alpha_sigma, log_snr_steps
from bricscli.diffusion.step_grids import trailing_steps

EVERY = [*((name, 0.0) for name in (*ODE_SAMPLERS, *SDE_SAMPLERS)), ("ddim", 0.5), ("ddim", 1.0)]
RHO = 0.9
SCHEDULE = ChenCosine()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stream(like: Tensor, seed: int = 1) -> Noise:
    """Standard normal noise, other at every step."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def wrong(x_t: Tensor, log_snr: Tensor) -> Tensor:
    """A denoiser that knows nothing, and changes its mind."""
    return (3 * x_t + log_snr).sin()


def half(count: int, x_0: float | None = None, seed: int = 5) -> Known:
    """`count` codes (2, 4, 4) whose left half is known."""
    replace = torch.zeros(count, 1, 4, 4, dtype=torch.float64)
    replace[..., 2:] = 1
    code = normal(count, 2, 4, 4, seed=seed).clamp(-1, 1) if x_0 is None else torch.full((count, 2, 4, 4), x_0).double()
    return Known(code, replace)


def recorded(predict: Predict) -> tuple[Predict, list[tuple[Tensor, float]]]:
    """`predict`, and what it is shown at which log SNR."""
    shown: list[tuple[Tensor, float]] = []

    def record(x_t: Tensor, log_snr: Tensor) -> Tensor:
        shown.append((x_t.clone(), float(log_snr)))
        return predict(x_t, log_snr)

    return record, shown


@pytest.mark.parametrize("grid", [log_snr_steps, trailing_steps])
@pytest.mark.parametrize(("name", "eta"), EVERY)
def test_known_places_come_out_exactly(name: str, eta: float, grid: type) -> None:
    """To the last bit, whatever the denoiser says, and what is replaced does not."""
    known = half(3)
    start = normal(3, 2, 4, 4)
    drawn = sample_blended(name, wrong, known, start, grid(SCHEDULE, 7, 0.97), stream(start), eta)
    assert torch.equal(drawn[..., :2], known.x_0[..., :2])
    assert (drawn[..., 2:] - known.x_0[..., 2:]).abs().max() > 0.1


@pytest.mark.parametrize(("name", "eta"), EVERY)
def test_what_is_known_of_the_hole_has_no_influence(name: str, eta: float) -> None:
    known, start = half(2), normal(2, 2, 4, 4)
    other = Known(torch.where(known.replace > 0, torch.full_like(known.x_0, 7.0), known.x_0), known.replace)
    drawn = [sample_blended(name, wrong, which, start, log_snr_steps(SCHEDULE, 4, 0.97), stream(start), eta)
             for which in (known, other)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize(("name", "eta"), [*EVERY, ("repaint", 1.0), ("repaint", 0.3)])
def test_the_network_sees_known_places_as_noisy_as_training_did(name: str, eta: float) -> None:
    """alpha x_0 + sigma noise at every level: mean to 5 standard errors of 8000 values, variance to 5 of its own.

    In the samplers of the ODE the noise is that of the start, to rounding.
    """
    known, x_0 = half(500, 0.7), 0.7
    start, log_snr = normal(500, 2, 4, 4), log_snr_steps(SCHEDULE, 6, 0.97)
    predict, shown = recorded(wrong)
    if name == "repaint":
        sample_repaint(predict, known, start, log_snr, stream(start), resamplings=2, jump=3, eta=eta)
    else:
        sample_blended(name, predict, known, start, log_snr, stream(start), eta)
    assert {level for _, level in shown} == set(log_snr.tolist())
    for x_t, level in shown:
        alpha, sigma = (float(value) for value in alpha_sigma(torch.tensor(level, dtype=torch.float64)))
        seen = x_t[..., :2]
        assert float(seen.mean()) == pytest.approx(alpha * x_0, abs=5 * sigma / math.sqrt(seen.numel()))
        assert float(seen.var()) == pytest.approx(sigma**2, rel=5 * math.sqrt(2 / seen.numel()))
        if name in ODE_SAMPLERS or (name, eta) == ("ddim", 0.0):
            torch.testing.assert_close(seen, alpha * known.x_0[..., :2] + sigma * start[..., :2], rtol=0, atol=1e-10)


def correlated(x_t: Tensor, log_snr: Tensor) -> Tensor:
    """E[x_0 | x_t] of the pair: with covariance C, C alpha (alpha^2 C + sigma^2)^-1 x_t."""
    alpha, sigma = (float(value) for value in alpha_sigma(log_snr.double()))
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
    return torch.einsum("ij,bjhw->bihw", gain, x_t)


def pair(count: int, a: float) -> Known:
    """x_0 `(count, 2, 1, 1)` is (a, b); the mask is of places, so each channel is made one: `(count, 1, 1, 2)`."""
    x_0 = torch.zeros(count, 1, 1, 2, dtype=torch.float64)
    x_0[..., 0] = a
    return Known(x_0, torch.tensor([0.0, 1.0], dtype=torch.float64).expand(count, 1, 1, 2))


def in_places(x_t: Tensor, log_snr: Tensor) -> Tensor:
    """`correlated` of pairs that lie side by side."""
    return correlated(x_t.transpose(1, 3), log_snr).transpose(1, 3)


def fit(method: str, resamplings: int = 1, steps: int = 40, draws: int = 4_000) -> tuple[float, float]:
    """b as it is drawn: its slope on a, and its variance given a. True are RHO and 1 - RHO^2."""
    answers = []
    for sign in (1.0, -1.0):
        known, start = pair(draws, sign), normal(draws, 1, 1, 2, seed=11)
        log_snr, noise = log_snr_steps(SCHEDULE, steps, 1.0), stream(start, 12)
        if method == "repaint":
            drawn = sample_repaint(in_places, known, start, log_snr, noise, resamplings=resamplings, jump=5)
        else:
            drawn = sample_blended(method, in_places, known, start, log_snr, noise)
        answers.append(drawn[:, 0, 0, 1])
    slope = float(answers[0].mean() - answers[1].mean()) / 2
    return slope, float(answers[0].var() + answers[1].var()) / 2


def test_the_exact_denoiser_of_a_pair() -> None:
    """Unconditioned, it draws the pair's own correlation (within what 40 steps and 20,000 draws can tell)."""
    start = normal(20_000, 1, 1, 2)
    nothing = Known(torch.zeros_like(start), torch.ones_like(start))
    drawn = sample_blended("ddpm", in_places, nothing, start, log_snr_steps(SCHEDULE, 200, 1.0), stream(start))
    assert float(torch.corrcoef(drawn[:, 0, 0].T)[0, 1]) == pytest.approx(RHO, abs=0.02)


def distance(found: tuple[float, float]) -> float:
    """Wasserstein-2 between what is drawn for b and its true conditional, both taken as Gaussians, at a = 1."""
    slope, variance = found
    return math.hypot(slope - RHO, math.sqrt(variance) - math.sqrt(1 - RHO**2))


def test_how_far_blended_is_from_the_conditional() -> None:
    """It is biased, whatever the sampler: the hole is drawn from noisy known places and never asked about again.

    Measured with 20,000 draws and 40 steps: slope .59 and variance .32 for ddpm, .45 and .52 for dpmpp_2m; true are .9
    and .19. Noise of its own lets a sampler mend earlier steps. Standard errors here: .01. A blended that showed the
    network clean known places, or none, would be off by much more, or land elsewhere.
    """
    noisy, still = fit("ddpm"), fit("dpmpp_2m")
    assert noisy == pytest.approx((0.59, 0.32), abs=0.05)
    assert still == pytest.approx((0.45, 0.52), abs=0.05)
    assert distance(noisy) < distance(still)


def test_repaint_comes_nearer_to_the_conditional_the_oftener_it_asks() -> None:
    """Measured with 20,000 draws and 40 steps: .34 for blended ddpm; .32, .10, .045 for 1, 4, 16 resamplings.

    One resampling is blended but for the known places' noise, which is fresh at every step. What remains at 16 is
    DDPM's own error at 40 steps, a variance that is too small.
    """
    once, some, many = (distance(fit("repaint", resamplings)) for resamplings in (1, 4, 16))
    assert once == pytest.approx(0.32, abs=0.05)
    assert some < 0.5 * once and many < 0.7 * some


def test_walk() -> None:
    """Stretches of two steps, three times each; the last is shorter."""
    assert list(walk(3, 1, 2)) == [(0, 1), (1, 2), (2, 3)]
    assert list(walk(3, 3, 2)) == [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2), (2, 0), (0, 1), (1, 2),
                                   (2, 3), (3, 2), (2, 3), (3, 2), (2, 3)]
    for steps, resamplings, jump in ((1, 1, 1), (7, 3, 2), (10, 4, 20)):
        path = list(walk(steps, resamplings, jump))
        assert path[0][0] == 0 and path[-1][1] == steps
        assert all(before[1] == after[0] for before, after in pairwise(path))
        assert sum(there > here for here, there in path) == resamplings * steps


@pytest.mark.parametrize(("name", "eta"), EVERY)
@pytest.mark.parametrize("grid", [log_snr_steps, trailing_steps])
def test_evaluations_are_counted(name: str, eta: float, grid: type) -> None:
    known, start = half(1), normal(1, 2, 4, 4)
    predict, shown = recorded(wrong)
    log_snr = grid(SCHEDULE, 6, 0.9)
    sample_blended(name, predict, known, start, log_snr, stream(start), eta)
    assert len(shown) == count_evaluations(name, len(log_snr))


@pytest.mark.parametrize(("resamplings", "jump"), [(1, 1), (3, 2), (4, 10), (2, 100)])
def test_repaint_exact_known_places_and_evaluations(resamplings: int, jump: int) -> None:
    known, start = half(2), normal(2, 2, 4, 4)
    predict, shown = recorded(wrong)
    log_snr = log_snr_steps(SCHEDULE, 5, 0.97)
    drawn = sample_repaint(predict, known, start, log_snr, stream(start), resamplings=resamplings, jump=jump)
    assert torch.equal(drawn[..., :2], known.x_0[..., :2])
    assert len(shown) == count_evaluations("ddpm", len(log_snr), resamplings) == 5 * resamplings + 1


def test_repaint_numbers_its_noise() -> None:
    """Each draw has a number of its own, from 0: what a seed's generator is made from."""
    numbers: list[int] = []
    known, start = half(1), normal(1, 2, 4, 4)

    def noise(step: int) -> Tensor:
        numbers.append(step)
        return torch.zeros_like(start)

    sample_repaint(wrong, known, start, log_snr_steps(SCHEDULE, 4, 0.97), noise, resamplings=2, jump=2)
    assert numbers == list(range(2 * 4 + 2))


def test_going_back_adds_the_noise_of_the_forward_process() -> None:
    """alpha_t / alpha_s x_s + noise of variance 1 - (alpha_t / alpha_s)^2: x_t's marginal of any x_0, here 1."""
    replace = torch.ones(20_000, 1, 1, 1, dtype=torch.float64)
    known, start = Known(torch.zeros_like(replace), replace), normal(20_000, 1, 1, 1)
    predict, shown = recorded(lambda x_t, log_snr: torch.ones_like(x_t))
    log_snr = log_snr_steps(SCHEDULE, 6, 0.97)
    alpha, sigma = alpha_sigma(log_snr)
    start = alpha[0] + sigma[0] * start
    sample_repaint(predict, known, start, log_snr, stream(start), resamplings=3, jump=2)
    levels = {float(level): number for number, level in enumerate(log_snr)}
    for x_t, level in shown:
        number = levels[level]
        assert float(x_t.mean()) == pytest.approx(float(alpha[number]), abs=5 * float(sigma[number]) / 141)
        assert float(x_t.var()) == pytest.approx(float(sigma[number]) ** 2, rel=0.06)


def test_knowing_answers_for_the_known_places() -> None:
    known = half(2)
    answer = knowing(lambda x_t, log_snr: x_t, known)(torch.full((2, 2, 4, 4), 9.0).double(), torch.tensor(0.0))
    assert torch.equal(answer[..., :2], known.x_0[..., :2]) and bool((answer[..., 2:] == 9).all())


def test_surrounded_shows_what_is_beside() -> None:
    """x_t first, then the code, then the hole."""
    class Echo:
        predicts = "eps"

        def __call__(self, x_t: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
            return x_t[:, 2:]

    known = half(3)
    surroundings = surroundings_of(known.x_0, known.replace)
    assert surroundings.shape == (3, 3, 4, 4)
    seen = Surrounded(Echo(), surroundings)(normal(3, 2, 4, 4), torch.zeros(3))  # type: ignore[arg-type]
    assert torch.equal(seen, torch.cat([known.x_0, known.replace], dim=1))
