"""Classifier-free guidance: its algebra, what it draws where the truth is known, and how labels are dropped."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from bricscli.diffusion.denoiser import KEY_CODES, PredictData, target
from bricscli.diffusion.guidance import Guided, drop_labels
from bricscli.diffusion.samplers import run_sampler
from bricscli.diffusion.schedule import ChenCosine, alpha_sigma
from bricscli.diffusion.step_grids import STEP_GRIDS
from bricscli.nn.unet import Prediction

SPREAD = 0.1
#: Means of two classes, so near one another that noise hides which is which.
MEANS = torch.tensor([-0.3, 0.3], dtype=torch.float64)


class Exact:
    """The best possible denoiser of pixels from N(MEANS[label], SPREAD^2); of both alike where no label is told."""

    def __init__(self, predicts: Prediction = "eps") -> None:
        self.predicts: Prediction = predicts
        self.told: list[Tensor | None] = []

    def __call__(self, x_t: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        self.told.append(label)
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in alpha_sigma(log_snr))
        variance = (alpha * SPREAD) ** 2 + sigma**2
        x_0 = [mean + alpha * SPREAD**2 / variance * (x_t - alpha * mean) for mean in MEANS]
        if label is None:
            odds = torch.stack([-((x_t - alpha * mean) ** 2) / (2 * variance) for mean in MEANS]).softmax(0)
            chosen = sum(share * value for share, value in zip(odds, x_0, strict=True))
        else:
            chosen = torch.where(label.view(-1, 1, 1, 1) == 0, *x_0)
        assert isinstance(chosen, Tensor)
        return target(self.predicts, chosen, (x_t - alpha * chosen) / sigma, alpha, sigma)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(label: Tensor | None, guidance: float, count: int = 4000) -> Tensor:
    log_snr = STEP_GRIDS["log_snr"](ChenCosine(), 60, 0.97)
    predict = PredictData(Guided(Exact(), label, guidance), KEY_CODES)
    return run_sampler("ddim", predict, noise(0, count, 1, 1, 1), log_snr, lambda *_: noise(1, count, 1, 1, 1), 0.0)


def test_what_is_asked_and_what_comes_of_it() -> None:
    exact, x_t, log_snr = Exact(), noise(2, 3, 2, 4, 4), torch.zeros(3, dtype=torch.float64)
    label = torch.tensor([0, 1, 1])
    conditional, unconditional = exact(x_t, log_snr, label), exact(x_t, log_snr, None)
    exact.told.clear()
    assert torch.equal(Guided(exact, label)(x_t, log_snr), conditional)
    assert [told is label for told in exact.told] == [True], "without guidance the network is asked once"
    torch.testing.assert_close(Guided(exact, label, 0.0)(x_t, log_snr), unconditional)
    w = 1.5  # the paper's Eq. 6
    torch.testing.assert_close(Guided(exact, label, 1 + w)(x_t, log_snr), (1 + w) * conditional - w * unconditional)
    assert Guided(exact, label).predicts == "eps"


def test_without_a_label_guidance_changes_nothing() -> None:
    x_t, log_snr = noise(2, 3, 2, 4, 4), torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(Guided(Exact(), None, 3.0)(x_t, log_snr), Exact()(x_t, log_snr, None))


def test_guidance_is_that_of_x_0_whatever_is_predicted() -> None:
    x_t, level, label = noise(3, 4, 1, 2, 2) / 4, torch.tensor(1.0, dtype=torch.float64), torch.tensor([0, 1, 0, 1])

    def predict(predicts: Prediction, w: float) -> Tensor:
        return PredictData(Guided(Exact(predicts), label, w), KEY_CODES)(x_t, level)

    found = [predict(predicts, 2.0) for predicts in get_args(Prediction)]
    plain, without = (predict("eps", w) for w in (1.0, 0.0))
    assert (plain - without).abs().max() > 0.1 and plain.abs().max() < 1, "nothing is clipped"
    for x_0 in found:
        torch.testing.assert_close(x_0, without + 2 * (plain - without))


@pytest.mark.parametrize("label", [0, 1])
def test_exact_scores_draw_the_conditional_distribution(label: int) -> None:
    """Mean and deviation of 4000 draws: within 4 standard errors and what 60 steps leave."""
    x_0 = draw(torch.full((4000,), label), 1.0)
    assert x_0.mean().item() == pytest.approx(MEANS[label].item(), abs=0.01)
    assert x_0.std().item() == pytest.approx(SPREAD, abs=0.01)


def test_guidance_0_draws_both_classes_and_more_of_it_leaves_the_other() -> None:
    label = torch.full((4000,), 1)
    both = draw(label, 0.0)
    assert (both > 0).double().mean().item() == pytest.approx(0.5, abs=0.04)
    assert both.abs().mean().item() == pytest.approx(0.3, abs=0.02)
    means = [draw(label, guidance).mean().item() for guidance in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert means == sorted(means) and means[-1] > means[2] + 0.02


def test_labels_are_dropped_at_their_rate() -> None:
    """10,000 draws at 0.1: 1000 +- 4 standard deviations of 30."""
    label = torch.arange(10_000) % 7
    drawn = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    dropped = drop_labels(label, 0.1, 7, drawn)
    gone = dropped == 7
    assert 880 < gone.sum() < 1120 and torch.equal(dropped[~gone], label[~gone])
    assert torch.equal(gone, drawn < 0.1)
    assert torch.equal(drop_labels(label, 0.0, 7, drawn), label)
    assert dropped.dtype == torch.int64
