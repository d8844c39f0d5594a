"""What the words of `brics sample` choose: which seeds, and what differs from the recipe's sampling."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from bricscli.errors import RecipeError
from bricscli.recipe.diffusion_specs import MOST_STEPS, Sampler, SamplingSpec, StepGrid

#: More at once are a slip of the finger.
MOST_SEEDS = 10_000_000


@dataclass(frozen=True)
class Asked:
    """Of a recipe's SamplingSpec what was asked for; None: what the recipe says."""

    sampler: str | None = None
    steps: int | None = None
    grid: str | None = None
    eta: float | None = None
    start: float | None = None
    guidance: float | None = None


#: Nothing else.
AS_IN_RECIPE = Asked()


def choose_sampling(recipe: SamplingSpec, asked: Asked) -> SamplingSpec:
    """The recipe's sampling with what is asked for instead; another sampler leaves the recipe's eta behind.

    Raises RecipeError naming each option that cannot be.
    """
    problems = [f"{option}: `{value}` is unknown. There are: {', '.join(get_args(known))}."
                for option, value, known in (("--sampler", asked.sampler, Sampler), ("--grid", asked.grid, StepGrid))
                if value is not None and value not in get_args(known)]
    if asked.steps is not None and not 1 <= asked.steps <= MOST_STEPS:
        problems.append(f"--steps: {asked.steps} is out of range. Choose 1 to {MOST_STEPS}.")
    if asked.start is not None and not 0 < asked.start <= 1:
        problems.append(f"--start: {asked.start} is out of range. Choose more than 0 and at most 1.")
    if asked.eta is not None and not 0 <= asked.eta <= 1:
        problems.append(f"--eta: {asked.eta} is out of range. Choose 0 to 1.")
    if asked.guidance is not None and not 0 <= asked.guidance <= 100:
        problems.append(f"--guidance: {asked.guidance} is out of range. Choose 0 to 100; 1 is none.")
    if asked.eta and (sampler := asked.sampler or recipe.sampler) != "ddim":
        problems.append(f"--eta: belongs to `ddim`, not to `{sampler}`. Leave it out, or add --sampler ddim.")
    if problems:
        raise RecipeError(*problems)
    changes = {key: value for key, value in asdict(asked).items() if value is not None}
    if asked.sampler not in (None, "ddim"):
        changes["eta"] = 0.0
    return recipe.model_copy(update=changes)


def choose_seeds(count: int | None, first: int | None, seeds: str | None) -> Sequence[int]:
    """`-n COUNT --seed FIRST`, or `--seeds 0-49999` or `7,3,10-19`: each once, in that order. Raises RecipeError."""
    if seeds is not None and (count is not None or first is not None):
        raise RecipeError("--seeds: says already what -n and --seed would. Leave those out.")
    if seeds is not None:
        parts = [_seed_range(part) for part in seeds.split(",")]
        count = sum(map(len, parts))
    elif count is not None:
        check_range(count=count, seed=first)
        parts = [range(first or 0, (first or 0) + count)]
    else:
        raise RecipeError("-n: is missing. Write -n 64 for 64 images, or --seeds 0-63.")
    if count > MOST_SEEDS:
        raise RecipeError(f"{'--seeds' if seeds else '-n'}: {count} images are too many at once. Choose {MOST_SEEDS} "
                          "or fewer.")
    return list(dict.fromkeys(seed for part in parts for seed in part))


def _seed_range(text: str) -> range:
    match = re.fullmatch(r"\s*([0-9]{1,15})(?:-([0-9]{1,15}))?\s*", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise RecipeError(f"--seeds: `{text}` is neither a seed nor a range of seeds. Write 7, 0-49999 or 7,10-19.")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def describe_seeds(seeds: Sequence[int]) -> str:
    """`seeds 0 to 11`, `seed 7`, or how many they are between the least and the greatest."""
    first, last = min(seeds), max(seeds)
    if len(seeds) == 1:
        return f"seed {first}"
    return f"seeds {first} to {last}" if last - first == len(seeds) - 1 else f"some of the seeds {first} to {last}"


def check_range(*, count: int | None = None, seed: int | None = None, batch_size: int | None = None) -> None:
    """Raises RecipeError naming each option that is out of range."""
    least = {"-n": (count, 1), "--seed": (seed, 0), "--batch-size": (batch_size, 1)}
    problems = [f"{option}: {value} is too small. Choose {low} or more."
                for option, (value, low) in least.items() if value is not None and value < low]
    if problems:
        raise RecipeError(*problems)


@dataclass(frozen=True)
class Blend:
    """How what was filled meets what is kept: `none` (all of the window as decoded), `paste` (kept pixels as they are),
    `feather` (the same, and no step at the hole's edge: it fades out over `width` pixels inside)."""

    kind: Literal["none", "paste", "feather"]
    width: int = 0

    @staticmethod
    def parse(text: str) -> "Blend":
        """`none`, `paste`, `feather:8`. Raises RecipeError."""
        if text in ("none", "paste"):
            return Blend("none" if text == "none" else "paste")
        match = re.fullmatch(r"feather:([0-9]{1,3})", text)
        if match is None or not 1 <= int(match[1]) <= 256:
            raise RecipeError(f"--blend: `{text}` is unknown. There are: none, paste, feather:8 (1 to 256 pixels).")
        return Blend("feather", int(match[1]))


def choose_window(asked: str | None, large: bool) -> Literal["crop", "tile"]:
    """`crop` or `tile`; None: tiles where the hole is `large`. Raises RecipeError."""
    if asked not in (None, "crop", "tile"):
        raise RecipeError(f"--window: `{asked}` is unknown. There are: crop, tile.")
    return "tile" if asked == "tile" or (asked is None and large) else "crop"
