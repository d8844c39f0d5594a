"""Killed anywhere and started again, `brics prepare` leaves the bytes of a run that was never stopped.

Every call that makes, renames, removes or syncs something is a point to be killed at: by hand all of them,
`pytest -m slow tests/tasks/test_prepare_killed.py`.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bricscli
from bricscli.data.shards import ShardSet
from bricscli.data.unfinished import unfinished
from bricscli.errors import BricsError, DataError, InterruptedRun
from bricscli.tasks.prepare import prepare_folder

#: Forks for every job: torch, which webdataset imports, is loaded once. `kill`: at which of the calls; 0: never.
SERVER = r"""
import json, os, signal, sys
from pathlib import Path
from bricscli.tasks.prepare import prepare_folder
import webdataset.writer

def count(kill):
    calls = 0
    def counted(call):
        def inner(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return inner
    for name in ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    return lambda: calls

for line in sys.stdin:
    job = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        calls = count(job.pop("kill"))
        paths = {name: Path(job.pop(name)) for name in ("out", "folder")}
        result = prepare_folder(**paths, **job)
        os.write(write, json.dumps([calls(), result.resumed]).encode())
        os._exit(0)
    os.close(write)
    said = os.read(read, 1000)
    os.close(read)
    status = os.waitpid(child, 0)[1]
    print(json.dumps([os.waitstatus_to_exitcode(status), *(json.loads(said) if said else [0, 0])]), flush=True)
"""

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
                            "PYTHONPATH": str(Path(bricscli.__file__).parents[1])}


class Server:
    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=ENVIRONMENT)

    def __call__(self, out: Path, folder: Path, kill: int = 0, **options: Any) -> tuple[int, int, int]:
        """Exit code, calls that were counted, shards that were there already."""
        assert self.process.stdin is not None and self.process.stdout is not None
        job = {"out": str(out), "folder": str(folder), "kill": kill, "resolution": 8, "samples_per_shard": 4,
               "val_fraction": 0.25, "workers": 1, **options}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code, calls, resumed = json.loads(self.process.stdout.readline())
        return code, calls, resumed


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    assert server.process.stdin is not None and server.process.stdout is not None
    server.process.stdin.close()
    server.process.wait(30)
    server.process.stdout.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", 16)


def fill(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def finished(root: Path) -> dict[str, int]:
    """The shards beside the data set that count as finished, with their inodes."""
    found = {}
    for record in root.glob(".brics-part-*/*/records/*.json"):
        shard = record.parent.parent / "data" / f"{record.stem}.tar"
        if not record.name.startswith(".") and shard.exists():
            found[record.stem] = shard.stat().st_ino
    return found


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_point(server: Server, photos: Path, tmp_path: Path, every: int) -> None:
    code, calls, _ = server(tmp_path / "whole" / "set", photos)
    assert code == 0 and calls > 60
    whole, kept = contents(tmp_path / "whole" / "set"), []
    assert len(whole) == 6, "three shards to train on, one to validate, the manifest, its index"
    for point in range(1, calls + 1, every):
        out = tmp_path / f"killed{point}" / "set"
        assert server(out, photos, kill=point)[0] == -signal.SIGKILL
        before = finished(out.parent)
        assert not out.exists() or contents(out) == whole, "complete or absent"
        code, _, resumed = server(out, photos)
        assert code == 0 and (resumed == len(before) or out.exists())
        assert contents(out) == whole, point
        assert {name: (out / f"{name}.tar").stat().st_ino for name in before} == before, "no shard was made again"
        assert [path.name for path in out.parent.iterdir()] == ["set"], point
        kept.append(len(before))
    assert {1, 2, 3, 4} <= set(kept)


def test_killed_again_and_again(server: Server, photos: Path, tmp_path: Path) -> None:
    """Each time after about one shard more."""
    server(tmp_path / "whole", photos)
    code, attempts = -9, 0
    while code != 0 and attempts < 20:
        code, *_ = server(tmp_path / "set", photos, kill=38)
        attempts += 1
    assert contents(tmp_path / "set") == contents(tmp_path / "whole") and 3 <= attempts <= 9


def test_killed_with_two_processes_at_work(tmp_path: Path) -> None:
    """The installed command, by the clock; nobody is left behind, and another number of processes goes on."""
    folder = fill(tmp_path / "photos", 300)
    code = ("import sys; from pathlib import Path; from bricscli.tasks.prepare import prepare_folder\n"
            "if __name__ == '__main__': prepare_folder(Path('set'), folder=Path('photos'), resolution=64, workers=2, "
            "samples_per_shard=20)")
    (tmp_path / "script.py").write_text(code)
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=ENVIRONMENT)
    while len(finished(tmp_path)) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    there = finished(tmp_path)
    assert 3 <= len(there) < 15 and not (tmp_path / "set").exists()
    options: dict[str, Any] = {"folder": folder, "resolution": 64, "samples_per_shard": 20, "workers": 1}
    assert prepare_folder(tmp_path / "set", **options).resumed == len(there)
    prepare_folder(tmp_path / "whole", **options)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def half_done(server: Server, photos: Path, out: Path, **options: Any) -> dict[str, int]:
    assert server(out, photos, kill=47, **options)[0] == -signal.SIGKILL
    there = finished(out.parent)
    assert 1 <= len(there) < 4
    return there


def test_a_damaged_shard_is_made_again(server: Server, photos: Path, tmp_path: Path) -> None:
    server(tmp_path / "whole", photos)
    there = half_done(server, photos, tmp_path / "half" / "set")
    (shard,) = (tmp_path / "half").glob(".brics-part-set/*/data/train-00000.tar")
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    assert server(tmp_path / "half" / "set", photos)[2] == len(there) - 1
    assert contents(tmp_path / "half" / "set") == contents(tmp_path / "whole")


@pytest.mark.parametrize("what", ["settings", "contents", "names"])
def test_nothing_of_another_command_or_of_other_images_is_mixed_in(
    server: Server, photos: Path, tmp_path: Path, what: str
) -> None:
    out, options = tmp_path / "half" / "set", {}
    first = half_done(server, photos, out)
    if what == "settings":
        options["resolution"] = 9
    elif what == "contents":
        Image.new("RGB", (9, 9)).save(photos / "015.png")
    else:
        (photos / "015.png").rename(photos / "0155.png")
    assert server(out, photos, kill=47, **options)[0] == -signal.SIGKILL
    assert len(finished(out.parent)) - len(first) in (0, 1)
    assert len([*(tmp_path / "half").glob(".brics-part-set/*/data")]) == 2
    assert server(out, photos, **options)[0] == 0
    server(tmp_path / "whole", photos, **options)
    assert contents(out) == contents(tmp_path / "whole")
    assert [path.name for path in out.parent.iterdir()] == ["set"], "what other settings left is gone with the end"


def test_a_mistyped_command_costs_no_finished_shard(server: Server, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "half" / "set"
    there = half_done(server, photos, out)
    (photos / "text.png").write_text("no image")
    with pytest.raises(DataError, match="1 of 17 image files cannot be read"):
        prepare_folder(out, folder=photos, resolution=8, on_bad="skip")
    assert finished(out.parent) == there
    (photos / "text.png").unlink()
    assert server(out, photos)[2] == len(there)


def test_two_at_once(server: Server, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "set"
    with pytest.raises(BricsError, match=r"set: is being made by another process\. Wait"), unfinished(out):
        prepare_folder(out, folder=photos, resolution=8)
    assert not out.parent.exists()
    there = half_done(server, photos, out)
    (lock,) = out.parent.glob(".brics-part-set/lock")
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BricsError, match="by another process"):
            prepare_folder(out, folder=photos, resolution=8)
    assert finished(out.parent) == there


def test_interrupted(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C says what is kept; the next command says what was kept."""
    written: list[str] = []

    def sync(descriptor: int) -> None:
        if len(finished(tmp_path)) == 2 and not written:
            written.append("")
            raise KeyboardInterrupt

    options: dict[str, Any] = {"folder": photos, "resolution": 8, "samples_per_shard": 4, "val_fraction": 0.25}
    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(InterruptedRun, match=r"set: interrupted; \d of 4 shards are finished and kept .* again") as end:
        prepare_folder(tmp_path / "set", **options)
    assert end.value.exit_code == 130 and not (tmp_path / "set").exists()
    count = re.search(r"(\d) of 4", str(end.value))
    assert count and len(finished(tmp_path)) - int(count[1]) in (0, 1)
    kept = len(finished(tmp_path))
    assert prepare_folder(tmp_path / "set", **options).resumed == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "set"]
    ShardSet.open(tmp_path / "set").verify()


