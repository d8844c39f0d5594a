"""Time and memory of feature-grid retrieval as in church64x4 (4 groups, 64 x 64, r 16..64, T 2^18), and its share.

    python tests/benchmarks/retrieval.py --batches 1 4 16 --repeats 3 --json tests/benchmarks/results/retrieval-cpu.json

Beside what the program does stand four ways that it does not take, written here. They take turns, so that a busy
machine slows all of them alike; figures are medians. On the CPU one thread is measured in CPU time, several by the
clock on the wall; on CUDA between two events. Tables and keys are random.

Peak extra memory is what a variant needs beyond its table, its keys, and the gradient that it is given. On CUDA it is
the allocator's; on the CPU the peak resident size (VmHWM, reset through /proc/self/clear_refs: Linux only) of a fresh
process that does nothing else; it contains the result and the gradients.
"""

import argparse
import itertools
import multiprocessing
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bricscli.files import write_json
from bricscli.nn.decoders.style import StyleDecoder
from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.nn.retrieval.levels import cell, pixel_centres
from bricscli.run.provenance import describe_process

Retrieve = Callable[[FeatureGrid, Tensor], Tensor]
Seconds = Callable[[Callable[[], object]], float]
LOOP, SAMPLE, OURS, CACHED = "8-corner loop", "grid_sample, one split", "ours", "ours, cached fp32"
#: (batch, backward, variant, beside, times faster at least)
GOALS = [(4, True, OURS, LOOP, 1.4), (16, True, OURS, LOOP, 1.8), (1, False, CACHED, LOOP, 9),
         (1, False, CACHED, SAMPLE, 4)]
LARGEST_SHARE, LARGEST_MEMORY = 0.05, (2, 126e6)  # of a decoder pass; bytes at that batch (App. C)


def church64x4(device: torch.device) -> FeatureGrid:
    grid = FeatureGrid(groups=4, key_length=1, size=64, levels=16, r_min=16, r_max=64, index="modulo",
                       entry_channels=4, max_entries=2**18, mlp_width=64, mlp_layers=3, channels=512)
    torch.nn.init.normal_(grid.table)
    return grid.to(device)


def queries(keys: Tensor) -> Tensor:
    """`(N_h, B, H, W) -> (N_h, B, H, W, 3)`: key, x, y."""
    centres = pixel_centres(keys.shape[-1]).to(keys)
    return torch.stack([keys, centres.expand_as(keys), centres[:, None].expand_as(keys)], dim=-1)


def loop(grid: FeatureGrid, tiled: Tensor) -> Tensor:
    """Level by level, group by group, corner by corner: rows by advanced indexing, weights as a product."""
    query = queries(grid.keys(tiled)[0]).flatten(1, 3)
    levels = []
    for part, level in zip(grid.table.split(grid.entries, dim=1), grid.levels, strict=True):
        groups = []
        for table, points in zip(part, query, strict=True):
            node, fraction = cell(points, level.resolution)
            n = level.resolution + 1
            (key, x, y), (of_key, of_x, of_y) = node.unbind(1), torch.stack([1 - fraction, fraction], -1).unbind(1)
            groups.append(sum((of_key[:, a] * of_x[:, b] * of_y[:, c]).unsqueeze(1)
                              * table[(key + a + n * (x + b) + n * n * (y + c)) % level.max_entries]
                              for a, b, c in itertools.product((0, 1), repeat=3)))
        levels.append(torch.stack(groups))
    return torch.cat(levels, dim=-1)


def one_gather(grid: FeatureGrid, tiled: Tensor) -> Tensor:
    """All corners of all levels and groups at once: one index, one weight and one row for each."""
    query = queries(grid.keys(tiled)[0]).flatten(1, 3).unsqueeze(2)  # (N_h, N, 1, 3)
    resolution = torch.tensor(grid.resolutions, device=tiled.device)
    position = query * resolution[:, None]
    low = position.floor().minimum(resolution[:, None] - 1)
    fraction = (position - low).unsqueeze(-2)
    corner = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=tiled.device)
    weight = torch.where(corner.bool(), fraction, 1 - fraction).prod(-1)  # (N_h, N, N_r, 8)
    n = resolution + 1
    strides = torch.stack([torch.ones_like(n), n, n * n], dim=-1)[:, None]
    index = ((low.long().unsqueeze(-2) + corner) * strides).sum(-1) % grid.levels[0].max_entries
    starts = torch.tensor([0, *itertools.accumulate(grid.entries[:-1])], device=tiled.device)
    groups = torch.arange(grid.groups, device=tiled.device).view(-1, 1, 1, 1) * grid.table.shape[1]
    rows = grid.table.flatten(0, 1)[index + starts[:, None] + groups]
    return (rows * weight.unsqueeze(-1)).sum(-2).flatten(2)


