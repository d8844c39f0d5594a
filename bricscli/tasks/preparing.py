"""The work of `brics prepare`: the items of a source are named, planned, converted and written, shard by shard."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, features

from bricscli import files
from bricscli.data.convert import Conversion, Converted, digest
from bricscli.data.labels import LABEL, encode_label
from bricscli.data.shards import Sample, Shard
from bricscli.data.sources.listing import Item, Listing
from bricscli.data.splits import TRAIN, VAL, choose_validation, find_copies
from bricscli.data.unfinished import Rejected, Unfinished
from bricscli.data.workers import map_in_order
from bricscli.errors import BricsError, DataError, InterruptedRun

#: At most this share of the images may be unreadable.
MAX_REJECTED = 0.01
#: With more than so many the work is given up at once; with fewer all of them are named first.
RUINED = 100
#: Fewer items than this are named here, in less time than processes need to start.
WORTH_WORKERS = 5000
#: So many duplicates are named in the manifest.
NAMED_DUPLICATES = 20
#: So many images are prepared beforehand, to know how much room all of them need.
PROBES = 8
#: Bytes of a sample besides its image: its JSON, heads and padding in the tar, its lines of the manifest.
OVERHEAD = 3000


class Part(NamedTuple):
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


def make(job: Job, work: Unfinished) -> int:
    """Makes the data set; of its shards so many had been finished before. Raises what `prepare` says."""
    listing = job.listing
    digests, rejected = name_items(job, "hashing")
    _check_rejected(job, rejected)
    source = job.settings["source"] | {"sha256": digest_source(listing, digests)}
    settings = job.settings | {"source": source}
    parts = list(_plan(job, digests))
    work.begin(_digest_job(settings, job.samples_per_shard), len(parts))
    records = {part.name: record for part in parts if (record := work.find(part.name))}
    resumed = len(records)
    rest = [part for part in parts if part.name not in records]
    places = [place for part in rest for place in part.places]
    known = sum(len(part.places) for part in parts) - len(places)
    for record in records.values():
        rejected |= dict(record.rejected)
    _check_space(job, work, places)
    try:
        converted = map_in_order(job.conversion, _Chosen(listing.items, places), job.workers)
        with closing(converted):
            results = iter(job.show(converted, known + len(places), "preparing", "images", done=known))
            for part in rest:
                found: list[tuple[int, Rejected]] = []
                records[part.name] = work.write(part.name, part.split, _samples(job, part, digests, results, found),
                                                found)
                rejected |= dict(found)
                if part is not rest[-1]:  # else all of them are known in a moment
                    _check_rejected(job, rejected, until=RUINED)
            assert next(results, None) is None
    except KeyboardInterrupt:
        if not work.finished:
            raise
        raise InterruptedRun(f"{job.out}: interrupted; {work.finished} of {work.parts} shards are finished and kept "
                             f"beside it. Run the same command again to go on.") from None
    _check_rejected(job, rejected)
    shards = [record.shard for part in parts if (record := records[part.name]).shard is not None]
    _check_splits(job, shards, rejected)
    work.publish(settings | _findings(listing, digests, rejected), [shard for shard in shards if shard])
    return resumed


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


def _plan(job: Job, digests: Sequence[bytes]) -> Iterator[Part]:
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
            yield Part(f"{split}-{number:05d}", split, places[start : start + job.samples_per_shard])


def _samples(job: Job, part: Part, digests: Sequence[bytes], results: Iterator[Converted],
             rejected: list[tuple[int, Rejected]]) -> Iterator[Sample]:
    width = max(6, len(str(len(job.listing.items) - 1)))
    labels = {name: label for label, name in enumerate(job.listing.classes or [])}
    for place in part.places:
        item = job.listing.items[place]
        image, reason = next(results)
        if reason:
            rejected.append((place, Rejected(item.name, reason)))
        else:
            contents = {job.conversion.extension: image, **_describe(item, digests[place], labels)}
            yield part.split, f"{place:0{width}d}", dict(sorted(contents.items()))


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


def _findings(listing: Listing, digests: Sequence[bytes], rejected: dict[int, Rejected]) -> dict[str, Any]:
    """The part of the manifest that is known at the end."""
    used = [place for place in range(len(digests)) if place not in rejected]
    copies = [(used[first], used[copy]) for first, copy in find_copies([digests[place] for place in used])]
    parted = sum(listing.items[first].split != listing.items[copy].split for first, copy in copies)
    names = [[listing.items[first].name, listing.items[copy].name] for first, copy in copies[:NAMED_DUPLICATES]]
    return {"duplicates": len(copies), **({"first_duplicates": names} if names else {}),
            **({"duplicates_between_splits": parted} if parted else {}), "ignored": listing.ignored,
            "rejected": [rejected[place]._asdict() for place in sorted(rejected)]}


# What is refused


def _check_rejected(job: Job, rejected: dict[int, Rejected], until: int = 0) -> None:
    """Raises DataError where more than MAX_REJECTED, and more than `until`, cannot be read."""
    total, entries = len(job.listing.items), [rejected[place] for place in sorted(rejected)]
    few = "; ".join(f"{entry.path} ({entry.reason})" for entry in entries[:3]) + ("; ..." if entries[3:] else "")
    if len(entries) == total:
        raise DataError(f"{job.where}: none of its {total} image files can be read: {few}. Give other images.")
    if len(entries) > max(MAX_REJECTED * total, until):
        raise DataError(f"{job.where}: {len(entries)} of {total} image files cannot be read, more than "
                        f"{MAX_REJECTED:.0%}: {few}. Repair them, or move them elsewhere.")


def _check_variety(job: Job, digests: Sequence[bytes]) -> None:
    if len(set(digests)) < 2:
        if reason := job.conversion(job.listing.items[0]).reason:
            _check_rejected(job, {place: Rejected(item.name, reason) for place, item in enumerate(job.listing.items)})
        found = "holds a single image" if len(digests) < 2 else f"all its {len(digests)} images are copies of one file"
        raise DataError(f"{job.where}: {found}. Add others: some to train on, some to validate.")


def _check_splits(job: Job, shards: Sequence[Shard | None], rejected: dict[int, Rejected]) -> None:
    there = {shard.split for shard in shards if shard}
    if not there or (job.val_fraction is not None and len(there) < 2):
        split = "val" if TRAIN in there else "train"
        first = rejected[min(rejected)]
        raise DataError(f"{job.where}: no image of the {split} split can be read, such as {first.path} "
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