def test_a_full_disk_keeps_what_is_finished(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"folder": photos, "resolution": 8, "samples_per_shard": 4, "val_fraction": 0.25}
    replace = os.replace

    def refuse(source: Any, target: Any) -> None:
        if Path(target).name == "train-00002.tar":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(BricsError, match="No space left on device"):
            prepare_folder(tmp_path / "set", **options)
    assert sorted(finished(tmp_path)) == ["train-00000", "train-00001"]
    assert prepare_folder(tmp_path / "set", **options).resumed == 2


def test_what_will_not_fit_is_refused_before_the_work(
    server: Server, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what other settings left makes room first."""
    out = tmp_path / "half" / "set"
    half_done(server, photos, out)

    def usage(path: Path) -> Any:
        return type("Usage", (), {"free": 0 if finished(out.parent) else 10**9})

    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 20_000}))
        with pytest.raises(BricsError, match=r"set: about 5\d\.\d kB are needed there, 20\.0 kB are free\. Make room"):
            prepare_folder(tmp_path / "set", folder=photos, resolution=8)
        assert not (tmp_path / "set").exists()
    monkeypatch.setattr("shutil.disk_usage", usage)
    assert not prepare_folder(out, folder=photos, resolution=9).resumed


def test_records_are_json_without_paths(server: Server, photos: Path, tmp_path: Path) -> None:
    half_done(server, photos, tmp_path / "half" / "set")
    for record in (tmp_path / "half").glob(".brics-part-set/*/records/*.json"):
        assert json.loads(record.read_text()).keys() == {"shard", "files", "notes"}
        assert str(tmp_path) not in record.read_text()
