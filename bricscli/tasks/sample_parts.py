"""Samples that are drawn in parts: fixed blocks of seeds, beside their folder, and how they come into it.

A chunk is 64 consecutive seeds, or the 1024 of a shard, as far as they were asked for; its number is its first seed
divided by that. So chunks do not depend on which seeds were asked for with it, nor on how many parts there are.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bricscli.data import samples
from bricscli.data.ranges import show_ranges, singles
from bricscli.data.samples import SPLIT, SampleFolder, find_folder
from bricscli.data.shards import Split
from bricscli.data.unfinished import Record, Unfinished, is_begun, unfinished

SEEDS_PER_CHUNK = 64


def chunk_seeds(seeds: Sequence[int], format: str) -> dict[str, list[int]]:
    """The chunks that `seeds` make, by name, in order, each with those of its seeds that are asked for."""
    size = samples.SEEDS_PER_SHARD if format == "shards" else SEEDS_PER_CHUNK
    chunks: dict[str, list[int]] = {}
    for seed in sorted(seeds):
        chunks.setdefault(f"{SPLIT}-{seed // size:05d}", []).append(seed)
    return chunks


def number_of(name: str) -> int:
    """Of a chunk."""
    return int(name.rpartition("-")[2])


def plan_samples(settings: Mapping[str, Any], seeds: Sequence[int], of: int, command: Sequence[str]
                 ) -> tuple[str, dict[str, Any]]:
    """What names all that decides the bytes, and the plan; `settings` as of `SampleFolder.create`."""
    asked = show_ranges(singles(seeds))
    text = json.dumps([samples.strict_settings(settings), settings["format"], asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16], {
        "kind": "samples", "command": list(command), "of": of, "settings": dict(settings), "seeds": asked,
        "chunks": list(chunk_seeds(seeds, settings["format"]))}


def close(work: Unfinished, records: Sequence[Record]) -> None:
    """Finished chunks, all or some of them, become the folder of samples, in one step, or are added to one."""
    settings = work.plan["settings"]
    if work.out.is_dir() and any(work.out.iterdir()):
        for record in records:
            folder = SampleFolder.create(work.out, settings, record.notes["versions"])
            folder.add(dict(_pngs(work, record)))
            folder.finish()
        work.remove()
        return
    versions: list[Any] = []
    for record in records:
        versions += [record.notes["versions"]] * (record.notes["versions"] not in versions)
    seeds = show_ranges(singles(seed for record in records for seed in _seeds(record)))
    work.publish({"kind": "samples", **settings, "versions": versions, "seeds": seeds}, records)
    work.remove()


def take_parts(out: Path, settings: Mapping[str, Any]) -> None:
    """Puts what parts have drawn by these settings into the folder, all or some of what they were to draw.

    What was drawn by others stays where it is. Raises BricsError where a part is at work.
    """
    if not is_begun(out):
        return
    with unfinished(out) as work:
        work.keep_others = True  # these settings may be mistyped
        for digest in work.begun():
            if work.reopen(digest) and not samples.differing_settings(work.plan.get("settings", {}), settings):
                records = [record for name in work.chunks if (record := work.find(name))]
                if records:
                    close(work, records)


def find_held(out: Path, settings: Mapping[str, Any], seeds: Sequence[int]) -> set[int]:
    """Those of `seeds` whose samples the folder holds already. Raises DataError where it holds others."""
    if not find_folder(out, settings):
        return set()
    folder = SampleFolder.open(out)
    return {seed for seed in set(folder.seeds).intersection(seeds) if folder.holds(seed)}


def _seeds(record: Record) -> list[int]:
    return [int(key) for key in (record.shard.keys if record.shard else map(_stem, record.files))]


def _stem(name: str) -> str:
    return name.removesuffix(".png")


def _pngs(work: Unfinished, record: Record) -> Iterator[tuple[int, bytes]]:
    if record.shard is None:
        for name in record.files:
            yield int(_stem(name)), work.path(name).read_bytes()
        return
    split = Split(SPLIT, work.path(record.shard.name).parent, [record.shard])
    for i, key in enumerate(split.keys):
        yield int(key), split.read(i)
