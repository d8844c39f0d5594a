"""Data sets on servers: the right bytes, or one clear line and nothing that looks like a data set."""

import json
import multiprocessing
import shutil
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bricscli import download, files
from bricscli.data import remote as module
from bricscli.data.addresses import CheckedOpener
from bricscli.data.remote import RemoteSet, fetch, fetched_set, is_remote, look_up
from bricscli.data.shards import MANIFEST, ShardSet, write_shards
from bricscli.download import Unreachable
from bricscli.errors import BricsError, DataError, InterruptedRun

pytestmark = pytest.mark.usefixtures("fast_network")

COUNT = 9


def make(folder: Path, seed: int = 0, **more: Any) -> ShardSet:
    """Three shards of three samples of noise, and what else the manifest is to say."""
    noise = np.random.default_rng(seed)
    samples = (("train", f"{i:06d}", {"npy": noise.bytes(20_000)}) for i in range(COUNT))
    return write_shards(folder, {"kind": "key_codes", **more}, samples, samples_per_shard=3)


@pytest.fixture
def site(serve: Callable[[str], Any]) -> Any:
    found = serve("site")
    make(found.folder / "church")
    return found


def ask(site: Any, name: str = "church/") -> RemoteSet:
    return look_up(f"{site.url}/{name}", [site.host])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def final_shards(cache: Path) -> list[str]:
    """Those that pass for whole. All must be."""
    found = [name for name in names(cache / "shards") if ".part" not in name]
    assert all(files.sha256_file(cache / "shards" / name) == name for name in found)
    return found


def check_whole(folder: Path, original: Path) -> None:
    """The data set is that one: every sample once, every byte."""
    ours, theirs = ShardSet.open(folder), ShardSet.open(original)
    assert ours.digest == theirs.digest and ours.splits == {"train": COUNT}
    ours.verify()
    one, other = ours.split("train"), theirs.split("train")
    assert [one.read(i, "npy") for i in range(len(one))] == [other.read(i, "npy") for i in range(COUNT)]


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_data_set_comes_once(ending: str, site: Any, tmp_path: Path) -> None:
    seen: list[int] = []
    remote = ask(site, f"church{ending}")
    assert site.shards() == [] and remote.missing == remote.listed, "the manifest alone tells what would come"
    folder = fetch(remote, seen.append)
    check_whole(folder, site.folder / "church")
    assert folder.name == "church" and seen == sorted(seen) and seen[-1] == remote.bytes
    assert fetched_set(remote.digest, "church") == folder and fetched_set("0" * 64, "church") is None
    assert fetch(ask(site, "church")) == folder
    assert len(site.shards()) == 3 and names(tmp_path / "cache" / "manifests") == []


def test_equal_names_do_not_mix_and_equal_shards_lie_there_once(site: Any, tmp_path: Path) -> None:
    make(site.folder / "other", seed=1)
    make(site.folder / "copy", more=1)
    remotes = [ask(site, name) for name in ("church", "other", "copy")]
    for remote in remotes:
        check_whole(fetch(remote), site.folder / remote.name)
    assert len({remote.folder for remote in remotes}) == 3 and len(site.shards()) == 6
    assert final_shards(tmp_path / "cache") == sorted({file.sha256 for remote in remotes for file in remote.listed})


@pytest.mark.parametrize("tenths", range(1, 10))
def test_connections_that_drop(tenths: int, site: Any) -> None:
    site.drop_after = tenths / 10
    check_whole(fetch(ask(site)), site.folder / "church")
    assert any(asked for _, asked in site.asked), "taken up where it dropped"


def test_a_server_that_is_ill_for_a_while(site: Any) -> None:
    site.codes = [500, 503, 200, 429, 502, 200, 408]
    check_whole(fetch(ask(site)), site.folder / "church")


