"""The small way from pictures to numbers that the trials go: five stages, a second or so each, every byte compared."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bricscli.data.collection import find_images, open_folder
from bricscli.data.images import encode_png
from bricscli.data.toy import draw
from bricscli.recipe.load import recipe_from_dict
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.directory import RunDirectory
from bricscli.selftest.children import Trap, run_child
from bricscli.tasks.encode import encode
from bricscli.tasks.eval.generation import evaluate_random
from bricscli.tasks.eval.reconstruction import evaluate_reconstruction, load_measures
from bricscli.tasks.eval.results import save_result
from bricscli.tasks.models import load_autoencoder
from bricscli.tasks.prepare import prepare_folder
from bricscli.tasks.sample import sample_to_folder
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser

CPU = torch.device("cpu")
RESOLUTION, PICTURES = 16, 40
#: Of two blocks, so that two parts have something to draw.
SEEDS = range(52, 76)

AUTOENCODER: dict[str, Any] = {
    "kind": "autoencoder",
    "data": {"name": "toy", "resolution": RESOLUTION, "flip": True},
    "encoder": {"channels": 8, "multipliers": [1, 2], "blocks": 1},
    "bottleneck": {"kind": "key_code", "channels": 2},
    "retrieval": {"size": 8, "levels": 4, "r_min": 2, "r_max": 8, "entry_channels": 2, "mlp_width": 8, "channels": 16},
    "decoder": {"channels": [16, 8], "style_width": 16, "mapping_layers": 1},
    "discriminator": {"channels": 4, "max_channels": 8},
    "losses": {"perceptual": 0},
    "training": {"images": 80, "batch_size": 8, "ema": 0.9, "seed": 3},
}
DIFFUSION: dict[str, Any] = {
    "kind": "diffusion",
    "autoencoder": "toy",
    "denoiser": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_channels": 4},
    "sampling": {"sampler": "dpmpp_2m_sde", "steps": 4},
    "training": {"images": 160, "batch_size": 8, "warmup_images": 16, "decay_images": 160, "ema": 0.9, "seed": 3},
}


@dataclass(frozen=True)
class Place:
    """A folder in which the stages are gone."""

    root: Path

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def autoencoder(self) -> Path:
        return self.root / "runs" / "toy"

    @property
    def diffusion(self) -> Path:
        return self.root / "runs" / "toy-diffusion"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def evals(self) -> Path:
        return self.root / "evals"

    def draw(self) -> None:
        """Makes the pictures."""
        self.pictures.mkdir(parents=True)
        for i in range(PICTURES):
            (self.pictures / f"{i:03d}.png").write_bytes(encode_png(draw(0, i, RESOLUTION)))

    def prepare(self) -> None:
        prepare_folder(self.data, folder=self.pictures, resolution=RESOLUTION, val_fraction=0.3, workers=1,
                       samples_per_shard=12)

    def train_autoencoder(self) -> None:
        """A checkpoint after every step: there is much to be killed at."""
        train_autoencoder(autoencoder_recipe(), self.data, self.autoencoder, device=CPU, save_every=0)

    def encode(self) -> None:
        encode(RunDirectory.open(self.autoencoder), self.data, device=CPU)

    def train_denoiser(self) -> None:
        train_denoiser(diffusion_recipe(), self.autoencoder, self.diffusion, device=CPU, save_every=0)

    def sample(self) -> None:
        sample_to_folder(RunDirectory.open(self.diffusion), self.samples, seeds=SEEDS, device=CPU, batch_size=8)

    def evaluate(self) -> None:
        """Of reconstructions and of samples."""
        reference = find_images(str(self.data), "val", self.root)
        autoencoder = load_autoencoder(RunDirectory.open(self.autoencoder), CPU)
        save_result(evaluate_reconstruction(autoencoder.model, reference, load_measures(["psnr"]),
                                            autoencoder=autoencoder.digest), self.evals)
        save_result(evaluate_random(open_folder(self.samples), reference), self.evals)


def autoencoder_recipe(critic: bool = True, **training: Any) -> AutoencoderRecipe:
    """With these changes to its training."""
    losses = {"losses": {"perceptual": 0, **({} if critic else {"adversarial": 0})}}
    recipe = recipe_from_dict(_changed({**AUTOENCODER, **losses}, training))
    assert isinstance(recipe, AutoencoderRecipe)
    return recipe


def diffusion_recipe(**training: Any) -> DiffusionRecipe:
    """With these changes to its training."""
    recipe = recipe_from_dict(_changed(DIFFUSION, training))
    assert isinstance(recipe, DiffusionRecipe)
    return recipe


def _changed(recipe: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    return {**recipe, "training": {**recipe["training"], **training}}


#: Stage -> what does it, in their order.
STAGES: dict[str, Callable[[Place], None]] = {
    "prepare": Place.prepare,
    "train-ae": Place.train_autoencoder,
    "encode": Place.encode,
    "train-diffusion": Place.train_denoiser,
    "sample": Place.sample,
    "eval": Place.evaluate,
}


@dataclass(frozen=True)
class Undisturbed:
    """A stage that nobody disturbed: what there was before and after it, its calls, its seconds."""

    stage: str
    before: Path
    after: dict[str, str]
    calls: int
    seconds: float

    def begin(self, root: Path) -> Place:
        """A fresh folder in which the stage has not been gone."""
        shutil.copytree(self.before, root, symlinks=True)
        return Place(root)


def go_undisturbed(folder: Path, log: Path) -> dict[str, Undisturbed]:
    """All stages once, each from a copy that is kept of what was before it."""
    torch.use_deterministic_algorithms(True)  # imports much at its first call: once here, not in every child
    torch.use_deterministic_algorithms(False)
    place = Place(folder / "way")
    place.draw()
    found = {}
    for stage, go in STAGES.items():
        before = folder / f"before-{stage}"
        shutil.copytree(place.root, before)
        ended = run_child(lambda go=go: go(place), log, trap=Trap())  # type: ignore[misc]
        if ended.code != 0:
            raise AssertionError(f"{stage} failed with {ended.code}: {log.read_text()[-2000:]}")
        found[stage] = Undisturbed(stage, before, digest_tree(place.root), ended.calls, ended.seconds)
    return found


def digest_tree(root: Path) -> dict[str, str]:
    """Every file below `root`, but for locks, by its path; what is in it by SHA-256."""
    digests = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if name not in ("run.lock", ".lock"):
                digests[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Names of files that are missing, too many, or other than they should be."""
    return sorted({*found, *wanted} - {name for name in found if found[name] == wanted.get(name)})


def compare(found: Mapping[str, str], wanted: Mapping[str, str], what: str) -> str | None:
    """Words for a trial that failed, None where nothing differs."""
    differing = differences(found, wanted)
    return f"{what}: {', '.join(differing[:5])} differ" if differing else None
