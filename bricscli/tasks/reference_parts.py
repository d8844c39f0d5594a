"""Parts of a search: a folder each, where `neighbours.json` will be, in which what was found so far is kept."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bricscli import files
from bricscli.errors import DataError
from bricscli.parts import Part
from bricscli.run.lock import lock_folder
from bricscli.tasks.reference_stream import Found

PART_FOLDER = re.compile(r"part-(\d+)-of-(\d+)")


def parts_in(out: Path) -> list[Part]:
    """Those that have a folder there, finished or not."""
    found = (PART_FOLDER.fullmatch(entry.name) for entry in sorted(out.iterdir())) if out.is_dir() else ()
    return [Part(int(match[1]), int(match[2])) for match in found if match]


def check_parts(out: Path, of: int) -> None:
    """Raises DataError where a search is in another number of parts: images would be missing, or there twice."""
    others = sorted({part.of for part in parts_in(out)} - {of})
    if others:
        raise DataError(f"{out}: holds parts K/{others[0]}, which do not go with parts K/{of}. Go on with those, or "
                        "leave --part out, which does what is missing.")


@contextmanager
def part_folder(out: Path, part: Part) -> Iterator[Path]:
    """The part's folder, for this process alone. Raises BricsError where another process is in it."""
    folder = out / f"part-{part.number}-of-{part.of}"
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        yield folder


def search_all(out: Path, search: Callable[[Part], Found]) -> Found:
    """What all parts found; of those that are there, `search` goes on or has done, and of those that are missing."""
    of = parts_in(out)[0].of
    check_parts(out, of)
    found = search(Part(1, of))
    for number in range(2, of + 1):
        found.merge(search(Part(number, of)))
    return found


def remove_parts(out: Path) -> None:
    """Raises BricsError where the disk refuses."""
    for part in parts_in(out):
        files.remove_directory(out / f"part-{part.number}-of-{part.of}")
