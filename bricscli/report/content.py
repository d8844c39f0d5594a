"""What a page holds, as data: sections of a few kinds of blocks. `report.page` makes HTML of it. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bricscli.data.images import Pixels

Points = tuple[Sequence[float], Sequence[float]]

#: How a cell is coloured; what it says is in its words.
Tone = Literal["", "value", "soft", "pass", "fail", "open"]


@dataclass(frozen=True)
class Tiles:
    """Images side by side. `layers`: name -> uint8 (N,3,H,W); image i of every layer stand above one another."""

    layers: Mapping[str, Pixels]
    captions: Sequence[str] = ()  #: one for each i, shown on hover; 1, 2, ... unless given


@dataclass(frozen=True)
class Picture:
    """One image that is shown whole, such as a contact sheet: uint8 (3,H,W). `alt` says what is on it."""

    title: str
    image: Pixels
    alt: str


@dataclass(frozen=True)
class Pictures:
    """Below one another."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Curve:
    """Lines of a plot. `series`: name -> (x, y); points that are not finite are left out.

    A name keeps its place among the colours even where it has no points. Long lines are averaged, unless `exact`: then
    every point is drawn, with a mark where they are few.
    """

    title: str
    text: str
    series: Mapping[str, Points]
    logarithmic: bool = False
    x_label: str = "images seen"
    exact: bool = False
    areas: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)  #: low, high
    marks: Mapping[str, Points] = field(default_factory=dict)  #: points without a line, after the colours of `series`
    ticks: Sequence[tuple[float, str]] = ()  #: of x, instead of numbers
    limits: tuple[float, float] | None = None  #: of y
    levels: Sequence[tuple[str, float]] = ()  #: horizontal lines, with their names
    borders: Sequence[tuple[str, float, float]] = ()  #: parts of x with their names: from, to


@dataclass(frozen=True)
class Figures:
    """Plots beside one another."""

    curves: Sequence[Curve]


@dataclass(frozen=True)
class Cell:
    """A value in a table; `note` stands small below it."""

    text: str
    tone: Tone = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """`rows`: (what the row is about, its cells, one for each of `columns` after the first).

    `listing`: the cells speak for themselves, so that a narrow screen need not repeat their columns' names.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    caption: str = ""
    listing: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Notes:
    """What must be said beside something; `tone` is how loudly."""

    title: str
    lines: Sequence[str]
    tone: Literal["soft", "fail"] = "soft"


@dataclass(frozen=True)
class Command:
    """What was typed, and what it did."""

    text: str
    does: str


@dataclass(frozen=True)
class Commands:
    commands: Sequence[Command]


@dataclass(frozen=True)
class Texts:
    """Title -> long text, folded away."""

    texts: Mapping[str, str]


@dataclass(frozen=True)
class Folded:
    """Blocks that are folded away under a title."""

    title: str
    blocks: Sequence["Block"]


Block = Tiles | Pictures | Figures | Table | Facts | Notes | Commands | Texts | Folded


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and blocks; one without blocks and text is left out."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Chapter:
    """Sections of one of several runs, folded away under its name."""

    title: str
    summary: str
    sections: Sequence[Section]


@dataclass(frozen=True)
class Report:
    """The content of the page, from top to bottom."""

    title: str
    summary: str
    highlights: Sequence[tuple[str, str]] = ()  #: (value, what it is), three or four
    sections: Sequence[Section] = ()
    chapters: Sequence[Chapter] = ()
