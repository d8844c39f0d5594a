"""`brics train-ae`: image shards -> autoencoder checkpoints."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bricscli import files
from bricscli.build import build_autoencoder, build_discriminator, count_parameters
from bricscli.data.images import decode_image, encode_png, sheet, to_float, to_uint8
from bricscli.data.loader import BatchReader, in_order
from bricscli.data.masks import draw_mask, draw_training_masks
from bricscli.data.remote import RemoteSet
from bricscli.data.shards import ShardSet
from bricscli.errors import DataError, RecipeError
from bricscli.losses.perceptual import LpipsLoss, PerceptualLoss, load_perceptual_loss
from bricscli.metrics.reconstruction import psnr
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.decoders.conditional import Kept
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.nn.retrieval.usage import EntryUsage
from bricscli.parallel.world import World
from bricscli.recipe.load import dump_recipe
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.recipe.specs import RQSpec
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.run.fingerprint import check_fingerprint, take_fingerprint
from bricscli.run.log import say
from bricscli.run.provenance import describe_process
from bricscli.runtime import deterministic_algorithms, memory_errors
from bricscli.tasks.datasets import check_same_data, describe_data, describe_shards, open_images
from bricscli.tasks.second_stage import check_base, check_same_start, load_base
from bricscli.training.loop import train
from bricscli.training.recovery import Again
from bricscli.training.space import LESS_MEMORY, check_room
from bricscli.training.steps import AutoencoderStep

PREVIEW_IMAGES = 16


def train_autoencoder(
    recipe: AutoencoderRecipe,
    data: Path,
    run_path: Path,
    *,
    device: torch.device,
    start: Path | None = None,
    overrides: Sequence[str] = (),
    save_every: float = 600.0,
    allow_drift: bool = False,
    world: World | None = None,
) -> RunDirectory:
    """Trains, or goes on training, the autoencoder of `recipe` on the train split of `data`, into `run_path`.

    A recipe with a conditional decoder begins with the averaged weights of the autoencoder's run `start`, of which all
    but the decoder stays. `save_every` is in seconds. Raises DataError for data that does not fit, MissingWeights where
    the perceptual loss needs a file that is not there, RecipeError where the run was made with another recipe or
    `start` is missing or not wanted, or where the processes of `world` cannot share the work, MismatchError where it
    does not fit, InterruptedRun on SIGINT.
    """
    world, training = world or World(device=device), recipe.training
    with memory_errors(device, LESS_MEMORY), ExitStack() as stack:
        with world.together():
            check_start(recipe, start, run_path)
            check_codebook(recipe, world)
            first = load_base(RunDirectory.open(start), recipe) if start else None
            images = open_images(data, recipe)
            world.check(training.batch_size, len(images.split("train")))
            perceptual = load_perceptual(recipe)
            decode, extension = partial(decode_image, resolution=recipe.data.resolution), images.image_extension
            val = torch.from_numpy(next(in_order(images.split("val"), decode, extension, PREVIEW_IMAGES)))
            reader = stack.enter_context(BatchReader(images.split("train"), decode, extension, training.batch_size,
                                                     training.seed, rows=world.rows(training.batch_size)))
            step = AutoencoderStep(recipe, device, perceptual.to(device) if perceptual else None,
                                   first.weights if first else None, world)
        # All that can be wrong with the data has been read by now: only then a run is begun.
        fingerprint = take_fingerprint(device.type, torch.get_num_threads(), world.describe(training.batch_size))
        with world.together():
            if world.first:
                check_room(run_path, step, math.ceil(training.images / training.batch_size))
                run = RunDirectory.create(run_path, recipe, {
                    "kind": recipe.kind, "data": describe_data(images), **({"from": first.record} if first else {}),
                    "overrides": list(overrides), "device": device.type, "fingerprint": fingerprint,
                    "process": describe_process()})
                check_same_data(run, images)
                check_same_start(run, first)
                stack.enter_context(run.lock())
        run = RunDirectory(run_path)

        def read_batch(number: int) -> tuple[Tensor, Tensor | None]:
            batch, flip = reader.batch(number)
            real = to_float(torch.from_numpy(batch).to(device))
            if recipe.data.flip:
                real = torch.where(torch.from_numpy(flip).to(device)[:, None, None, None], real.flip(-1), real)
            return real, training_masks(recipe, number, world)

        words = ["train-ae", "--data", str(data), "--device", device.type, *world.words]
        check = partial(check_fingerprint, run, fingerprint, allow_drift=allow_drift)
        with deterministic_algorithms(device):
            train(step, run, dump_recipe(recipe), images=training.images, batch_size=training.batch_size,
                  read_batch=read_batch, preview=partial(write_preview, step.averaged, recipe, val, device),
                  save_every=save_every, protect=partial(encoded_checkpoints, run), check=check,
                  again=Again(words, reader.keys), world=world)
    return run


def describe_plan(recipe: AutoencoderRecipe, data: Path | RemoteSet, start: Path | None = None) -> list[str]:
    """What `--dry-run` tells: parameters, and the shards that would be read."""
    if start:
        check_base(RunDirectory.open(start), recipe)
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


def check_start(recipe: AutoencoderRecipe, start: Path | None, run_path: Path) -> None:
    """Raises RecipeError where the recipe has nothing to begin with other weights for, or has to and cannot."""
    if start and not recipe.decoder.conditional:
        raise RecipeError("--from: is for recipes with decoder.conditional, such as photos64-inpaint.yaml. Leave it "
                          "out.")
    if recipe.decoder.conditional and not start and not list_checkpoints(RunDirectory(run_path).checkpoints):
        raise RecipeError("--from: decoder.conditional makes another decoder for the codes of an autoencoder. Pass its "
                          "run, such as --from runs/photos64.")


def check_codebook(recipe: AutoencoderRecipe, world: World) -> None:
    """Raises RecipeError where a codebook that learns without gradients would see but a part of a batch."""
    moves = isinstance(recipe.bottleneck, RQSpec) and not recipe.decoder.conditional
    if moves and (world.exact or not world.alone):
        raise RecipeError("bottleneck.kind: the codebook of `rq` moves by averages over a batch, which no part of it "
                          "knows. Train it on one process, with --determinism fast.")


def training_masks(recipe: AutoencoderRecipe, step: int, world: World) -> Tensor | None:
    """bool `(rows, 1, H, W)` of this process's rows of a batch, of recipes with a conditional decoder."""
    spec, training = recipe.decoder.conditional, recipe.training
    if spec is None:
        return None
    # A row of the series has its mask: these are the rows of a smaller batch, further on.
    return torch.from_numpy(draw_training_masks(spec.masks, training.seed, step * world.size + world.rank,
                                                training.batch_size // world.size, recipe.data.resolution,
                                                spec.full_masks)).to(world.device)


