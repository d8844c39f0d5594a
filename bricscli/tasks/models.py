"""Runs on disk -> modules that can be used, checked to belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from bricscli.build import build_autoencoder, build_denoiser, build_schedule
from bricscli.diffusion.denoiser import KEY_CODES, Scaling, latents_of
from bricscli.diffusion.schedule import Schedule
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.unet import UNet
from bricscli.recipe.load import parse_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import (
    Weights,
    find_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_weights,
)
from bricscli.run.directory import RunDirectory, list_runs

R = TypeVar("R", AutoencoderRecipe, DiffusionRecipe)


@dataclass(frozen=True)
class LoadedAutoencoder:
    """A trained autoencoder; `digest` names its weights, and with them everything that was made by them."""

    name: str
    recipe: AutoencoderRecipe
    model: Autoencoder
    digest: str
    weights_path: Path

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """(C_z, H_z, W_z)."""
        return self.recipe.code_shape

    def check_resolution(self, shape: tuple[int, int], name: str) -> None:
        """Raises DataError unless images of `shape` (height, width) are what it was trained on."""
        wanted = self.recipe.data.resolution
        if shape != (wanted, wanted):
            raise DataError(f"{name}: images are {shape[1]}x{shape[0]}, {self.name} needs {wanted}x{wanted}. "
                            f"Prepare them with --resolution {wanted}.")


@dataclass(frozen=True)
class Prior:
    """What latents are drawn from; `shape` is theirs."""

    denoiser: UNet
    schedule: Schedule
    scaling: Scaling
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class LoadedDenoiser:
    """A trained denoiser with the autoencoder whose codes it draws."""

    name: str
    recipe: DiffusionRecipe
    prior: Prior
    ema: float  #: decay of the average that its weights are; 0: of none
    digest: str
    autoencoder: LoadedAutoencoder
    classes: Mapping[str, int]  #: how many training samples each has, by number; none of an unconditional one


def load_autoencoder(run: RunDirectory, device: torch.device, checkpoint: str | None = None) -> LoadedAutoencoder:
    """The newest checkpoint of a run, or the one whose name or digest begins with `checkpoint`.

    Raises:
        DataError: the run has none, or it is damaged.
        MismatchError: it is not the run of an autoencoder.
    """
    recipe_of(run, AutoencoderRecipe)
    path = find_checkpoint(run.checkpoints, checkpoint) if checkpoint else newest_checkpoint(run)
    loaded = load_checkpoint(path)
    return _autoencoder(run.name, Weights(loaded.digest, loaded.recipe_text, loaded.weights), path, device)


def load_denoiser(run: RunDirectory, device: torch.device, ema: float | None = None) -> LoadedDenoiser:
    """The newest checkpoint of a diffusion run, and the autoencoder that the run keeps beside it.

    `ema` is one of the recipe's decays, the first unless told otherwise.

    Raises:
        RecipeError: the run has no average of that decay.
        DataError: one of them is missing or damaged.
        MismatchError: it is not the run of a diffusion model, or its autoencoder is not the one it was trained with.
    """
    decays = recipe_of(run, DiffusionRecipe).training.ema
    if ema is not None and ema not in decays:
        raise RecipeError(f"--ema: {run.path} has no average of decay {ema:g}. There are: "
                          f"{', '.join(map(str, decays))}.")
    ema = decays[0] if ema is None else ema
    path = newest_checkpoint(run)
    expected, classes = run.info["autoencoder"], run.info.get("classes", {})
    weights = load_weights(run.autoencoder_path)
    if weights.digest != expected["digest"]:
        raise MismatchError(f"{run.autoencoder_path}: is autoencoder {weights.digest[:8]}, but the run was trained "
                            f"with {expected['digest'][:8]}. Put the file of `{expected['run']}` back.")
    autoencoder = _autoencoder(expected["run"], weights, run.autoencoder_path, device)
    checkpoint = load_checkpoint(path, decay=None if ema == decays[0] else ema)
    recipe = parse_recipe(checkpoint.recipe_text, str(path))
    assert isinstance(recipe, DiffusionRecipe)
    if len(classes) != recipe.denoiser.classes:
        raise DataError(f"{run.info_path}: names {len(classes)} classes, and {path} has {recipe.denoiser.classes}. "
                        "Put the run's own file back.")
    channels, size, _ = autoencoder.code_shape
    model = build_denoiser(recipe, channels, size)
    _fill(model, checkpoint.weights, path)
    model.to(device).eval().requires_grad_(False)
    scaling = scaling_of(autoencoder.recipe, expected, run.info_path)
    prior = Prior(model, build_schedule(recipe.schedule), scaling, autoencoder.code_shape)
    return LoadedDenoiser(run.name, recipe, prior, ema, checkpoint.digest, autoencoder, classes)


def load_inpainting_decoder(run: RunDirectory, denoiser: LoadedDenoiser, device: torch.device) -> LoadedAutoencoder:
    """The newest checkpoint of a run of a conditional decoder, for the codes that `denoiser` draws.

    Raises:
        DataError: the run has none, or it is damaged.
        MismatchError: it is of another kind, or began with another autoencoder than the denoiser's.
    """
    if not recipe_of(run, AutoencoderRecipe).decoder.conditional:
        raise MismatchError(f"{run.path}: its decoder cannot be told what is kept. Train one with `brics train-ae "
                            f"--recipe ...-inpaint.yaml --from {run.path}`.")
    base, began = denoiser.autoencoder, run.info.get("from", {})
    if began.get("digest") != base.digest:
        raise MismatchError(f"{run.path}: began with autoencoder {str(began.get('digest'))[:8]} "
                            f"(`{began.get('run')}`), {denoiser.name} draws codes of {base.digest[:8]} "
                            f"(`{base.name}`). Choose another run.")
    loaded = load_autoencoder(run, device)
    own = loaded.model.state_dict()
    for name, tensor in base.model.state_dict().items():
        if not name.startswith("decoder.") and not (name in own and torch.equal(own[name], tensor)):
            raise MismatchError(f"{loaded.weights_path}: {name} is not that of autoencoder {base.digest[:8]}, with "
                                "which it began. Train it again.")
    return loaded


def find_inpainting_decoder(runs: Path, digest: str) -> RunDirectory | None:
    """The run under `runs` of a conditional decoder that began with autoencoder `digest`: the newest; None if none."""
    found = []
    for run in list_runs(runs):
        checkpoints = list_checkpoints(run.checkpoints)
        try:
            recipe, began = run.recipe, run.info.get("from", {})
            if checkpoints and isinstance(recipe, AutoencoderRecipe) and began.get("digest") == digest:
                found.append((checkpoints[-1].stat().st_mtime_ns, run.name, run))
        except (DataError, RecipeError):
            continue  # one that cannot be read is not the one
    return max(found)[2] if found else None


def scaling_of(recipe: AutoencoderRecipe, record: Mapping[str, Any], where: Path) -> Scaling:
    """How the denoiser sees an autoencoder's codes; `record` is what the file `where` says of them.

    Raises DataError where it does not say how far latents spread that are no key codes.
    """
    if recipe.has_key_codes:
        return KEY_CODES
    try:
        return latents_of(**record["latents"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{where}: does not say how far the latents spread. Run `brics encode` again.") from None


def recipe_of(run: RunDirectory, kind: type[R]) -> R:
    """The run's recipe, which must be of that kind. Raises MismatchError if it is of the other."""
    recipe = run.recipe
    if not isinstance(recipe, kind):
        wanted, found = ("an autoencoder", "a diffusion model") if kind is AutoencoderRecipe else (
            "a diffusion model", "an autoencoder")
        raise MismatchError(f"{run.path}: is the run of {found}, not of {wanted}. Choose another run.")
    return recipe


def newest_checkpoint(run: RunDirectory) -> Path:
    """Of a run that has one. Raises DataError where it has none."""
    path = latest_checkpoint(run.checkpoints)
    if path is None:
        raise DataError(f"{run.path}: has no checkpoint yet. Train it first.")
    return path


def _autoencoder(name: str, weights: Weights, path: Path, device: torch.device) -> LoadedAutoencoder:
    recipe = parse_recipe(weights.recipe_text, str(path))
    assert isinstance(recipe, AutoencoderRecipe)
    model = build_autoencoder(recipe)
    _fill(model, weights.tensors, path)
    if device.type == "cpu":  # decodes 256x256 in 14 % less time; the numbers differ by rounding
        model.decoder.to(memory_format=torch.channels_last)
    return LoadedAutoencoder(name, recipe, model.to(device).eval().requires_grad_(False), weights.digest, path)


def _fill(model: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise DataError(f"{path}: its weights do not fit its recipe, so another version of brics wrote it. "
                        "Train it again.") from None
