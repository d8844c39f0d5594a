"""What the words of `brics sample` choose, and each that cannot be in one line."""

import math
from typing import Any

import pytest

from bricscli.errors import RecipeError
from bricscli.recipe.diffusion_specs import SamplingSpec
from bricscli.tasks.choices import Asked, check_range, choose_sampling, choose_seeds, describe_seeds

SAMPLING = SamplingSpec(sampler="dpmpp_2m", steps=3)
#: With noise at every step, and a grid of other length.
NOISY = SamplingSpec(sampler="ddim", steps=5, grid="trailing", eta=1.0)


def test_options_out_of_range_are_all_told() -> None:
    with pytest.raises(RecipeError) as caught:
        check_range(count=0, seed=-1, batch_size=0)
    assert [line.split(":")[0] for line in caught.value.lines] == ["-n", "--seed", "--batch-size"]
    with pytest.raises(RecipeError) as caught:
        choose_sampling(SAMPLING, Asked(steps=0, start=2.0, guidance=-1.0))
    assert [line.split(":")[0] for line in caught.value.lines] == ["--steps", "--start", "--guidance"]
    with pytest.raises(RecipeError, match="--steps: 1000000000 is out of range"):
        choose_sampling(SAMPLING, Asked(steps=10**9))
    check_range(count=1, seed=0, batch_size=1)


def test_the_users_sampling_over_the_recipes() -> None:
    assert choose_sampling(SAMPLING, Asked()) == SAMPLING
    assert choose_sampling(SAMPLING, Asked("ddim", 7)) == SamplingSpec(sampler="ddim", steps=7)
    assert choose_sampling(SAMPLING, Asked("ddim", None, "trailing", 0.5, 0.9)) == SamplingSpec(
        sampler="ddim", steps=3, start=0.9, grid="trailing", eta=0.5)
    assert choose_sampling(NOISY, Asked(steps=9)).eta == choose_sampling(NOISY, Asked("ddim", 9)).eta == 1
    assert choose_sampling(NOISY, Asked("heun")) == SamplingSpec(sampler="heun", steps=5, grid="trailing")


@pytest.mark.parametrize(("asked", "said"), [
    ({"sampler": "euler"}, "--sampler: `euler` is unknown. There are: ddpm, ddim, dpmpp_2m, "),
    ({"grid": "even"}, "--grid: `even` is unknown. There are: log_snr, trailing."),
    ({"sampler": "ddim", "eta": -0.1}, "--eta: -0.1 is out of range. Choose 0 to 1."),
    ({"sampler": "ddim", "eta": 1.1}, "--eta: 1.1 is out of range"),
    ({"sampler": "ddim", "eta": math.nan}, "--eta: nan is out of range"),
    ({"sampler": "heun", "eta": 1.0}, "--eta: belongs to `ddim`, not to `heun`."),
    ({"eta": 1.0}, "--eta: belongs to `ddim`, not to `dpmpp_2m`."),
    ({"start": 0.0}, "--start: 0.0 is out of range"),
    ({"start": 1.1}, "--start: 1.1 is out of range"),
    ({"start": math.nan}, "--start: nan is out of range"),
])
def test_sampling_that_cannot_be(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        choose_sampling(SAMPLING, Asked(**asked))
    assert len(caught.value.lines) == 1 and caught.value.lines[0].startswith(said)


@pytest.mark.parametrize(("options", "wanted", "said"), [
    ((3, None, None), [0, 1, 2], "seeds 0 to 2"),
    ((2, 9, None), [9, 10], "seeds 9 to 10"),
    ((None, None, "0-4"), [0, 1, 2, 3, 4], "seeds 0 to 4"),
    ((None, None, "7"), [7], "seed 7"),
    ((None, None, "7, 3,10-12,11"), [7, 3, 10, 11, 12], "some of the seeds 3 to 12"),
])
def test_seeds(options: tuple[int | None, int | None, str | None], wanted: list[int], said: str) -> None:
    assert list(choose_seeds(*options)) == wanted and describe_seeds(wanted) == said


@pytest.mark.parametrize("seeds", ["", "x", "5-1", "-3", "1-", "1,,2", "1.5", "0-9-12", "٣", "9" * 30])
def test_what_is_no_range_of_seeds(seeds: str) -> None:
    with pytest.raises(RecipeError, match=r"^--seeds: `.*` is neither a seed nor a range of seeds. Write 7, 0-49999"):
        choose_seeds(None, None, seeds)


@pytest.mark.parametrize(("options", "said"), [
    ((None, None, None), "-n: is missing"), ((None, 4, None), "-n: is missing"),
    ((3, None, "0-2"), "--seeds: says already"), ((None, 0, "0-2"), "--seeds: says already"),
    ((0, None, None), "-n: 0 is too small"), ((1, -1, None), "--seed: -1 is too small"),
    ((10**30, None, None), "-n: 1000.* images are too many"),
    ((None, None, "0-999999999999"), "--seeds: 1000.* images are too many"),
])
def test_numbers_of_images_that_cannot_be(options: tuple[int | None, int | None, str | None], said: str) -> None:
    with pytest.raises(RecipeError, match=f"^{said}"):
        choose_seeds(*options)
