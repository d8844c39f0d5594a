"""`brics train-ae`: image shards -> autoencoder checkpoints."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bricscli import files
from bricscli.build import build_autoencoder, build_discriminator, count_parameters
from bricscli.data.images import decode_image, encode_png, sheet, to_float, to_uint8
from bricscli.data.loader import BatchReader, in_order
from bricscli.data.shards import ShardSet
from bricscli.errors import DataError
from bricscli.losses.perceptual import LpipsLoss, PerceptualLoss, load_perceptual_loss
from bricscli.metrics.reconstruction import psnr
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.nn.retrieval.usage import EntryUsage
from bricscli.recipe.load import dump_recipe
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.run.log import say
from bricscli.run.provenance import describe_process
from bricscli.runtime import deterministic_algorithms
from bricscli.tasks.datasets import check_same_data, describe_data, describe_shards, open_images
from bricscli.training.loop import train
from bricscli.training.steps import AutoencoderStep

PREVIEW_IMAGES = 16


def train_autoencoder(
    recipe: AutoencoderRecipe,
    data: Path,
    run_path: Path,
    *,
    device: torch.device,
    overrides: Sequence[str] = (),
    save_every: float = 600.0,
) -> RunDirectory:
    """Trains, or goes on training, the autoencoder of `recipe` on the train split of `data`, into `run_path`.

    `save_every` is in seconds. Raises DataError for data that does not fit, MissingWeights where the perceptual loss
    needs a file that is not there, RecipeError where the run was made with another recipe, InterruptedRun on SIGINT.
    """
    images = open_images(data, recipe)
    perceptual = load_perceptual(recipe)
    decode, extension = partial(decode_image, resolution=recipe.data.resolution), images.image_extension
    val = torch.from_numpy(next(in_order(images.split("val"), decode, extension, PREVIEW_IMAGES)))
    training = recipe.training
    with BatchReader(images.split("train"), decode, extension, training.batch_size, training.seed) as reader:
        # All that can be wrong with the data has been read by now: only then a run is begun.
        run = RunDirectory.create(run_path, recipe, {
            "kind": recipe.kind, "data": describe_data(images),
            "overrides": list(overrides), "device": device.type, "process": describe_process()})
        check_same_data(run, images)
        step = AutoencoderStep(recipe, device, perceptual.to(device) if perceptual else None)

        def read_batch(number: int) -> tuple[Tensor]:
            batch, flip = reader.batch(number)
            real = to_float(torch.from_numpy(batch).to(device))
            if not recipe.data.flip:
                return (real,)
            return (torch.where(torch.from_numpy(flip).to(device)[:, None, None, None], real.flip(-1), real),)

        def preview(path: Path) -> Mapping[str, float]:
            fake = reconstruct_uint8(step.averaged, val, device)
            files.write_bytes(path, encode_png(compare_sheet(val, fake)))
            numbers = {"val_psnr": float(psnr(val, fake).mean())} | entries_hit(step.averaged, val, device)
            step.averaged.retrieval.free()
            return numbers

        with run.lock(), deterministic_algorithms(device):
            train(step, run, dump_recipe(recipe), images=training.images, batch_size=training.batch_size,
                  read_batch=read_batch, preview=preview, save_every=save_every,
                  protect=partial(encoded_checkpoints, run))
    return run


def describe_plan(recipe: AutoencoderRecipe, data: Path) -> list[str]:
    """What `--dry-run` tells: parameters, and the shards that would be read."""
    model = build_autoencoder(recipe)
    parts = {"encoder": model.encoder, "bottleneck": model.bottleneck, "grids": model.retrieval,
             "decoder": model.decoder}
    counts = {name: count_parameters(part) / 1e6 for name, part in parts.items()}
    entries = model.retrieval.table.numel() / 1e6 if isinstance(model.retrieval, FeatureGrid) else 0
    notes = {"grids": f" ({entries:.2f} M of them in grid entries)"}
    lines = [f"{name:13} {count:8.2f} M parameters{notes.get(name, '')}" for name, count in counts.items() if count]
    if recipe.losses.adversarial:
        lines.append(f"discriminator {count_parameters(build_discriminator(recipe)) / 1e6:8.2f} M parameters")
    return [*lines, *describe_shards(data, "brics prepare")]


def load_perceptual(recipe: AutoencoderRecipe) -> PerceptualLoss | LpipsLoss | None:
    """The perceptual loss with its pretrained network, where the recipe asks for one. Raises MissingWeights."""
    return load_perceptual_loss(recipe.losses.perceptual_network) if recipe.losses.perceptual else None


def reconstruct_uint8(model: torch.nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """uint8 `(B, 3, H, W)` -> its reconstruction, likewise; without noise."""
    with torch.no_grad():
        return to_uint8(model(to_float(images.to(device)))).cpu()


def entries_hit(model: Autoencoder, images: Tensor, device: torch.device) -> dict[str, float]:
    """For the log: the share of feature grid entries, of those that a key can reach, that uint8 images hit."""
    if not isinstance(model.retrieval, FeatureGrid):
        return {}
    usage = EntryUsage(model.retrieval)
    with torch.no_grad():
        usage.update(model.retrieval.tile(model.encode(to_float(images.to(device)))))
    return {"entries_hit": usage.hit_share()}


def compare_sheet(real: Tensor, fake: Tensor, columns: int = 8) -> np.ndarray:
    """Rows of originals, each above the row of its reconstructions: uint8 `(3, H', W')`."""
    columns = min(columns, len(real))
    blank = torch.full_like(real[:1], 255).expand(-len(real) % columns, -1, -1, -1)  # fills the last row
    real, fake = torch.cat([real, blank]), torch.cat([fake, blank])
    rows = [part for start in range(0, len(real), columns)
            for part in (real[start:start + columns], fake[start:start + columns])]
    return sheet(torch.cat(rows).numpy(), columns)


def encoded_checkpoints(run: RunDirectory) -> list[Path]:
    """The checkpoint that the run's key codes were made with, which must not be deleted."""
    try:
        digest = ShardSet.open(run.codes).header["autoencoder"]["digest"]
    except DataError:
        return []
    return [path for path in list_checkpoints(run.checkpoints) if checkpoint_digest(path) == digest]


def say_trained(run: RunDirectory) -> None:
    """The closing line of a training run."""
    newest = list_checkpoints(run.checkpoints)[-1]
    say(f"{run.path}: trained; weights in {newest}, sheets in {run.sheets}.")
