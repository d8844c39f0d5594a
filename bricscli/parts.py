"""A share of a stage's work: part 3 of 8.

The work of a stage is cut into chunks with fixed numbers, whoever does them; part k of n are the chunks whose number
leaves k - 1 when divided by n. Chunks are pure functions of their number, so two who do the same one do no harm.
"""

import re
from dataclasses import dataclass

from bricscli.errors import RecipeError

MOST_PARTS = 100_000


@dataclass(frozen=True)
class Part:
    """The `number`th of `of` parts, from 1."""

    number: int = 1
    of: int = 1

    def takes(self, chunk: int) -> bool:
        """Whether the chunk of this number, from 0, is one of the part's."""
        return chunk % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Part()


@dataclass(frozen=True)
class Share:
    """What a command has done of a stage: `chunks` of `of`; `resumed` of them had been finished before."""

    chunks: int
    of: int
    resumed: int


def parse_part(text: str) -> Part:
    """`3/8` -> Part(3, 8). Raises RecipeError."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part = Part(int(match[1]), int(match[2])) if match else None
    if part is None or not 1 <= part.number <= part.of <= MOST_PARTS:
        raise RecipeError(f"--part: `{text}` is none. Write the part's number, from 1, and how many there are, such as "
                          "3/8.")
    return part
