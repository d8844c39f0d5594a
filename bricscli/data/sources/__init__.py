"""Where images come from: the words that `brics prepare` accepts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bricscli.data.sources.listing import Listing
from bricscli.errors import RecipeError


@dataclass(frozen=True)
class Source:
    """A source of images. Unless told otherwise, `count` images of `resolution` pixels; None: there is no default."""

    description: str
    count: int | None = None
    resolution: int | None = None
    options: tuple[str, ...] = ()  #: what `open_source` takes for it
    place: Path | None = None  #: where it is looked for, of collections that have a name
    how_to_get: str | None = None  #: of these: where it can be had and where to put it, a line


SOURCES: dict[str, Source] = {
    "toy": Source(description="churches drawn by the program", count=4096, resolution=32),
    "folder": Source(description="your own images, see --from", options=("classes",)),
}


def open_source(name: str, path: Path, **options: Any) -> Listing:
    """The items of a source. Raises DataError where it holds none, RecipeError for a source that is unknown."""
    from bricscli.data.sources.folder import list_folder

    if name != "folder":
        raise RecipeError(f"SOURCE: `{name}` is unknown. There are: {', '.join(SOURCES)}.")
    return list_folder(path, **options)
