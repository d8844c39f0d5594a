"""The classes of a denoiser: those of its training data, and which of them each image is drawn of.

Their names lead to how many training samples each has, in the order of their numbers.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from bricscli.data.labels import read_labels
from bricscli.data.loader import Indices
from bricscli.data.shards import ShardSet
from bricscli.errors import DataError, RecipeError
from bricscli.recipe.recipes import DiffusionRecipe
from bricscli.run.log import warn
from bricscli.runtime import generator_for


def open_labels(codes: ShardSet, recipe: DiffusionRecipe) -> tuple[Indices, dict[str, int]] | None:
    """The labels of the training samples, in their own order, and the classes; None for an unconditional denoiser.

    Raises DataError where the codes have no labels, RecipeError where they have another number of classes.
    """
    wanted, names = recipe.denoiser.classes, codes.header.get("classes")
    if not wanted:
        return None
    if names is None:
        raise DataError(f"{codes.path}: has no labels, and denoiser.classes is {wanted}. Prepare the images with "
                        "--classes and encode them again, or write --set denoiser.classes=0.")
    if len(names) != wanted:
        raise RecipeError(f"denoiser.classes: is {wanted}, but {codes.path} has {len(names)} ({show_names(names)}). "
                          f"Write --set denoiser.classes={len(names)}.")
    labels = read_labels(codes.split("train"), wanted)
    classes = dict(zip(names, np.bincount(labels, minlength=wanted).tolist(), strict=True))
    if absent := [name for name, count in classes.items() if not count]:
        warn(f"{codes.path}: has nothing to train on of {show_names(absent)}; all their images are for validation")
    return labels, classes


def draw_labels(classes: Mapping[str, int], seeds: Sequence[int], only: str | None = None) -> Tensor | None:
    """int64 `(len(seeds),)`: each seed's own draw of a training sample's label, or all of the class `only`.

    As often as in training, so that samples can be measured against it. None where there are no classes.
    """
    if not classes:
        return None
    if only is not None:
        return torch.full((len(seeds),), list(classes).index(only))
    ends = torch.tensor(list(classes.values())).cumsum(0)
    total = int(ends[-1])
    samples = [int(torch.randint(total, (), generator=generator_for(seed, "label"))) for seed in seeds]
    return torch.searchsorted(ends, torch.tensor(samples, dtype=torch.int64), right=True)


def check_conditions(name: str, recipe: DiffusionRecipe, classes: Mapping[str, int], only: str | None,
                     guidance: float) -> None:
    """Raises RecipeError where the denoiser of run `name` knows no class `only`, or cannot be guided."""
    problems = []
    if only is not None and not classes:
        problems.append(f"--class: {name} was trained without classes. Leave it out.")
    elif only is not None and only not in classes:
        close = get_close_matches(only, classes, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(f'`{other}`' for other in close)}?" if close else (
            f"There are: {show_names(list(classes))}.")
        problems.append(f"--class: `{only}` is unknown to {name}. {hint}")
    if problem := recipe.problem_of_guidance(guidance):
        problems.append(f"--guidance: {problem}, which {name} is not. Leave it out.")
    if problems:
        raise RecipeError(*problems)


def show_names(names: Sequence[str]) -> str:
    """The first ten of them, for messages."""
    return ", ".join([*names[:10], *["..."] * (len(names) > 10)]) or "none"
