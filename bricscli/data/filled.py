"""The folder that `brics inpaint` writes: `<picture>-<variant>.png`, variants from 1, and manifest.json.

The manifest (data/shards.py) has the kind "inpainted", says what filled the pictures, and of each which picture, which
mask and which seed it was, and the SHA-256 of every variant. It lists nothing before it is there to stay; files are
replaced in one step. So a command that was killed goes on where it was.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bricscli import files
from bricscli.data.samples import differing_settings, locked
from bricscli.data.shards import MANIFEST, read_manifest, write_manifest
from bricscli.errors import DataError

KIND = "inpainted"


class FilledFolder:
    """Pictures that one model filled in one way."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header

    @property
    def pictures(self) -> dict[str, dict[str, Any]]:
        """Name -> {"image": SHA-256 of the file, "mask": of the mask, "seed", "variants": {number: SHA-256}}."""
        return dict(self.header["pictures"])

    @staticmethod
    def create(path: Path, settings: Mapping[str, Any], versions: Mapping[str, Any],
               pictures: Mapping[str, Mapping[str, Any]]) -> "FilledFolder":
        """Makes the folder, or opens one whose `settings` are equal; also removes what killed processes left behind.

        `pictures` are those to be filled, without variants. Raises DataError where the folder holds something else or
        another picture, mask or seed of one of these names, saying what differs.
        """
        header = _check(path, settings, pictures)
        files.check_writable(path)
        path.mkdir(parents=True, exist_ok=True)
        files.sweep(path)
        with locked(path):
            header = _check(path, settings, pictures) or {"kind": KIND, **settings, "versions": [], "pictures": {}}
            if versions not in header["versions"]:
                header["versions"].append(dict(versions))
                write_manifest(path, header, [])
        return FilledFolder(path, header)

    @staticmethod
    def open(path: Path) -> "FilledFolder":
        """Raises DataError where there is none, or its manifest is damaged."""
        return FilledFolder(path, _read(path))

    def file(self, name: str, variant: int) -> Path:
        """`variant` counts from 0, names from 1."""
        return self.path / f"{name}-{variant + 1}.png"

    def holds(self, name: str, variant: int) -> bool:
        """Whether that variant is there, as it was written."""
        listed = self.pictures.get(name, {}).get("variants", {}).get(str(variant + 1))
        try:
            return listed is not None and files.sha256_file(self.file(name, variant)) == listed
        except OSError:
            return False

    def add(self, pngs: Iterable[tuple[str, int, bytes]], pictures: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes some variants. Raises BricsError where they cannot be written."""
        files.write_files(self.path, {self.file(name, variant).name: png for name, variant, png in pngs})
        with locked(self.path):
            header, _ = read_manifest(self.path)
            for name, variant, _ in pngs:
                entry = header["pictures"].setdefault(name, {**pictures[name], "variants": {}})
                entry["variants"][str(variant + 1)] = files.sha256_file(self.file(name, variant))
                entry["variants"] = dict(sorted(entry["variants"].items(), key=lambda item: int(item[0])))
            header["pictures"] = dict(sorted(header["pictures"].items()))
            write_manifest(self.path, header, [])
        self.header = header


def _check(path: Path, settings: Mapping[str, Any], pictures: Mapping[str, Mapping[str, Any]]
           ) -> dict[str, Any] | None:
    """The manifest, or None where a folder can be made. Raises DataError where these pictures do not belong."""
    if (path / MANIFEST).is_file():
        header = _read(path)
        if differing := differing_settings(header, settings):
            raise DataError(f"{path}: holds pictures that were filled in another way ({'; '.join(differing)}). "
                            "Choose another --out, or delete it.")
        for name, about in pictures.items():
            if differing := differing_settings(header["pictures"].get(name, about), about):
                raise DataError(f"{path}: holds {name} filled otherwise ({'; '.join(differing)}). Choose another "
                                "--out, or delete it.")
        return header
    if os.path.lexists(path) and not path.is_dir():
        raise DataError(f"{path}: is not a folder. Choose another --out.")
    if path.is_dir() and any(any(path.glob(pattern)) for pattern in ("*.png", "*.tar")):
        raise DataError(f"{path}: holds images that `brics inpaint` did not make. Choose another --out.")
    return None


def _read(path: Path) -> dict[str, Any]:
    header: dict[str, Any] = {}
    try:
        header, _ = read_manifest(path)
        found = header["kind"]
        whole = found != KIND or (isinstance(header["versions"], list) and all(
            isinstance(about["variants"], dict) for about in header["pictures"].values()))
    except (DataError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise DataError(f"{path / MANIFEST}: is damaged, and nothing else says what filled the pictures. Choose "
                        "another --out, or delete it.")
    if found != KIND:
        raise DataError(f"{path}: holds {found}, not filled pictures. Choose another --out.")
    return header
