"""What `brics eval` measured, from its JSON: checked, and as tables. Numbers stand side by side only if the same thing
was measured in the same way. No torch."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bricscli.metrics import METRICS
from bricscli.report.content import Block, Cell, Facts, Folded, Notes, Table

#: Digits of a SHA-256 that are shown.
DIGITS = 8
#: How the results of earlier versions are named, whose Fréchet distances had no protocol.
GENERATION = ("generation",)


@dataclass(frozen=True)
class Measurement:
    """One number. `std` is its spread: over images, or over the parts that a metric is computed on."""

    name: str
    label: str
    value: float
    std: float | None
    unit: str
    how: tuple[tuple[str, str], ...]  #: extractor, its digest, settings: what else must agree

    def show(self) -> str:
        """`24.32 ± 2.1 dB`."""
        spread = "" if self.std is None else f" ± {self.std:.2g}"
        return f"{self.value:.4g}{spread}{f' {self.unit}' if self.unit else ''}"


@dataclass(frozen=True)
class Evaluation:
    """One file of `evals/`. `ground`: all that must agree before two of its numbers can be compared."""

    file: str
    kind: str  #: reconstruction or generation
    title: str
    measurements: tuple[Measurement, ...]
    forced: tuple[str, ...]
    left_out: Mapping[str, str]
    anchors: tuple[tuple[str, float, int], ...]
    ground: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    result: Mapping[str, Any]


def read_evaluation(file: str, result: Mapping[str, Any]) -> Evaluation:
    """Raises KeyError, TypeError, ValueError or AttributeError where it is not what `brics eval` writes."""
    kind = "generation" if result["kind"] in GENERATION else "reconstruction"
    if kind == "reconstruction" and result["kind"] != "reconstruction":
        raise ValueError(result["kind"])
    extractors = dict(result.get("extractors") or {})
    measurements = tuple(_measurement(str(name), entry, extractors) for name, entry in result["metrics"].items())
    about = _of_images(result) if kind == "reconstruction" else _of_samples(result)
    versions = ", ".join(f"{name} {version}" for name, version in result.get("versions", {}).items())
    facts = [*about, *[(f"extractor {name}", _words(entry)) for name, entry in extractors.items()],
             *([("versions", versions)] if versions else [])]
    return Evaluation(
        file, kind, _title(kind, result), measurements, tuple(map(str, result.get("forced") or ())),
        {str(name): str(why) for name, why in (result.get("left_out") or {}).items()},
        tuple((str(name), float(anchor["value"]), int(anchor["images"]))
              for name, anchor in (result.get("anchors") or {}).items()),
        _ground(kind, result), tuple(facts), result)


def evaluation_blocks(evaluation: Evaluation) -> list[Block]:
    """Its numbers, what was forced and left out, and the protocol."""
    rows = [(m.label, [_cell(m, evaluation), Cell(_meaning(m), "soft")]) for m in evaluation.measurements]
    rows += [(f"for comparison, {name}", [Cell(f"{value:.4g}", "value"), Cell(f"{count:,} images", "soft")])
             for name, value, count in evaluation.anchors]
    blocks: list[Block] = [Table(("measure", "value", "what it means"), rows, evaluation.title, listing=True)]
    if evaluation.forced:
        blocks.append(Notes("Forced: these numbers compare with no published ones", evaluation.forced, "fail"))
    if evaluation.left_out:
        blocks.append(Notes("Left out", [f"{label_of(name)}: {why}" for name, why in evaluation.left_out.items()]))
    return [*blocks, Folded(f"Protocol ({evaluation.file})", [Facts(evaluation.facts)])]


def compare(runs: Mapping[str, Sequence[Evaluation]]) -> list[Block]:
    """Run -> its evaluations: one table for each way of measuring that at least one run was measured in.

    A column holds one metric, made in one way; numbers made in different ways never share a column.
    """
    grounds: dict[tuple[tuple[str, str], ...], dict[str, Evaluation]] = {}
    for run, evaluations in runs.items():
        for evaluation in evaluations:
            grounds.setdefault(evaluation.ground, {}).setdefault(run, evaluation)
    shared = sorted(grounds.values(), key=lambda by_run: -len(by_run))  # stable: then in the order of the runs
    return [block for by_run in shared for block in _compared(by_run, list(runs))]


def _compared(by_run: Mapping[str, Evaluation], runs: Sequence[str]) -> list[Block]:
    columns: dict[tuple[str, Any], str] = {}
    for evaluation in by_run.values():
        columns |= {(m.name, m.how): m.label for m in evaluation.measurements}
    doubled = [name for name, _ in columns]
    labels = [label if doubled.count(name) == 1 else f"{label} ({_how(how)})"
              for (name, how), label in columns.items()]
    rows = []
    for run in runs:
        if run in by_run:
            numbers = {(m.name, m.how): m for m in by_run[run].measurements}
            rows.append((run, [_cell(numbers[key], by_run[run]) if key in numbers else Cell("not measured", "soft")
                               for key in columns]))
        elif len(by_run) > 1:
            rows.append((run, [Cell("not measured", "soft")] * len(columns)))
    first = next(iter(by_run.values()))
    alone = "" if len(by_run) > 1 else " Only one run was measured so: there is nothing to compare it with."
    blocks: list[Block] = [Table(("run", *labels), rows, f"{first.title}.{alone}")]
    forced = [f"{run}: {reason}" for run, evaluation in by_run.items() for reason in evaluation.forced]
    if forced:
        blocks.append(Notes("Forced: these numbers compare with no published ones", forced, "fail"))
    return [*blocks, Folded("What these numbers agree in", [Facts(first.ground)])]


def label_of(name: str) -> str:
    return METRICS[name].label if name in METRICS else name


def show_side(side: Mapping[str, Any]) -> str:
    """`40 of 64 images of photos, split val`; of statistics that do not say of how many images: their name."""
    if "statistics" in side and side["images"] is None:
        return f"the statistics {side['name']}"
    part = f", split {side['split']}" if side.get("split") else ""
    some = "" if side["images"] == side["of"] else f" of {int(side['of']):,}"
    return f"{int(side['images']):,}{some} images of {side['name']}{part}"


def _measurement(name: str, entry: Mapping[str, Any], extractors: Mapping[str, Any]) -> Measurement:
    value = float(entry["mean" if "mean" in entry else "value"])
    if not math.isfinite(value):
        raise ValueError(name)
    std = entry.get("std")
    extractor = str(entry.get("extractor"))
    how = {"extractor": extractor, "weights": dict(extractors.get(extractor) or {}).get("sha256"),
           "settings": json.dumps(entry.get("settings") or {}, sort_keys=True)}
    return Measurement(name, str(entry.get("label", label_of(name))), value, None if std is None else float(std),
                       str(entry.get("unit") or ""), tuple((k, str(v)) for k, v in how.items()))


def _cell(measurement: Measurement, evaluation: Evaluation) -> Cell:
    return Cell(measurement.show(), "fail" if evaluation.forced else "value", "forced" if evaluation.forced else "")


def _meaning(measurement: Measurement) -> str:
    if measurement.name not in METRICS:
        return ""
    metric = METRICS[measurement.name]
    return f"{metric.meaning}; {metric.better} is better"


def _how(how: tuple[tuple[str, str], ...]) -> str:
    """What tells two columns of one metric apart."""
    return ", ".join(f"{name} {value[:DIGITS] if name == 'weights' else value}" for name, value in how)


def _title(kind: str, result: Mapping[str, Any]) -> str:
    if kind == "generation":
        return f"{show_side(result['samples'])} against {show_side(result['reference'])}"
    moved = result.get("keys_moved_by_cells")
    keys = f"; every key moved by {moved:g} cells" if moved else ""
    return f"Mean ± standard deviation of single images, over {show_side(result['images'])}{keys}"


def _ground(kind: str, result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The same metric, protocol, reference (by digest) and counts; not whose weights or samples were measured."""
    reference = result["images" if kind == "reconstruction" else "reference"]
    pairs = [("measured", kind), ("protocol", str(result.get("protocol", "none"))),
             ("reference", show_side(reference)), ("its SHA-256", _digest(reference))]
    if kind == "reconstruction":
        return (*pairs, ("keys moved by cells", f"{result.get('keys_moved_by_cells') or 0:g}"))
    features = result.get("features")
    return (*pairs, ("samples", f"{int(result['samples']['images']):,}"),
            *([("features", _words(features))] if features else []))


