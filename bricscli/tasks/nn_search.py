"""`brics nn-search`: the training images nearest to generated ones, and how many of those are copies.

`neighbours.json` holds what was found and everything that decides it, no times and no paths; `sheet.png` the samples at
the left of their neighbours, in their own order, as in the paper's Figures 7, 19 and 21; `closest.png` the same of the
samples that are nearest to a training image.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from bricscli import files, weights
from bricscli.data.collection import ImageCollection
from bricscli.data.loader import order
from bricscli.errors import DataError, RecipeError
from bricscli.metrics.copies import Verdict, judge, second_ratio, share_below
from bricscli.metrics.embeddings import (
    DISTANCES,
    Embedding,
    feature_embedding,
    lpips_embedding,
    pixel_embedding,
)
from bricscli.metrics.neighbours import embed
from bricscli.parts import WHOLE, Part
from bricscli.run.lock import LOCK, lock_folder
from bricscli.run.log import say, warn
from bricscli.strict_json import MOST_RESULT_BYTES, read_json
from bricscli.tasks.eval.results import describe_versions
from bricscli.tasks.neighbour_sheets import CLOSEST, SHEET, write_sheets
from bricscli.tasks.reference_parts import (
    PART_FOLDER,
    check_parts,
    part_folder,
    parts_in,
    remove_parts,
    search_all,
)
from bricscli.tasks.reference_stream import Found, ReferenceStream, plan_memory, refuse_other

#: Of the random choice of training images whose own nearest distances are the scale.
OWN_SEED = 1
#: Below this ratio of medians, being near is common among the samples and says little.
DOUBTFUL = 0.8
RESULT, PROGRESS = "neighbours.json", "progress.npz"


def check_metric(name: str) -> None:
    """Raises RecipeError where there is no such distance."""
    if name not in DISTANCES:
        close = get_close_matches(name, DISTANCES, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"There are: {', '.join(DISTANCES)}."
        raise RecipeError(f"--metric: `{name}` is unknown. {hint}")


def load_embedding(name: str, device: torch.device) -> tuple[Embedding, str | None]:
    """And the SHA-256 of its weights. Raises MissingWeights: call it before anything long."""
    check_metric(name)
    if name == "pixel":
        return pixel_embedding(device), None
    if name == "clip":
        from bricscli.metrics.features import load_extractor

        extractor = load_extractor("clip", device)
        return feature_embedding("clip", extractor, device), extractor.digest
    needed = DISTANCES[name].weights
    assert needed is not None
    digest = files.sha256_file(weights.find_weights(needed))
    return lpips_embedding(name, weights.load_state(needed), device), digest


class Search:
    """A search, in one process or in parts, whose result and sheets go into `out`.

    `memory`: gigabytes for the vectors of queries and chunk. `own`: how many training images are queries themselves.
    Raises DataError where sizes differ, RecipeError for a value out of range.
    """

    def __init__(self, queries: ImageCollection, reference: ImageCollection, embedding: Embedding, out: Path, *,
                 weights_digest: str | None = None, k: int = 8, mirror: bool = False, limit: int | None = None,
                 own: int = 500, quantile: float = 0.01, memory: float = 4.0, save_every: float = 10.0) -> None:
        _check(queries, reference, embedding, k=k, own=own, quantile=quantile)
        self._queries, self._reference, self._embedding, self._out = queries, reference, embedding, out
        self._k, self._mirror, self._save_every, self._numbers = k, mirror, save_every, queries.chosen(limit)
        self._own = sorted(order(OWN_SEED, reference.count, 0)[:own].tolist()) if reference.count > 1 else []
        probe = embed(torch.from_numpy(reference.read(0))[None], embedding)
        rows = len(self._numbers) + len(self._own)
        self._plan = plan_memory(memory, probe.shape[2], mirror, rows, embedding.width)
        self._protocol = {
            "metric": {"name": embedding.name, "label": DISTANCES[embedding.name].label,
                       "meaning": DISTANCES[embedding.name].meaning, "weights_sha256": weights_digest},
            "k": k, "mirrored_too": mirror,
            "own_distances": {"images": len(self._own), "of": reference.count, "seed": OWN_SEED}, "quantile": quantile,
            "queries": queries.describe(limit), "reference": reference.describe(None), "device": embedding.device.type}

    def keep_part(self, part: Part) -> None:
        """Searches a part of the reference, or goes on, and keeps what is found for `finish`.

        Raises DataError where `out` holds another search or other parts, BricsError where another process is at it.
        """
        if self._begin() is None:
            check_parts(self._out, part.of)
            self._search(part)

    def finish(self) -> dict[str, Any]:
        """Searches, or goes on, or finishes the parts that are there and puts them together; returns the result.

        Raises as `keep_part`.
        """
        if earlier := self._begin():
            return earlier
        self._out.mkdir(parents=True, exist_ok=True)
        with lock_folder(self._out):
            found = (search_all(self._out, self._search) if parts_in(self._out)
                     else self._stream(WHOLE, self._out).run(self._plan))
            result = _describe(found, self._queries, self._numbers, self._reference, self._protocol)
            write_sheets(self._out, result["queries"], self._queries, self._reference)
            files.write_json(self._out / RESULT, result)
            self._forget()
        return result

    def _begin(self) -> dict[str, Any] | None:
        """The result, if it is there already."""
        out, reference = self._out, self._reference
        files.check_writable(out)
        earlier = _read_result(out)
        if earlier is not None:
            refuse_other(out, earlier["protocol"], self._protocol)
            say(f"{out}: this search is done already.")
            if (out / PROGRESS).exists() or parts_in(out):  # it was killed at its very end
                with lock_folder(out):
                    self._forget()
            return earlier
        _check_place(out)
        if reference.count < self._k:
            warn(f"{reference.name}: has {reference.count} images, so that no sample has {self._k} neighbours.")
        if (self._queries.digest, self._queries.split) == (reference.digest, reference.split):
            warn(f"{self._queries.name}: is the reference itself, so that each image finds itself.")
        return None

    def _search(self, part: Part) -> Found:
        """What is nearest in a part of the reference; what is known of it is kept in the part's folder."""
        with part_folder(self._out, part) as folder:
            return self._stream(part, folder).run(self._plan)

    def _stream(self, part: Part, folder: Path) -> ReferenceStream:
        return ReferenceStream(self._queries, self._numbers, self._reference, self._own, self._embedding, self._k,
                               self._mirror, folder / PROGRESS, self._protocol, self._save_every, part)

    def _forget(self) -> None:
        (self._out / PROGRESS).unlink(missing_ok=True)
        remove_parts(self._out)


