"""A second stage of training: a run that begins with the averaged weights of another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bricscli.errors import DataError, MismatchError
from bricscli.recipe.load import differing_keys
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import list_checkpoints, load_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.log import warn
from bricscli.tasks.classes import show_names
from bricscli.tasks.models import newest_checkpoint, recipe_of


@dataclass(frozen=True)
class FirstStage:
    """The averaged weights of a run, with which another one begins."""

    name: str
    digest: str
    weights: dict[str, Tensor]

    @property
    def record(self) -> dict[str, str]:
        """For `run.json`."""
        return {"run": self.name, "digest": self.digest}


def load_first_stage(run: RunDirectory, recipe: DiffusionRecipe, codes: Mapping[str, Any]) -> FirstStage:
    """The newest checkpoint of a diffusion run, as the beginning of a run of `recipe`.

    `codes` is what `run.json` will say of the codes that it goes on with: of which autoencoder, how they spread where
    they are no key codes, their classes.

    Raises:
        DataError: the run has none, or it is damaged.
        MismatchError: it is of an autoencoder, of other codes, or of a denoiser that is not the recipe's.
    """
    check_first_stage(run, recipe)
    found, wanted = run.info["autoencoder"], codes["autoencoder"]
    if found["digest"] != wanted["digest"]:
        raise MismatchError(f"{run.path}: was trained on codes of autoencoder {found['digest'][:8]} (`{found['run']}`)"
                            f", this run is to be on those of {wanted['digest'][:8]}. Choose another --from.")
    if found.get("latents") != wanted.get("latents"):
        raise MismatchError(f"{run.path}: was trained on latents of other images, which spread otherwise than these. "
                            "Choose another --from, or encode the images of before.")
    knew, knows = list(run.info.get("classes", {})), list(codes.get("classes", {}))
    if knew != knows:
        raise MismatchError(f"{run.path}: knows the classes {show_names(knew)}, these codes have {show_names(knows)}. "
                            "Choose another --from, or the data of before.")
    checkpoint = load_checkpoint(newest_checkpoint(run))
    return FirstStage(run.name, checkpoint.digest, checkpoint.weights)


def check_first_stage(run: RunDirectory, recipe: DiffusionRecipe) -> None:
    """Raises MismatchError unless the run's network can go on as that of `recipe`: the same, predicting the same.

    One that knew nothing but codes may go on as one that inpaints.
    """
    parts = ("denoiser.", "schedule.", "denoising.predicts:")
    differing = [line for line in differing_keys(recipe_of(run, DiffusionRecipe), recipe) if line.startswith(parts)]
    had, wants = (other.conditioning is not None for other in (recipe_of(run, DiffusionRecipe), recipe))
    if had and not wants:
        raise MismatchError(f"{run.path}: was trained to inpaint, the recipe's denoiser sees nothing beside the codes. "
                            "Choose another --from, or a recipe with `conditioning`.")
    if differing:
        raise MismatchError(f"{run.path}: has another denoiser than the recipe ({'; '.join(differing)}). Choose "
                            "another --from, or set these keys.")


def load_base(run: RunDirectory, recipe: AutoencoderRecipe) -> FirstStage:
    """The newest checkpoint of an autoencoder's run, as the beginning of one of a conditional decoder.

    Raises DataError where the run has none, or it is damaged, MismatchError where `check_base` does.
    """
    check_base(run, recipe)
    checkpoint = load_checkpoint(newest_checkpoint(run))
    return FirstStage(run.name, checkpoint.digest, checkpoint.weights)


def check_base(run: RunDirectory, recipe: AutoencoderRecipe) -> None:
    """Raises MismatchError unless the codes of an autoencoder's run are those of `recipe`, up to their weights."""
    base = recipe_of(run, AutoencoderRecipe)
    if base.decoder.conditional:
        began = run.info.get("from", {}).get("run", "of before")
        raise MismatchError(f"{run.path}: is itself the run of a conditional decoder. Pass --from the run that it "
                            f"began with, `{began}`.")
    parts = ("encoder.", "bottleneck.", "retrieval.", "data.resolution:")
    differing = [line for line in differing_keys(base, recipe) if line.startswith(parts)]
    if differing:
        raise MismatchError(f"{run.path}: makes other codes than the recipe ({'; '.join(differing)}). Choose another "
                            "--from, or set these keys.")


def check_same_start(run: RunDirectory, first: FirstStage | None) -> None:
    """A run goes on from the weights it began with. Raises MismatchError for others, DataError where they are needed.

    They are needed until there is a checkpoint.
    """
    began, started = run.info.get("from"), bool(list_checkpoints(run.checkpoints))
    if first and (began is None or began["digest"] != first.digest):
        weights = f"the weights {began['digest'][:8]} of `{began['run']}`" if began else "random weights"
        way = "leave --from out to go on" if started else "delete it, as it has no checkpoint yet"
        raise MismatchError(f"{run.path}: began with {weights}, --from gives {first.digest[:8]} of `{first.name}`. "
                            f"Choose another --run, or {way}.")
    if first or started:
        return
    if began:
        raise DataError(f"{run.path}: was to begin with the weights {began['digest'][:8]} of `{began['run']}` and "
                        "has no checkpoint yet. Pass --from again.")
    if isinstance(run.recipe, DiffusionRecipe) and run.recipe.latent_perceptual:
        warn(f"{run.path}: the latent perceptual loss is for a second stage of training, and this run begins with "
             "random weights. Pass --from to begin with those of another run.")
