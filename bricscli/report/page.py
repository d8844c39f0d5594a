"""`report.html`: one file with everything in it. Images are data URIs, curves inline SVG; it asks the network nothing.

The same report gives the same bytes. No torch at import.
"""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from bricscli import files
from bricscli.data.images import Pixels, encode_png
from bricscli.report.content import (
    Block,
    Commands,
    Curve,
    Facts,
    Figures,
    Folded,
    Notes,
    Picture,
    Pictures,
    Report,
    Section,
    Table,
    Texts,
    Tiles,
)
from bricscli.report.curves import describe_curve, draw_curve, line_of, whole_dashes

#: Sides in CSS pixels: small images are shown larger, big ones smaller. 128 makes eight to a row of the page.
_TILE, _LARGEST_TILE = 128, 176
#: What the page has room for, in CSS pixels.
_PAGE = 1066


def write_report(path: Path, report: Report) -> None:
    """Writes the page, complete or not at all. Raises BricsError where it cannot be written."""
    files.write_text(path, render(report))


def render(report: Report) -> str:
    """The page as HTML. Every text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = count()
    return environment.get_template("page.html.j2").render(
        report=report,
        sections=_sections(report.sections, numbers),
        chapters=[(chapter, _sections(chapter.sections, numbers)) for chapter in report.chapters],
    )


def _sections(sections: Sequence[Section], numbers: Iterator[int]) -> list[dict[str, Any]]:
    """For the template; those that say nothing are left out."""
    return [{"title": section.title, "text": section.text, "blocks": _blocks(section.blocks, numbers)}
            for section in sections if section.text or section.blocks]


def _blocks(blocks: Sequence[Block], numbers: Iterator[int]) -> list[dict[str, Any]]:
    return [_block(block, numbers) for block in blocks]


def _block(block: Block, numbers: Iterator[int]) -> dict[str, Any]:
    """What the template needs of a block, and its `kind`; `numbers` tell the plots of a page apart."""
    match block:
        case Tiles():
            return {"kind": "tiles", **_tiles(block)}
        case Pictures():
            return {"kind": "pictures", "pictures": [_picture(picture) for picture in block.pictures]}
        case Figures():
            return {"kind": "figures", "figures": [_figure(curve, str(next(numbers))) for curve in block.curves]}
        case Folded():
            return {"kind": "folded", "title": block.title, "blocks": _blocks(block.blocks, numbers)}
        case Table():
            for name, cells in block.rows:
                if len(cells) != len(block.columns) - 1:
                    raise ValueError(f"{name}: {len(cells)} cells for the columns {list(block.columns)}")
            return {"kind": "table", "table": block}
        case Facts() | Notes() | Commands() | Texts():
            return {"kind": type(block).__name__.lower(), "block": block}


def _figure(curve: Curve, salt: str) -> dict[str, Any]:
    """A legend only where there is more than one thing to tell apart."""
    names = [(name, number, bool(len(points[0]))) for number, (name, points)
             in enumerate((*curve.series.items(), *curve.marks.items()))]
    legend = [{"name": name, "mark": name in curve.marks, "colour": line_of(number)[0],
               "dashes": whole_dashes(line_of(number)[1])} for name, number, drawn in names if drawn]
    return {"curve": curve, "svg": draw_curve(curve, salt), "legend": legend if len(names) > 1 else [],
            "words": describe_curve(curve)}


def _tiles(tiles: Tiles) -> dict[str, Any]:
    """`columns`, one per i, of (layer, data URI), and the size on the page."""
    layers: Mapping[str, Pixels] = tiles.layers
    counts = {len(images) for images in layers.values()}
    if len(counts) > 1:
        raise ValueError(f"{', '.join(layers)}: layers of different length {sorted(counts)}")
    resolution = max((images.shape[-1] for images in layers.values()), default=_TILE)
    scale = max(1, math.floor(_TILE / resolution))
    columns = [[(name, data_uri(images[i])) for name, images in layers.items()] for i in range(max(counts, default=0))]
    return {"layers": list(layers), "columns": columns, "captions": tiles.captions or range(1, len(columns) + 1),
            "tile": min(resolution * scale, _LARGEST_TILE), "pixelated": scale > 2}


def _picture(picture: Picture) -> dict[str, Any]:
    """Small ones are shown at a whole multiple of their size, as far as that fits."""
    width = picture.image.shape[-1]
    scale = max(1, _PAGE // width)
    return {"picture": picture, "uri": data_uri(picture.image), "width": width, "height": picture.image.shape[-2],
            "shown": min(width * min(scale, 4), _PAGE), "pixelated": scale > 1}


def data_uri(image: Pixels) -> str:
    """Of the PNG of an image, uint8 (3, H, W)."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
