"""Grids of log SNRs: where they begin and end, that they rise, and what becomes of repeated levels."""

import math
from typing import get_args

import pytest
import torch

from bricscli.diffusion.schedule import SAMPLING_ALPHA_BAR, ChenCosine
from bricscli.diffusion.step_grids import STEP_GRIDS, trailing_steps
from bricscli.recipe.diffusion_specs import StepGrid

LOW, HIGH = (math.log(a / (1 - a)) for a in SAMPLING_ALPHA_BAR)


def test_recipes_know_every_grid() -> None:
    assert set(get_args(StepGrid)) == STEP_GRIDS.keys()


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_trailing_is_uniform_in_time_from_the_start_on(steps: int) -> None:
    """At start 0.8 and 250 steps at most, Chen's schedule stays within the trimmed ends: no level is lost."""
    times = [0.8 * (steps - step) / steps for step in range(steps)]
    expected = [ChenCosine().log_snr(torch.tensor(t, dtype=torch.float64)).item() for t in times]
    found = trailing_steps(ChenCosine(), steps, 0.8)
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx(expected)


def test_levels_beyond_the_trimmed_ends_become_one() -> None:
    """Near t = 1 Chen's schedule repeats itself: two equal levels would have 2M divide by zero."""
    found = trailing_steps(ChenCosine(), 1000, 1.0)
    assert 900 < len(found) < 1000 and found[0].item() == pytest.approx(LOW)
    nearly_data = trailing_steps(ChenCosine(0.0, 1.0, 0.5), 1000, 1.0)
    assert len(nearly_data) < 1000 and nearly_data[-1].item() == pytest.approx(HIGH)
    assert (found.diff() > 0).all() and (nearly_data.diff() > 0).all()


@pytest.mark.parametrize("grid", STEP_GRIDS)
def test_levels_rise_and_stay_within_the_trimmed_ends(grid: str) -> None:
    for start in (0.5, 0.97, 1.0):
        levels = STEP_GRIDS[grid](ChenCosine(), 37, start)
        assert (levels.diff() > 0).all() and levels[0] >= LOW - 1e-9 and levels[-1] <= HIGH + 1e-9
