"""Where images come from: the words that `brics prepare` accepts, and what each of them opens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bricscli.data.sources.listing import Item, Listing
from bricscli.errors import RecipeError

__all__ = ["SOURCES", "Item", "Listing", "Source", "default_place", "find_source", "how_to_get", "open_source"]


@dataclass(frozen=True)
class Source:
    """A source of images. Unless told otherwise, `count` images of `resolution` pixels; None: there is no default."""

    description: str
    count: int | None = None
    resolution: int | None = None
    needs_path: bool = True
    options: frozenset[str] = frozenset()
    place: Path | None = None


SOURCES: dict[str, Source] = {
    "toy": Source("churches drawn by the program", count=4096, resolution=32, needs_path=False),
    "folder": Source("your own images, see --from", options=frozenset({"classes"})),
}


def find_source(name: str) -> str:
    """The word of SOURCES that `name` stands for. Raises RecipeError where there is none."""
    if name in SOURCES:
        return name
    known = ", ".join(f"{word} ({source.description})" for word, source in SOURCES.items())
    raise RecipeError(f"SOURCE: `{name}` is unknown. There are: {known}.")


def default_place(name: str) -> Path | None:
    """Where a source is looked for without --from; None: it has to be said."""
    return SOURCES[find_source(name)].place


def how_to_get(name: str) -> str:
    """One line for a source that is not there: the page to get it from and the place to put it."""
    return f"--from: is missing. Write `brics prepare {name} --from PATH`."


def open_source(name: str, path: Path, **options: Any) -> Listing:
    """What a source holds, at `path`. Nothing is decoded yet. Raises DataError, RecipeError."""
    from bricscli.data.sources.folder import open_folder

    find_source(name)
    return open_folder(path, **options)
