"""A reference goes past queries, chunk by chunk, and what was found is kept: killed and started again, it goes on.

Rows are the samples and then the training images that are queries themselves ("own"), each of which must not find
itself or an image with the same pixels. As many rows as fit into the memory share a pass over the reference.

Several processes may share the reference, cut into blocks of fixed images: what each finds is exact among its blocks,
and the nearest of all are the nearest of what all found.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bricscli import files
from bricscli.data.collection import ImageCollection
from bricscli.data.images import Pixels
from bricscli.data.workers import map_behind
from bricscli.errors import DataError, RecipeError
from bricscli.metrics.embeddings import Embedding
from bricscli.metrics.neighbours import Nearest, NeighbourSearch, embed
from bricscli.parts import WHOLE, Part
from bricscli.run.log import Progress, say, warn
from bricscli.strict_json import parse_json

#: Images of the reference that one process of several goes through at a time.
BLOCK = 1024
#: Images of the reference that are embedded before they are compared, at most: more are no faster.
CHUNK = 256
#: Bytes of numbers about a pair of a query and an image of the chunk.
_PAIR_BYTES = 64


@dataclass(frozen=True)
class Plan:
    """What fits into the memory: queries in a pass over the reference, images of it in a chunk."""

    rows: int
    chunk: int


@dataclass
class Found:
    """Everything found so far. `done` rows are complete; the pass of the next ones, up to `end`, is at `position`.

    A position counts the images of the part's blocks.
    """

    samples: Nearest
    own: Nearest
    twins: Tensor  #: (own,) bool: another image has the same pixels
    done: int = 0
    end: int = 0
    position: int = 0

    def merge(self, other: "Found") -> None:
        """Adds what was found in other images of the reference."""
        self.samples.merge(other.samples)
        self.own.merge(other.own)
        self.twins |= other.twins


def plan_memory(gigabytes: float, dimension: int, mirror: bool, rows: int, width: int = 1) -> Plan:
    """For vectors of `dimension` numbers. The network's own memory is not counted.

    A quarter is for the chunk, which is whole passes of `width` images if one fits, the rest for the queries. Raises
    RecipeError where one of each does not fit.
    """
    vector, memory = 4 * dimension, gigabytes * 1e9 if gigabytes > 0 else 0.0  # 0 for NaN too
    image = vector * (2 if mirror else 1)
    chunk = int(min(memory / 4 // (2 * image), CHUNK))
    chunk -= chunk % width if chunk > width else 0
    fitting = int((memory - 2 * image * chunk) // (vector + _PAIR_BYTES * chunk * image // vector))
    if chunk < 1 or fitting < 1:
        raise RecipeError(f"--memory {gigabytes:g}: too small for vectors of {files.show_bytes(vector)}. "
                          f"Use at least {max(10 * image, 1e6) / 1e9:.3g}.")
    return Plan(min(fitting, rows), chunk)


@dataclass
class ReferenceStream:
    """Rows, reference, and where progress is kept under `protocol`, which says all that decides the result."""

    queries: ImageCollection
    numbers: Sequence[int]  #: of the queries that are searched for
    reference: ImageCollection
    own: Sequence[int]  #: of the reference's images that are queries themselves
    embedding: Embedding
    k: int  #: neighbours of a query; at least 2 are kept, those of own images are 2
    mirror: bool
    progress_path: Path
    protocol: dict[str, Any]
    save_every: float = 10.0  #: seconds
    part: Part = WHOLE  #: of the reference's blocks

    def run(self, plan: Plan) -> Found:
        """Every pass, or what is left of them."""
        found = self._load(plan)
        total, blocks = len(self.numbers) + len(self.own), self._blocks()
        passes = -(-(total - found.done) // plan.rows)
        if passes > 1:
            say(f"{total - found.done} queries, of which {plan.rows} fit into the memory: {self.reference.name} is "
                f"read {passes} times.")
        with Progress(passes * sum(map(len, blocks)), f"neighbours in {self.reference.name}", "images",
                      done=found.position) as progress:
            while found.done < total:
                found.end = found.end if found.position else min(found.done + plan.rows, total)
                self._pass(found, blocks, plan.chunk, progress)
                found.done, found.position = found.end, 0
                self._save(found)
        return found

    def _blocks(self) -> list[range]:
        starts = range(0, self.reference.count, BLOCK)
        return [range(start, min(start + BLOCK, self.reference.count))
                for number, start in enumerate(starts) if self.part.takes(number)]

    def _pass(self, found: Found, blocks: list[range], size: int, progress: Progress) -> None:
        """The rows `found.done` to `found.end` against the blocks from `found.position` on."""
        split = len(self.numbers)
        first, last = max(found.done - split, 0), max(found.end - split, 0)
        own = self.own[first:last]
        pixels = [self.queries.read(self.numbers[i]) for i in range(found.done, min(found.end, split))]
        own_pixels = [self.reference.read(i) for i in own]
        digests = [_digest(image) for image in own_pixels]
        searches = [NeighbourSearch(_vectors(images, self.embedding, size), nearest) if images else None
                    for images, nearest in ((pixels, found.samples.rows(found.done, min(found.end, split))),
                                            (own_pixels, found.own.rows(first, last)))]
        saved = monotonic()
        ranges = _pieces(blocks, found.position, size)
        with closing(map_behind(lambda numbers: self._chunk(numbers, bool(own)), ranges)) as chunks:
            for numbers, (images, keys) in zip(ranges, chunks, strict=True):
                chunk = embed(torch.from_numpy(images), self.embedding, self.mirror)
                if searches[0] is not None:
                    searches[0].update(chunk, numbers.start)
                if searches[1] is not None:
                    hidden, twins = _hidden(own, digests, numbers, keys)
                    found.twins[first:last] |= twins
                    searches[1].update(chunk, numbers.start, hidden)
                found.position += len(numbers)
                progress.show(progress.done + len(numbers))
                if monotonic() - saved >= self.save_every:
                    self._save(found)
                    saved = monotonic()

    def _chunk(self, numbers: range, with_digests: bool) -> tuple[Pixels, list[set[bytes]]]:
        """(c,3,H,W), and each one's digests in the orientations that are compared."""
        images = np.stack([self.reference.read(i) for i in numbers])
        if not with_digests:
            return images, []
        return images, [{_digest(image)} | ({_digest(image[:, :, ::-1])} if self.mirror else set())
                        for image in images]

    def _save(self, found: Found) -> None:
        buffer = io.BytesIO()
        arrays = {f"{name}_{part}": getattr(nearest, part).numpy()
                  for name, nearest in (("samples", found.samples), ("own", found.own))
                  for part in ("distance", "index", "mirrored")}
        np.savez(buffer, protocol=np.array(json.dumps(self.protocol)), twins=found.twins.numpy(),
                 place=np.array([found.done, found.end, found.position]), **arrays)
        files.write_bytes(self.progress_path, buffer.getvalue())

    def _load(self, plan: Plan) -> Found:
        """Nothing, or where an earlier process was. Raises DataError where that was another search."""
        found = self._nothing()
        if not self.progress_path.exists():
            return found
        try:
            with np.load(self.progress_path, allow_pickle=False) as saved:
                refuse_other(self.progress_path.parent, parse_json(str(saved["protocol"])), self.protocol)
                done, end, position = map(int, saved["place"])
                for name, nearest in (("samples", found.samples), ("own", found.own)):
                    for part in ("distance", "index", "mirrored"):
                        getattr(nearest, part).copy_(torch.from_numpy(saved[f"{name}_{part}"]))
                found.twins.copy_(torch.from_numpy(saved["twins"]))
        except (OSError, ValueError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, EOFError):
            warn(f"{self.progress_path}: is damaged; the search starts again.")
            return self._nothing()
        if position and end - done > plan.rows:  # of a run with more memory: this pass again
            self._forget(found, done, end)
            end = position = 0
        found.done, found.end, found.position = done, end, position
        if done < len(self.numbers) + len(self.own):
            say(f"{self.progress_path.parent}: goes on after {position} images of the reference.")
        return found

    def _nothing(self) -> Found:
        return Found(Nearest.empty(len(self.numbers), max(self.k, 2)), Nearest.empty(len(self.own), 2),
                     torch.zeros(len(self.own), dtype=torch.bool))

    def _forget(self, found: Found, start: int, end: int) -> None:
        split = len(self.numbers)
        for nearest, first, last in ((found.samples, start, min(end, split)),
                                     (found.own, max(start - split, 0), max(end - split, 0))):
            empty, rows = Nearest.empty(max(last - first, 0), nearest.distance.shape[1]), nearest.rows(first, last)
            rows.distance.copy_(empty.distance)
            rows.index.copy_(empty.index)
            rows.mirrored.copy_(empty.mirrored)