def test_a_server_that_stalls(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = ask(site)
    monkeypatch.setattr(download, "TIMEOUT", 1.5)
    site.stalls = 1
    check_whole(fetch(remote), site.folder / "church")
    assert site.asked[2][1] is not None, "the rest of the first shard alone"


@pytest.mark.parametrize("error", [TimeoutError("timed out"), socket.gaierror(-3, "no name server"),
                                   ConnectionRefusedError("refused")])
def test_a_network_that_is_away_for_a_while(error: OSError, site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest came, so the server is there."""
    remote, failures = ask(site), [error] * 3
    connect = CheckedOpener.connect

    def failing(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return connect(*arguments)

    monkeypatch.setattr(CheckedOpener, "connect", failing)
    check_whole(fetch(remote), site.folder / "church")
    failures += [error] * 99
    with pytest.raises(Unreachable):
        ask(site)
    assert len(failures) >= 95


def test_a_server_that_stays_ill(site: Any, tmp_path: Path) -> None:
    remote = ask(site)
    site.codes = [200] + [500] * 9
    with pytest.raises(BricsError, match="500") as caught:
        fetch(remote)
    assert len(caught.value.lines) == 1 and len(final_shards(tmp_path / "cache")) == 1
    assert fetched_set(remote.digest, "church") is None
    site.codes = []
    check_whole(fetch(ask(site)), site.folder / "church")
    assert len(set(site.shards())) == 3 and site.shards().count(site.shards()[0]) == 1, "what had come was kept"


def test_a_version_that_changes_under_way(site: Any) -> None:
    site.drop_after, site.etag = 0.6, lambda number: f'"{number // 3}"'
    check_whole(fetch(ask(site)), site.folder / "church")


def test_other_bytes_than_the_manifest_says(site: Any, tmp_path: Path) -> None:
    """Bytes flipped at every tenth, cut short with a length to match, and longer."""

    def flipped(body: bytes, at: int) -> bytes:
        return body[:at] + bytes([body[at] ^ 1]) + body[at + 1:]

    for change in (*(partial(flipped, at=at) for at in range(0, 60_000, 6_000)),
                   lambda body: body[:-512], lambda body: body + b"\0" * 512, lambda body: b"<html>no</html>"):
        site.body = lambda path, body, change=change: change(body) if path.endswith("1.tar") else body
        remote = ask(site)
        with pytest.raises(BricsError, match=r"train-00001\.tar|SHA-256") as caught:
            fetch(remote)
        assert len(caught.value.lines) == 1 and fetched_set(remote.digest, "church") is None
        assert len(final_shards(tmp_path / "cache")) == 1
    site.body = lambda path, body: body
    check_whole(fetch(ask(site)), site.folder / "church")


def test_interrupted_and_gone_on(site: Any, tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done > 90_000:
            raise KeyboardInterrupt

    site.drop_after = 0.5
    with pytest.raises(InterruptedRun, match="goes on from there"):
        fetch(ask(site), stop)
    site.asked.clear()
    check_whole(fetch(ask(site)), site.folder / "church")
    assert site.asked[1][1] is not None, "the rest of the second shard alone"


def test_redirects_to_hosts_that_are_not_allowed(site: Any, serve: Callable[[str], Any]) -> None:
    marker, remote = serve("marker"), ask(site)
    for target in (f"{marker.url}/x", f"http://localhost:{marker.port}/x?token=secret", "file:///etc/passwd"):
        site.codes, site.location = [302], target
        with pytest.raises(DataError, match="brics does not follow") as caught:
            fetch(remote)
        assert len(caught.value.lines) == 1 and "secret" not in str(caught.value)
    assert marker.asked == []


@pytest.mark.parametrize("where", ["http://127.0.0.1:1/x", "https://169.254.169.254/latest", "https://user@host/x",
                                   "file:///etc", "ftp://host/x", "https://host/x?y", "gs://bucket/x", "s3://B/x"])
def test_addresses_that_are_not_asked(where: str, tmp_path: Path) -> None:
    assert is_remote(where)
    with pytest.raises(DataError) as caught:
        look_up(where)
    assert len(caught.value.lines) == 1 and not (tmp_path / "cache").exists(), "and nothing was made"


@pytest.mark.parametrize("where", ["data/church", "church", "/data/https:", "cleanfid:lsun_church:trainfull:256", "",
                                   None, Path("https://host/x")])
def test_what_is_a_path_or_a_name(where: Any) -> None:
    assert not is_remote(where)


@pytest.mark.parametrize("change", [
    lambda m: m["shards"][0].update(name="../../outside.tar"), lambda m: m["shards"][0].update(name="/etc/x.tar"),
    lambda m: m["shards"][0].update(name="a/b.tar"), lambda m: m["shards"][0].update(name="http://127.0.0.1/x.tar"),
    lambda m: m["shards"][0].update(name="a.tar?b.tar"), lambda m: m["shards"][0].update(name="manifest.json"),
    lambda m: m["shards"][0].update(name=7), lambda m: m["shards"][0].update(name="a.tar\n"),
    lambda m: m["shards"][0].update(sha256="../../../x"), lambda m: m["shards"][0].update(sha256="A" * 64),
    lambda m: m["shards"][0].update(bytes=-1), lambda m: m["shards"][0].update(bytes=True),
    lambda m: m["shards"][0].update(bytes="7"), lambda m: m["shards"].append(m["shards"][0]),
    lambda m: m.update(shards=[]), lambda m: m.update(shards=7), lambda m: m.pop("shards"),
    lambda m: m["shards"][0].pop("sha256"), lambda m: m.update(shards=[1]),
    lambda m: m.update(index={"name": "../index-0123456789abcdef.bin", "bytes": 1, "sha256": "0" * 64}),
    lambda m: m.update(index={"name": "index.bin", "bytes": 1, "sha256": "0" * 64}), lambda m: m.update(index=7)])
def test_hostile_manifests(change: Callable[[Any], Any], site: Any, tmp_path: Path) -> None:
    path = site.folder / "church" / MANIFEST
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"church/manifest\.json: is no manifest") as caught:
        fetch(ask(site))
    assert len(caught.value.lines) == 1 and site.shards() == [] and names(tmp_path / "cache" / "sets") == []


@pytest.mark.parametrize("text", [b"", b"[", b"[]", b"<html>", b"[" * 100_000, b"\xff\xfe", b"null"])
def test_what_is_no_manifest(text: bytes, site: Any) -> None:
    (site.folder / "church" / MANIFEST).write_bytes(text)
    with pytest.raises(DataError, match="is no manifest"):
        ask(site)


def test_a_manifest_that_is_not_there_or_too_long(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BricsError, match=r"nowhere/manifest\.json: the server said 404 .* See whether the address"):
        ask(site, "nowhere/")
    monkeypatch.setattr(module, "MOST", 100)
    with pytest.raises(BricsError, match=r"manifest\.json: has \d+ bytes, which is too long"):
        ask(site)
    assert not (tmp_path / "cache").exists()


def test_shards_that_do_not_fit_the_manifest_of_their_members(site: Any) -> None:
    """What only `ShardSet.open` looks at is looked at by it, as of any other data set."""
    path = site.folder / "church" / MANIFEST
    manifest = json.loads(path.read_bytes())
    manifest["splits"]["train"] = 8
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="not a manifest that brics wrote"):
        ShardSet.open(fetch(ask(site)))


def test_a_file_beside_the_shards_comes_too(site: Any) -> None:
    """The index that a manifest names."""
    path, name = site.folder / "church" / MANIFEST, "index-0123456789abcdef.bin"
    (site.folder / "church" / name).write_bytes(b"index")
    digest = files.sha256_file(site.folder / "church" / name)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"index": {"name": name, "bytes": 5, "sha256": digest}}))
    assert (fetch(ask(site)) / name).read_bytes() == b"index"


def test_a_changed_data_set_is_another(site: Any) -> None:
    first = fetch(ask(site))
    shutil.rmtree(site.folder / "church")
    make(site.folder / "church", seed=1)
    second = fetch(ask(site))
    check_whole(second, site.folder / "church")
    assert first != second and ShardSet.open(first).digest != ShardSet.open(second).digest


def test_a_cache_that_was_damaged_or_cleared(site: Any, tmp_path: Path) -> None:
    folder = fetch(ask(site))
    shard = tmp_path / "cache" / "shards" / ShardSet.open(folder).shards[1].sha256
    shard.write_bytes(shard.read_bytes()[:-1])
    check_whole(fetch(ask(site)), site.folder / "church")
    shard.unlink()
    check_whole(fetch(ask(site)), site.folder / "church")
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    shutil.rmtree(folder)  # what messages about damage advise
    check_whole(fetch(ask(site)), site.folder / "church")
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    (folder / MANIFEST).write_text("{}")
    check_whole(fetch(ask(site)), site.folder / "church")
    assert len(site.shards()) == 7


def test_a_disk_that_is_too_small(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the first shard; what is there already needs no room."""
    remote = ask(site)
    fetch(remote)
    missing = tmp_path / "cache" / "shards" / remote.listed[0].sha256
    missing.unlink()
    monkeypatch.setattr(files, "free_bytes", lambda folder: 5)
    site.asked.clear()
    wanted = rf"cache: {files.show_bytes(remote.listed[0].bytes)} are needed there for .*/church, 5 B are free"
    with pytest.raises(BricsError, match=wanted):
        fetch(remote)
    assert site.asked == []
    monkeypatch.setattr(files, "free_bytes", lambda folder: remote.listed[0].bytes)
    fetch(remote)


def test_a_cache_that_cannot_be_written(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("1")
    monkeypatch.setenv("BRICS_CACHE", str(tmp_path / "file"))
    with pytest.raises(BricsError, match="could not be written") as caught:
        ask(site)
    assert len(caught.value.lines) == 1


def test_a_disk_without_links(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    remote = ask(site)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(BricsError, match=r"church/train-00000\.tar: could not be written: Operation not permitted"):
        fetch(remote)
    assert not remote.folder.exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BRICS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert module.cache_root() == tmp_path / "brics"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module.cache_root() == tmp_path / ".cache" / "brics"


def _fetch_in_process(url: str, host: str, results: Any) -> None:
    results.put(str(fetch(look_up(url, [host]))))


def test_several_processes_at_once(site: Any) -> None:
    """One fetches while the others wait; nobody fails, and every shard comes once."""
    site.gate = threading.Event()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_fetch_in_process, args=(f"{site.url}/church", site.host, results))
                 for _ in range(3)]
    for process in processes:
        process.start()
    while sum(path.endswith(MANIFEST) for path, _ in site.asked) < 3:
        time.sleep(0.01)
    site.gate.set()
    folders = {results.get(timeout=30) for _ in processes}
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    check_whole(Path(folders.pop()), site.folder / "church")
    assert not folders and len(site.shards()) == 3


def test_two_data_sets_with_a_shard_in_common_at_once(site: Any, tmp_path: Path) -> None:
    """Their folders have locks of their own; the shard is waited for, and not asked for again."""
    make(site.folder / "copy", more=1)
    site.gate = threading.Event()
    remotes = [ask(site, name) for name in ("church", "copy")]
    threads = [threading.Thread(target=fetch, args=(remote,)) for remote in remotes]
    for thread in threads:
        thread.start()
    while not site.shards():
        time.sleep(0.01)
    site.gate.set()
    for thread in threads:
        thread.join(30)
    check_whole(remotes[0].folder, site.folder / "church")
    check_whole(remotes[1].folder, site.folder / "copy")
    assert len(site.shards()) == 3


def test_signed_addresses_are_not_told(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file has its own, new at each call; messages and files beside parts have the bucket's name."""
    signed = iter(range(100))
    monkeypatch.setattr(module, "bucket_addresses",
                        lambda where: lambda name: f"{site.url}/church/{name}?X-Amz-Signature=secret{next(signed)}")

    def stop(done: int) -> None:
        if done > 90_000:
            about = next((tmp_path / "cache" / "shards").glob("*.json")).read_text()
            assert "s3://photos/church/train-00001.tar" in about and "secret" not in about
            raise KeyboardInterrupt

    site.drop_after = 0.5
    with pytest.raises(InterruptedRun) as caught:
        fetch(look_up("s3://photos/church/", [site.host]), stop)
    assert "secret" not in str(caught.value)
    site.asked.clear()
    folder = fetch(look_up("s3://photos/church/", [site.host]))
    check_whole(folder, site.folder / "church")
    assert site.asked[1][1] is not None, "a part goes on under another signature"
    shutil.rmtree(tmp_path / "cache")
    site.drop_after = None
    for codes, location in (([403], None), ([500] * 9, None), ([200, 302], "/elsewhere?X-Amz-Signature=secret"),
                            ([200, 302], "http://localhost/?X-Amz-Signature=secret"), ([200, 404], None),
                            ([302] * 9, "/x?X-Amz-Signature=secret")):
        site.codes, site.location = list(codes), location
        with pytest.raises(BricsError) as failed:
            fetch(look_up("s3://photos/church/", [site.host]))
        assert "secret" not in str(failed.value) and "Amz" not in str(failed.value) and len(failed.value.lines) == 1
        cause: BaseException | None = failed.value
        while cause is not None:
            assert "secret" not in str(cause)
            cause = cause.__cause__


@pytest.mark.parametrize(("path", "name"), [("a%20b", "a-20b"), ("%2e%2e", "2e-2e"), (".hidden", "hidden"),
                                            ("...", "data"), ("", "127.0.0.1-PORT")])
def test_the_folder_has_a_name_of_this_machine(path: str, name: str, site: Any, tmp_path: Path) -> None:
    shutil.copytree(site.folder / "church", site.folder / path, dirs_exist_ok=True)
    folder = fetch(ask(site, path))
    assert folder.name == name.replace("PORT", str(site.port)) and folder.parent.parent == tmp_path / "cache" / "sets"
    check_whole(folder, site.folder / "church")
