"""What the denoiser costs beside diffusers' UNet2DModel of the same shape: a training step, a sampling step.

    OMP_NUM_THREADS=1 python tests/benchmarks/unet.py --sizes photos64 mid --json tests/benchmarks/results/unet-cpu.json
    python tests/benchmarks/unet.py --device cuda --dtype bf16 --sizes church64x4 --compile

A training step is forward, backward and Adam (fused, for all of them alike); a sampling step is a forward pass without
gradients. Weights and inputs are random. The rows take turns, so that a busy machine slows all of them alike; one CPU
thread is measured in the process's CPU time, everything else by the clock on the wall. What 50,000 images take is
calculated: evaluations of the denoiser, and one decoding by the recipe's autoencoder.
"""

import argparse
import importlib
import importlib.metadata
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from machine import clock, describe_versions, device_name
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bricscli.build import build_autoencoder, build_denoiser, count_parameters
from bricscli.files import write_json
from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe

#: At most this share of the time of diffusers' model in the same layout.
GOAL = 0.9
EVALUATIONS, IMAGES = (20, 25), 50_000
#: A recipe, changes to it, and the batch.
SIZES: dict[str, tuple[str, list[str], int]] = {
    "toy": ("tiny/toy-diffusion.yaml", [], 4),
    "photos64": ("photos64-diffusion.yaml", [], 16),
    "mid": ("church64x4-diffusion.yaml", ["autoencoder=church32x4", "denoiser.channels=128",
                                          "denoiser.multipliers=[1, 2, 3]", "denoiser.attention=[16, 8]"], 4),
    "church64x4": ("church64x4-diffusion.yaml", [], 64),
}


class Diffusers(nn.Module):
    """UNet2DModel as the recipe has it: heads as wide, the embedding scales and shifts."""

    def __init__(self, recipe: DiffusionRecipe, channels: int, size: int) -> None:
        super().__init__()
        spec = recipe.denoiser
        attends = [size // 2**level in spec.attention for level in range(len(spec.multipliers))]
        self.unet = importlib.import_module("diffusers").UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=spec.blocks,
            block_out_channels=tuple(spec.channels * multiplier for multiplier in spec.multipliers),
            down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
            up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
            attention_head_dim=spec.head_channels, resnet_time_scale_shift="scale_shift", downsample_padding=1)

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        answer: Tensor = self.unet(x, log_snr).sample
        return answer


@dataclass
class Row:
    """One model in one layout; times in milliseconds for a batch, memory in MiB beyond weights and Adam's moments."""

    size: str
    name: str
    parameters: int
    gmac: float  #: of a forward pass, for one code
    batch: int
    training: list[float] = field(default_factory=list)
    sampling: list[float] = field(default_factory=list)
    memory: float | None = None  #: of a training step; None where it cannot be measured

    def share(self, flops: float) -> float:
        """Of the matrix rate that a training step uses; backward is twice forward."""
        return 3 * 2e9 * self.gmac * self.batch / (statistics.median(self.training) / 1000) / flops