def _of_images(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("protocol", str(result.get("protocol", "not stated"))), *_about("images", result["images"]),
            ("autoencoder", str(result.get("autoencoder"))[:DIGITS])]


def _of_samples(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    features = result.get("features")
    return [("protocol", str(result.get("protocol", "not stated"))), *_about("samples", result["samples"]),
            *_about("reference", result["reference"]), *([("features", _words(features))] if features else [])]


def _digest(side: Mapping[str, Any]) -> str:
    """Of the data set, or of the statistics where there is nothing else."""
    return str(side["sha256"] if "sha256" in side or "statistics" not in side else side["statistics"])


def _about(name: str, side: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which images, and how they were prepared where that is known."""
    size, prepared = f"{side['width']}x{side['height']}", side.get("preparation")
    pixels = "" if side["width"] is None else f", {size} pixels"
    facts = [(name, f"{show_side(side)}{pixels}, SHA-256 {_digest(side)[:DIGITS]}")]
    return facts + ([(f"{name}, prepared", _words(prepared))] if prepared else [])


def _words(values: Any) -> str:
    """A mapping as `crop center, resize lanczos`; digests by their first digits."""
    if not isinstance(values, Mapping):
        return str(values)
    return ", ".join(f"{name} {str(value)[:DIGITS] if name == 'sha256' else 'none' if value is None else value}"
                     for name, value in values.items())
