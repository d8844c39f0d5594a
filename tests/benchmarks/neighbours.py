"""The nearest of 500 images to each of 64, by LPIPS: ours beside calling `lpips` for pairs and for batches.

    python tests/benchmarks/neighbours.py --json tests/benchmarks/results/neighbours-cpu.json

Images are drawn churches at 64x64. Backbones are random unless `--weights` names a folder with torchvision's files:
the time is about the same. Calling lpips for all 32,000 pairs would take minutes, so a stated number of calls is
measured and multiplied; the ways take turns, so that a busy machine slows all of them alike. One CPU thread is measured
in the process's CPU time. Memory is the peak of a process that does only this, with what torch itself takes.
"""

import argparse
import multiprocessing
import os
import shlex
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import clock, describe_versions, device_name
from torch import Tensor

from bricscli import weights
from bricscli.data.images import to_pixels
from bricscli.data.toy import draw
from bricscli.files import write_json
from bricscli.metrics.embeddings import Embedding, lpips_embedding
from bricscli.metrics.neighbours import Nearest, NeighbourSearch, embed, find_nearest
from bricscli.nn.lpips import LPIPS_WEIGHTS, LpipsDistance

QUERIES, REFERENCE, SIDE, K, CHUNK, BATCH = 64, 500, 64, 10, 250, 50
#: How many times faster than the ways that are named.
GOALS = {"pair by pair": 50, "batched per query": 15}


@dataclass
class Row:
    """One way, and the seconds it takes for all pairs, measured on a share of them."""

    name: str
    share: float  #: of the pairs that a time was measured on
    times: list[float] = field(default_factory=list)  #: for all pairs

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def pictures() -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.stack([to_pixels(draw(0, i, SIDE)) for i in range(QUERIES + REFERENCE)]))
    return images[:QUERIES], images[QUERIES:]


def search(queries: Tensor, reference: Tensor, embedding: Embedding) -> Nearest:
    return find_nearest(queries, reference.split(CHUNK), embedding, K)


@torch.no_grad()
def measure(net: str, repeats: int, pairs: int, full: bool, now: Callable[[], float]) -> dict[str, Any]:
    """All ways in turn, and whether they agree."""
    state = weights.load_state(LPIPS_WEIGHTS[net]) if os.environ.get("BRICS_WEIGHTS") else None
    torch.manual_seed(0)
    embedding = lpips_embedding(f"lpips-{net}", state, torch.device("cpu"))
    torch.manual_seed(0)
    lpips = LpipsDistance(net, state)  # type: ignore[arg-type]
    queries, reference = pictures()
    q, r = queries.float() / 127.5 - 1, reference.float() / 127.5 - 1
    ours, pair, batched = Row("ours", 1), Row("pair by pair", pairs / (QUERIES * REFERENCE)), Row(
        "batched per query", 4 / QUERIES)
    found = search(queries, reference, embedding)
    lpips(q[:1], r[:BATCH])  # warm
    chosen = np.random.default_rng(0).permutation(QUERIES * REFERENCE)[: pairs * repeats].reshape(repeats, pairs)
    for repeat in range(repeats):
        start = now()
        search(queries, reference, embedding)
        ours.times.append(now() - start)
        start = now()
        for number in chosen[repeat]:
            i, j = divmod(int(number), REFERENCE)
            lpips(q[i : i + 1], r[j : j + 1])
        pair.times.append((now() - start) / pair.share)
        start = now()
        for i in range(4):
            for part in r.split(BATCH):
                lpips(q[i : i + 1].expand(len(part), -1, -1, -1), part)  # as lpips does it: the query's features too
        batched.times.append((now() - start) / batched.share)
    count = QUERIES if full else 8
    exact = torch.stack([torch.cat([lpips(q[i : i + 1], part) for part in r.split(BATCH)]) for i in range(count)])
    nearest = exact.topk(K, dim=1, largest=False)
    there = exact.double().gather(1, found.index[:count])
    return {
        "net": net, "backbone": "random" if state is None else "ImageNet", "rows": [ours, pair, batched],
        "checked_queries": count, "same_neighbours": bool(torch.equal(nearest.indices, found.index[:count])),
        "largest_difference": float((there - found.distance[:count]).abs().max()),
        **measure_stream(queries, reference, embedding, repeats, now)}


