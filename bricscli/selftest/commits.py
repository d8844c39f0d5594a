"""Every call of a commit, killed or refused by the disk: the old or the new is there, and once more makes it new."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bricscli.data.samples import SampleFolder
from bricscli.data.shards import MANIFEST, ShardSet
from bricscli.errors import BricsError
from bricscli.run.checkpoint import latest_checkpoint, load_checkpoint, prune, save_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.lock import lock_folder
from bricscli.run.log import RunLog, read_metrics
from bricscli.selftest.children import BUG, EIO, ENOSPC, KILL, Trap, run_child
from bricscli.selftest.trials import Bench, Trials
from bricscli.selftest.workload import Place, Undisturbed, differences, diffusion_recipe, digest_tree
from bricscli.tasks.eval.results import save_result

FAULTS = (KILL, ENOSPC, EIO)


@dataclass(frozen=True)
class Commit:
    """`make` turns the old state, which `begin` lays out, into the new one; `check` raises for anything between."""

    name: str
    begin: Callable[[Path], object]
    make: Callable[[Path], object]
    check: Callable[[Path], object]


def try_commits(bench: Bench, stages: dict[str, Undisturbed], every: int = 1) -> Trials:
    """Each fault at every call of every commit, or at one of `every` calls."""
    trials = Trials("A commit killed or refused by the disk at any of its calls leaves the old state or the new")
    with trials.timed():
        for commit in commits(stages):
            wanted, calls = _undisturbed(bench, commit)
            for fault in FAULTS:
                bench.progress(f"{commit.name}: {fault} at each of {calls} calls")
                for nth in range(1, calls + 1, every):
                    failure = _try_one(bench, commit, Trap(nth, fault), wanted)
                    trials.add(failure and f"{commit.name}: {fault} at call {nth}: {failure}")
                    trials.tell(fault)
    return trials


def _undisturbed(bench: Bench, commit: Commit) -> tuple[dict[str, str], int]:
    root = bench.folder / "commit"
    commit.begin(root)
    ended = run_child(partial(commit.make, root), bench.log, trap=Trap())
    assert ended.code == 0, bench.log.read_text()[-2000:]
    wanted = digest_tree(root)
    shutil.rmtree(root)
    return wanted, ended.calls


def _try_one(bench: Bench, commit: Commit, trap: Trap, wanted: dict[str, str]) -> str | None:
    root = bench.folder / "commit"
    commit.begin(root)
    try:
        ended = run_child(partial(commit.make, root), bench.log, trap=trap)
        if ended.code == BUG:
            return "a traceback instead of a line"
        commit.check(root)
        if ended.code == 0 and (differing := differences(_finished(root), wanted)):
            return f"it said that all is well, and {', '.join(differing[:3])} differ"
        ended = run_child(partial(commit.make, root), bench.log)
        if ended.code != 0:
            return f"run again, it failed with exit code {ended.code}"
        if differing := differences(digest_tree(root), wanted):
            return f"run again, {', '.join(differing[:3])} differ"
    except (BricsError, AssertionError, OSError, ValueError, KeyError) as error:
        return f"torn: {error}"
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return None


def _finished(root: Path) -> dict[str, str]:
    """Without what could not be removed, which the next to come removes."""
    return {name: digest for name, digest in digest_tree(root).items()
            if ".brics-tmp-" not in name and name not in _other_indexes(root)}


def _other_indexes(root: Path) -> set[str]:
    """Those that no manifest names."""
    named = {json.loads(path.read_text())["index"]["name"] for path in root.rglob(MANIFEST)
             if "index" in json.loads(path.read_text())}
    return {str(path.relative_to(root)) for path in root.rglob("index-*.bin") if path.name not in named}


def commits(stages: dict[str, Undisturbed]) -> list[Commit]:
    """One of every kind of thing that brics writes."""
    return [
        Commit("checkpoint", partial(_save, step=1), _save_and_prune, _check_checkpoint),
        Commit("run", lambda root: root.mkdir(), _make_run, _check_run),
        Commit("log", _begin_log, _resume_log, _check_log),
        Commit("data set", lambda root: stages["prepare"].begin(root), lambda root: Place(root).prepare(),
               lambda root: _check_shards(Place(root).data)),
        Commit("codes", lambda root: stages["encode"].begin(root), lambda root: Place(root).encode(),
               lambda root: _check_shards(RunDirectory(Place(root).autoencoder).codes)),
        Commit("samples", partial(_add_samples, first=0), partial(_add_samples, first=2), _check_samples),
        Commit("samples in shards", partial(_add_samples, first=0, format="shards"),
               partial(_add_samples, first=2, format="shards"), _check_samples),
        Commit("result", partial(_write_result, value=1), partial(_write_result, value=2), _check_result),
    ]


def _save(root: Path, step: int) -> None:
    save_checkpoint(root, step, {"w": torch.full((50,), float(step))}, {"m": torch.ones(3)}, {"images_seen": step},
                    "kind: diffusion\n")


def _save_and_prune(root: Path) -> None:
    with lock_folder(root):
        for step in (2, 3):
            _save(root, step)
        prune(root, 2)


def _check_checkpoint(root: Path) -> None:
    newest = latest_checkpoint(root)
    assert newest is not None
    checkpoint = load_checkpoint(newest, training=True)
    assert checkpoint.weights["w"].eq(checkpoint.step).all() and checkpoint.state == {"images_seen": checkpoint.step}


def _make_run(root: Path) -> None:
    RunDirectory.create(root / "run", diffusion_recipe(), {"argv": ["brics"]})


def _check_run(root: Path) -> None:
    if (root / "run").exists():
        run = RunDirectory.open(root / "run")
        assert run.recipe.kind == "diffusion" and run.info == {"argv": ["brics"]}


def _begin_log(root: Path) -> None:
    _make_run_folder(root)
    lines = (json.dumps({"images_seen": n}) + "\n" for n in (10, 20, 30))
    RunDirectory(root / "run").metrics_path.write_text("".join(lines))


def _make_run_folder(root: Path) -> None:
    root.mkdir()
    _make_run(root)


def _resume_log(root: Path) -> None:
    run = RunDirectory(root / "run")
    with run.lock(), RunLog(run, 100, resume_from=20) as log:
        log.log(25, {"loss": 1.0})


def _check_log(root: Path) -> None:
    seen = [line["images_seen"] for line in read_metrics(RunDirectory(root / "run").metrics_path)]
    assert seen in ([10, 20, 30], [10, 20], [10, 20, 25]), seen


def _check_shards(folder: Path) -> None:
    if folder.exists():
        ShardSet.open(folder).verify()


def _add_samples(root: Path, first: int, format: str = "png") -> None:
    import numpy as np

    from bricscli.data.marks import digest_settings, encode_sample
    from bricscli.data.samples import strict_settings

    root.mkdir(exist_ok=True)
    settings = {"format": format, "resolution": 8, "denoiser": {"run": "toy", "digest": "0" * 64}}
    folder = SampleFolder.create(root / "samples", settings, {"torch": "0"})
    digest = digest_settings(strict_settings(settings))
    folder.add({seed: encode_sample(np.full((3, 8, 8), seed, np.uint8), seed, digest)
                for seed in range(first, first + 2)})
    folder.finish()


def _check_samples(root: Path) -> None:
    folder = SampleFolder.open(root / "samples")
    assert folder.seeds in ([0, 1], [0, 1, 2, 3]) and all(map(folder.holds, folder.seeds)), folder.seeds


def _write_result(root: Path, value: float) -> None:
    images = {"name": "toy", "images": 1, "of": 1}
    save_result({"kind": "reconstruction", "keys_moved_by_cells": 0, "images": images, "metrics": {"psnr": value},
                 "versions": {}}, root)


def _check_result(root: Path) -> None:
    assert json.loads((root / "reconstruction-toy-folder.json").read_text())["metrics"]["psnr"] in (1, 2)
