"""Checkpoints: `step-0001000/` with the weights, what training needs beyond them, and a manifest of both.

Where a recipe averages with several decays, `weights.safetensors` is of the first, and `weights-0.99975.safetensors` of
that decay.

A checkpoint is complete or absent: it is written beside its place and renamed. Tensor formats do not notice a flipped
bit, so the manifest holds size and SHA-256 of every file and nothing is used that does not match. No pickle anywhere.
"""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bricscli import files
from bricscli.errors import DataError
from bricscli.run.log import warn
from bricscli.strict_json import parse_json, read_json
from bricscli.tensor_files import check_header

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
WEIGHTS, TRAINING, STATE, MANIFEST = "weights.safetensors", "training.safetensors", "state.json", "manifest.json"
_STEP = re.compile(r"^step-(\d{7,})$")
_AVERAGE = re.compile(r"^weights-(0\.\d+|\d\.?\d*e-\d+)\.safetensors$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, tensors on the CPU; `digest` is the SHA-256 of the weights' file.

    `averages` are the weights of other decays; only read with `training`.
    """

    path: Path
    step: int
    digest: str
    recipe_text: str
    weights: dict[str, "Tensor"]
    training: dict[str, "Tensor"] | None
    averages: dict[float, dict[str, "Tensor"]]
    state: dict[str, Any]


class Weights(NamedTuple):
    """A weights file in memory; `digest` is its SHA-256, `tensors` are on the CPU."""

    digest: str
    recipe_text: str
    tensors: dict[str, "Tensor"]


def average_name(decay: float) -> str:
    """The file of the weights averaged with a decay that is not the recipe's first."""
    return f"weights-{float(decay)!r}.safetensors"


def save_checkpoint(
    folder: Path,
    step: int,
    weights: Mapping[str, "Tensor"],
    training: Mapping[str, "Tensor"],
    state: Mapping[str, Any],
    recipe_text: str,
    averages: Mapping[float, Mapping[str, "Tensor"]] = {},
) -> Path:
    """Writes `folder/step-<step>` and returns its path; the same input gives the same bytes.

    `weights` is all that inference needs, `training` the rest, `state` plain JSON, `averages` other weights by their
    decay. An intact checkpoint of that step stays as it is, a damaged one is replaced. Raises BricsError where the
    disk is full or refuses.
    """
    path = folder / f"step-{step:07d}"
    if path.exists():
        if _damage(path) is None:
            return path
        files.remove_directory(path)
    metadata = {"brics": json.dumps({"schema": SCHEMA, "recipe": recipe_text}, ensure_ascii=False)}
    with files.new_directory(path) as temporary:
        weight_files = {WEIGHTS: weights, **{average_name(decay): tensors for decay, tensors in averages.items()}}
        for name, tensors in weight_files.items():
            _write_tensors(temporary / name, tensors, metadata)
        _write_tensors(temporary / TRAINING, training, None)
        files.write_json(temporary / STATE, dict(state))
        listed = {name: {"bytes": (temporary / name).stat().st_size, "sha256": files.sha256_file(temporary / name)}
                  for name in (*weight_files, TRAINING, STATE)}
        files.write_json(temporary / MANIFEST, {"schema": SCHEMA, "step": step, "files": listed})
    return path


def load_checkpoint(path: Path, *, training: bool = False, decay: float | None = None) -> Checkpoint:
    """Reads a checkpoint, with its training state if asked for, or the weights of another `decay` than the first.

    Raises DataError where it is damaged or missing.
    """
    from safetensors.torch import load_file

    name = WEIGHTS if decay is None else average_name(decay)
    names = None if training else (name, STATE)
    _require_intact(path, names)
    try:
        weights = load_weights(path / name)
        return Checkpoint(
            path=path,
            step=_read_manifest(path)["step"],
            digest=weights.digest,
            recipe_text=weights.recipe_text,
            weights=weights.tensors,
            training=load_file(path / TRAINING) if training else None,
            averages={other: load_file(path / average_name(other)) for other in list_averages(path) if training},
            state=read_json(path / STATE),
        )
    except (OSError, DataError):
        _require_intact(path, names)  # a running training may have pruned it meanwhile
        raise


def load_weights(path: Path) -> Weights:
    """Reads a weights file that stands alone. Raises DataError where it is missing or no such file."""
    from safetensors.torch import load_file

    with _weights_errors(path):
        check_header(path)
        return Weights(files.sha256_file(path), _recipe_in(path), load_file(path))


def weights_recipe(path: Path) -> str:
    """The text of the recipe in a weights file, without reading the weights. Raises as `load_weights`."""
    with _weights_errors(path):
        check_header(path)
        return _recipe_in(path)


def _recipe_in(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return str(parse_json((file.metadata() or {})["brics"])["recipe"])


@contextmanager
def _weights_errors(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or 'no such file'}). Put the file back.") from None
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise DataError(f"{path}: is no weights file of brics, or it is damaged. Put the right file there.") from None


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step that is intact, None where there are none; warns of damaged ones before it.

    Raises DataError where there are checkpoints and none is intact, since going on would mean starting again.
    """
    steps = list_checkpoints(folder)
    damaged: dict[Path, str] = {}
    for path in reversed(steps):
        reason = _damage(path)
        if reason is None:
            for newer, why in damaged.items():
                warn(f"{newer}: {why}. {path.name} is used instead.")
            return path
        damaged[path] = reason
    if steps:
        reasons = "; ".join(f"{path.name}: {why}" for path, why in damaged.items())
        raise DataError(f"{folder}: none of its {len(steps)} checkpoints is intact ({reasons}). Delete them to start "
                        "again.")
    return None


def is_checkpoint(path: Path) -> bool:
    """By its name."""
    return _STEP.match(path.absolute().name) is not None and path.is_dir()


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a folder, intact or not, lowest step first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), entry) for entry in folder.iterdir() if (match := _STEP.match(entry.name))]
    return [path for _, path in sorted(found)]


def step_of(path: Path) -> int:
    """The steps that were done when a checkpoint was made, by its name."""
    return int(path.name.removeprefix("step-"))


def find_checkpoint(folder: Path, name: str) -> Path:
    """The checkpoint whose digest begins with `name`, or whose folder has that name. Raises DataError if not just one.

    Reads only the manifests; `load_checkpoint` is what verifies.
    """
    digests = {path: digest for path in list_checkpoints(folder) if (digest := checkpoint_digest(path))}
    found = [path for path, digest in digests.items() if path.name == name or (name and digest.startswith(name))]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{path.name} ({digest[:8]})" for path, digest in digests.items()) or "none"
    problem = f"{len(found)} checkpoints begin with {name}" if found else f"no checkpoint {name}"
    raise DataError(f"{folder}: {problem}. There are: {known}.")


def checkpoint_digest(path: Path) -> str | None:
    """What the manifest says the weights' digest is; None where it cannot be read."""
    try:
        return str(_read_manifest(path)["files"][WEIGHTS]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def list_averages(path: Path) -> list[float]:
    """The decays of a checkpoint's other averages, as its manifest lists them."""
    return [float(match[1]) for name in _read_manifest(path)["files"] if (match := _AVERAGE.match(name))]


def prune(folder: Path, keep: int = 2, protect: Collection[Path] = ()) -> None:
    """Deletes all but the newest `keep` and the protected checkpoints, and none unless one of those kept is intact."""
    if keep < 1:
        raise ValueError(f"keep is {keep}, which would delete every checkpoint")
    steps = list_checkpoints(folder)
    safe = {path.resolve() for path in protect}
    old = [path for path in steps[:-keep] if path.resolve() not in safe]
    if old and any(_damage(path) is None for path in reversed(steps[-keep:])):
        for path in old:
            files.remove_directory(path)


def _read_manifest(path: Path) -> dict[str, Any]:
    return dict(read_json(path / MANIFEST))


def _require_intact(path: Path, names: Collection[str] | None) -> None:
    reason = _damage(path, names)
    if reason is not None:
        raise DataError(f"{path}: {reason}. Choose another checkpoint, or train again.")


def _damage(path: Path, names: Collection[str] | None = None) -> str | None:
    """Why a checkpoint, or those of its files that are named, cannot be used, None if they can."""
    return next(iter_damage(path, names), None)


def iter_damage(path: Path, names: Collection[str] | None = None, *, quick: bool = False) -> Iterator[str]:
    """Every reason why a checkpoint, or those of its files that are named, cannot be used; quick: without digests."""
    if not path.is_dir():
        yield "no such checkpoint"
        return
    try:
        manifest = _read_manifest(path)
        if manifest["schema"] != SCHEMA:
            yield f"has schema {manifest['schema']}, this version of brics reads {SCHEMA}"
            return
        if (match := _STEP.match(path.name)) and manifest["step"] != int(match[1]):
            yield f"{MANIFEST} is damaged (it is of step {manifest['step']})"
        listed = {name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"])
                  for name in names or (WEIGHTS, *map(average_name, list_averages(path)), TRAINING, STATE)}
    except FileNotFoundError:
        yield f"{MANIFEST} is missing"
    except OSError as error:
        yield f"{MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        yield f"{MANIFEST} is damaged"
    else:
        for name, (size, digest) in listed.items():
            if reason := _file_damage(path / name, size, None if quick else digest):
                yield reason


def _file_damage(path: Path, size: int, digest: str | None) -> str | None:
    try:
        found = path.stat().st_size
        if found != size:
            return f"{path.name} is damaged ({found} bytes instead of {size})"
        if digest is not None and files.sha256_file(path) != digest:
            return f"{path.name} is damaged (its SHA-256 is not that in {MANIFEST})"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def _write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: dict[str, str] | None) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(_detached(tensors), path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        needed = sum(tensor.nbytes for tensor in tensors.values())
        raise files.disk_error(path, OSError(int(number[1]), os.strerror(int(number[1]))), needed) from error


def _detached(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Contiguous CPU tensors that share no memory, as safetensors wants them."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return result
