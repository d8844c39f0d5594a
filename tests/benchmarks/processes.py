"""What training on several processes of this machine costs and brings, beside one: images a second of an autoencoder.

    python tests/benchmarks/processes.py --json tests/benchmarks/results/processes-cpu.json

Each row is a world: its processes train on drawn pictures as `brics train-ae` does, without saving or previews, each on
its share of the cores. `exchange` is the share of a step that ends with the gradients not being sent, `loading` the
share spent in waiting for data; both are of the first process, in wall time. Rows take turns.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import machine
import torch

from bricscli.copies import RENDEZVOUS
from bricscli.data.images import decode_image, to_float
from bricscli.data.loader import BatchReader
from bricscli.data.shards import ShardSet
from bricscli.files import write_json
from bricscli.parallel.reduction import Averaged, TreeSum
from bricscli.parallel.world import World, join_world
from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.runtime import deterministic_algorithms
from bricscli.tasks.prepare import prepare_toy
from bricscli.training.steps import AutoencoderStep

WARM_UP = 2


def measure(recipe: AutoencoderRecipe, data: Path, steps: int, world: World) -> dict[str, float]:
    """Seconds a step: all of it, waiting for data, and all of it where no gradient is sent."""
    images, training = ShardSet.open(data), recipe.training
    decode = partial(decode_image, resolution=recipe.data.resolution)
    step, times = AutoencoderStep(recipe, world.device, None, world=world), dict[str, list[float]]()
    with BatchReader(images.split("train"), decode, images.image_extension, training.batch_size, training.seed,
                     rows=world.rows(training.batch_size)) as reader, deterministic_algorithms(world.device):
        for number in range(WARM_UP + 2 * steps):
            sends = number < WARM_UP + steps
            if number == WARM_UP + steps:
                keep_gradients(step, world)
            world.any(False)  # together
            began = time.perf_counter()
            batch = to_float(torch.from_numpy(reader.batch(number)[0]).to(world.device))
            loaded = time.perf_counter()
            step(number, batch)
            ended = time.perf_counter()
            if number >= WARM_UP:
                times.setdefault("step" if sends else "alone", []).append(ended - began)
                times.setdefault("loading", []).append(loaded - began)
    return {name: statistics.median(values) for name, values in times.items()}


def keep_gradients(step: AutoencoderStep, world: World) -> None:
    """From now on every process learns for itself."""
    for learner in (step.generator, step.critic):
        reduction = None if learner is None else learner.reduction
        if isinstance(reduction, Averaged):
            reduction.engine.require_backward_grad_sync = False
            reduction.engine.no_sync = nullcontext  # type: ignore[method-assign,assignment]
        elif isinstance(reduction, TreeSum):
            reduction._across = lambda total: total  # type: ignore[method-assign]


def run(size: int, exact: bool, words: list[str]) -> dict[str, float]:
    """A world, of processes that run this file."""
    with tempfile.TemporaryDirectory() as folder:
        shared = {RENDEZVOUS: f"{folder}/meeting", "WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo",
                  "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // size))}
        processes = [subprocess.Popen([sys.executable, __file__, *words, "--child", "exact" if exact else "fast"],
                                      stdout=subprocess.PIPE, text=True,
                                      env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)})
                     for i in range(size)]
        said = [process.communicate()[0] for process in processes]
    return dict(json.loads(said[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny/toy.yaml")
    parser.add_argument("--set", action="append", default=["losses.perceptual=0"], help="as of brics train-ae")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.set, "autoencoder")
    assert isinstance(recipe, AutoencoderRecipe)
    if options.child:
        with join_world(options.device, exact=options.child == "exact") as world:
            times = measure(recipe, options.data, options.steps, world)
        print(json.dumps(times))
        return
    worlds = [(size, exact) for exact in (False, True) for size in options.sizes]
    found: dict[tuple[int, bool], list[dict[str, float]]] = {which: [] for which in worlds}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare_toy(data, resolution=recipe.data.resolution, count=max(64, 4 * recipe.training.batch_size))
        words = [*sys.argv[1:], "--data", str(data)]
        for _ in range(options.rounds):
            for size, exact in worlds:
                found[size, exact].append(run(size, exact, words))
    rows: list[dict[str, Any]] = []
    for (size, exact), rounds in found.items():
        times = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
        rows.append({"processes": size, "mode": "exact" if exact else "fast",
                     "images_per_second": recipe.training.batch_size / times["step"],
                     "exchange": max(0.0, 1 - times["alone"] / times["step"]) if size > 1 else 0.0,
                     "loading": times["loading"] / times["step"]})
        print("{processes} {mode:5} {images_per_second:8.2f} images/s, exchange {exchange:5.1%}, loading {loading:5.1%}"
              .format(**rows[-1]))
    if options.json:
        write_json(options.json, {
            "command": shlex.join(["python", "tests/benchmarks/processes.py", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(), "device": machine.device_name(torch.device(options.device)),
            "cores": os.cpu_count(), "versions": machine.describe_versions(), "rows": rows})


if __name__ == "__main__":
    main()
