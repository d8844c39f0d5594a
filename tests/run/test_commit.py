"""Every commit is all or nothing: killed, or refused by the disk, at each of its system calls."""

import errno
import json
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bricscli import files
from bricscli.errors import BricsError
from bricscli.recipe.load import recipe_from_dict
from bricscli.run.checkpoint import latest_checkpoint, load_checkpoint, prune, save_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.log import RunLog, read_metrics

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
RECIPE = recipe_from_dict({"kind": "diffusion", "autoencoder": "toy", "training": {"images": 10}})


def patch_call(nth: int, stop: Callable[[str, tuple], None], patch: Callable[[str, Any], object]) -> None:
    """Lets `stop` act instead of the nth of the watched system calls."""
    count = 0

    def watched(name: str, call: Callable) -> Callable:
        def replacement(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == nth:
                stop(name, arguments)
            return call(*arguments, **options)

        return replacement

    for name in CALLS:
        patch(name, watched(name, getattr(os, name)))


def killed(action: Callable[[], object], nth: int) -> bool:
    """Runs `action` in a child that dies at its nth call; False if it ended before that."""
    write = os.write

    def die(name: str, arguments: tuple) -> None:
        if name == "write":
            write(arguments[0], arguments[1][: len(arguments[1]) // 2])
        os._exit(42)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside torch's idle threads
        child = os.fork()
    if child == 0:
        try:
            patch_call(nth, die, partial(setattr, os))
            action()
            os._exit(0)
        finally:
            os._exit(99)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 42), "the action itself failed"
    return code == 42


def kill_everywhere(folder: Path, action: Callable[[], object], check: Callable[[], bool], reset: Callable) -> None:
    """`check` fails for a torn state and says whether it is the new one; both must have been seen."""
    seen = []
    for nth in range(1, 200):
        reset()
        if not killed(action, nth):
            assert check(), "ended well, but the new state is not there"
            break
        files.sweep(folder)
        assert not list(folder.rglob(".brics-tmp-*"))
        seen.append(check())
    assert len(seen) >= 3
    assert set(seen) == {False, True}
    assert seen == sorted(seen), "the old state must not come back"


def newest(folder: Path) -> Path:
    path = latest_checkpoint(folder)
    assert path
    return path


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, step, {"w": torch.full((50,), float(step))}, {"m": torch.ones(3)},
                           {"images_seen": step}, "kind: diffusion\n")


def test_write_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def check() -> bool:
        assert path.read_bytes() in (b"old" * 50, b"newer" * 50)
        return path.read_bytes() == b"newer" * 50

    kill_everywhere(tmp_path, lambda: files.write_bytes(path, b"newer" * 50), check,
                    lambda: path.write_bytes(b"old" * 50))


def test_save_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def check() -> bool:
        checkpoint = load_checkpoint(newest(tmp_path), training=True)
        assert checkpoint.weights["w"].eq(checkpoint.step).all() and checkpoint.state["images_seen"] == checkpoint.step
        assert checkpoint.step in (1, 2)
        return checkpoint.step == 2

    def reset() -> None:
        if (tmp_path / "step-0000002").exists():
            files.remove_directory(tmp_path / "step-0000002")

    kill_everywhere(tmp_path, lambda: save(tmp_path, 2), check, reset)


def test_prune(tmp_path: Path) -> None:
    def reset() -> None:
        for step in (1, 2, 3):
            save(tmp_path, step)

    def check() -> bool:
        assert newest(tmp_path).name == "step-0000003"
        left = sorted(entry.name for entry in tmp_path.iterdir())
        for name in left:
            load_checkpoint(tmp_path / name, training=True)
        return left == ["step-0000003"]

    kill_everywhere(tmp_path, lambda: prune(tmp_path, keep=1), check, reset)


def test_create_run(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def check() -> bool:
        if not path.exists():
            return False
        assert RunDirectory.open(path).recipe == RECIPE
        assert RunDirectory(path).info == {"argv": ["brics"]}
        return True

    def reset() -> None:
        if path.exists():
            files.remove_directory(path)

    kill_everywhere(tmp_path, lambda: RunDirectory.create(path, RECIPE, {"argv": ["brics"]}), check, reset)


def test_resuming_the_log(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", RECIPE, {})

    def check() -> bool:
        seen = [line["images_seen"] for line in read_metrics(run.metrics_path)]
        assert seen in ([10, 20, 30], [10, 20])
        return seen == [10, 20]

    def reset() -> None:
        run.metrics_path.write_text("".join(json.dumps({"images_seen": n}) + "\n" for n in (10, 20, 30)))

    kill_everywhere(run.path, lambda: RunLog(run, 100, resume_from=20).close(), check, reset)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """At each call: one line, the old checkpoint is intact, nothing is left, and the same call again succeeds."""
    save(tmp_path, 1)
    refused = []

    def refuse(name: str, arguments: tuple) -> None:
        refused.append(name)
        raise OSError(number, os.strerror(number))

    for nth in range(1, 200):
        refused.clear()
        with monkeypatch.context() as patched:
            patch_call(nth, refuse, partial(patched.setattr, os))
            try:
                save(tmp_path, 2)
                assert refused in ([], ["mkdir"], ["unlink"]), "only what was needless may fail unnoticed"
            except BricsError as error:
                assert "\n" not in str(error) and ".tmp" not in str(error)
                assert str(error).startswith(f"{tmp_path}/step-0000002")
        assert [entry.name for entry in tmp_path.iterdir() if "tmp" in entry.name] == []
        assert newest(tmp_path).name in ("step-0000001", "step-0000002")
        if not refused:
            break
        if (tmp_path / "step-0000002").exists():
            files.remove_directory(tmp_path / "step-0000002")
    assert nth > 8
    assert load_checkpoint(newest(tmp_path)).step == 2
