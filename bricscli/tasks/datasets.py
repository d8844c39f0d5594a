"""The data set of a run: opened, checked against the recipe and against what the run began with, described."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bricscli import files
from bricscli.data.remote import RemoteSet, fetched_set
from bricscli.data.shards import ShardSet
from bricscli.errors import DataError
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.run.directory import RunDirectory
from bricscli.tasks.models import recipe_of


def describe_shards(data: Path | RemoteSet, command: str) -> list[str]:
    """The shards of a data set, or that there are none yet and which command makes them."""
    if isinstance(data, RemoteSet):
        sizes = map(files.show_bytes, (data.bytes, sum(shard.bytes for shard in data.missing)))
        return ["data          {}: {}, {} to be fetched".format(data.where, *sizes),
                *(f"  {shard.name}  {files.show_bytes(shard.bytes)}" for shard in data.listed)]
    if not data.exists():
        return [f"data          {data}: not there yet. Make it with `{command}`."]
    shards = ShardSet.open(data)
    return [f"data          {data}: {', '.join(f'{count} {split}' for split, count in shards.splits.items())}",
            *(f"  {shard.name}  {shard.samples} samples, {files.show_bytes(shard.bytes)}" for shard in shards.shards)]


def open_images(data: Path, recipe: AutoencoderRecipe) -> ShardSet:
    """A prepared data set of the recipe's resolution. Raises DataError where it is not."""
    images = ShardSet.open(data)
    check_images(str(data), images.header, recipe)
    return images


def check_images(where: str, header: Mapping[str, Any], recipe: AutoencoderRecipe) -> None:
    """Raises DataError unless the header of a manifest is one of images of the recipe's resolution."""
    found, kind = header.get("resolution"), header.get("kind")
    if kind != "images" or found != recipe.data.resolution:
        what = f"images of {found} pixels" if kind == "images" else kind
        raise DataError(f"{where}: holds {what}, the recipe needs images of {recipe.data.resolution}. "
                        f"Prepare them with --resolution {recipe.data.resolution}, or choose another --data.")


def describe_data(shards: ShardSet) -> dict[str, Any]:
    """What `run.json`, and the manifest of key codes, keep of the data set; of images also how they were prepared."""
    preparation = {"preparation": shards.preparation} if shards.header["kind"] == "images" else {}
    return {"name": shards.path.absolute().name, "digest": shards.digest, **preparation}


def check_same_data(run: RunDirectory, shards: ShardSet) -> None:
    """A run goes on with the data it began with. Raises DataError where the data set is another."""
    began = _began_with(run)["digest"]
    if began != shards.digest:
        raise DataError(f"{shards.path}: is not the data set that {run.path} began with (manifest {shards.digest[:8]} "
                        f"instead of {began[:8]}). Choose another --run, or the data set of before.")


def trained_data(run: RunDirectory, root: Path) -> Path:
    """The data set under `root`, or fetched before, that an autoencoder's run was trained on.

    Raises DataError where another lies in its place, MismatchError where it is another kind of run.
    """
    recipe_of(run, AutoencoderRecipe)
    data = _began_with(run)
    name, began = str(data["name"]), str(data["digest"])
    path = root / name
    if not path.exists():
        path = fetched_set(began, name) or path
    if not path.exists():
        raise DataError(f"{path}: is not there, and {run.path} was trained on a data set of that name. Say where it "
                        "is, with --ref or --data.")
    if ShardSet.open(path).digest != began:
        raise DataError(f"{path}: is not the data set that {run.path} was trained on (its manifest is not "
                        f"{began[:8]}). Name the one you mean.")
    return path


def _began_with(run: RunDirectory) -> dict[str, Any]:
    """What `run.json` says of the data. Raises DataError where the run was imported, and nothing is known of them."""
    info = run.info
    if "data" not in info:
        raise DataError(f"{run.path}: was imported, not trained here, so that its data are not known. Say where data "
                        "are, with --ref or --data; training does not go on from it.")
    return dict(info["data"])
