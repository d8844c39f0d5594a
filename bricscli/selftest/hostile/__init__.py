"""The hostile corpus: files that want to run code, reach an address, leave their folder, or fill memory and time.

`build_corpus(folder)` writes them, each in a folder of its own, with the words of the command that is to read it. What
all of them must come to: nothing of `marker` is there, nobody has connected to `address`, the command has said one line
for each thing that is wrong, without control characters, and has ended with one of `codes`; in time and in memory.

Nothing of what is read here is used to write it: every byte is put together by hand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: What everything here tries to make.
MARKER = "marker"
#: Where a listener would see who comes, unless told otherwise: nobody is there.
NOWHERE = "127.0.0.1:9"


@dataclass(frozen=True)
class Case:
    """One hostile thing: `brics *words` in the folder `place` is to read it; `says`: a part of what it must say.

    `codes` are the exit codes that are right; 0 where what is hostile is to be passed over.
    """

    name: str
    kind: str
    place: Path
    words: tuple[str, ...]
    says: str
    codes: tuple[int, ...] = (2, 3, 4)


@dataclass(frozen=True)
class Trap:
    """What payloads point at."""

    marker: Path
    address: str
    secret: Path  #: a good picture outside of every case's folder

    @property
    def command(self) -> str:
        """Of a shell."""
        return f"touch '{self.marker}'"

    @property
    def pickle(self) -> bytes:
        """Protocol 0: os.system(command), when it is unpickled."""
        return b"cposix\nsystem\n(V" + self.command.encode() + b"\ntR."


#: Fills a case's folder.
Fill = Callable[[Path, Trap], None]
#: name, words, what it must say, how the folder is filled; and codes where they are others.
Row = tuple[str, str, str, Fill] | tuple[str, str, str, Fill, tuple[int, ...]]


def build_corpus(folder: Path, *, address: str = NOWHERE, run: Path | None = None) -> list[Case]:
    """Writes the corpus into `folder`; the marker is `folder / MARKER`.

    `run` is of a diffusion model; without one, what only `brics inpaint` reads is left out.
    """
    from bricscli.selftest.hostile import archives, pictures, texts, weights

    folder.mkdir(parents=True, exist_ok=True)
    trap = Trap((folder / MARKER).resolve(), address, (folder / "secret.png").resolve())
    trap.secret.write_bytes(pictures.picture())
    kinds: dict[str, list[Row]] = {
        "recipe": texts.RECIPES, "manifest": texts.MANIFESTS, "metadata": texts.METADATA,
        "run": texts.RUNS, "statistics": texts.STATISTICS, "tar": archives.TARS,
        "zip": archives.ZIPS, "lmdb": archives.DATABASES, "image": pictures.IMAGES,
        "video": pictures.VIDEOS, "checkpoint": weights.CHECKPOINTS,
    }
    if run is not None:
        kinds["mask"] = pictures.MASKS
    return [case for kind, rows in kinds.items() for case in _cases(folder, trap, kind, rows, run)]


def _cases(folder: Path, trap: Trap, kind: str, rows: list[Row], run: Path | None) -> Iterator[Case]:
    for name, words, says, fill, *codes in rows:
        place = folder / kind / name
        place.mkdir(parents=True)
        fill(place, trap)
        filled = tuple(word.format(run=run, address=trap.address) for word in words.split())
        yield Case(name, kind, place, filled, says, *codes)


def written(name: str, data: bytes | Callable[[Trap], bytes]) -> Fill:
    """A folder with one file."""

    def fill(place: Path, trap: Trap) -> None:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data(trap))

    return fill


def together(*fills: Fill) -> Fill:
    """A folder with all that these write."""

    def fill(place: Path, trap: Trap) -> None:
        for one in fills:
            one(place, trap)

    return fill