def milliseconds(job: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    job()
    return 1000 * (now() - start)


def matrix_rate(device: torch.device, dtype: torch.dtype, now: Callable[[], float]) -> float:
    """Floating-point operations a second of a large matrix product: the best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(milliseconds(lambda: a @ a, now) for _ in range(10)) * 1000


def iter_models(recipe: DiffusionRecipe, shape: tuple[int, int, int], compiled: bool
                ) -> Iterator[tuple[str, nn.Module]]:
    """Ours and theirs in both layouts, and compiled where asked for; all weights random, none zero."""
    for name, build in (("brics", build_denoiser), ("diffusers", Diffusers)):
        for layout in (torch.contiguous_format, torch.channels_last):
            for faster in (False, True) if compiled else (False,):
                torch.manual_seed(0)
                model = build(recipe, shape[0], shape[1])
                for parameter in model.parameters():
                    if not parameter.any():
                        nn.init.normal_(parameter, std=0.02)
                if faster:
                    model.compile()
                layouts = ", channels last" if layout is torch.channels_last else ""
                yield f"{name}{layouts}{', compiled' if faster else ''}", model.to(memory_format=layout)


def measure(size: str, recipe: DiffusionRecipe, shape: tuple[int, int, int], batch: int, repeats: int,
            device: torch.device, dtype: torch.dtype, compiled: bool, now: Callable[[], float]) -> list[Row]:
    """Times of all models in turn, after one step of each that is not counted."""
    x, log_snr = torch.randn(batch, *shape, device=device), torch.linspace(-5, 5, batch, device=device)
    runs: list[tuple[Row, Callable[[], object], Callable[[], object]]] = []
    for name, model in iter_models(recipe, shape, compiled):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            (build_denoiser if name.startswith("brics") else Diffusers)(recipe, shape[0], shape[1])(
                torch.empty(1, *shape), torch.empty(1))
        model = model.to(device)
        adam = torch.optim.Adam(model.parameters(), fused=True)

        def answer(model: nn.Module = model) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                prediction: Tensor = model(x, log_snr)
            return prediction.float()

        def train(adam: torch.optim.Optimizer = adam, answer: Callable[[], Tensor] = answer) -> None:
            adam.zero_grad()
            answer().square().mean().backward()
            adam.step()

        row = Row(size, name, count_parameters(model), counter.get_total_flops() / 2e9, batch)
        runs.append((row, train, torch.no_grad()(answer)))
    for turn in range(repeats + 1):
        for row, training, sampling in runs:
            if device.type == "cuda":
                before = torch.cuda.memory_allocated(device)
                torch.cuda.reset_peak_memory_stats(device)
            times = milliseconds(training, now), milliseconds(sampling, now)
            if device.type == "cuda":
                row.memory = (torch.cuda.max_memory_allocated(device) - before) / 2**20
            if turn:
                row.training.append(times[0])
                row.sampling.append(times[1])
    return [row for row, _, _ in runs]


def time_decoding(recipe: AutoencoderRecipe, batch: int, repeats: int, device: torch.device, dtype: torch.dtype,
                  now: Callable[[], float]) -> float:
    """Milliseconds for a batch of key codes to become images."""
    model = build_autoencoder(recipe).to(device).eval()
    code = torch.rand(batch, *recipe.code_shape, device=device)

    def decode() -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            model.decode(code)

    return statistics.median([milliseconds(decode, now) for _ in range(repeats + 1)][1:])


def print_table(rows: list[Row], flops: float, decoding: float, resolution: int) -> None:
    by_name = {row.name: row for row in rows}
    print(f"\n{rows[0].size}, batch {rows[0].batch}; matrices {flops / 1e12:.3g} TFLOP/s\n{'denoiser':36}{'param':>12}"
          f"{'GMAC':>8}{'train ms':>10}{'sample ms':>11}{'ratios':>15}{'of rate':>9}{'MiB':>9}")
    for row in rows:
        layout = row.name.partition(",")[1] + row.name.partition(",")[2]
        theirs = by_name[f"diffusers{layout}"]
        ratios = [statistics.median(a) / statistics.median(b) for a, b in (
            (row.training, theirs.training), (row.sampling, theirs.sampling))]
        print(f"{row.name:36}{row.parameters:12,}{row.gmac:8.2f}{statistics.median(row.training):10.1f}"
              f"{statistics.median(row.sampling):11.1f}{ratios[0]:8.3f}{ratios[1]:7.3f}{row.share(flops):9.1%}"
              f"{'' if row.memory is None else f'{row.memory:9.0f}'}")
        if row.name.startswith("brics"):
            verdict = "reached" if max(ratios) <= GOAL else "not reached"
            print(f"    goal {GOAL} of diffusers' time in the same layout: {verdict}")
            for count in EVALUATIONS:
                seconds = (count * statistics.median(row.sampling) + decoding) / 1000
                print(f"    {count} evaluations: {row.batch / seconds:.3g} images/s of {resolution} pixels, "
                      f"{IMAGES * seconds / row.batch / 60:.4g} minutes for {IMAGES:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["photos64", "mid"])
    parser.add_argument("--batch", type=int, help="instead of the size's own")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast")
    parser.add_argument("--compile", action="store_true", help="also compiled")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    now = clock(device, options.threads)
    flops = matrix_rate(device, dtype, now)
    rows, decodings = list[Row](), dict[str, float]()
    for size in options.sizes:
        name, changes, batch = SIZES[size]
        recipe = load_recipe(name, changes)
        assert isinstance(recipe, DiffusionRecipe)
        autoencoder = load_recipe(recipe.autoencoder)
        assert isinstance(autoencoder, AutoencoderRecipe)
        batch, shape = options.batch or batch, autoencoder.code_shape
        found = measure(size, recipe, shape, batch, options.repeats, device, dtype, options.compile, now)
        decodings[size] = time_decoding(autoencoder, batch, options.repeats, device, dtype, now)
        print_table(found, flops, decodings[size], autoencoder.data.resolution)
        rows += found
    if options.json:
        write_json(options.json, {
            "what": "training and sampling steps of the denoiser, times in ms per batch",
            "versions": describe_versions(), "device": device_name(device), "threads": options.threads,
            "dtype": options.dtype, "matrix_flops": flops, "decoding": decodings,
            "time": "CPU time" if device.type == "cpu" and options.threads == 1 else "wall",
            "command": "python " + shlex.join(sys.argv), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": [asdict(row) | {"training_median": statistics.median(row.training),
                                    "sampling_median": statistics.median(row.sampling)} for row in rows]})


if __name__ == "__main__":
    main()
