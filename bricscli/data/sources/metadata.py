"""A folder of images with a `metadata.jsonl`, as Hugging Face's ImageFolder reads it.

Every line is an object with a "file_name", relative to the metadata file, and columns of one's own. The file may be in
the folder itself, or there is one in each of train/, val/ (or validation/) and test/.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bricscli.data.sources.folder import FileItem, list_files
from bricscli.data.sources.listing import Listing
from bricscli.errors import DataError
from bricscli.strict_json import parse_json

METADATA = "metadata.jsonl"
#: What is said of one image.
MAX_LINE_BYTES = 1 << 16
#: The folders that fix the splits; "test" counts as "val" where there is no other.
SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


@dataclass(frozen=True)
class _Line:
    """A line that names an image: where it stands, the image's path and its name in the source, its columns."""

    where: str
    path: Path
    name: str
    columns: dict[str, Any]


class _Bad(Exception):
    """What is wrong with a line, for people."""


def open_imagefolder(path: Path, *, classes: bool = False) -> Listing:
    """The images that the metadata name. The column "label" (text or whole numbers) gives classes.

    The other columns are the items' facts. With `classes` there must be labels. Images that no line names are ignored.

    Raises:
        DataError: there is no metadata file, a line is bad, labels are missing or mixed, or only a test split is there.
    """
    lines = [line for file in _metadata_files(path) for line in _lines(path, file)]
    _check_unique(lines)
    ignored = _ignored(path, lines)
    splits, left_out, rule = _splits(path, lines)
    lines = [line for line, split in zip(lines, splits, strict=True) if split != "test"]
    splits = [split for split in splits if split != "test"]
    labels, names = _labels(path, lines, classes)
    items = [FileItem(str(line.path), line.name, split, label,
                      {key: value for key, value in line.columns.items() if names is None or key != "label"})
             for line, split, label in zip(lines, splits, labels, strict=True)]
    source: dict[str, Any] = {"name": "imagefolder", "split_rule": rule}
    if left_out:
        source["left_out"] = {"test": left_out}
    return Listing(sorted(items, key=lambda item: item.name), ignored, source, names)


def _metadata_files(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder. Give the folder that holds {METADATA}.")
    top = path / METADATA
    below = [path / name / METADATA for name in SPLITS if (path / name / METADATA).is_file()]
    if top.is_file() and below:
        raise DataError(f"{top}: there is another in {below[0].parent.name}/. Keep either that of the folder or those "
                        "of the splits.")
    if not below and not top.is_file():
        raise DataError(f"{path}: holds no {METADATA}, nor do train/, val/ and test/ in it. Write one, or use "
                        "`folder`.")
    return below or [top]


def _lines(root: Path, file: Path) -> list[_Line]:
    found = []
    below = PurePosixPath(file.parent.relative_to(root).as_posix())
    place = file.parent.resolve()
    try:
        with open(file, "rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if not line.strip():
                    continue
                try:
                    columns = _parse(line)
                    inside = _inside(columns.pop("file_name", None), place)
                except _Bad as problem:
                    raise DataError(f"{file}:{number}: {problem}") from None
                found.append(_Line(f"{file}:{number}", place / inside, (below / inside).as_posix(), columns))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}). Give yourself access.") from None
    if not found:
        raise DataError(f"{file}: is empty. Write one line for each image.")
    return found


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise _Bad(f"more than {MAX_LINE_BYTES:,} bytes. Shorten what it says of the image.")
    try:
        columns = parse_json(line)
        json.dumps(columns, ensure_ascii=False).encode()  # half a surrogate pair cannot be written again
    except ValueError:
        raise _Bad("is no JSON. Write an object such as {\"file_name\": \"a.png\"} on every line.") from None
    if not isinstance(columns, dict):
        raise _Bad("is no object. Write one such as {\"file_name\": \"a.png\"} on every line.")
    return columns


def _inside(name: object, place: Path) -> PurePosixPath:
    """The path that a line gives, if it leads to a file in the metadata's folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise _Bad("has no file_name. Name the image that it is about.")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise _Bad(f"file_name {name!r} leads out of the folder. Write a path below that of {METADATA}, with `/`.")
    try:
        real = (place / path).resolve()
        if not real.is_file():
            raise _Bad(f"file_name {name!r}: there is no such file. Put it there, or remove the line.")
    except (OSError, RuntimeError):  # too long a name, a loop of links
        raise _Bad(f"file_name {name!r}: there is no such file. Put it there, or remove the line.") from None
    if not real.is_relative_to(place):
        raise _Bad(f"file_name {name!r} is a link that leads out of the folder. Put the file itself there.")
    return path


def _check_unique(lines: Sequence[_Line]) -> None:
    first: dict[str, str] = {}
    for line in lines:
        if line.name in first:
            raise DataError(f"{line.where}: names {line.name}, as {first[line.name]} does. Keep one of them.")
        first[line.name] = line.where


def _splits(path: Path, lines: Sequence[_Line]) -> tuple[list[str | None], int, str]:
    """The split of every line, how many are of "test" and left out, and the rule in words."""
    folders = [line.name.split("/")[0] if "/" in line.name else "" for line in lines]
    found: list[str | None] = [SPLITS.get(folder) for folder in folders]
    if None in found or set(found) == {"train"}:
        return [None] * len(lines), 0, "by content"
    if "train" not in found:
        raise DataError(f"{path}: holds no train/ beside {folders[0]}/, and nothing to train on. Add it, or give one "
                        "of the folders.")
    if "val" not in found:
        return ["val" if split == "test" else split for split in found], 0, "its folders; test serves as val"
    return found, found.count("test"), "its folders"


def _labels(path: Path, lines: Sequence[_Line], wanted: bool) -> tuple[list[str | None], list[str] | None]:
    """The label of every line as text, and the classes: numbers in their order, words sorted."""
    values = [line.columns.get("label") for line in lines]
    kinds = Counter("number" if isinstance(value, int) and not isinstance(value, bool) else
                    "text" if isinstance(value, str) and value else "none" for value in values)
    if kinds["none"] == len(lines) or len(set(map(str, values))) < 2:
        if wanted:
            raise DataError(f"{path}: its {METADATA} gives no labels, or all the same. Add a column `label` of text or "
                            "whole numbers, or leave out --classes.")
        return [None] * len(lines), None
    if len(kinds) > 1:
        odd = next(line for line, value in zip(lines, values, strict=True) if type(value) is not type(values[0]))
        raise DataError(f"{odd.where}: its label is {odd.columns.get('label')!r}, where {lines[0].where} has "
                        f"{values[0]!r}. Give every image one, either text or a whole number.")
    labels = [str(value) for value in values]
    return [*labels], sorted(set(labels), key=int) if kinds["number"] else sorted(set(labels))


def _ignored(path: Path, lines: Sequence[_Line]) -> int:
    """Files below the folder that no line names, but for the metadata themselves."""
    files = list_files(path, ())
    named = sum(not any(part.startswith(".") for part in line.name.split("/")) for line in lines)
    return max(0, files.ignored - named - len({line.where.rsplit(":", 1)[0] for line in lines}))