def write_preview(model: Autoencoder, recipe: AutoencoderRecipe, val: Tensor, device: torch.device, path: Path
                  ) -> dict[str, float]:
    """A sheet of `val`, uint8 `(B, 3, H, W)`, and what became of it, at `path`; numbers for the log."""
    fake = reconstruct_uint8(model, val, device)
    rows, numbers = [val, fake], {"val_psnr": float(psnr(val, fake).mean())}
    if recipe.decoder.conditional:
        masks = preview_masks(recipe, len(val))
        filled = reconstruct_uint8(model, val, device, masks)
        rows = [val, torch.where(masks, 128, val), fake, filled]
        numbers["val_psnr_masked"] = float(psnr(val, filled).mean())
    files.write_bytes(path, encode_png(compare_sheet(*rows)))
    numbers |= entries_hit(model, val, device)
    model.retrieval.free()
    return numbers


def preview_masks(recipe: AutoencoderRecipe, count: int) -> Tensor:
    """bool `(count, 1, H, W)`, none of them full; other ones than those of training."""
    spec, size = recipe.decoder.conditional, recipe.data.resolution
    assert spec is not None
    return torch.from_numpy(np.stack([draw_mask(spec.masks, recipe.training.seed + 1, i, size, size)
                                      for i in range(count)]))[:, None]


def reconstruct_uint8(model: Autoencoder, images: Tensor, device: torch.device,
                      masks: Tensor | None = None) -> Tensor:
    """uint8 `(B, 3, H, W)` -> its reconstruction, likewise; without noise. With `masks` the decoder knows the rest."""
    with torch.no_grad():
        real = to_float(images.to(device))
        kept = None if masks is None else Kept(real, masks.to(real))
        return to_uint8(model.decode(model.encode(real), kept)).cpu()


def entries_hit(model: Autoencoder, images: Tensor, device: torch.device) -> dict[str, float]:
    """For the log: the share of feature grid entries, of those that a key can reach, that uint8 images hit."""
    if not isinstance(model.retrieval, FeatureGrid):
        return {}
    usage = EntryUsage(model.retrieval)
    with torch.no_grad():
        usage.update(model.retrieval.tile(model.encode(to_float(images.to(device)))))
    return {"entries_hit": usage.hit_share()}


def compare_sheet(*kinds: Tensor, columns: int = 8) -> np.ndarray:
    """Rows of originals, each above the row of its reconstructions, or of more of them: uint8 `(3, H', W')`."""
    columns = min(columns, count := len(kinds[0]))
    blank = torch.full_like(kinds[0][:1], 255).expand(-count % columns, -1, -1, -1)  # fills the last row
    kinds = tuple(torch.cat([kind, blank]) for kind in kinds)
    rows = [kind[start:start + columns] for start in range(0, len(kinds[0]), columns) for kind in kinds]
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
