"""What it costs to open a data set of three million samples: the manifest, its index, and the place of a late sample.

    python tests/benchmarks/manifest.py --folder three-million

Makes the manifest and the index of 3,033,042 samples of two files each (as many as LSUN's bedrooms), in shards of 1024,
and tar files of the right length that hold nothing and take no room. Then a fresh process measures: opening it, which
checks the index's SHA-256, its names and places, and that every shard is there in full length; finding samples; and the
numbers of a late step's batch. The peak is of the whole process, with torch not loaded. `--schema 1` makes the members
part of the manifest, as they were once.

CPU seconds of one core of a cloud machine; the first column is by the program of that time, commit a9eb472:

                                schema 1    schema 2
    manifest, index             265 MB      0.5 MB, 118 MB
    opening and a split         29.4 s      0.41 s
    the place of a sample       4.1 us      4.5 us
    numbers of a late step      0.37 s      0.40 s
    peak memory                 3654 MB     190 MB
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bricscli.data.index import BLOCK, MEMBER, Contents
from bricscli.data.loader import order
from bricscli.data.manifest import MANIFEST, Shard, write_manifest
from bricscli.data.shards import ShardSet

SAMPLES, PER_SHARD, IMAGE_BYTES = 3_033_042, 1024, 90_000
RECORD = 10_240  #: of a tar file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="made where it is missing, and kept")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--schema", type=int, choices=(1, 2), default=2)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.folder)
        return
    if not arguments.folder.exists():
        make(arguments.folder, arguments.samples, arguments.schema)
    for _ in range(2):  # the second time from the page cache for certain
        subprocess.run([sys.executable, __file__, "--folder", str(arguments.folder), "--measure"], check=True)


def make(folder: Path, samples: int, schema: int) -> None:
    """Labels of one byte and images of one size; nothing is read or written but the manifest and the index."""
    folder.mkdir(parents=True)
    began = time.perf_counter()
    shards = [make_shard(folder, number, range(start, min(start + PER_SHARD, samples)))
              for number, start in enumerate(range(0, samples, PER_SHARD))]
    header = {"kind": "images", "resolution": 256}
    if schema == 2:
        write_manifest(folder, header, shards)
    else:
        head = {"schema": 1, **header, "splits": {"train": samples}}
        (folder / MANIFEST).write_text(json.dumps(head | {"shards": [shard.as_json() for shard in shards]}))
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in folder.iterdir()
                      if path.suffix != ".tar")
    print(f"made in {time.perf_counter() - began:.1f} s: {len(shards)} shards, {sizes}")


def make_shard(folder: Path, number: int, seeds: range) -> Shard:
    table = np.zeros((len(seeds), 2), MEMBER)
    table["size"] = [1, IMAGE_BYTES]
    table["crc32"] = np.random.default_rng(number).integers(0, 1 << 32, table.shape)
    room = BLOCK + -(-table["size"].astype(np.uint64).reshape(-1) // BLOCK) * BLOCK
    table["offset"] = (np.cumsum(room) - room + BLOCK).reshape(table.shape)
    size = -(-(int(room.sum()) + 2 * BLOCK) // RECORD) * RECORD
    name = f"train-{number:05d}.tar"
    with open(folder / name, "wb") as file:
        file.truncate(size)
    keys = np.array([b"%07d" % seed for seed in seeds])
    return Shard(name, "train", len(seeds), size, f"{number:064x}", Contents(keys, ("cls", "png"), table))


def measure(folder: Path) -> None:
    before, began = peak_mb(), time.process_time()
    data = ShardSet.open(folder)
    opened = time.process_time()
    split = data.split("train")
    ready = time.process_time()
    places = np.random.default_rng(0).integers(0, len(split), 10_000).tolist()
    asked = time.process_time()
    for place in places:
        split.where(place, "png")
    found = time.process_time()
    peak = peak_mb()
    numbers = order(0, len(split), 7, np.arange(len(split) - 256, len(split)))
    resumed = time.process_time()
    for number in numbers.tolist():
        split.where(number, "png")
    print(f"open {opened - began:.2f} s, split {ready - opened:.3f} s, a sample's place "
          f"{(found - asked) / len(places) * 1e6:.1f} us, the last 256 of epoch 7 {resumed - found:.2f} s; "
          f"peak {peak:.0f} MB ({before:.0f} before)")


def peak_mb() -> float:
    """The largest resident memory of this process so far, in MB (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
