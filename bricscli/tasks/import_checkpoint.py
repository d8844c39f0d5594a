"""`brics import-checkpoint`: a first stage that another program trained -> a run of ours.

Networks of CompVis's latent-diffusion and taming-transformers, and of diffusers. Denoisers are not imported: theirs are
conditioned on time steps, ours on log SNR.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bricscli import files
from bricscli.build import build_autoencoder
from bricscli.errors import DataError, RecipeError
from bricscli.recipe.load import dump_recipe, recipe_from_dict
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.run.checkpoint import save_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.provenance import describe_process
from bricscli.tasks.importing import diffusers
from bricscli.tasks.importing.compvis import CannotHold, FirstStage
from bricscli.tasks.importing.kinds import find_weights_file, name_layout, read_config
from bricscli.tasks.importing.process import read_tensors

_PREFIX = "first_stage_model."
_OF_FIRST_STAGE = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
#: What else is in such files, by what its tensors' names begin with.
_OTHERS = {
    "model.diffusion_model.": "a denoiser of time steps, where brics' is told log SNR",
    "model_ema.": "averages of it",
    "cond_stage_model.": "what told it the condition",
    "loss.": "what trained the first stage",
    _PREFIX + "loss.": "what trained the first stage",
}


@dataclass(frozen=True)
class Imported:
    """The run; and what of the file is not in it: how many tensors, by how their names begin, and what those are."""

    run: RunDirectory
    recipe: AutoencoderRecipe
    left_out: dict[str, tuple[int, str]]


def import_checkpoint(source: Path, out: Path, *, resolution: int = 256) -> Imported:
    """Makes the new run `out` of the first stage in `source`, a file or diffusers' folder; all of it, or nothing.

    `resolution`, in pixels, is of the images that the run is for: the networks take any.

    Raises:
        RecipeError: the network cannot take images of `resolution`.
        DataError: `source` is not such a checkpoint, holds more than tensors, or a part that brics' networks do not
            have; or `out` is there already.
    """
    if out.exists():
        raise DataError(f"{out}: is there already. Choose another --out.")
    files.check_writable(out.parent)
    weights = find_weights_file(source)
    config = read_config(weights)
    read = read_tensors(weights)
    stage = {name.removeprefix(_PREFIX): tensor for name, tensor in read.first_stage.items()}
    if not any(name.startswith(("encoder.", "decoder.")) for name in stage):
        raise DataError(f"{source}: {name_layout(read.shapes)}. Give latent-diffusion's or taming-transformers' first "
                        "stage, or diffusers' autoencoder.")
    try:
        stage = _with_compvis_names(stage, config)
        first = FirstStage({name: tuple(tensor.shape) for name, tensor in stage.items()})
        recipe = _recipe(first, resolution, source)
        tensors = _convert(stage, first, recipe)
    except CannotHold as problem:
        raise DataError(f"{source}: has what brics' networks do not: {problem}. It cannot be imported.") from None
    others = [name for name in read.shapes if name.removeprefix(_PREFIX) not in read.first_stage
              and name not in read.first_stage]
    info = {"kind": recipe.kind, "imported": {"file": weights.name, "sha256": files.sha256_file(weights),
                                              "left_out": sorted(others)}, "process": describe_process()}
    return Imported(_write(out, recipe, info, tensors), recipe, _grouped(others))


def _with_compvis_names(stage: Mapping[str, Tensor], config: Mapping[str, object] | None) -> dict[str, Tensor]:
    if not diffusers.is_diffusers(stage):
        return dict(stage)
    if problems := diffusers.problems_of_config(config):
        raise CannotHold("; ".join(problems))
    return {name: stage[theirs][:, :, None, None] if stage[theirs].ndim == 2 and ".attn" in name else stage[theirs]
            for name, theirs in diffusers.compvis_names(stage).items()}


def _recipe(first: FirstStage, resolution: int, source: Path) -> AutoencoderRecipe:
    if not 8 <= resolution <= 1024 or resolution % first.factor:
        raise RecipeError(f"--resolution: {resolution} is no multiple of {first.factor} from 8 to 1024, as the network "
                          "needs. Choose another.")
    recipe = recipe_from_dict({
        "kind": "autoencoder",
        "description": f"Imported from {source.name}. Losses and training are defaults, not what trained it.",
        "data": {"name": "imported", "resolution": resolution},
        "encoder": first.encoder, "bottleneck": first.bottleneck, "retrieval": {"kind": "none"},
        "decoder": first.decoder, "training": {"images": 1, "batch_size": 1},
    }, str(source))
    assert isinstance(recipe, AutoencoderRecipe)
    return recipe


def _convert(stage: Mapping[str, Tensor], first: FirstStage, recipe: AutoencoderRecipe) -> dict[str, Tensor]:
    """The state dict of ours, every shape compared, every tensor of theirs used. Raises CannotHold."""
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in build_autoencoder(recipe).state_dict().items()
                  if not name.startswith("bottleneck.")}
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for ours, theirs in first.names().items():
        for kind in ("weight", "bias"):
            names = [f"{name}.{kind}" for name in theirs]
            if missing := [name for name in names if name not in stage]:
                raise CannotHold(f"{missing[0]} is missing")
            used |= set(names)
            found[f"{ours}.{kind}"] = torch.cat([stage[name] for name in names])
    if "quant_conv.weight" in stage:
        _fold(found, stage)
        used |= {"quant_conv.weight", "quant_conv.bias"}
    for name in sorted(wanted.keys() | found.keys()):
        shape = tuple(found[name].shape) if name in found else None
        if shape != wanted.get(name):
            raise CannotHold(f"{name} would have the shape {shape and list(shape)}, not {wanted.get(name)}")
    if recipe.bottleneck.kind == "vq":
        found |= _codebook(stage["quantize.embedding.weight"])
        used.add("quantize.embedding.weight")
    if unknown := sorted(set(stage) - used):
        more = f" and {len(unknown) - 5} others" if len(unknown) > 5 else ""
        raise CannotHold(f"{', '.join(unknown[:5])}{more}")
    return found


def _fold(found: dict[str, Tensor], stage: Mapping[str, Tensor]) -> None:
    """A 1x1 convolution after the encoder's last layer, into that layer; computed in float64."""
    weight, bias = stage["quant_conv.weight"].double(), stage.get("quant_conv.bias")
    if bias is None or weight.ndim != 4 or weight.shape[1:] != (len(found["encoder.out.weight"]), 1, 1):
        raise CannotHold(f"quant_conv has the shape {list(weight.shape)}")
    matrix, last = weight[:, :, 0, 0], found["encoder.out.weight"].double()
    found["encoder.out.weight"] = torch.einsum("oi,ihwk->ohwk", matrix, last).float()
    found["encoder.out.bias"] = (matrix @ found["encoder.out.bias"].double() + bias.double()).float()


def _codebook(vectors: Tensor) -> dict[str, Tensor]:
    """As `nn.bottleneck.VQ` keeps it."""
    prefix = "bottleneck.quantiser._codebook."
    return {f"{prefix}embed": vectors[None], f"{prefix}embed_avg": vectors[None].clone(),
            f"{prefix}cluster_size": torch.ones(1, len(vectors)), f"{prefix}initted": torch.tensor(True)}


def _grouped(names: list[str]) -> dict[str, tuple[int, str]]:
    counts = Counter(next((beginning for beginning in _OTHERS if name.startswith(beginning)), "") for name in names)
    return {beginning: (count, _OTHERS.get(beginning, "what its program keeps beside it"))
            for beginning, count in counts.items()}


def _write(out: Path, recipe: AutoencoderRecipe, info: Mapping[str, Any], tensors: Mapping[str, Tensor]
           ) -> RunDirectory:
    text = dump_recipe(recipe)
    with files.new_directory(out) as temporary:
        run = RunDirectory(temporary)
        files.write_text(run.recipe_path, text)
        files.write_json(run.info_path, dict(info))
        save_checkpoint(run.checkpoints, 0, tensors, {}, {"step": 0, "images_seen": 0}, text)
    return RunDirectory(out)
