"""What a checkpoint costs: writing it whole and safely, its digests, checking it on resuming; and what share that is.

    python tests/benchmarks/checkpoints.py --out tests/benchmarks/results/checkpoints-cpu.json

Of every recipe: the seconds of `save_checkpoint` (tensors, SHA-256, fsync, rename), of the SHA-256 alone, of finding
and loading it again, and of torch.save without any of that, one after another in each round; medians. Nothing is
trained: the states are as large as in training, of random numbers. The share is of the ten minutes between two saves.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import describe_versions, device_name
from torch import Tensor, nn

from bricscli import files
from bricscli.build import build_autoencoder, build_denoiser, build_discriminator
from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint

RECIPES = ("tiny/toy.yaml", "photos64.yaml", "photos64-diffusion.yaml", "church64x4.yaml", "church64x4-diffusion.yaml")
SAVE_EVERY = 600.0


def state_of(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, and what training needs beside them: the weights that are trained and Adam's two moments."""
    recipe = load_recipe(name)
    models: list[nn.Module]
    if isinstance(recipe, DiffusionRecipe):
        of = load_recipe(recipe.autoencoder + ".yaml")
        assert isinstance(of, AutoencoderRecipe)
        models = [build_denoiser(recipe, of.bottleneck.channels, of.code_size)]
    else:
        models = [build_autoencoder(recipe)]
        models += [build_discriminator(recipe)] if recipe.losses.adversarial else []
    weights = {name: torch.randn(value.shape) for name, value in models[0].state_dict().items()}
    training = {f"{i}.{copy}.{name}": torch.randn(value.shape) for i, model in enumerate(models)
                for name, value in model.state_dict().items() for copy in ("weights", "exp_avg", "exp_avg_sq")}
    return weights, training


def timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(name: str, rounds: int) -> dict[str, Any]:
    weights, training = state_of(name)
    size = sum(value.nbytes for value in (*weights.values(), *training.values()))
    seconds: dict[str, list[float]] = {"save": [], "sha256": [], "resume": [], "torch.save": []}
    with tempfile.TemporaryDirectory() as place:
        for i in range(rounds):
            folder = Path(place, str(i))
            path, plain = folder / "step-0000001", Path(place, "plain.pt")
            seconds["save"].append(timed(partial(save_checkpoint, folder, 1, weights, training, {"images_seen": 1},
                                                 "kind: diffusion\n")))
            seconds["sha256"].append(timed(partial(list, map(files.sha256_file, path.iterdir()))))
            seconds["resume"].append(timed(partial(latest_checkpoint, folder))
                                     + timed(partial(load_checkpoint, path, training=True)))
            seconds["torch.save"].append(timed(partial(torch.save, [weights, training], plain)))
            plain.unlink()
            files.remove_directory(folder)
    medians = {what: statistics.median(values) for what, values in seconds.items()}
    return {"recipe": name, "bytes": size, "seconds": medians, "share": medians["save"] / SAVE_EVERY,
            "digests_of_save": medians["sha256"] / medians["save"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    print(f"{'recipe':28} {'size':>9} {'save':>8} {'of it SHA-256':>14} {'find + load':>12} {'torch.save':>11} "
          f"{'share':>7}")
    rows = []
    for name in arguments.recipes:
        row = measure(name, arguments.rounds)
        rows.append(row)
        seconds = row["seconds"]
        print(f"{name:28} {files.show_bytes(row['bytes']):>9} {seconds['save']:7.2f}s {seconds['sha256']:13.2f}s "
              f"{seconds['resume']:11.2f}s {seconds['torch.save']:10.2f}s {row['share']:7.3%}", flush=True)
    if arguments.out:
        files.write_json(arguments.out, {
            "device": device_name(torch.device("cpu")), "versions": describe_versions(), "rounds": arguments.rounds,
            "command": "python tests/benchmarks/checkpoints.py", "save_every": SAVE_EVERY, "rows": rows})


if __name__ == "__main__":
    main()
