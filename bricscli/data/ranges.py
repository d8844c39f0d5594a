"""Sets of seeds, written as few ranges: `0-4095,5000`."""

from collections.abc import Iterable


def show_ranges(parts: Iterable[range]) -> str:
    """Ranges, in any order, as few as say the same: `0-4095,5000`. `brics sample --seeds` reads it too."""
    joined: list[range] = []
    for part in sorted(parts, key=lambda part: part.start):
        if joined and part.start <= joined[-1].stop:
            part = range(joined[-1].start, max(part.stop, joined.pop().stop))
        joined.append(part)
    return ",".join(str(part.start) if len(part) == 1 else f"{part.start}-{part.stop - 1}" for part in joined)


def read_ranges(text: str) -> list[range]:
    """What `show_ranges` wrote. Raises ValueError for anything else."""
    ends = [part.partition("-") for part in text.split(",") if text]
    return [range(int(first), int(last if dash else first) + 1) for first, dash, last in ends]


def singles(seeds: Iterable[int]) -> list[range]:
    """Each a range of its own."""
    return [range(seed, seed + 1) for seed in seeds]