def _sample(parts: list[Tensor], grid: FeatureGrid, tiled: Tensor) -> Tensor:
    """F.grid_sample over each level seen as a dense volume, the groups as its batch."""
    query = queries(grid.keys(tiled)[0]) * 2 - 1
    levels = []
    for entries, level in zip(parts, grid.levels, strict=True):
        n, beyond = level.resolution + 1, level.nodes - level.max_entries
        table = torch.cat([entries, entries[:, :beyond]], dim=1) if beyond > 0 else entries[:, : level.nodes]
        volume = table.reshape(grid.groups, n, n, n, -1).permute(0, 4, 1, 2, 3)
        read = F.grid_sample(volume, query, mode="bilinear", padding_mode="border", align_corners=True)
        levels.append(read.flatten(2).transpose(1, 2))
    return torch.cat(levels, dim=-1)


def sample_sliced(grid: FeatureGrid, tiled: Tensor) -> Tensor:
    """The parameter sliced level by level: backward fills a gradient of the whole table for every slice."""
    ends = list(itertools.accumulate(grid.entries, initial=0))
    return _sample([grid.table[:, a:b] for a, b in itertools.pairwise(ends)], grid, tiled)


def sample_split(grid: FeatureGrid, tiled: Tensor) -> Tensor:
    return _sample(list(grid.table.split(grid.entries, dim=1)), grid, tiled)


def ours(grid: FeatureGrid, tiled: Tensor) -> Tensor:
    return grid.train().retrieve(tiled)


def cached(grid: FeatureGrid, tiled: Tensor) -> Tensor:
    return grid.eval().retrieve(tiled)


#: Name -> how, and the type of the cache where there is one: those only serve inference.
VARIANTS: dict[str, tuple[Retrieve, torch.dtype | None]] = {
    LOOP: (loop, None), "one gather": (one_gather, None), "grid_sample, sliced": (sample_sliced, None),
    SAMPLE: (sample_split, None), OURS: (ours, None), CACHED: (cached, torch.float32),
    "ours, cached fp16": (cached, torch.float16)}


class Case:
    """One variant with a grid of its own, at one batch size."""

    def __init__(self, variant: str, grid: FeatureGrid, tiled: Tensor, gradient: Tensor | None) -> None:
        self.retrieve, cache_dtype = VARIANTS[variant]
        self.grid, self.tiled, self.gradient = grid, tiled, gradient
        grid.cache_dtype = cache_dtype

    def run(self) -> None:
        self.tiled.grad = self.grid.table.grad = None
        with torch.set_grad_enabled(self.gradient is not None):
            features = self.retrieve(self.grid, self.tiled)
            if self.gradient is not None:
                features.backward(self.gradient)


def make_case(variant: str, grid: FeatureGrid, batch: int, backward: bool) -> Case:
    device = grid.table.device
    gradient = torch.randn(4, batch * 64 * 64, 64, device=device) if backward else None
    return Case(variant, grid, torch.rand(batch, 4, 64, 64, device=device, requires_grad=backward), gradient)


