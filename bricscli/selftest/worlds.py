"""One training on any number of processes, killed and moved between them: the same weights in exact mode."""

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from bricscli.copies import RENDEZVOUS
from bricscli.parallel.world import join_world
from bricscli.run.log import read_metrics
from bricscli.selftest.children import finish_child, start_child
from bricscli.selftest.trials import Bench, Trials
from bricscli.selftest.workload import (
    Place,
    Undisturbed,
    autoencoder_recipe,
    compare,
    diffusion_recipe,
    digest_tree,
)
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser

WORLDS = (1, 2, 4, 8)
TRAININGS = ("train-ae", "train-diffusion")
#: Seconds within which a training has to end by itself.
TIMEOUT = 300.0
#: After so many kills a training is left to end.
MOST_KILLS = 4
#: Fast mode: the loss may differ by this share in the end.
TOLERANCE = 1e-3
#: So many steps' losses are averaged for that.
LAST = 20


def try_worlds(bench: Bench, stages: dict[str, Undisturbed], rounds: int) -> Trials:
    """Each training on every number of processes, then so many rounds under kills, on another number after each."""
    trials = Trials("Exact training gives the same bytes on 1, 2, 4 and 8 processes, killed and moved between them")
    with trials.timed():
        for name in TRAININGS:
            wanted: dict[str, str] | None = None
            for size in WORLDS:
                bench.progress(f"{name} on {size} processes")
                root = _go(bench, stages[name], name, [size], bench.dice("none"), kills=0)
                found = _result(root)
                wanted = wanted or found
                trials.add(compare(found, wanted, f"{name} on {size} processes"))
                shutil.rmtree(root)
            dice = bench.dice(f"worlds {name}")
            for number in range(rounds):
                bench.progress(f"{name} under kills: {number} of {rounds} rounds")
                sizes: list[int] = []
                root = _go(bench, stages[name], name, sizes, dice, kills=MOST_KILLS)
                trials.add(compare(_result(root), wanted or {}, f"{name} on {sizes} processes, killed between"))
                trials.tell("kills", len(sizes) - 1)
                shutil.rmtree(root)
    return trials


def try_fast(bench: Bench, stages: dict[str, Undisturbed], steps: int) -> Trials:
    """The mean loss of the last of so many steps on two processes against that of one.

    At a small learning rate and without a critic: others make much of a last digit.
    """
    trials = Trials(f"Fast training on 2 processes has the loss of one within {TOLERANCE:g} after {steps} steps "
                    "(at a learning rate of 1e-4, without a critic)")
    with trials.timed():
        for name in TRAININGS:
            losses = []
            for size in (1, 2):
                bench.progress(f"{name}, fast, on {size} processes")
                root = _go(bench, stages[name], name, [size], bench.dice("none"), kills=0, exact=False, steps=steps)
                place = Place(root)
                run = place.autoencoder if name == TRAININGS[0] else place.diffusion
                losses.append(fmean(line["loss"] for line in read_metrics(run / "metrics.jsonl")[-LAST:]))
                shutil.rmtree(root)
            off = abs(losses[1] / losses[0] - 1)
            trials.add(None if off < TOLERANCE else f"{name}: {losses[1]} instead of {losses[0]}, {off:.2g} off")
    return trials


def _go(bench: Bench, stage: Undisturbed, name: str, sizes: list[int], dice: Random, *, kills: int, exact: bool = True,
        steps: int | None = None) -> Path:
    """A training to its end; `sizes` gets the numbers of processes, or has the only one. Returns its folder."""
    root = Path(tempfile.mkdtemp(prefix="world-", dir=bench.folder))
    root.rmdir()
    place = stage.begin(root)
    fixed, seconds = (sizes[0] if sizes else None), stage.seconds
    while True:
        size = fixed or dice.choice(WORLDS)
        if not fixed:
            sizes.append(size)
        with tempfile.TemporaryDirectory(prefix="brics-") as meeting:
            children = [start_child(partial(_train, name, place, rank, size, Path(meeting, "place"), exact, steps),
                                    bench.log) for rank in range(size)]
            if kills > 0 and len(sizes) <= kills:
                victim = dice.randrange(size)
                code = finish_child(children[victim], dice.uniform(0.1, 1.5) * seconds * max(1, size / 2))
                codes = [code, *(finish_child(child, 0.0 if code else TIMEOUT)
                                 for rank, child in enumerate(children) if rank != victim)]
            else:
                codes = [finish_child(child, TIMEOUT) for child in children]
        if not any(codes):
            return root
        if not kills or len(sizes) > kills + 1:
            raise AssertionError(f"{name} on {size} processes ended with {codes}: {bench.log.read_text()[-2000:]}")


def _train(name: str, place: Place, rank: int, size: int, meeting: Path, exact: bool, steps: int | None) -> None:
    """One process of a training."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), RENDEZVOUS: str(meeting)}
    training: dict[str, Any] = {} if steps is None else {"images": steps * 8, "learning_rate": 1e-4}
    with join_world("cpu", exact=exact) as world:
        how: dict[str, Any] = {"device": world.device, "world": world, "save_every": 0 if steps is None else 600}
        if name == TRAININGS[0]:
            train_autoencoder(autoencoder_recipe(steps is None, **training), place.data, place.autoencoder, **how)
        else:
            train_denoiser(diffusion_recipe(**training), place.autoencoder, place.diffusion, **how)


def _result(root: Path) -> dict[str, str]:
    """All but `run.json`, which says on how many processes a run began."""
    return {name: digest for name, digest in digest_tree(root).items() if not name.endswith("run.json")}
