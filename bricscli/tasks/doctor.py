"""`brics doctor`: what this machine has, what of it can change a number, and which pretrained files are here."""

import importlib.metadata
import os
import platform
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import bricscli
from bricscli import files
from bricscli.data.published import known_statistics
from bricscli.errors import BricsError, DataError
from bricscli.metrics import METRICS
from bricscli.run.log import track
from bricscli.run.provenance import PACKAGES, hide_home, package_version
from bricscli.weights import WEIGHTS, WeightFile, locate_weights, weight_folders

#: Those whose version can change a number that brics tells.
NUMBERS = tuple(dict.fromkeys((*PACKAGES, "lpips", "clean-fid", "torch-fidelity", "open_clip_torch", "timm", "av")))
#: Columns of the report.
WIDTH = 100
#: Less than this is told: a checkpoint with its optimiser, or the shards of a small data set.
LITTLE = 5_000_000_000


class DamagedFiles(DataError):
    """Files are here that are not what they should be (exit code 3); one line each."""

    @property
    def lines(self) -> list[str]:
        return str(self).split("\n")


def examine(places: Mapping[str, Path]) -> dict[str, Any]:
    """All of it, ready for JSON, with `~` for the home folder. `places`: name -> folder that brics writes to.

    "problems" are sentences that say what to do. "broken": brics itself cannot work; "damaged": sentences about files
    that are here and wrong.
    """
    torch, broken = _describe_torch(), list(_package_problems())
    if "error" in torch:
        broken.append(f"torch cannot be imported ({torch['error']}). Install it again.")
    disk = {name: _describe_place(folder) for name, folder in places.items()}
    here = [name for name in WEIGHTS if locate_weights(name)]
    checked = {name: _describe_weights(WEIGHTS[name]) for name in track(here, len(here), "checking", "files")}
    weights = {name: checked.get(name) or _describe_weights(file) for name, file in WEIGHTS.items()}
    damaged = [hide_home(problem) for file in weights.values() if (problem := file.pop("problem"))]
    return {
        "brics": bricscli.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "torch": torch,
        "cores": _cores(),
        "memory": _memory(),
        "disk": disk,
        "versions": {name: package_version(name) for name in NUMBERS},
        "optional": {"triton": package_version("triton")},
        "brics_weights": os.environ.get("BRICS_WEIGHTS") and hide_home(os.environ["BRICS_WEIGHTS"]),
        "weight_folders": [hide_home(str(folder)) for folder in weight_folders()],
        "weights": weights,
        "published_statistics": {one.name: {"file": one.file, "url": one.url, "images": one.images,
                                            "extractor": one.extractor, "resize": one.resize,
                                            "path": hide_home(str(path)) if (path := one.find()) else None}
                                 for one in known_statistics()},
        "problems": [*broken, *damaged, *(place["problem"] for place in disk.values() if place["problem"])],
        "broken": broken,
        "damaged": damaged,
    }


def check(report: Mapping[str, Any]) -> None:
    """Raises DamagedFiles for files that are here and wrong, BricsError where brics itself cannot work."""
    if report["damaged"]:
        raise DamagedFiles("\n".join(report["damaged"]))
    if report["broken"]:
        raise BricsError(report["broken"][0])


def describe(report: Mapping[str, Any]) -> list[str]:
    """The report for people, at most `WIDTH` columns wide except for a path that is longer by itself."""
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in report["versions"].items())
    disk = "; ".join(f"{name}: {files.show_bytes(place['free'])} free" for name, place in report["disk"].items())
    memory = report["memory"]
    lines = [f"brics {report['brics']}, Python {report['python']}, {report['machine']}", ""]
    lines += _entry("device", "; ".join(_device_words(report)))
    lines += _entry("memory", f"{files.show_bytes(memory['total'])}"
                    + (f", {files.show_bytes(memory['available'])} of it free" if memory["available"] else ""))
    lines += _entry("disk", disk)
    lines += _entry("versions", versions)
    lines += _entry("optional", f"triton {report['optional']['triton'] or 'not here'}: faster feature grids on CUDA")
    lines += ["", *_weights_words(report), "", *_statistics_words(report)]
    if report["problems"]:
        lines += ["", "Problems"]
        lines += [line for problem in report["problems"] for line in _wrap(problem, "  ", "    ")]
    return lines


def _describe_torch() -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about drivers; what does not work is not listed
            import torch

            devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except Exception as error:  # whatever a broken installation raises
        return {"version": package_version("torch"), "error": " ".join(str(error).split()) or type(error).__name__}
    return {"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads(),
            "devices": [{"name": one.name, "memory": one.total_memory, "capability": f"{one.major}.{one.minor}"}
                        for one in devices]}


def _describe_place(folder: Path) -> dict[str, Any]:
    free, problem = files.free_bytes(folder), None
    try:
        files.check_writable(folder)
    except DataError as error:
        problem = hide_home(str(error))
    if problem is None and free < LITTLE:
        problem = f"{folder}: only {files.show_bytes(free)} free. Make room there, or work in another folder."
    return {"path": hide_home(str(folder)), "free": free, "problem": problem}


