"""Places that cannot be written, and disks that are too small, are refused before the work: with real mounts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Trained = Any  # tests/tasks/conftest.py

MOUNT = """
mount --bind {root} {root} && mount -o remount,ro,bind {root}
mount -t tmpfs -o size={size} tmpfs {small} && exec "$0" -c "$1"
"""
CALLS = """
import json, os, time
import torch, bricscli.tasks.train_ae, bricscli.tasks.train_diffusion, bricscli.tasks.nn_search
from bricscli.app import app
from bricscli.errors import BricsError
from bricscli.training.recovery import Recovery

Recovery.take = None  # nobody may come to a step
ends = []
for words in {calls}:
    try:
        app(words, standalone_mode=False)
        ends.append([0, ""])
    except BricsError as error:
        ends.append([error.exit_code, str(error)])
print(json.dumps([ends, sorted(os.listdir({small!r}))]))
"""


def namespaces() -> bool:
    """Whether this kernel lets us mount."""
    if not shutil.which("unshare"):
        return False
    mount = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return subprocess.run(mount, capture_output=True).returncode == 0


@pytest.mark.skipif(not namespaces(), reason="needs unshare with mounts of its own")
def test_refused_before_the_work(copied: Trained, tmp_path: Path) -> None:
    root, small = copied.root, tmp_path / "small"
    small.mkdir()
    toy, diffusion, page = str(root / "toy"), str(root / "toy-diffusion"), str(root / "page.html")
    Path(page).write_text("a page that is to be replaced")
    ae, den = f"{toy}/recipe.yaml", f"{diffusion}/recipe.yaml"
    data, pictures = str(root / "data"), str(root / "pictures")
    Path(pictures).mkdir()
    for number in range(3):
        Image.effect_noise((16, 16), 50).convert("RGB").save(f"{pictures}/{number}.png")
    train_ae, train_den = ["train-ae", "--recipe", ae, "--data", data], [
        "train-diffusion", "--recipe", den, "--autoencoder", toy]
    refused = [
        [*train_ae, "--run", f"{root}/new"], [*train_den, "--run", f"{root}/new"],
        [*train_ae, "--run", toy], ["encode", "--run", toy, "--data", data],
        ["sample", "--run", diffusion, "-n", "1", "--out", f"{root}/samples"],
        ["eval", "reconstruction", "--run", toy, "--ref", data, "--metrics", "psnr"],
        ["eval", "usage", "--run", toy, "--ref", data],
        ["eval", "fid", "--samples", pictures, "--ref", data, "--features", "random", "--out", f"{root}/evals"],
        ["eval", "statistics", data, "--features", "random", "--out", f"{root}/x.safetensors"],
        ["nn-search", pictures, "--ref", data, "--metric", "pixel", "--out", f"{root}/nn"],
        ["report", toy, "--out", page], ["plot", "schedules", "--out", f"{root}/x.png"]]
    full = [[*train_ae, "--run", f"{small}/run"], [*train_den, "--run", f"{small}/run"]]
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", MOUNT.format(root=root, small=small, size="100k"), sys.executable,
         CALLS.format(calls=refused + full, small=str(small))],
        capture_output=True, text=True, timeout=200, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    ends, left = json.loads(done.stdout.splitlines()[-1])
    for words, (code, said) in zip(refused, ends, strict=False):
        assert (code, "cannot be written (Read-only file system)" in said) == (3, True), (words, code, said)
        assert "\n" not in said
    for words, (code, said) in zip(full, ends[len(refused):], strict=True):
        assert code == 1 and "checkpoints, " in said and "are free. Delete" in said, (words, code, said)
    assert left == []
