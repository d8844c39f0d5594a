"""What measuring costs: a pass of Inception, a Fréchet distance, precision and recall, each beside the usual program's.

    python tests/benchmarks/metrics.py --repeats 5 --json tests/benchmarks/results/metrics-cpu.json

The pass reads PNG files from one folder, once with clean-fid's own loop and once with ours, through an Inception of
random weights. The distance is beside SciPy's matrix root, on covariances of 2048 features. Precision and recall are
beside the method of the program that BRICS names, written down again from its description: all distances at once in
float64. Contestants take turns. One CPU thread is measured in CPU time. Memory is how far a process of its own grows
beyond its features.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import clock, describe_versions, device_name
from random_networks import save_clean_inception

from bricscli.data.collection import open_folder
from bricscli.data.toy import draw
from bricscli.files import write_json
from bricscli.metrics.features.inception import CleanInceptionFeatures
from bricscli.metrics.frechet import gaussian_distance
from bricscli.metrics.neighbourhoods import precision_recall

#: Ours over theirs, at most.
GOALS = {"pass": 1.0, "frechet": 0.3, "memory": 1 / 8}
MEMORY = 24 * 2**20


def take_turns(contestants: dict[str, Callable[[], Any]], repeats: int, now: Callable[[], float]) -> dict[str, Any]:
    """Seconds of each, and what the last call of each returned."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    values = {}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = now()
            values[name] = run()
            times[name].append(now() - start)
    return {"seconds": times, "median": {name: statistics.median(t) for name, t in times.items()}, "values": values}