def _describe_weights(file: WeightFile) -> dict[str, Any]:
    """With the metrics that the table of metrics says need the file, and what else does, in words."""
    path, state, problem = locate_weights(file.name), "missing", None
    if path is not None:
        expected = file.files[path.name]
        try:
            found = files.sha256_file(path) if expected else None
        except OSError as error:
            state, problem = "damaged", f"{path}: cannot be read ({error.strerror}). Change its permissions."
        else:
            state = "not pinned" if expected is None else "ok" if found == expected else "damaged"
            if state == "damaged":
                problem = (f"{path}: has SHA-256 {found}, expected {expected}: damaged, or another file. "
                           f"`brics doctor --fetch {file.name}` downloads it again.")
    return {"state": state, "path": hide_home(str(path)) if path else None, "bytes": file.bytes, "url": file.url,
            "sha256": file.sha256, "licence": file.licence, "needed_for": file.needed_for,
            "metrics": [name for name, metric in METRICS.items() if metric.weights == file.name], "problem": problem}


def _package_problems() -> Iterator[str]:
    """What brics' own package requires and is not there, or too old; nothing where it is no installed package."""
    try:
        required = importlib.metadata.requires("brics") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in required:
        match = re.match(r"([\w.-]+)(?:>=([\d.]+))?[^;]*$", line)  # those of extras have a `;`
        if match is None:
            continue
        name, least = match[1], match[2] or "0"
        version = package_version(name)
        if version is None or _numbers(version) < _numbers(least):
            yield f"{name} is {version or 'missing'}, brics needs {least} or newer. Run `pip install -U {name}`."


def _numbers(version: str) -> list[int]:
    """`2.9.1+cpu` -> [2, 9, 1]."""
    release = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in release[0].split(".")] if release else []


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> dict[str, int | None]:
    """Bytes: in all, or as many as the container may use; and what is available, None where that is not told."""
    total, available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        total = min(total, int(limit))
    if match := re.search(r"^MemAvailable: +(\d+) kB", _read("/proc/meminfo"), re.M):
        available = min(int(match[1]) * 1024, total)
    return {"total": total, "available": available}


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _device_words(report: Mapping[str, Any]) -> Iterator[str]:
    torch, cores = report["torch"], f"{report['cores']} cores"
    if "error" in torch:
        yield f"CPU, {cores}; torch cannot be imported"
        return
    for i, one in enumerate(torch["devices"]):
        yield f"cuda:{i} {one['name']}, {files.show_bytes(one['memory'])}, compute capability {one['capability']}"
    yield f"CPU, {cores}, of which torch uses {torch['threads']} at a time"
    if not torch["devices"]:
        yield f"no CUDA device, though torch is built for CUDA {torch['cuda']}" if torch["cuda"] else (
            "torch is built without CUDA")


def _weights_words(report: Mapping[str, Any]) -> list[str]:
    asked, folders = report["brics_weights"], report["weight_folders"]
    own, cache = folders[0], folders[-1]
    where = f"$BRICS_WEIGHTS ({own}), then {cache}" if asked else f"{cache} (BRICS_WEIGHTS is not set)"
    lines = [*_wrap(f"Pretrained files, looked for in {where}", "", "  "), ""]
    for name, file in report["weights"].items():
        size = files.show_bytes(file["bytes"]) if file["bytes"] else "?"
        lines.append(f"  {name:<20} {file['state']:<11} {size:>9}  {file['licence']}")
        lines += _wrap(f"for {file['needed_for']}", "      ", "      ")
        lines += _wrap(file["path"], "      ", "      ") if file["path"] else []
    missing = [file["bytes"] or 0 for file in report["weights"].values() if file["state"] == "missing"]
    if missing:
        lines += ["", *_wrap(f"{len(missing)} missing, {files.show_bytes(sum(missing))}. `brics doctor --fetch NAME` "
                             "downloads one, `brics doctor --fetch` all; without a network it says what to copy "
                             "where. Nothing else in brics downloads them.", "", "")]
    return lines


def _statistics_words(report: Mapping[str, Any]) -> list[str]:
    known = report["published_statistics"]
    here = {name: one["path"] for name, one in known.items() if one["path"]}
    lines = _wrap(f"Published statistics of reference images: {len(here)} of {len(known)} files here, by names such as "
                  "cleanfid:lsun_church:trainfull:256; `brics doctor --json` lists names and addresses", "", "  ")
    for name, path in here.items():
        lines += [f"  {name}", *_wrap(path, "      ", "      ")]
    return lines


def _entry(name: str, text: str) -> Iterable[str]:
    return _wrap(text, f"  {name:<10} ", " " * 13)


def _wrap(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False,
                         break_on_hyphens=False)
