"""The work of `brics prepare`: the items of a source are named, planned, converted and written, shard by shard."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, features

from bricscli import files
from bricscli.data.convert import Conversion, Converted, digest
from bricscli.data.labels import LABEL, encode_label
from bricscli.data.shards import Sample
from bricscli.data.sources.listing import Item, Listing
from bricscli.data.splits import TRAIN, VAL, choose_validation
from bricscli.data.unfinished import KeptError, Record, Rejected, Unfinished
from bricscli.data.workers import map_in_order
from bricscli.errors import BricsError, DataError, InterruptedRun
from bricscli.parts import WHOLE, Part, Share

#: What may be done about images that cannot be read; and at most which share of all is skipped, unless told otherwise.
ON_BAD = ("fail", "skip")
MAX_BAD = 0.01
#: With more than so many the work is given up at once; with fewer all of them are named first.
RUINED = 100
#: So many images are looked at, where one has been found that cannot be read, to name others that cannot be.
CHEAP = 5000
#: Fewer items than this are named here, in less time than processes need to start.
WORTH_WORKERS = 5000
#: So many duplicates are named in the manifest.
NAMED_DUPLICATES = 20
#: So many images are prepared beforehand, to know how much room all of them need.
PROBES = 8
#: Bytes of a sample besides its image: its JSON, heads and padding in the tar, its lines of the manifest.
OVERHEAD = 3000


class Chunk(NamedTuple):
    """The images of one shard: their places in the source."""

    name: str
    split: str
    places: Sequence[int]


class _Chosen(Sequence[Item]):
    """The items at some places; none of them is made before it is asked for."""

    def __init__(self, items: Sequence[Item], places: Sequence[int]) -> None:
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: Any) -> Any:
        return self.items[self.places[i]]


@dataclass(frozen=True)
class Job:
    """What is to be made of what."""

    out: Path
    where: str  #: what messages call the source
    listing: Listing
    conversion: Conversion
    settings: dict[str, Any]  #: for the manifest; "source" gets its digest once the items are named
    val_fraction: float | None  #: None: the source fixes the split
    samples_per_shard: int
    workers: int | None
    show: Callable[..., Any]  #: a `Progress`
    part: Part = WHOLE
    on_bad: str = "fail"
    max_bad: float = MAX_BAD
    command: Sequence[str] = ()  #: what was typed, for advice


def make(job: Job, work: Unfinished) -> Share:
    """Makes the data set, or finished chunks of it where the job is a part. Raises what `prepare` says."""
    digests, rejected = name_items(job, "hashing")
    chunks = _begin(job, work, digests, rejected)
    mine = [chunk for number, chunk in enumerate(chunks) if job.part.takes(number)]
    records = {chunk.name: record for chunk in mine if (record := work.find(chunk.name))}
    for record in records.values():
        rejected |= dict(read_rejected(record))
    rest = [chunk for chunk in mine if chunk.name not in records]
    places = [place for chunk in rest for place in chunk.places]
    known = sum(len(chunk.places) for chunk in mine) - len(places)
    _check_space(job, work, places)
    try:
        converted = map_in_order(job.conversion, _Chosen(job.listing.items, places), job.workers)
        with closing(converted):
            results = iter(job.show(converted, known + len(places), "preparing", "images", done=known))
            left = len(places)
            for chunk in rest:
                records[chunk.name] = record = _write(job, work, chunk, digests, results)
                rejected |= dict(read_rejected(record))
                left -= len(chunk.places)
                if left:  # else all of them are known in a moment
                    check_rejected(work.plan, rejected, until=RUINED if job.on_bad == "skip" or left <= CHEAP else 0)
            assert next(results, None) is None
    except KeyboardInterrupt:
        if not work.finished:
            raise
        raise InterruptedRun(f"{job.out}: interrupted; {work.finished} of {len(mine)} shards are finished and kept "
                             f"beside it. Run the same command again to go on.") from None
    if job.part == WHOLE:
        close(work, [records[chunk.name] for chunk in chunks])
    else:
        check_rejected(work.plan, rejected)
    return Share(len(mine), len(chunks), work.resumed)


def _begin(job: Job, work: Unfinished, digests: Sequence[bytes], rejected: Mapping[int, Rejected]) -> list[Chunk]:
    """Plans the chunks; `rejected` are the items that cannot even be named."""
    listing, plan = job.listing, {
        "kind": "images", "command": list(job.command), "of": job.part.of, "where": job.where,
        "total": len(job.listing.items), "ignored": job.listing.ignored, "on_bad": job.on_bad, "max_bad": job.max_bad,
        "rejected": [[place, *rejected[place]] for place in sorted(rejected)]}
    check_rejected(plan, rejected)
    source = job.settings["source"] | {"sha256": digest_source(listing, digests)}
    settings = job.settings | {"source": source}
    chunks = list(_plan(job, digests))
    work.begin(_digest_job(settings, job.samples_per_shard), plan | {
        "chunks": [chunk.name for chunk in chunks], "header": settings, "copies": _group_copies(listing, digests)})
    if job.part == WHOLE:
        work.sweep()
    return chunks


def _write(job: Job, work: Unfinished, chunk: Chunk, digests: Sequence[bytes],
           results: Iterator[Converted]) -> Record:
    found: list[tuple[int, Rejected]] = []
    return work.write(chunk.name, chunk.split, _samples(job, chunk, digests, results, found),
                      lambda: {"rejected": [[place, *entry] for place, entry in found]})


def close(work: Unfinished, records: Sequence[Record]) -> None:
    """Of finished chunks, all that were planned, in order: the data set. Raises DataError as `prepare`."""
    plan = work.plan
    rejected = dict(read_rejected(Record(notes=plan)))
    for record in records:
        rejected |= dict(read_rejected(record))
    check_rejected(plan, rejected)
    _check_splits(plan, records, rejected)
    work.publish(plan["header"] | _findings(plan, rejected), records)


def read_rejected(record: Record) -> list[tuple[int, Rejected]]:
    """Those of a chunk, with their places in the source."""
    return [(int(place), Rejected(*rest)) for place, *rest in record.notes["rejected"]]


def name_items(job: Job, doing: str) -> tuple[list[bytes], dict[int, Rejected]]:
    """The digest of each item, b"" where it cannot be read; and those, by their places, with the reason."""
    digests, rejected = [], {}
    items = job.listing.items
    workers = job.workers if len(items) >= WORTH_WORKERS else 1
    with closing(map_in_order(digest, items, workers)) as results:
        for place, (found, reason) in enumerate(job.show(results, len(items), doing, "files")):
            digests.append(found)
            if reason:
                rejected[place] = Rejected(items[place].name, reason)
    return digests, rejected


def digest_source(listing: Listing, digests: Sequence[bytes]) -> str:
    """SHA-256 over all that a source tells of its items: the same source, the same digest."""
    total = hashlib.sha256()
    for item, content in zip(listing.items, digests, strict=True):
        line = [content.hex(), item.name, item.split, item.label, dict(item.facts)]
        total.update((json.dumps(line) + "\n").encode())
    return total.hexdigest()


def _digest_job(settings: dict[str, Any], samples_per_shard: int) -> str:
    """Names all that decides the bytes of the shards, other than this program."""
    codecs = [Image.__version__, *(features.version(name) for name in ("zlib", "zlib_ng", "webp", "libjpeg_turbo"))]
    text = json.dumps([settings, samples_per_shard, codecs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plan(job: Job, digests: Sequence[bytes]) -> Iterator[Chunk]:
    """Which images make up which shard; decided before any is decoded, so that no later reject moves another."""
    readable = [place for place, found in enumerate(digests) if found]
    if job.val_fraction is None:
        splits: dict[str, list[int]] = {TRAIN: [], VAL: []}
        for place in readable:
            splits[job.listing.items[place].split or TRAIN].append(place)
    else:
        named = [digests[place] for place in readable]
        _check_variety(job, named)
        val = choose_validation(named, job.val_fraction)
        splits = {TRAIN: [place for i, place in enumerate(readable) if i not in val],
                  VAL: [readable[i] for i in sorted(val)]}
    for split, places in splits.items():
        for number, start in enumerate(range(0, len(places), job.samples_per_shard)):
            yield Chunk(f"{split}-{number:05d}", split, places[start : start + job.samples_per_shard])


def _samples(job: Job, chunk: Chunk, digests: Sequence[bytes], results: Iterator[Converted],
             rejected: list[tuple[int, Rejected]]) -> Iterator[Sample]:
    width = max(6, len(str(len(job.listing.items) - 1)))
    labels = {name: label for label, name in enumerate(job.listing.classes or [])}
    for place in chunk.places:
        item = job.listing.items[place]
        image, reason = next(results)
        if reason:
            rejected.append((place, Rejected(item.name, reason)))
        else:
            contents = {job.conversion.extension: image, **_describe(item, digests[place], labels)}
            yield chunk.split, f"{place:0{width}d}", dict(sorted(contents.items()))


def _describe(item: Item, content: bytes, labels: dict[str, int]) -> dict[str, bytes]:
    """The files of a sample beside its image."""
    origin: dict[str, Any] = {"source": item.name, "sha256": content.hex()}
    contents = {}
    if labels:
        assert item.label is not None
        origin |= {"label": labels[item.label], "class": item.label}
        contents[LABEL] = encode_label(origin["label"])
    if item.facts:
        origin["facts"] = dict(item.facts)
    contents["json"] = json.dumps(origin, ensure_ascii=False, allow_nan=False).encode()
    return contents


def _group_copies(listing: Listing, digests: Sequence[bytes]) -> list[list[list[Any]]]:
    """[[place, name, split], ...] of the items whose content is the same, for each that several have."""
    groups: dict[bytes, list[int]] = {}
    for place, found in enumerate(digests):
        if found:
            groups.setdefault(found, []).append(place)
    return [[[place, listing.items[place].name, listing.items[place].split] for place in places]
            for places in groups.values() if len(places) > 1]


def _findings(plan: Mapping[str, Any], rejected: Mapping[int, Rejected]) -> dict[str, Any]:
    """The part of the manifest that is known at the end."""
    pairs = []
    for group in plan["copies"]:
        used = [entry for entry in group if entry[0] not in rejected]
        pairs += [(used[0], copy) for copy in used[1:]]
    pairs.sort(key=lambda pair: pair[1][0])
    parted = sum(first[2] != copy[2] for first, copy in pairs)
    names = [[first[1], copy[1]] for first, copy in pairs[:NAMED_DUPLICATES]]
    return {"duplicates": len(pairs), **({"first_duplicates": names} if names else {}),
            **({"duplicates_between_splits": parted} if parted else {}), "ignored": plan["ignored"],
            "rejected": [rejected[place]._asdict() for place in sorted(rejected)]}


# What is refused


def check_rejected(plan: Mapping[str, Any], rejected: Mapping[int, Rejected], until: int | None = None) -> None:
    """Raises DataError where images cannot be read: any, or more than may be skipped; and more than `until`.

    `until`: not all have been looked at yet.
    """
    total, entries = plan["total"], [rejected[place] for place in sorted(rejected)]
    few = "; ".join(f"{entry.path} ({entry.reason})" for entry in entries[:3]) + ("; ..." if entries[3:] else "")
    said = f"{plan['where']}: {len(entries)} of {total} image files cannot be read{'' if until is None else ' so far'}"
    until = until or 0
    if len(entries) == total:
        raise DataError(f"{plan['where']}: none of its {total} image files can be read: {few}. Give other images.")
    if plan["on_bad"] == "skip" and len(entries) > max(plan["max_bad"] * total, until):
        raise DataError(f"{said}, more than {plan['max_bad'] * 100:.3g}%: {few}. Repair them, move them elsewhere, or "
                        "pass a greater --max-bad.")
    if plan["on_bad"] == "fail" and len(entries) > until:
        raise KeptError(f"{said}: {few}. Repair them, or pass --on-bad skip, which lists them and goes on.")


def _check_variety(job: Job, digests: Sequence[bytes]) -> None:
    if len(set(digests)) < 2:
        if reason := job.conversion(job.listing.items[0]).reason:
            check_rejected({"where": job.where, "total": len(job.listing.items)},
                           {place: Rejected(item.name, reason) for place, item in enumerate(job.listing.items)})
        found = "holds a single image" if len(digests) < 2 else f"all its {len(digests)} images are copies of one file"
        raise DataError(f"{job.where}: {found}. Add others: some to train on, some to validate.")


def _check_splits(plan: Mapping[str, Any], records: Sequence[Record], rejected: Mapping[int, Rejected]) -> None:
    there = {record.shard.split for record in records if record.shard}
    if not there or (plan["header"]["val_fraction"] is not None and len(there) < 2):
        split = "val" if TRAIN in there else "train"
        first = rejected[min(rejected)]
        raise DataError(f"{plan['where']}: no image of the {split} split can be read, such as {first.path} "
                        f"({first.reason}). Repair them, or choose another --val-fraction.")


def _check_space(job: Job, work: Unfinished, places: Sequence[int]) -> None:
    """Raises BricsError where what is still to be written will not fit; some of it is made to see how large it is."""
    probes = [places[len(places) * i // PROBES] for i in range(min(PROBES, len(places)))]
    sizes = [len(job.conversion(job.listing.items[place]).data) for place in probes]
    needed = len(places) * (sum(sizes) // max(1, len(sizes)) + OVERHEAD)
    try:
        files.check_space(job.out, needed)
    except BricsError:
        work.remove_others()
        files.check_space(job.out, needed)