def compare_passes(count: int, side: int, repeats: int, now: Callable[[], float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid import fid
        from cleanfid.inception_torchscript import InceptionV3W

        folder = Path(name)
        (folder / "images").mkdir()
        for i in range(count):
            draw(3, i, side).save(folder / "images" / f"{i:04}.png")
        save_clean_inception(folder / "inception-2015-12-05.pt", whole=True)
        network = InceptionV3W(str(folder), download=False).eval()
        extract = CleanInceptionFeatures(folder / "inception-2015-12-05.pt")

        def theirs() -> np.ndarray:
            return fid.get_folder_features(str(folder / "images"), network, num_workers=0, batch_size=16,
                                           device=torch.device("cpu"), mode="clean", verbose=False)

        def ours() -> np.ndarray:
            batches = open_folder(folder / "images").batches(16)
            return np.concatenate([extract(torch.from_numpy(batch))["features"].numpy() for batch in batches])

        theirs(), ours()  # TorchScript compiles at first
        found = take_turns({"ours": ours, "clean-fid": theirs}, repeats, now)
    a, b = found.pop("values").values()
    return found | {"images": count, "side": side, "ratio": found["median"]["ours"] / found["median"]["clean-fid"],
                    "largest difference over largest feature": float(abs(a - b).max() / abs(b).max()),
                    "images per second": {name: count / t for name, t in found["median"].items()}}


def compare_frechet(dimension: int, repeats: int, now: Callable[[], float]) -> dict[str, Any]:
    from scipy.linalg import sqrtm

    random = np.random.default_rng(0)
    scale = np.geomspace(1, 0.01, dimension)
    sets = [random.standard_normal((2 * dimension, dimension)) * scale * stretch + stretch for stretch in (1, 1.1)]
    (m_a, c_a), (m_b, c_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in sets)

    def scipy() -> float:
        return float((m_a - m_b) @ (m_a - m_b) + np.trace(c_a + c_b - 2 * np.real(sqrtm(c_a @ c_b))))

    found = take_turns({"ours": lambda: gaussian_distance(m_a, c_a, m_b, c_b), "SciPy": scipy}, repeats, now)
    values, median = found["values"], found["median"]
    return found | {"dimension": dimension, "ratio": median["ours"] / median["SciPy"],
                    "relative difference": abs(values["ours"] / values["SciPy"] - 1)}


def full_matrices(fake: np.ndarray, real: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall with every distance in memory, in float64."""
    def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x.astype(np.float64), y.astype(np.float64)
        squares = (x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)[None]
        return np.sqrt(np.maximum(squares, 0))

    radii = [np.partition(distances(x, x), k, axis=1)[:, k] for x in (fake, real)]
    between = distances(fake, real)
    return float((between < radii[1][None]).any(1).mean()), float((between < radii[0][:, None]).any(0).mean())


def peak_memory() -> int:
    """Bytes, of this process alone: `ru_maxrss` begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def measure_neighbours(method: str, count: int, dimension: int) -> dict[str, Any]:
    """In a process of its own."""
    random = np.random.default_rng(0)
    fake, real = (random.standard_normal((count, dimension), dtype=np.float32) for _ in range(2))
    for x, stretch in ((fake, 0.97), (real, 1)):
        x *= np.geomspace(1, 0.03, dimension, dtype=np.float32) * np.float32(stretch)

    def measure(fake: np.ndarray, real: np.ndarray) -> tuple[float, float]:
        return full_matrices(fake, real) if method == "full matrices" else precision_recall(fake, real, memory=MEMORY)

    measure(fake[:64], real[:64])  # libraries are loaded before the count
    now = clock(torch.device("cpu"), 1)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is now what is held
    before, start = peak_memory(), now()
    value = measure(fake, real)
    return {"value": value, "seconds": now() - start, "bytes": peak_memory() - before}


def compare_neighbours(count: int, dimension: int, repeats: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "full matrices": []}
    for _ in range(repeats):
        for method, results in runs.items():
            command = [sys.executable, __file__, "--one", method, "--count", str(count), "--dimension", str(dimension)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout))
    median = {key: {method: statistics.median(r[key] for r in results) for method, results in runs.items()}
              for key in ("seconds", "bytes")}
    return {"count": count, "dimension": dimension, "memory": MEMORY, "runs": runs, "median": median,
            "ratio": median["bytes"]["ours"] / median["bytes"]["full matrices"],
            "time ratio": median["seconds"]["ours"] / median["seconds"]["full matrices"],
            "identical": runs["ours"][0]["value"] == runs["full matrices"][0]["value"],
            "value": runs["ours"][0]["value"]}


def print_lines(passes: dict[str, Any], frechet: dict[str, Any], neighbours: dict[str, Any]) -> None:
    for name, ratio, words in (
        ("pass", passes["ratio"], "of clean-fid's time for features of a folder; {:.2f} against {:.2f} images/s".format(
            *passes["images per second"].values())),
        ("frechet", frechet["ratio"], "of SciPy's time for a distance of {} features; {:.2f} against {:.2f} s".format(
            frechet["dimension"], *frechet["median"].values())),
        ("memory", neighbours["ratio"], "of the memory of full matrices; {:.0f} against {:.0f} MiB, {:.2f} against "
         "{:.2f} s".format(*(b / 2**20 for b in neighbours["median"]["bytes"].values()),
                           *neighbours["median"]["seconds"].values())),
    ):
        verdict = "reached" if ratio <= GOALS[name] else "not reached"
        print(f"{ratio:.3f} {words}; goal {GOALS[name]:.3f}: {verdict}")
    print(f"features differ by {passes['largest difference over largest feature']:.1e} of the largest; distances by"
          f" {frechet['relative difference']:.1e}; precision and recall {neighbours['value']}, identical:"
          f" {neighbours['identical']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--dimension", type=int, default=4096)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(measure_neighbours(options.one, options.count, options.dimension)))
        return
    now = clock(torch.device("cpu"), 1)
    passes = compare_passes(options.images, options.side, options.repeats, now)
    frechet = compare_frechet(options.features, options.repeats, now)
    neighbours = compare_neighbours(options.count, options.dimension, options.repeats)
    print_lines(passes, frechet, neighbours)
    if options.json:
        write_json(options.json, {
            "what": "passes of Inception, Fréchet distances, precision and recall; CPU seconds of one thread",
            "versions": describe_versions(), "device": device_name(torch.device("cpu")), "threads": 1,
            "command": "python " + shlex.join(sys.argv), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "goals": GOALS, "pass": passes, "frechet": frechet, "precision and recall": neighbours})


if __name__ == "__main__":
    main()
