"""manifest.json of a folder with shards, or of pictures: what is in it and what made it.

{"schema": 2, <header: "kind", ...>, "splits": {"train": samples, ...}, "index": {...}, "shards": [{"name", "split",
"samples", "bytes", "sha256"}, ...], "checksum": SHA-256 of all that is above it}. Where the members of shards lie is in
the file that "index" names (data/index.py); a folder without shards has none. Same samples, same bytes.

In schema 1 the shards listed their members themselves, and there was no checksum; it is still read.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bricscli import files
from bricscli.data.index import INDEX_NAME, Contents, Member, gather_members, pack, unpack
from bricscli.errors import DataError
from bricscli.strict_json import parse_json

SCHEMA = 2
MANIFEST = "manifest.json"
#: What the shards decide, and no header.
RESERVED = {"schema", "splits", "index", "shards", "checksum"}
AGAIN = "Delete the data set and make it again."

_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Of a name and a size.
ReadIndex = Callable[[str, int], bytes]
_CHECKSUM = re.compile(rb',\n "checksum": "([0-9a-f]{64})"\n}\n\Z')


@dataclass(frozen=True)
class Shard:
    """One tar file as the manifest and its index describe it."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    contents: Contents = field(repr=False, compare=False)

    @property
    def keys(self) -> list[str]:
        return [key.decode() for key in self.contents.keys.tolist()]

    @property
    def members(self) -> list[Member]:
        """In the order of the tar."""
        return self.contents.members()

    def as_json(self) -> dict[str, Any]:
        """All of it, members too: what `read_shard` reads."""
        return self.facts() | {"members": self.members}

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {key: getattr(self, key) for key in ("name", "split", "samples", "bytes", "sha256")}


def read_manifest(folder: Path) -> tuple[dict[str, Any], list[Shard]]:
    """What the manifest says, whether its shards are there or not: its header, and them.

    Raises:
        DataError: there is none, or it is damaged.
    """
    _, header, shards = read_manifest_text(folder)
    return header, shards


def write_manifest(folder: Path, header: Mapping[str, Any], shards: list[Shard]) -> None:
    """Replaces the manifest, and with it the index; what of the header the shards decide becomes what it must be.

    Raises ValueError where the shards do not go together: a sample is there twice, or lacks files that others have.
    """
    kept = {key: value for key, value in header.items() if key not in RESERVED}
    head = {"schema": SCHEMA, **kept, "splits": _count_samples(shards)}
    if shards:
        head["index"], data = pack([shard.contents for shard in shards])
        files.write_bytes(folder / head["index"]["name"], data)
    files.write_text(folder / MANIFEST, _manifest(head, shards))
    remove_other_indexes(folder, head)


def remove_other_indexes(folder: Path, header: Mapping[str, Any]) -> None:
    """All but the one that the header of the folder's manifest names: of before, or of a process that was killed."""
    named = header["index"]["name"] if "index" in header else None
    for other in folder.glob("index-*.bin"):
        if INDEX_NAME.fullmatch(other.name) and other.name != named:
            with suppress(OSError):  # whoever comes next tries again
                other.unlink()