def _pieces(blocks: list[range], position: int, size: int) -> list[range]:
    """What is left of the blocks behind the first `position` images, at most `size` images at a time."""
    pieces = []
    for block in blocks:
        rest = block[min(position, len(block)) :]
        position -= len(block) - len(rest)
        pieces += [rest[start : start + size] for start in range(0, len(rest), size)]
    return pieces


def refuse_other(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises DataError where the folder's protocol is not this one's, naming what differs."""
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise DataError(f"{folder}: holds another search, with another {', '.join(differing)}. "
                        "Choose another --out, or delete it.")


def _vectors(images: list[Pixels], embedding: Embedding, size: int) -> Tensor:
    """(n,D), filled piece by piece: all of the images as floats would be as large again."""
    result: Tensor | None = None
    for start in range(0, len(images), size):
        part = embed(torch.from_numpy(np.stack(images[start : start + size])), embedding)[:, 0]
        if result is None:
            result = part.new_empty((len(images), part.shape[1]))
        result[start : start + len(part)] = part
    assert result is not None
    return result


def _hidden(own: Sequence[int], digests: list[bytes], numbers: range, keys: list[set[bytes]]
            ) -> tuple[Tensor, Tensor]:
    """(own,c): the image itself, or its pixels; (own,): whether an image other than itself has them."""
    same = torch.tensor([[digest in key for key in keys] for digest in digests])
    itself = torch.tensor(own)[:, None] == torch.arange(numbers.start, numbers.stop)
    return same | itself, (same & ~itself).any(1)


def _digest(image: Pixels) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
