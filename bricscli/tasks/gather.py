"""`brics gather`: parts that several processes made -> the finished thing, as one process would have left it."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from bricscli.data.ranges import read_ranges, show_ranges, singles
from bricscli.data.shards import MANIFEST
from bricscli.data.unfinished import KeptError, Record, Unfinished, is_begun, unfinished
from bricscli.errors import DataError
from bricscli.run.directory import RunDirectory
from bricscli.tasks import encode, preparing, sample_parts
from bricscli.tasks.sample import write_sheet

#: So many parts are named in a message.
NAMED = 20


def gather(path: Path) -> list[str]:
    """Closes all that was made in parts at `path`: a data set, a run's codes or samples, or a folder of samples.

    What each came to, for people; where there is nothing to do, that too.

    Raises:
        DataError: chunks are missing or damaged; says which, and how to make them. Or there is nothing at all.
        BricsError: a process is at work there, or the disk refuses.
    """
    places = _places(path)
    begun = [place for place in places if is_begun(place)]
    if begun:
        run = RunDirectory(begun[0].parent)
        with run.lock() if run.codes in begun and run.recipe_path.is_file() else nullcontext():
            return [_gather(place) for place in begun]
    complete = [f"{place}: is complete; there are no parts to gather." for place in places
                if (place / MANIFEST).is_file()]
    if not complete:
        raise DataError(f"{path}: no parts were made there. Make them with `brics prepare`, `brics encode` or `brics "
                        "sample`, and --part 1/8 to 8/8.")
    return complete


def _places(path: Path) -> list[Path]:
    run = RunDirectory(path)
    return [run.codes, run.samples] if run.recipe_path.is_file() else [path]


def _gather(out: Path) -> str:
    with unfinished(out) as work:
        found = [(digest, *_find(work)) for digest in work.begun() if work.reopen(digest)]
        if not found and (out / MANIFEST).is_file():  # an earlier command was killed when it had moved them
            return f"{out}: is complete; there are no parts to gather."
        complete = [(digest, records) for digest, records, missing in found if not missing]
        of_samples = work.plan.get("kind") == "samples"  # of which what others have drawn may be of use
        if len(found) != 1 and (len(complete) != 1 or of_samples):
            raise KeptError(f"{out}: beside it are parts of {len(found)} different commands, {len(complete)} of them "
                            "complete. Give the one you mean again, without --part.")
        if not complete:
            work.reopen(found[0][0])
            raise KeptError(_missing(work, found[0][2]))
        digest, records = complete[0]
        work.reopen(digest)
        chunks = len(work.chunks)
        _closer(work.plan["kind"])(work, records)
        note = ""
        if work.plan["kind"] == "samples":
            sheet = write_sheet(out, [seed for part in read_ranges(work.plan["seeds"]) for seed in part])
            note = f"; the first of them in {sheet}" if sheet else ""
        return f"{out}: {'all ' if chunks > 1 else ''}{chunks} chunks are whole, and in place{note}."


def _find(work: Unfinished) -> tuple[list[Record], list[int]]:
    """The finished chunks, and the numbers of those that are missing or damaged."""
    plan, records = work.plan, {name: work.find(name) for name in work.chunks}
    missing = [name for name, record in records.items() if record is None]
    numbers = {name: i for i, name in enumerate(work.chunks)}
    if plan["kind"] == "samples":
        seeds = [seed for part in read_ranges(plan["seeds"]) for seed in part]
        chunks = sample_parts.chunk_seeds(seeds, plan["settings"]["format"])
        numbers = {name: sample_parts.number_of(name) for name in chunks}
        wanted = [seed for name in missing for seed in chunks[name]]
        held = sample_parts.find_held(work.out, plan["settings"], wanted)
        missing = [name for name in missing if not held.issuperset(chunks[name])]
    return [record for record in records.values() if record], [numbers[name] for name in missing]


def _closer(kind: str) -> Callable[[Unfinished, Sequence[Record]], None]:
    return {"images": preparing.close, "codes": encode.close, "samples": sample_parts.close}[kind]


def _missing(work: Unfinished, numbers: Sequence[int]) -> str:
    plan, of = work.plan, int(work.plan["of"])
    command = shlex.join(["brics", *plan["command"]]) if plan["command"] else "the same command"
    parts = [f"{part}/{of}" for part in sorted({number % of + 1 for number in numbers})]
    if of == 1:
        how = f"`{command}`"
    else:
        others = f" and {', '.join(parts[1:NAMED])}{', ...' if parts[NAMED:] else ''}" if parts[1:] else ""
        how = f"`{command} --part {parts[0]}`{others}, or all of them by the same without --part"
    return (f"{work.out}: {len(numbers)} of {len(work.chunks)} chunks are missing or damaged: "
            f"{show_ranges(singles(numbers))}. Make them with {how}.")
