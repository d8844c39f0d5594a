"""`brics inpaint`: pictures, masks -> filled pictures. A picture, mask and seed: one result, whatever is beside it."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bricscli import files
from bricscli.data.filled import FilledFolder
from bricscli.data.images import encode_png
from bricscli.data.pairs import Pair
from bricscli.data.pictures import colours_of, encode_picture, read_picture
from bricscli.data.samples import sheet_path
from bricscli.data.windows import Mask
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.run.log import Progress, track, warn
from bricscli.run.provenance import describe_process
from bricscli.tasks.choices import check_range
from bricscli.tasks.inpainting.fill import whole_pass
from bricscli.tasks.inpainting.inpainter import Inpainter, Job

MOST_VARIANTS = 1000
#: Of the sheet: pictures, variants of each, and pixels of the longer side.
SHEET_PICTURES, SHEET_VARIANTS, SHEET_PIXELS = 16, 6, 256
_GAP = 4


@functools.cache
def _versions() -> dict[str, Any]:
    """Of what can change a pixel."""
    process = describe_process()
    return {name: process[name] for name in ("brics", "torch", "python")}


@dataclass(frozen=True)
class Inpainted:
    """How many pictures were filled, how many were there already, and the sheet."""

    new: int
    kept: int
    sheet: Path | None


def inpaint_to_folder(inpainter: Inpainter, pairs: Sequence[Pair], out: Path, *, variants: int = 1,
                      method: str | None = None, blend: str = "feather:8", window: str | None = None,
                      invert: bool = False) -> Inpainted:
    """Fills every picture `variants` times into `out`, as data/filled.py describes it, and a sheet beside it.

    What is there already, whole and filled in the same way, is kept. Everything is read before anything is filled.
    Raises DataError for pictures and masks that cannot be used, or where `out` holds others or cannot be written,
    RecipeError for a value out of range, BricsError where the disk is full; what was filled until then is kept.
    """
    if not 1 <= variants <= MOST_VARIANTS:
        raise RecipeError(f"--variants: {variants} is out of range. Choose 1 to {MOST_VARIANTS}.")
    for pair in pairs:
        check_range(seed=pair.seed)
        if out.absolute() == pair.image.parent.absolute():
            raise DataError(f"{out}: is the folder of the pictures. Choose another --out.")
    settings = settings_of(inpainter, method=method, blend=blend, window=window)
    pictures = {}
    for pair in track(pairs, len(pairs), "reading", "pictures"):
        image, mask = pair.load(invert=invert)
        inpainter.check(image, mask, blend=blend, window=window)
        pictures[pair.name] = describe_picture(pair.image.read_bytes(), mask, pair.seed)
    folder = FilledFolder.create(out, settings, _versions(), pictures)
    missing = [(pair, variant) for pair in pairs for variant in range(variants)
               if not folder.holds(pair.name, variant)]
    width, total = whole_pass(inpainter.device), len(pairs) * variants
    with Progress(total, "filling", "pictures", done=total - len(missing)) as progress:
        for start in range(0, len(missing), width):
            part = missing[start : start + width]
            read = {pair.name: pair.load(invert=invert) for pair in dict.fromkeys(pair for pair, _ in part)}
            jobs = [Job(*read[pair.name], pair.seed, variant) for pair, variant in part]
            done = progress.done

            def show(share: float, done: int = done, count: int = len(part)) -> None:
                progress.show(done, f"{share:.0%} of the next {count}")

            filled = inpainter.fill_all(jobs, method=method, blend=blend, window=window, progress=show)
            pngs = [(pair.name, variant, encode_variant(image, settings, pictures[pair.name], variant))
                    for (pair, variant), image in zip(part, filled, strict=True)]
            folder.add(pngs, pictures)
            progress.show(done + len(part))
    return Inpainted(len(missing), total - len(missing), _write_sheet(folder, pairs, variants, invert))


def settings_of(inpainter: Inpainter, *, method: str | None = None, blend: str = "feather:8",
                window: str | None = None) -> dict[str, Any]:
    """All that decides the pixels of a picture with its mask, seed and variant. Raises as `Inpainter.choose`."""
    return {**inpainter.describe(method), "blend": blend, "window": window or "auto"}


def encode_variant(image: Image.Image, settings: Mapping[str, Any], picture: Mapping[str, Any], variant: int) -> bytes:
    """The PNG of a filled picture, the same from the command and the page; `variant` counts from 0.

    It says what made it: `settings_of`, its picture's `describe_picture`, and versions.
    """
    return encode_picture(image, {**_versions(), **settings, **picture, "variant": variant + 1})


def describe_picture(data: bytes, mask: Mask, seed: int) -> dict[str, Any]:
    """A picture's entry in the manifest; `data` is its file."""
    shape = np.array(mask.shape, "<u4").tobytes()
    return {"image": hashlib.sha256(data).hexdigest(),
            "mask": hashlib.sha256(shape + np.packbits(mask).tobytes()).hexdigest(), "seed": seed}


def _write_sheet(folder: FilledFolder, pairs: Sequence[Pair], variants: int, invert: bool) -> Path | None:
    """A row for each of the first pictures: as it was, with a grey hole, and filled.

    None, with a warning, where there is no room for it.
    """
    rows = []
    for pair in pairs[:SHEET_PICTURES]:
        image, mask = pair.load(invert=invert)
        masked = colours_of(image).copy()
        masked[mask] = 127
        shown = [Image.fromarray(colours_of(image)), Image.fromarray(masked)]
        for variant in range(min(variants, SHEET_VARIANTS)):
            path = folder.file(pair.name, variant)
            shown.append(Image.fromarray(colours_of(read_picture(path, str(path)))))
        scale = min(1.0, SHEET_PIXELS / max(image.size))
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        rows.append([part.resize(size, Image.Resampling.LANCZOS) for part in shown])
    width = max(sum(part.width + _GAP for part in row) for row in rows) + _GAP
    canvas = Image.new("RGB", (width, sum(row[0].height + _GAP for row in rows) + _GAP), "white")
    top = _GAP
    for row in rows:
        left = _GAP
        for part in row:
            canvas.paste(part, (left, top))
            left += part.width + _GAP
        top += row[0].height + _GAP
    path = sheet_path(folder.path)
    try:
        files.write_bytes(path, encode_png(canvas))
    except BricsError as error:
        warn(str(error))
        return None
    return path
