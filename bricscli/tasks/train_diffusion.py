"""`brics train-diffusion`: shards of key codes or other latents -> denoiser checkpoints."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bricscli import files
from bricscli.build import build_denoiser, build_latent_perceptual, build_schedule, count_parameters
from bricscli.data.collection import DATA_ROOT
from bricscli.data.images import encode_png, sheet
from bricscli.data.loader import BatchReader
from bricscli.data.shards import ShardSet
from bricscli.diffusion.denoiser import Scaling
from bricscli.errors import MismatchError, RecipeError
from bricscli.parallel.world import World
from bricscli.recipe.load import dump_recipe, load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import WEIGHTS
from bricscli.run.directory import RunDirectory
from bricscli.run.fingerprint import check_fingerprint, take_fingerprint
from bricscli.run.log import warn
from bricscli.run.provenance import describe_process
from bricscli.runtime import deterministic_algorithms, memory_errors
from bricscli.tasks.classes import draw_labels, open_labels
from bricscli.tasks.datasets import check_same_data, describe_data, describe_shards
from bricscli.tasks.draw import decode_latents, draw_latents, step_levels
from bricscli.tasks.encode import CODE, FLIP, decode_code, open_codes
from bricscli.tasks.inpainting.surroundings import SurroundingsReader, find_images_of
from bricscli.tasks.models import LoadedAutoencoder, Prior, load_autoencoder, recipe_of, scaling_of
from bricscli.tasks.second_stage import FirstStage, check_first_stage, check_same_start, load_first_stage
from bricscli.training.acceleration import PLAIN, Acceleration
from bricscli.training.loop import train
from bricscli.training.recovery import Again
from bricscli.training.space import LESS_MEMORY, check_room
from bricscli.training.steps import DiffusionStep

PREVIEW_SEEDS = range(16)


def train_denoiser(
    recipe: DiffusionRecipe,
    autoencoder_path: Path,
    run_path: Path,
    *,
    device: torch.device,
    checkpoint: str | None = None,
    start: Path | None = None,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    save_every: float = 600.0,
    allow_drift: bool = False,
    acceleration: Acceleration = PLAIN,
    world: World | None = None,
) -> RunDirectory:
    """Trains, or goes on training, the denoiser of `recipe` on the key codes or latents of an autoencoder's run.

    The run keeps a copy of the autoencoder's weights, so that it can be sampled by itself, whatever becomes of the
    autoencoder's run. A new run begins with the averaged weights of the diffusion run `start`, or else with random
    ones. One that learns to inpaint also reads the images of the codes, from `data` or data/NAME. Raises DataError
    where there are no codes or images, MismatchError where other weights made them or `start` does not fit, RecipeError
    where the processes of `world` cannot share the work.
    """
    world, training = world or World(device=device), recipe.training
    with (memory_errors(device, f"--gradient-checkpointing needs less of it. {LESS_MEMORY}"),
          ExitStack() as stack):
        with world.together():
            _check_sharding(world, acceleration)
            autoencoder_run = RunDirectory.open(autoencoder_path)
            autoencoder = load_autoencoder(autoencoder_run, device, checkpoint)
            recipe.check_code_size(autoencoder.recipe.code_size)
            recipe.check_decoder_blocks(autoencoder.recipe.decoder_blocks)
            step_levels(recipe.sampling, build_schedule(recipe.schedule))  # or RecipeError, before there is a run
            codes = open_codes(autoencoder_run, autoencoder)
            world.check(training.batch_size, len(codes.split("train")))
            labels, classes = open_labels(codes, recipe) or (None, {})
            about_codes = _describe_codes(codes, autoencoder, classes)
            first = load_first_stage(RunDirectory.open(start), recipe, about_codes) if start else None
            scaling = scaling_of(autoencoder.recipe, codes.header, codes.path)
            reader = stack.enter_context(_open_reader(codes, recipe, autoencoder.code_shape, world))
            beside = None
            if recipe.conditioning:
                beside = stack.enter_context(SurroundingsReader(
                    codes, find_images_of(codes, DATA_ROOT, data), recipe, autoencoder, scaling, device,
                    flip=reader.mirrors, rows=reader.rows))
            step = _build_step(recipe, autoencoder, scaling, first, acceleration, device, world)
        fingerprint = take_fingerprint(device.type, torch.get_num_threads(), world.describe(training.batch_size))
        with world.together():
            if world.first:
                check_room(run_path, step, math.ceil(training.images / training.batch_size))
                run = RunDirectory.create(run_path, recipe, {
                    "kind": recipe.kind, **about_codes, **({"from": first.record} if first else {}),
                    "overrides": list(overrides), "device": device.type, "acceleration": asdict(acceleration),
                    "fingerprint": fingerprint, "process": describe_process()})
                check_same_autoencoder(run, autoencoder)
                check_same_data(run, codes)
                check_same_start(run, first)
                stack.enter_context(run.lock())
                if not run.autoencoder_path.exists():
                    files.write_bytes(run.autoencoder_path, (autoencoder.weights_path / WEIGHTS).read_bytes())
        run = RunDirectory(run_path)
        if world.sharded:
            step.shard()

        def read_batch(number: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
            label = None if labels is None else torch.from_numpy(labels[reader.indices(number)]).to(device)
            latent = torch.from_numpy(reader.batch(number)[0]).to(device).float()
            return latent, label, beside.batch(number) if beside else None

        def preview(path: Path) -> Mapping[str, float]:
            prior = Prior(step.averaged, step.schedule, scaling, autoencoder.code_shape)
            out = path if world.first else None
            if beside:
                return beside.preview(prior, recipe, out)
            _write_preview(prior, autoencoder, recipe, classes, device, out)
            return {}

        words = ["train-diffusion", "--autoencoder", str(autoencoder_path), "--checkpoint", autoencoder.digest[:16],
                 *(["--data", str(data)] if data else []), "--device", device.type, *world.words,
                 *(f"--{name.replace('_', '-')}" for name, wanted in asdict(acceleration).items() if wanted)]
        check = partial(check_fingerprint, run, fingerprint, allow_drift=allow_drift)
        with deterministic_algorithms(device):
            train(step, run, dump_recipe(recipe), images=training.images, batch_size=training.batch_size,
                  read_batch=read_batch, preview=preview, save_every=save_every, check=check,
                  again=Again(words, reader.keys), world=world)
    return run


def _write_preview(prior: Prior, autoencoder: LoadedAutoencoder, recipe: DiffusionRecipe, classes: Mapping[str, int],
                   device: torch.device, path: Path | None) -> None:
    """A sheet of samples; None: drawn, as all processes of a divided denoiser have to, and not kept."""
    drawn = draw_latents(prior, PREVIEW_SEEDS, recipe.sampling, device, draw_labels(classes, PREVIEW_SEEDS))
    images = decode_latents(autoencoder.model, drawn, device)
    if path is not None:
        files.write_bytes(path, encode_png(sheet(images.numpy(), 8)))


def _describe_codes(codes: ShardSet, autoencoder: LoadedAutoencoder, classes: Mapping[str, int]) -> dict[str, Any]:
    """For `run.json`: whose they are, how they spread if they are no key codes, of which images, which classes."""
    latents = {"latents": codes.header["latents"]} if "latents" in codes.header else {}
    return {"autoencoder": {"run": autoencoder.name, "digest": autoencoder.digest} | latents,
            "data": describe_data(codes), "images": codes.header["images"],
            **({"classes": dict(classes)} if classes else {})}


def _check_sharding(world: World, acceleration: Acceleration) -> None:
    """Raises RecipeError where the denoiser cannot be divided."""
    if world.sharded and world.alone:
        raise RecipeError("--shard: divides the denoiser among several processes. Pass --devices N as well.")
    if world.sharded and (acceleration.compile or acceleration.channels_last):
        raise RecipeError("--shard: cannot divide what was compiled, or lies otherwise in memory. Leave out --compile "
                          "and --channels-last.")


def _open_reader(codes: ShardSet, recipe: DiffusionRecipe, shape: tuple[int, int, int], world: World) -> BatchReader:
    """Of the training codes, half of them mirrored if asked for; warns where there are no mirrored ones."""
    split, flip = codes.split("train"), recipe.training.flip
    if flip and FLIP not in split.extensions:
        warn(f"{codes.path}: holds no mirrored codes (data.flip of the autoencoder is false); training.flip is "
             "without effect")
        flip = False
    return BatchReader(split, partial(decode_code, shape=shape), CODE, recipe.training.batch_size,
                       recipe.training.seed, flip_extension=FLIP if flip else None,
                       rows=world.rows(recipe.training.batch_size))


def _build_step(recipe: DiffusionRecipe, autoencoder: LoadedAutoencoder, scaling: Scaling, first: FirstStage | None,
                acceleration: Acceleration, device: torch.device, world: World) -> DiffusionStep:
    """At its start, and as fast as asked for. Raises BricsError where the denoiser cannot be compiled."""
    channels, size, _ = autoencoder.code_shape
    perceptual = None
    if recipe.latent_perceptual:
        perceptual = build_latent_perceptual(recipe.latent_perceptual, autoencoder.model,
                                             autoencoder.recipe.data.resolution)
    step = DiffusionStep(recipe, device, scaling, channels=channels, size=size, perceptual=perceptual,
                         weights=first.weights if first else None, world=world)
    rows = len(world.rows(recipe.training.batch_size)) // step.division.count
    like = torch.zeros(rows, step.denoiser.model.inputs, size, size, device=device)
    with deterministic_algorithms(device):  # as in training: torch compiles for one or the other
        acceleration.apply(step.denoiser.model, like, recipe.training.precision)
    return step


def describe_plan(recipe: DiffusionRecipe, autoencoder_path: Path, start: Path | None = None) -> list[str]:
    """What `--dry-run` tells: parameters, and the shards that would be read.

    Where the autoencoder's run does not exist yet, the recipe of its name tells the shape of the codes.
    """
    run = RunDirectory(autoencoder_path)
    autoencoder = recipe_of(run, AutoencoderRecipe) if run.recipe_path.exists() else load_recipe(
        recipe.autoencoder, kind="autoencoder")
    assert isinstance(autoencoder, AutoencoderRecipe)
    recipe.check_code_size(autoencoder.code_size)
    recipe.check_decoder_blocks(autoencoder.decoder_blocks)
    if start:
        check_first_stage(RunDirectory.open(start), recipe)
    model = build_denoiser(recipe, autoencoder.bottleneck.channels, autoencoder.code_size)
    size = f"{autoencoder.code_size}x{autoencoder.code_size}x{autoencoder.bottleneck.channels}"
    return [f"denoiser      {count_parameters(model) / 1e6:8.2f} M parameters, on codes of {size}",
            *describe_shards(run.codes, f"brics encode --run {run.path}")]


def check_same_autoencoder(run: RunDirectory, autoencoder: LoadedAutoencoder) -> None:
    """A run goes on with the autoencoder it began with. Raises MismatchError where it is another."""
    began = run.info["autoencoder"]["digest"]
    if began != autoencoder.digest:
        raise MismatchError(f"{run.path}: began with autoencoder {began[:8]}, the one given is "
                            f"{autoencoder.digest[:8]}. Choose another --run, or pass --checkpoint {began[:8]}.")


