"""Ranges that say a set of seeds."""

import random

import pytest

from bricscli.data.ranges import read_ranges, show_ranges


def test_ranges_are_as_few_as_say_the_same() -> None:
    draw = random.Random(0)
    assert show_ranges([]) == "" and read_ranges("") == []
    for _ in range(200):
        seeds = {draw.randrange(40) for _ in range(draw.randrange(40))}
        parts = [range(seed, seed + 1) for seed in draw.sample(sorted(seeds), len(seeds))]
        text = show_ranges([*parts, *draw.choices(parts, k=3)] if parts else parts)
        assert [seed for part in read_ranges(text) for seed in part] == sorted(seeds)
        assert len(read_ranges(text)) == sum(seed - 1 not in seeds for seed in seeds)
    assert show_ranges([range(4096, 5000), range(7, 8), range(5), range(2, 3), range(5, 7)]) == "0-7,4096-4999"
    for text in ("x", "1-2-3", "1,,2-", "-"):
        with pytest.raises(ValueError):
            read_ranges(text)
