"""What a step of diffusion training costs with the latent perceptual loss and without it: time and memory.

    python tests/benchmarks/latent_perceptual.py --repeats 5 --json tests/benchmarks/results/latent-perceptual-cpu.json

The sizes are those of a recipe and its autoencoder; weights and key codes are random, and at these sizes that changes
only how large the loss is. Rows take turns, so that a busy machine slows all of them alike. One CPU thread is measured
in the process's CPU time, everything else by the clock on the wall; memory is that of the tensors kept for the backward
pass, on a GPU the allocator's peak.
"""

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from machine import clock
from torch import Tensor

from bricscli.build import build_autoencoder, build_latent_perceptual
from bricscli.diffusion.denoiser import KEY_CODES
from bricscli.files import write_json
from bricscli.nn.autoencoder import Autoencoder
from bricscli.recipe.diffusion_specs import LatentPerceptualSpec
from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.provenance import describe_process
from bricscli.training.steps import DiffusionStep

PLAIN = "without"
#: Thresholds no noise and every noise pass: what the batch's luck with the gate is between.
ROWS: dict[str, dict[str, object]] = {
    "all images decoded": {"threshold": 1e9},
    "the recipe's threshold": {},
    "... and 1 block": {"blocks": 1},
    "... and no mask": {"outliers": False},
    "... diffusers": {"variant": "diffusers"},
}


@dataclass
class Row:
    """Times of one step in milliseconds, and memory in MiB."""

    name: str
    memory: float
    times: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def kept_for_backward(run: Callable[[], object]) -> float:
    """MiB of the different tensors that autograd saves in `run`; a parameter is one, too."""
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # or a freed one's address would be taken again

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storages.values()) / 2**20


def memory_of(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        return kept_for_backward(run)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) / 2**20


def make_step(recipe: DiffusionRecipe, autoencoder: Autoencoder, shape: tuple[int, int, int], resolution: int,
              spec: LatentPerceptualSpec | None, device: torch.device) -> DiffusionStep:
    perceptual = build_latent_perceptual(spec, autoencoder, resolution) if spec else None
    recipe = recipe.model_copy(update={"latent_perceptual": spec})
    return DiffusionStep(recipe, device, KEY_CODES, channels=shape[0], size=shape[1], perceptual=perceptual)


def measure(recipe: DiffusionRecipe, first: AutoencoderRecipe, batch: int, repeats: int, device: torch.device,
            now: Callable[[], float]) -> list[Row]:
    """The step that measures memory is also the one that warms up."""
    base = recipe.latent_perceptual
    assert base is not None, "a recipe with latent_perceptual"
    autoencoder = build_autoencoder(first).to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        autoencoder.decoder.to(memory_format=torch.channels_last)  # as the program does
    code = torch.rand(batch, *first.code_shape, device=device)
    specs = {PLAIN: None} | {name: base.model_copy(update=changes) for name, changes in ROWS.items()}
    steps = {name: make_step(recipe, autoencoder, first.code_shape, first.data.resolution, spec, device)
             for name, spec in specs.items()}
    rows = []
    for name, step in steps.items():
        step(0, code)
        rows.append(Row(name, memory_of(partial(step, 0, code), device), []))
    for number in range(repeats):
        for row in rows:
            start = now()
            steps[row.name](number, code)
            row.times.append(1000 * (now() - start))
    return rows


def print_table(rows: list[Row]) -> None:
    plain = rows[0]
    print(f"{'latent perceptual loss':26}{'ms a step':>12}{'ratio':>8}{'MiB':>10}{'ratio':>8}")
    for row in rows:
        print(f"{row.name:26}{row.median:12.1f}{row.median / plain.median:8.2f}{row.memory:10.1f}"
              f"{row.memory / plain.memory:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="photos64-lpl.yaml")
    parser.add_argument("--batch", type=int, help="default: the recipe's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device, recipe = torch.device(options.device), load_recipe(options.recipe, kind="diffusion")
    assert isinstance(recipe, DiffusionRecipe)
    first = load_recipe(recipe.autoencoder, kind="autoencoder")
    assert isinstance(first, AutoencoderRecipe)
    batch = options.batch or recipe.training.batch_size
    rows = measure(recipe, first, batch, options.repeats, device, clock(device, options.threads))
    print_table(rows)
    if options.json:
        versions = describe_process()
        del versions["argv"]
        write_json(options.json, {
            "what": "one step of diffusion training, times in ms, memory in MiB", "versions": versions,
            "device": device.type, "threads": options.threads, "recipe": options.recipe, "batch": batch,
            "time": "CPU time" if device.type == "cpu" and options.threads == 1 else "wall",
            "memory": "saved for the backward pass" if device.type == "cpu" else "the allocator's peak",
            "command": "python " + shlex.join(sys.argv), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": [asdict(row) | {"median": row.median} for row in rows]})


if __name__ == "__main__":
    main()