def nn_search(queries: ImageCollection, reference: ImageCollection, embedding: Embedding, out: Path, **options: Any
              ) -> dict[str, Any]:
    """`Search(...).finish()`."""
    return Search(queries, reference, embedding, out, **options).finish()


def _check(queries: ImageCollection, reference: ImageCollection, embedding: Embedding, *, k: int, own: int,
           quantile: float) -> None:
    if queries.shape != reference.shape:
        raise DataError(f"{queries.name}: images are {queries.size}, those of {reference.name} {reference.size}. "
                        "Compare images of one resolution.")
    least = DISTANCES[embedding.name].least_side
    if min(queries.shape) < least:
        raise DataError(f"{queries.name}: {queries.size} is too small for {embedding.name}, which needs sides of at "
                        f"least {least} pixels. Use --metric pixel.")
    for name, value, least in (("-k", k, 1), ("--own", own, 0)):
        if value < least:
            raise RecipeError(f"{name}: {value} is too small. Use at least {least}.")
    if not 0 < quantile <= 0.5:
        raise RecipeError(f"--quantile: {quantile:g} is not above 0 and at most 0.5. Use 0.01 for one in a hundred.")


def _check_place(out: Path) -> None:
    """Raises DataError where a folder holds files that no search left there, which it would replace or lie among."""
    if out.is_dir() and not (out / PROGRESS).exists():
        others = [entry.name for entry in sorted(out.iterdir()) if entry.name not in (RESULT, LOCK)
                  and not entry.name.startswith(".") and not PART_FOLDER.fullmatch(entry.name)]
        if others:
            raise DataError(f"{out}: holds other files, such as {others[0]}. Choose another --out.")


def _read_result(out: Path) -> dict[str, Any] | None:
    try:
        result = read_json(out / RESULT, MOST_RESULT_BYTES)
        if isinstance(result["protocol"], dict) and isinstance(result["queries"], list):
            return dict(result)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise DataError(f"{out / RESULT}: is no result of this command. Choose another --out, or delete it.")