def stopwatch(device: torch.device, threads: int) -> Seconds:
    """Measures one call: CPU time, time on the wall, or the card's own."""
    def on_cpu(call: Callable[[], object]) -> float:
        now = time.process_time if threads == 1 else time.perf_counter
        start = now()
        call()
        return now() - start

    def on_card(call: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000

    return on_card if device.type == "cuda" else on_cpu


def measure_times(cases: dict[str, Case], repeats: int, seconds: Seconds) -> dict[str, float]:
    """Median milliseconds of each, in turns, after a call that warms up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat, (name, case) in itertools.product(range(repeats + 1), cases.items()):
        took = seconds(case.run)
        if repeat:
            times[name].append(1000 * took)
    return {name: statistics.median(values) for name, values in times.items()}


def resident(field: str) -> int:
    """Bytes of VmRSS or VmHWM of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure_memory(variant: str, batch: int, backward: bool, device: torch.device) -> int:
    """Peak bytes of a first call, beyond what was there; a cache is not there before."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        case = make_case(variant, church64x4(device), batch, backward)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        case.run()
        return torch.cuda.max_memory_allocated(device) - before
    small = FeatureGrid(groups=4, key_length=1, size=64, levels=1, r_min=2, r_max=2, index="modulo", entry_channels=4,
                        max_entries=2**18, mlp_width=4, mlp_layers=1, channels=4)
    Case(variant, small, torch.rand(1, 4, 64, 64, requires_grad=backward),
         torch.randn(4, 64 * 64, 4) if backward else None).run()  # loads what torch loads at first use
    case = make_case(variant, church64x4(device), batch, backward)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    case.run()
    return resident("VmHWM") - before


def memory_apart(variant: str, batch: int, backward: bool, device: torch.device) -> int:
    """`measure_memory`, on the CPU in a fresh process."""
    if device.type == "cuda":
        return measure_memory(variant, batch, backward, device)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_memory, (variant, batch, backward, device))


def measure_share(batch: int, repeats: int, device: torch.device, seconds: Seconds) -> dict[str, float]:
    """Milliseconds of a decoder pass without gradients, and the share of retrieval in it, by its two ways."""
    grid, tiled = church64x4(device), torch.rand(batch, 4, 64, 64, device=device)
    decoder = StyleDecoder(inputs=512, channels=(512, 256, 192), style_width=512, mapping_layers=4).to(device)
    copy = church64x4(device).eval()
    parts: dict[str, Callable[[], object]] = {
        "training": lambda: ours(grid, tiled), "cached": lambda: cached(copy, tiled),
        "pass": lambda: decoder(copy(tiled))}
    times: dict[str, list[float]] = {name: [] for name in parts}
    with torch.no_grad():
        for repeat, (name, part) in itertools.product(range(repeats + 1), parts.items()):
            took = seconds(part)
            if repeat:
                times[name].append(1000 * took)
    training, in_cache, whole = (statistics.median(times[name]) for name in parts)
    return {"batch": batch, "decoder_pass_ms": whole, "share_cached": in_cache / whole,
            "share_uncached": training / (whole - in_cache + training)}


def measure(batch: int, repeats: int, device: torch.device, seconds: Seconds) -> list[dict[str, Any]]:
    """A row for each variant, forward and with backward."""
    rows: list[dict[str, Any]] = []
    grids = {name: church64x4(device) for name in VARIANTS}
    for backward in (False, True):
        names = [name for name, (_, cache_dtype) in VARIANTS.items() if not (backward and cache_dtype)]
        times = measure_times({name: make_case(name, grids[name], batch, backward) for name in names}, repeats, seconds)
        for name in names:
            rows.append({"variant": name, "batch": batch, "backward": backward, "ms": times[name],
                         "speed_up_over_the_loop": times[LOOP] / times[name],
                         "peak_bytes": memory_apart(name, batch, backward, device)})
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'variant':24}{'batch':>6}{'pass':>20}{'ms':>10}{'x loop':>8}{'peak MB':>9}")
    for row in rows:
        kind = "forward + backward" if row["backward"] else "forward"
        print(f"{row['variant']:24}{row['batch']:6}{kind:>20}{row['ms']:10.1f}{row['speed_up_over_the_loop']:8.2f}"
              f"{row['peak_bytes'] / 1e6:9.1f}")


def judge(rows: list[dict[str, Any]], shares: list[dict[str, float]], memory: int) -> list[dict[str, Any]]:
    """The goals that these figures can answer."""
    ms = {(row["batch"], row["backward"], row["variant"]): row["ms"] for row in rows}
    found = [{"goal": f"{variant}, batch {batch}: {least} times faster than {beside}",
              "figure": (figure := ms[batch, backward, beside] / ms[batch, backward, variant]),
              "reached": figure >= least}
             for batch, backward, variant, beside, least in GOALS if (batch, backward, variant) in ms]
    for name, share in itertools.product(("share_cached", "share_uncached"), shares):
        found.append({"goal": f"{name} of a decoder pass, batch {share['batch']}: under {LARGEST_SHARE}",
                      "figure": share[name], "reached": share[name] < LARGEST_SHARE})
    batch, limit = LARGEST_MEMORY
    return [*found, {"goal": f"{OURS}, batch {batch}, forward + backward: under {limit / 1e6} MB",
                     "figure": memory / 1e6, "reached": memory < limit}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    seconds = stopwatch(options.device, options.threads)
    rows: list[dict[str, Any]] = []
    for batch in options.batches:
        rows += (found := measure(batch, options.repeats, options.device, seconds))
        print_table(found)
    shares = [measure_share(batch, options.repeats, options.device, seconds) for batch in options.batches[:2]]
    goals = judge(rows, shares, memory_apart(OURS, LARGEST_MEMORY[0], True, options.device))
    for goal in goals:
        print(f"{'reached' if goal['reached'] else 'NOT reached':12}{goal['figure']:9.3f}  {goal['goal']}")
    if options.json:
        card = options.device.type == "cuda"
        versions = describe_process()
        del versions["argv"]
        write_json(options.json, {
            "what": "feature-grid retrieval as in church64x4", "versions": versions,
            "device": torch.cuda.get_device_name(options.device) if card else "CPU", "threads": options.threads,
            "time": "CUDA events" if card else "CPU time" if options.threads == 1 else "wall",
            "command": "python " + shlex.join(sys.argv), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": rows, "shares": shares, "goals": goals})


if __name__ == "__main__":
    main()