def _manifest(header: Mapping[str, Any], shards: list[Shard]) -> str:
    """JSON with one line per shard, and at the end the digest of all of it."""
    head = json.dumps(header, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    listed = ",\n".join(json.dumps(shard.facts()) for shard in shards)
    text = f'{head},\n "shards": [\n{listed}\n]'
    return f'{text},\n "checksum": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def read_manifest_text(folder: Path) -> tuple[bytes, dict[str, Any], list[Shard]]:
    """`read_manifest`, and before it the text itself."""

    def read_index(name: str, size: int) -> bytes:
        path = folder / name
        if path.stat().st_size != size:
            raise ValueError(f"{name} is of another length")
        return path.read_bytes()

    text = _read_text(folder)
    while True:
        try:
            return text, *parse_manifest(str(folder / MANIFEST), text, read_index)
        except OSError as error:
            before, text = text, _read_text(folder)
            if text == before:  # else another process has replaced both of them
                raise DataError(f"{error.filename}: listed in {MANIFEST}, but {error.strerror}. {AGAIN}") from None


def _read_text(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no prepared data set (no {MANIFEST}). Make one with `brics prepare`.") from None
    except OSError as error:
        raise DataError(f"{path / MANIFEST}: cannot be read ({error.strerror}). Give yourself access.") from None


def parse_manifest(where: str, text: bytes, read_index: ReadIndex) -> tuple[dict[str, Any], list[Shard]]:
    """The header and the shards of a manifest; `read_index` gives the file of that name, and of that size, beside it.

    Raises DataError where it is not a manifest that brics wrote, or its index is not the one it names.
    """
    try:
        header = parse_json(text)
        schema = header["schema"]
        if schema not in (1, SCHEMA):
            raise DataError(f"{where}: has schema {schema!r}; this version of brics reads {SCHEMA}. {AGAIN}")
        shards = _parse_inline(header) if schema == 1 else _parse_indexed(header, text, read_index)
        _require(header["splits"] == _count_samples(shards), "its splits do not add up")
        _require(isinstance(header["kind"], str), "its kind is not a text")
        _require(len({shard.name for shard in shards}) == len(shards), "a shard is listed twice")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise DataError(f"{where}: not a manifest that brics wrote ({reason}). {AGAIN}") from None
    return header, shards


def _parse_indexed(header: dict[str, Any], text: bytes, read_index: ReadIndex) -> list[Shard]:
    """Takes "shards" and "checksum" out of the header."""
    seal = _CHECKSUM.search(text)
    _require(seal and hashlib.sha256(text[: seal.start()]).hexdigest() == seal[1].decode(), "damaged: it is not what "
             "its checksum says")
    del header["checksum"]
    entries = header.pop("shards")
    if not entries:
        _require("index" not in header, "an index of no shards")
        return []
    about = header["index"]
    samples = [entry["samples"] for entry in entries]
    _require(all(type(count) is int and count > 0 for count in samples), "bad counts")
    _require(INDEX_NAME.fullmatch(about["name"]), f"bad index name {about['name']!r}")
    contents = unpack(about, read_index(about["name"], about["bytes"]), samples)
    return [_checked(Shard(**entry, contents=part)) for entry, part in zip(entries, contents, strict=True)]


def _parse_inline(header: dict[str, Any]) -> list[Shard]:
    """Of schema 1. Takes "shards" out of the header."""
    shards = [read_shard(entry) for entry in header.pop("shards")]
    if shards:
        pack([shard.contents for shard in shards])  # raises where they do not go together
    return shards


def read_shard(entry: dict[str, Any]) -> Shard:
    """A shard as JSON has it. Raises ValueError, TypeError or KeyError where it cannot be one."""
    facts = {key: value for key, value in entry.items() if key != "members"}
    return _checked(Shard(**facts, contents=gather_members(entry["members"])))


def _checked(shard: Shard) -> Shard:
    _require(_SHARD_NAME.fullmatch(shard.name), f"bad shard name {shard.name!r}")
    _require(_SHA256.fullmatch(shard.sha256), f"bad SHA-256 of {shard.name}")
    _require(isinstance(shard.split, str) and shard.split.isidentifier(), f"bad split of {shard.name}")
    _require(type(shard.bytes) is int, f"bad size of {shard.name}")
    _require(len(shard.contents) == shard.samples, f"{shard.name} lists another number of samples")
    try:
        shard.contents.check(shard.bytes)
    except ValueError as error:
        raise ValueError(f"{shard.name}: {error}") from None
    return shard


def _count_samples(shards: list[Shard]) -> dict[str, int]:
    splits: dict[str, int] = {}
    for shard in shards:
        splits[shard.split] = splits.get(shard.split, 0) + shard.samples
    return splits


def _require(condition: Any, reason: str) -> None:
    if not condition:
        raise ValueError(reason)
