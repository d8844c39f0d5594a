import errno
import json
import os
import re
import resource
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bricscli import files
from bricscli.errors import BricsError, DataError


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_write_bytes_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    files.write_bytes(path, b"old")
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["b"]
    assert files.sha256_file(path) == sha256(b"new").hexdigest()


def test_json_is_readable_ordered_and_strict(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"b": "é", "a": [1]})
    text = (tmp_path / "x.json").read_text()
    assert text == '{\n "b": "é",\n "a": [\n  1\n ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text())["a"] == [1]


def test_write_all_goes_on_after_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    files.write_bytes(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_order_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the file before the rename, and of the folder after it: the only proof against power loss there is."""
    calls = []

    def record(name: str, call: Callable[..., None]) -> None:
        def recorded(*arguments: Any) -> None:
            what = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else arguments[1]
            calls.append((name, re.sub(r"^(\.brics-tmp)-.*", r"\1", Path(what).name)))
            call(*arguments)

        monkeypatch.setattr(os, name, recorded)

    for name in ("fsync", "replace", "rename"):
        record(name, getattr(os, name))
    files.write_bytes(tmp_path / "x", b"1")
    assert calls == [("fsync", ".brics-tmp"), ("replace", "x"), ("fsync", tmp_path.name)]
    calls.clear()
    files.write_files(tmp_path, {"x": b"2", "y": b"3"})
    assert calls == [("fsync", ".brics-tmp"), ("replace", "x"), ("fsync", ".brics-tmp"), ("replace", "y"),
                     ("fsync", tmp_path.name)]
    assert ((tmp_path / "x").read_bytes(), (tmp_path / "y").read_bytes()) == (b"2", b"3")
    calls.clear()
    with files.new_directory(tmp_path / "d") as temporary:
        (temporary / "y").write_text("1")
    assert calls == [("fsync", "y"), ("fsync", ".brics-tmp"), ("rename", "d"), ("fsync", tmp_path.name)]


def test_new_directory_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "d"
    with files.new_directory(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "x").write_text("1")
        assert not path.exists()
    assert (path / "sub" / "x").read_text() == "1"
    assert names(path.parent) == ["d"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_new_directory_vanishes_on_failure(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop), files.new_directory(tmp_path / "data" / "more" / "d") as temporary:
        (temporary / "x").write_text("1")
        raise stop
    assert names(tmp_path) == []


def test_new_directory_refuses_what_exists_before_and_after_the_work(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_text("1")
    with pytest.raises(DataError, match="already exists"), files.new_directory(tmp_path / "d"):
        raise AssertionError("the work has begun")
    with pytest.raises(DataError, match="already exists"), files.new_directory(tmp_path / "e"):
        (tmp_path / "e").mkdir()
        (tmp_path / "e" / "other").write_text("1")
    assert (tmp_path / "d" / "mine").exists() and (tmp_path / "e" / "other").exists()
    assert names(tmp_path) == ["d", "e"]


def test_new_directory_refuses_what_appears_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "other").write_text("1")
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(DataError, match="d: already exists"), files.new_directory(tmp_path / "d"):
        pass
    assert names(tmp_path) == ["d"] and names(tmp_path / "d") == ["other"]


def test_new_directory_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with files.new_directory(tmp_path / "d") as temporary:
        (temporary / "x").write_text("1")
    assert names(tmp_path / "d") == ["x"]


def test_leftover_of_a_dead_process_with_our_id_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".brics-tmp-x-{os.getpid()}").write_text("left by a killed process")
    (tmp_path / f".brics-tmp-d-{os.getpid()}").mkdir()
    files.write_bytes(tmp_path / "x", b"1")
    with files.new_directory(tmp_path / "d"):
        pass
    assert names(tmp_path) == ["d", "x"]


def test_leftover_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("1")
    (tmp_path / f".brics-tmp-x-{os.getpid()}").symlink_to(tmp_path / "precious")
    files.write_bytes(tmp_path / "x", b"2")
    assert (tmp_path / "precious").read_text() == "1"
    assert not (tmp_path / "x").is_symlink()


def test_sweep_removes_only_what_the_dead_left(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / f".brics-tmp-dead-{child}").mkdir()
    (tmp_path / f".brics-tmp-dead-{child}" / "x").write_text("1")
    (tmp_path / f".brics-tmp-mine-before-{os.getpid()}").write_text("1")
    (tmp_path / ".brics-tmp-living-1").write_text("1")
    (tmp_path / ".brics-tmp-without-number").write_text("1")
    (tmp_path / "kept").write_text("1")
    (tmp_path / f".tmp-another-program-{child}").write_text("1")
    with files.new_directory(tmp_path / "now"):
        files.sweep(tmp_path)
        assert f".brics-tmp-now-{os.getpid()}" in names(tmp_path)
    left = [".brics-tmp-living-1", ".brics-tmp-without-number", f".tmp-another-program-{child}", "kept", "now"]
    assert names(tmp_path) == left
    files.sweep(tmp_path / "nowhere")


def test_making_a_folder_again_removes_its_own_leftovers(tmp_path: Path) -> None:
    for name in (".brics-tmp-d-99999999", ".brics-tmp-dd-99999999", ".brics-tmp-d-d-99999999"):
        (tmp_path / name).mkdir()
    with files.new_directory(tmp_path / "d"):
        pass
    assert names(tmp_path) == [".brics-tmp-d-d-99999999", ".brics-tmp-dd-99999999", "d"]


def test_remove_directory(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("1")
    files.remove_directory(tmp_path / "d")
    assert names(tmp_path) == []


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "a" / "b")
    files.check_writable(tmp_path)
    assert names(tmp_path) == []


def test_check_writable_at_the_same_time_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that share a disk, whose processes have the same ids."""
    close = os.close

    def check_as_well(descriptor: int) -> None:
        monkeypatch.setattr(os, "close", close)
        files.check_writable(tmp_path)
        close(descriptor)

    monkeypatch.setattr(os, "close", check_as_well)
    files.check_writable(tmp_path)
    assert names(tmp_path) == []


def test_check_writable_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "broken" / "x", tmp_path / ("x" * 300),
                   Path("/proc/brics"), Path("/sys/brics")):
        with pytest.raises(DataError, match="cannot be written") as caught:
            files.check_writable(folder)
        assert str(caught.value).startswith(f"{folder}: ") and "\n" not in str(caught.value)
        assert str(caught.value).endswith("Choose another folder.")


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: real short writes, then a real error."""
    files.write_bytes(tmp_path / "x", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(BricsError, match=r"x: could not be written: File too large \(5\.0 kB needed, .* free\)"):
            files.write_bytes(tmp_path / "x", bytes(5000))
        with pytest.raises(BricsError, match="d: could not be written"), files.new_directory(tmp_path / "d") as folder:
            (folder / "y").write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_names_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for name, reason in (("taken", "Is a directory"), ("n" * 250, "File name too long")):
        with pytest.raises(BricsError, match=f"{name}: could not be written: {reason}. See to that") as caught:
            files.write_bytes(tmp_path / name, b"new")
        assert len(caught.value.lines) == 1
    with pytest.raises(BricsError, match="taken: could not be written"), files.new_file(tmp_path / "taken") as new:
        new.write_bytes(b"new")
    assert names(tmp_path) == ["taken"]


def test_errors_of_the_block_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), files.new_directory(tmp_path / "d"):
        raise PermissionError(errno.EACCES, "of a file that was read")


def test_new_file_replaces_or_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ValueError), files.new_file(path) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert names(tmp_path) == ["x"] and path.read_text() == "old"
    with pytest.raises(BricsError, match="x: could not be written: No space left") as caught, files.new_file(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert len(caught.value.lines) == 1
    with files.new_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert names(tmp_path) == ["x"] and path.read_text() == "new"


def test_show_bytes() -> None:
    assert [files.show_bytes(n) for n in (0, 999, 1000, 1_234_567, 5 * 10**12)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "5.0 TB"]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (lambda: files.write_bytes(pipe, b"1"), lambda: files.new_file(pipe).__enter__()):
        with pytest.raises(DataError, match="pipe: is no ordinary file"):
            write()
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_probe_that_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".brics-tmp-probe.0011-999999999").touch()
    files.check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
