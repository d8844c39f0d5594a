"""FFHQ (arXiv:1812.04948v3): 70,000 aligned faces, numbered from 0.

The number is what a file's name ends with: `00000/00012.png` and a flat `00012.png` of the published 1024-pixel images,
and `00000/img00000012.png` of the archives that NVlabs' dataset_tool.py writes.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np

from bricscli.data.sources.archives import ZipItem, zip_items
from bricscli.data.sources.folder import FileItem, list_images
from bricscli.data.sources.listing import Item, Listing
from bricscli.errors import DataError, RecipeError

COUNT = 70_000
#: The published images lie in this folder.
_PUBLISHED = "images1024x1024"
_NUMBER = re.compile(r"(\d{1,12})\.[^./]+$", re.ASCII)
_FIRST = 60_000
#: The 10,000 validation images of CompVis/taming-transformers, data/ffhqvalidation.txt, from the copy that RQ-VAE uses
#: (rqvae/img_datasets/assets/ffhqvalidation.txt of a fork of kakaobrain/rq-vae-transformer); the first 150 and last 19
#: of taming's data/ffhqtrain.txt are none of them. 8,603 are below 60,000: the split is not NVlabs'. A bit for each
#: image, that of image n being bit 7 - n % 8 of byte n // 8.
_TAMING = "ffhq_val.bits"

SPLITS = {
    "taming": "60,000 train and 10,000 val: the lists of CompVis/taming-transformers",
    "first60k": "0 to 59,999 train, the rest val: NVlabs' own",
    "all": "70,000 train, no val",
}


def open_ffhq(path: Path, *, split: str = "taming", any_count: bool = False) -> Listing:
    """The faces of a folder or a zip archive, by number.

    Raises:
        RecipeError: there is no such split.
        DataError: there is no such place, a number is there twice or too large, or not every number is there and
            `any_count` is not set.
    """
    if split not in SPLITS:
        raise RecipeError(f"--split: `{split}` is unknown. There are: {', '.join(SPLITS)}.")
    validates = _validates(split)
    found, ignored = _images(path)
    numbered = _by_number(path, found)
    if not numbered:
        raise DataError(f"{path}: holds no images. Give the folder or archive with FFHQ's faces.")
    missing = next((n for n in range(COUNT) if n not in numbered), None)
    if missing is not None and not any_count:
        raise DataError(f"{path}: holds {len(numbered):,} images where FFHQ has {COUNT:,}; the first that is missing "
                        f"is {missing:05d}. Copy or download it again, or pass --any-count.")
    items: list[Item] = [replace(numbered[n], split="val" if validates(n) else "train") for n in sorted(numbered)]
    source: dict[str, Any] = {"name": "ffhq", "expected": COUNT, "ffhq_split": split}
    if missing is not None:
        source |= {"any_count": True, "found": len(items)}
    return Listing(items, ignored, source)


@functools.cache
def taming_validation() -> frozenset[int]:
    """The numbers of the validation images."""
    data = (resources("bricscli.data.sources") / _TAMING).read_bytes()
    return frozenset(np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8))).tolist())


def _validates(split: str) -> Callable[[int], bool]:
    if split == "taming":
        return taming_validation().__contains__
    return (lambda n: n >= _FIRST) if split == "first60k" else (lambda n: False)


def _images(path: Path) -> tuple[Sequence[FileItem | ZipItem], int]:
    if path.is_file():
        return zip_items(path)
    if (path / _PUBLISHED).is_dir():
        path = path / _PUBLISHED
    found = list_images(path)
    return [FileItem(str(file), name) for file, name in zip(found.paths, found.names, strict=True)], found.ignored


def _by_number(path: Path, items: Sequence[FileItem | ZipItem]) -> dict[int, FileItem | ZipItem]:
    found: dict[int, FileItem | ZipItem] = {}
    for item in items:
        match = _NUMBER.search(item.name)
        number = int(match[1]) if match else COUNT
        if number >= COUNT:
            raise DataError(f"{path}: {item.name} has no number from 0 to {COUNT - 1:,} at its end, and is none of "
                            "FFHQ. Give the folder or archive with the faces alone.")
        if number in found:
            raise DataError(f"{path}: {found[number].name} and {item.name} have the same number. Give the folder or "
                            "archive with the images of one size.")
        found[number] = item
    return found
