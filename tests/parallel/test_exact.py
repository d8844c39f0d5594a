"""Exact mode: the same bytes on 1, 2, 4 and 8 processes, and after every change between them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe

Make = Callable[..., AutoencoderRecipe | DiffusionRecipe]

_CONV = {"kind": "conv", "channels": 8, "multipliers": [1, 2], "blocks": 1}
#: The paper's, with a penalty that is differentiated twice; noise of both kinds; a codebook, batch norm and a weight that
#: is a ratio of gradients.
METHODS: dict[str, dict[str, Any]] = {
    "brics": {},
    "kl_key_code": {"bottleneck": {"kind": "kl_key_code", "channels": 2}, "training": {"accumulate": 16},
                    "losses": {"adversarial": 0}},
    "vqgan": {"bottleneck": {"kind": "vq", "channels": 8, "entries": 16}, "retrieval": {"kind": "none"},
              "decoder": _CONV, "discriminator": {"kind": "patch", "channels": 4, "layers": 2},
              "losses": {"l1": 1, "l2": 0, "adversarial_loss": "hinge", "adaptive": True, "gradient_penalty": 0}},
}


@pytest.fixture(params=[*METHODS, "diffusion"])
def recipe(request: pytest.FixtureRequest, tiny_autoencoder: Make, tiny_diffusion: Make
           ) -> AutoencoderRecipe | DiffusionRecipe:
    training = {"images": 64, "batch_size": 16}
    if request.param == "diffusion":
        return tiny_diffusion(training=training | {"ema": [0.9, 0.5], "accumulate": 2})
    method = METHODS[request.param]
    return tiny_autoencoder(**method | {"training": method.get("training", {}) | training})


def test_every_number_of_processes_makes_the_same_bytes(
    recipe: AutoencoderRecipe | DiffusionRecipe, trainings: Any, processes: Any,
    differing: Callable[[Path, Path], list[str]], tmp_path: Path
) -> None:
    for size in (1, 2, 4, 8):
        processes.good(size, **trainings.job(tmp_path / f"{size}", recipe, exact=True))
    for size in (2, 4, 8):
        assert differing(tmp_path / f"{size}", tmp_path / "1") == []