@torch.no_grad()
def measure_stream(queries: Tensor, reference: Tensor, embedding: Embedding, repeats: int, now: Callable[[], float]
                   ) -> dict[str, Any]:
    """Images/s of the reference as it goes past, decoded already, and what of that is its network."""
    search, vectors, times, network = None, embed(queries, embedding)[:, 0], [], []
    for _ in range(repeats):
        search = NeighbourSearch(vectors, Nearest.empty(QUERIES, K))
        start = now()
        for i, part in enumerate(reference.split(CHUNK)):
            began = now()
            chunk = embed(part, embedding)
            network.append((now() - began) / len(part))
            search.update(chunk, i * CHUNK)
        times.append((now() - start) / REFERENCE)
    assert search is not None
    return {"dimension": vectors.shape[1], "stream_images_per_second": 1 / statistics.median(times),
            "network_share": statistics.median(network) / statistics.median(times),
            "pairs_compared_by_their_difference": search.compared}


def peak_memory(net: str, way: str) -> int:
    """Bytes, of a process that does only this (for `pair by pair`: a few of the pairs)."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(net, way, sender))
    process.start()
    process.join()
    return int(receiver.recv())


def _peak(net: str, way: str, sender: Any) -> None:
    torch.set_num_threads(1)
    queries, reference = pictures()
    with torch.no_grad():
        if way == "ours":
            search(queries, reference, lpips_embedding(f"lpips-{net}", None, torch.device("cpu")))
        else:
            lpips = LpipsDistance(net)  # type: ignore[arg-type]
            step = BATCH if way == "batched per query" else 1
            lpips((queries[:1].float() / 127.5 - 1).expand(step, -1, -1, -1), reference[:step].float() / 127.5 - 1)
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage counts what was there before exec
    sender.send(1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))


def print_table(result: dict[str, Any]) -> None:
    rows: list[Row] = result["rows"]
    ours = rows[0]
    print(f"\nLPIPS ({result['net']}), {result['backbone']} backbone, {result['dimension']} numbers per image; "
          f"{QUERIES} x {REFERENCE} images, the {K} nearest")
    print(f"{'way':20}{'s':>9}{'ratio':>8}{'measured':>10}{'peak MB':>9}")
    for row in rows:
        print(f"{row.name:20}{row.median:9.2f}{row.median / ours.median:8.1f}{row.share:10.2%}"
              f"{result['peak_bytes'][row.name] / 1e6:9.0f}")
    for row in rows[1:]:
        ratio = row.median / ours.median
        print(f"{ratio:.0f} times faster than {row.name}; goal {GOALS[row.name]}: "
              f"{'reached' if ratio >= GOALS[row.name] else 'not reached'}")
    print(f"same neighbours: {result['same_neighbours']} ({result['checked_queries']} queries); largest difference of "
          f"distances {result['largest_difference']:.1e}\nstream: {result['stream_images_per_second']:.0f} images/s, "
          f"{result['network_share']:.0%} of it the network; {result['pairs_compared_by_their_difference']} of "
          f"{QUERIES * REFERENCE} pairs compared by their difference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["alex", "squeeze"], choices=list(LPIPS_WEIGHTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=100, help="calls of lpips per repeat")
    parser.add_argument("--full", action="store_true", help="check the neighbours of all queries, not of 8")
    parser.add_argument("--weights", type=Path, help="folder with torchvision's weights")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.pop("BRICS_WEIGHTS", None)
    if options.weights:
        os.environ["BRICS_WEIGHTS"] = str(options.weights)
    device, results = torch.device("cpu"), []
    for net in options.nets:
        result = measure(net, options.repeats, options.pairs, options.full, clock(device, 1))
        result["peak_bytes"] = {row.name: peak_memory(net, row.name) for row in result["rows"]}
        print_table(result)
        results.append(result | {"rows": [asdict(row) | {"median": row.median} for row in result["rows"]]})
    if options.json:
        write_json(options.json, {
            "what": f"the {K} nearest of {REFERENCE} images to each of {QUERIES}, {SIDE}x{SIDE}, seconds for all pairs",
            "versions": describe_versions(), "device": device_name(device), "threads": 1, "time": "CPU time",
            "command": "python " + shlex.join(sys.argv), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "results": results})


if __name__ == "__main__":
    main()
