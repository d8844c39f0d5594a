"""Results of evaluations, as files and in words.

Every result is a plain dict, ready for JSON: the numbers, how many images they stand on, digests of what was compared,
the protocol and the versions that can change a number. It holds no times and no paths, so the same inputs give the same
file.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bricscli import files
from bricscli.data.samples import SampleFolder
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.run.provenance import describe_process
from bricscli.strict_json import read_json

#: Parts of a result that grow when more of the same is measured.
_GROWING = ("metrics", "versions", "extractors", "left_out")


def describe_versions(*more: str) -> dict[str, Any]:
    """Of what can change a number; `more` are other packages that did."""
    process = describe_process()
    kept = {name: process[name] for name in ("brics", "torch", "torchvision", "numpy", "pillow")}
    return kept | {name: version(name) for name in more}


def place_of_results(samples: Path, runs: Path) -> Path:
    """Where results of a folder of samples go: to the run under `runs` that drew them, or else beside them."""
    if SampleFolder.is_one(samples):
        drew = SampleFolder.open(samples).header["denoiser"]
        run = RunDirectory(runs / str(drew["run"]))
        if drew["digest"] in map(checkpoint_digest, list_checkpoints(run.checkpoints)):
            return run.evals
    return samples.parent / "evals"


def some_of(side: Mapping[str, Any]) -> str:
    """`-limit64`, for the name of a result that stands on a part of the images: it does not replace that of all."""
    return f"-limit{side['images']}" if side["images"] is not None and side["images"] < side["of"] else ""


def save_result(result: dict[str, Any], folder: Path) -> Path:
    """Writes a result below `folder`, under a name that says what it is. Returns the file's path.

    Metrics of an earlier evaluation of the same images in the same way stay in the file.
    """
    if result["kind"] == "reconstruction":
        moved = f"-perturbed{result['keys_moved_by_cells']:g}" if result["keys_moved_by_cells"] else ""
        images = result["images"]
        name = f"reconstruction-{images['name']}-{images.get('split', 'folder')}{moved}{some_of(images)}"
        side = "images"
    else:
        sides = f"{result['samples']['name']}-{result['reference']['name'].replace(':', '-')}"
        what = result["protocol"] or next(iter(result["metrics"]))
        part = result["reference"].get("split", "folder") + "-statistics" * ("statistics" in result["reference"])
        name = f"{what}-{sides}-{part}{some_of(result['samples'])}"
        side = "reference"
    path = folder / f"{name}.json"
    ours = _data_of(result, side)
    if _data_of(_read(path), side) not in (None, ours):
        path = folder / f"{name}-{str(ours)[:8]}.json"  # of another data set of that name, whose result stays
    files.sweep(folder, path.name)  # what an evaluation left that was killed
    files.write_json(path, _with_earlier_metrics(result, path))
    return path


def _with_earlier_metrics(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """`result` and the metrics that the file has more, if the two agree in everything else."""
    try:
        earlier = _read(path)
        both = {part: earlier[part] | result[part] for part in _GROWING if part in result}
        if "left_out" in both:
            both["left_out"] = {name: why for name, why in both["left_out"].items() if name not in both["metrics"]}
        same_versions = both["versions"] == result["versions"] | earlier["versions"]  # of what both of them name
        return result | both if same_versions and earlier | both == result | both else result
    except (TypeError, KeyError):  # none, or a file of somebody else's
        return result


def _read(path: Path) -> Any:
    """What a result's file says; None where there is none, or it is no JSON."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _data_of(result: Any, side: str) -> str | None:
    """The digest of the data, or statistics, that a side of a result is."""
    try:
        digest = result[side].get("statistics") or result[side].get("sha256")
    except (TypeError, KeyError, AttributeError):
        return None
    return digest if isinstance(digest, str) else None


def describe_result(result: dict[str, Any]) -> list[str]:
    """The lines to print: one per number, then what they stand on, then what must be said beside them."""
    lines = [_number(entry) for entry in result["metrics"].values()]
    if result["kind"] == "reconstruction":
        moved = result["keys_moved_by_cells"]
        keys = f"; every key was moved by +{moved:g} or -{moved:g} / r_max" if moved else ""
        return [*lines, f"mean ± standard deviation per image, over {_words(result['images'])}{keys}"]
    lines.append(f"{_words(result['samples'])} against {_words(result['reference'])}"
                 + (f", protocol {result['protocol']}" if result["protocol"] else ""))
    lines += [f"  for comparison, {name}: {anchor['value']:.4g} ({anchor['images']} images)"
              for name, anchor in result["anchors"].items()]
    lines += [f"  left out: {name}: {why}" for name, why in result["left_out"].items()]
    lines += [f"  note: {question}" for question in result["open_questions"]]
    return lines + [f"  FORCED, comparable with nobody's: {reason}" for reason in result["forced"]]


def _number(entry: dict[str, Any]) -> str:
    unit = f" {entry['unit']}" if entry.get("unit") else ""
    if "mean" in entry:
        return f"{entry['label']}: {entry['mean']:.4g} ± {entry['std']:.3g}{unit}"
    spread = f" ± {entry['std']:.3g}" if entry.get("std") is not None else ""
    forced = f" (FORCED: {'; '.join(entry['forced'])})" if entry.get("forced") else ""
    return f"{entry['label']}: {entry['value']:.4g}{spread}{unit}{forced}"


def _words(side: dict[str, Any]) -> str:
    part = f", split {side['split']}" if "split" in side else ""
    some = "" if side["images"] == side["of"] else f" of {side['of']}"
    count = "" if side["images"] is None else f"{side['images']}{some} images of "
    return f"{count}{side['name']}{part}"
