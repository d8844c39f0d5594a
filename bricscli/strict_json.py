"""JSON that somebody else may have written: a limit on its bytes, and none of what only Python reads.

Numbers beyond any count or measure, NaN, infinities and nesting without end are ValueErrors, as everything that is no
JSON is; so one `except ValueError` covers whatever a file may hold.
"""

import json
import math
from pathlib import Path
from typing import Any

#: Run directories, results, descriptions: what people's own files come to, many times over.
MOST_BYTES = 1 << 26
#: The largest results: neighbours of every sample, of 50,000 samples more than the above.
MOST_RESULT_BYTES = 1 << 29
_MOST_DIGITS = 30


def parse_json(text: bytes | str) -> Any:
    """The value of a document. Raises ValueError."""
    try:
        return json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The value of a file, of which no more than `most_bytes` are read. Raises ValueError and OSError."""
    with open(path, "rb") as file:
        text = file.read(most_bytes + 1)
    if len(text) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return parse_json(text)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("it holds a number that is too large")
    return number


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
