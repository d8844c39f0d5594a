"""What the bits of a run stand on beside its recipe, its data and the weights it begins with, compared on resuming."""

from collections.abc import Mapping
from typing import Any

import bricscli
from bricscli import files
from bricscli.errors import MismatchError
from bricscli.run.directory import RunDirectory
from bricscli.run.log import warn
from bricscli.run.provenance import package_version

#: They change in which order sums are formed; where that is promised not to matter (`exact`), processes do nothing.
_ORDER = ("threads", "processes", "sharded")


def take_fingerprint(device: str, threads: int, parallel: Mapping[str, Any]) -> dict[str, Any]:
    """Of this process, for `run.json`; `device` is its kind, cpu or cuda, `parallel` how processes share a batch."""
    return {"brics": bricscli.__version__, "torch": package_version("torch"), "device": device, "threads": threads,
            **parallel}


def check_fingerprint(run: RunDirectory, found: Mapping[str, Any], step: int, *, allow_drift: bool = False) -> None:
    """Lets a run go on at `step` only as it was, or notes in its `run.json` since when it is another.

    Where `found` differs, MismatchError lists everything, unless `allow_drift`. Of `fast` runs the numbers of threads
    and processes may change, which is told and noted; of `exact` ones that of processes, which changes nothing.
    """
    info = run.info
    if "fingerprint" not in info:
        warn(f"{run.path}: does not say with which torch, device and threads it began; from step {step} on it does.")
        note: dict[str, Any] = {"step": step, "from": None, "to": dict(found)}
    else:
        known = dict(info["fingerprint"])
        for entry in info.get("drift", []):
            known |= entry["to"]
        differing = [name for name in {**known, **found} if known.get(name) != found.get(name)]
        exact = (known.get("determinism"), found.get("determinism")) == ("exact", "exact")
        differing = [name for name in differing if not (exact and name == "processes")]
        if not differing:
            return
        lines = [f"{name}: {known.get(name)} -> {found.get(name)}" for name in differing]
        if not allow_drift and (exact or set(differing) - set(_ORDER)):
            raise MismatchError(
                *(f"{run.path}: goes on otherwise than it began: {line}" for line in lines),
                f"{run.path}: would become another run at step {step}. Go on as before, or pass --allow-drift.")
        warn(f"{run.path}: is another run from step {step} on ({'; '.join(lines)}); its run.json says so.")
        note = {"step": step, "from": {name: known.get(name) for name in differing},
                "to": {name: found.get(name) for name in differing}}
    files.write_json(run.info_path, {"fingerprint": dict(found), **info, "drift": [*info.get("drift", []), note]})
