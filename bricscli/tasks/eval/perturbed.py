"""Relaxed precision put to the test: reconstructions whose keys were moved before they were looked up (section 3.4)."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from bricscli.errors import MismatchError, RecipeError
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.runtime import generator_for
from bricscli.tasks.models import LoadedAutoencoder


def perturbed(autoencoder: LoadedAutoencoder, cells: float, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """image -> its reconstruction from keys moved by +cells / r_max or -cells / r_max, clamped to [0, 1].

    Every key of the tiled code has its own sign. Those of an image depend on `seed` and on how many images the returned
    function met before it, not on its batch. 0.5 cells are the interval within which the paper expects reasonable
    reconstructions. Raises RecipeError where `cells` is not finite, MismatchError for an autoencoder without feature
    grids.
    """
    if not math.isfinite(cells):
        raise RecipeError(f"--perturb: expected a number of cells, such as 0.5, got {cells}.")
    model, grids = autoencoder.model, autoencoder.model.retrieval
    if not isinstance(grids, FeatureGrid):
        raise MismatchError(f"{autoencoder.name}: has no feature grids, so --perturb means nothing. Leave it out.")
    generators = (generator_for(seed, "perturb", place) for place in itertools.count())

    def reconstruct(image: Tensor) -> Tensor:
        tiled = grids.tile(model.encode(image))
        signs = torch.stack([torch.randint(2, keys.shape, generator=next(generators)) for keys in tiled])
        return model.decoder(grids((tiled + (signs.to(tiled) * 2 - 1) * cells / grids.r_max).clamp(0, 1)))

    return reconstruct