def _describe(found: Found, queries: ImageCollection, numbers: Sequence[int], reference: ImageCollection,
              protocol: dict[str, Any]) -> dict[str, Any]:
    samples, own, quantile = found.samples.distance.tolist(), found.own.distance.tolist(), protocol["quantile"]
    own_ratios = [second_ratio(*pair) for pair in own if pair[1] < math.inf]
    own_nearest = [pair[0] for pair in own]
    ratios = [second_ratio(*distances[:2]) for distances in samples]
    copies = judge([distances[0] for distances in samples], own_nearest, quantile)
    alone = judge(ratios, own_ratios, quantile)
    entries = []
    rows = zip(numbers, samples, ratios, found.samples.index.tolist(), found.samples.mirrored.tolist(),
               strict=True)
    for number, distances, ratio, indices, mirrored in rows:
        entry = {"index": number, **queries.about(number)}
        if copies is not None:
            entry |= {"copy": copies.below(distances[0]),
                      "training_images_nearer": share_below(distances[0], own_nearest)}
        entry |= {"first_over_second": _rounded(ratio)} | ({"alone": alone.below(ratio)} if alone else {})
        entry["neighbours"] = [
            {"index": i, **reference.about(i), "mirrored": flipped, "distance": _rounded(distance)}
            for distance, i, flipped in zip(distances, indices, mirrored, strict=True) if i >= 0][: protocol["k"]]
        entries.append(entry)
    versions = describe_versions(*["lpips"] * protocol["metric"]["name"].startswith("lpips"))
    return {"kind": "neighbours", "protocol": protocol, "copies": _show(copies), "alone": _show(alone),
            "own_with_a_twin": int(found.twins.sum()),
            "sheets": {SHEET: "the first samples in their own order", CLOSEST: "the samples nearest to a neighbour"},
            "versions": versions, "queries": entries}


def _show(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    numbers = asdict(verdict) | {"ratio_of_medians": verdict.ratio if verdict.own_median else None}
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in numbers.items()}


def _rounded(value: float) -> float:
    """To what float32 says."""
    return float(f"{value:.8g}")


def describe_result(result: dict[str, Any]) -> list[str]:
    """The lines to print."""
    protocol, copies, alone = result["protocol"], result["copies"], result["alone"]
    queries, reference, own = protocol["queries"], protocol["reference"], protocol["own_distances"]
    split = f", split {reference['split']}" if "split" in reference else ""
    mirror = " and their mirror images" if protocol["mirrored_too"] else ""
    nearest = min(result["queries"], key=lambda entry: entry["neighbours"][0]["distance"])
    found = nearest["neighbours"][0]
    lines = [f"{queries['images']} samples of {queries['name']} against the {reference['images']} images of "
             f"{reference['name']}{split}{mirror}, by {protocol['metric']['label']}",
             f"the nearest: {nearest['name']}, {found['distance']:.4g} from {found.get('source', found['name'])}"]
    if copies is None:
        return [*lines, f"copies: not judged, since the distances of {own['images']} training images to others are no "
                "scale (--own)"]
    lines.append(f"copies: {copies['count']} of {queries['images']} samples are nearer to a training image than "
                 f"{copies['limit']:.4g}, or identical{_doubt(copies)}; {_chance(copies)}")
    if alone is not None:
        lines.append(f"perhaps changed copies: {alone['count']} of {queries['images']} samples have one training image "
                     f"nearer than {alone['limit']:.3g} of the second nearest's distance; {_chance(alone)}")
    lines += [f"  limits: the {_nth(copies['rank'])} smallest of what {copies['own']} training images, chosen at "
              "random, have against all others; samples like further training images are below them by chance as often",
              f"median distance to the nearest: {copies['median']:.4g} of samples, {copies['own_median']:.4g} of "
              "training images"]
    if result["own_with_a_twin"]:
        lines.append(f"{result['own_with_a_twin']} of {own['images']} training images have a twin with the same "
                     "pixels, which was not counted as their neighbour")
    if copies["own"] * protocol["quantile"] < 1:
        lines.append(f"  {copies['own']} training images are too few for a quantile of {protocol['quantile']:g}: the "
                     "smallest number stands for it")
    return lines


def _chance(verdict: dict[str, Any]) -> str:
    so_many = f", as many or more with probability {verdict['probability']:.2g}" if verdict["count"] else ""
    return f"{verdict['expected']:.2g} expected by chance{so_many}"


def _doubt(copies: dict[str, Any]) -> str:
    """Samples that are all nearer than training images are to each other are no copies for that."""
    ratio = copies["ratio_of_medians"]
    if ratio is None or ratio > DOUBTFUL:
        return ""
    return (f" (doubtful: samples in general are nearer, {ratio:.2g} of the training images' median distance; blur and "
            "little variety do that without copying)")


def _nth(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
