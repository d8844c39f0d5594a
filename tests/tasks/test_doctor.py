"""What brics doctor says, and what it fetches: from a server on this machine, into empty folders."""

import builtins
import dataclasses
import hashlib
import importlib.metadata
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bricscli import files, weights
from bricscli.data.published import known_statistics
from bricscli.errors import BricsError, RecipeError
from bricscli.metrics import METRICS
from bricscli.tasks import doctor
from bricscli.tasks.doctor import DamagedFiles, check, describe, examine
from bricscli.tasks.fetch import NotFetched, fetch
from bricscli.weights import WEIGHTS, find_weights

CONTENT = {name: np.random.default_rng(i).bytes(50_000 + i) for i, name in enumerate(WEIGHTS)}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """($BRICS_WEIGHTS, torch hub's cache), neither there, below a home folder of their own; and no proxies."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BRICS_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own", tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Makes this machine the publisher of other files under the same names; what was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            name = self.path.split("/")[1]
            asked.append(name)
            self.send_response(200 if name in CONTENT else 404)
            self.send_header("Content-Length", str(len(CONTENT.get(name, b""))))
            self.end_headers()
            self.wfile.write(CONTENT.get(name, b""))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        for name, file in WEIGHTS.items():
            digest = hashlib.sha256(CONTENT[name]).hexdigest()
            url = f"http://127.0.0.1:{http.server_address[1]}/{name}/{file.filename}"
            monkeypatch.setitem(weights.WEIGHTS, name, dataclasses.replace(
                file, url=url, bytes=len(CONTENT[name]), files={n: d and digest for n, d in file.files.items()}))
        yield asked
        http.shutdown()
        thread.join(10)


def look() -> dict[str, Any]:
    return examine({"data": Path("data"), "runs": Path("runs")})


# What is known of the files


def test_sizes_agree_with_torchvisions() -> None:
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

    for name, enum in (("vgg16", VGG16_Weights), ("alexnet", AlexNet_Weights),
                       ("squeezenet1_1", SqueezeNet1_1_Weights)):
        size = WEIGHTS[name].bytes
        assert size is not None and abs(size / 2**20 - enum.IMAGENET1K_V1.meta["_file_size"]) < 0.001
    assert all(file.bytes for file in WEIGHTS.values())


def test_metrics_need_files_that_are_known() -> None:
    assert {metric.weights for metric in METRICS.values()} - {None} <= WEIGHTS.keys()


# The report


def test_nothing_is_here(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = look()
    check(report)
    text = "\n".join(describe(report))
    assert max(map(len, text.splitlines())) <= 100 == doctor.WIDTH
    for name, file in WEIGHTS.items():
        one = report["weights"][name]
        assert (one["state"], one["path"], one["sha256"], one["url"]) == ("missing", None, file.sha256, file.url)
        assert one["metrics"] == [key for key, metric in METRICS.items() if metric.weights == name]
        size, licence = files.show_bytes(file.bytes or 0), re.escape(file.licence)
        assert re.search(rf"^  {name} +missing +{size}  {licence}$", text, re.M)
    assert "7 missing, 2.6 GB. `brics doctor --fetch NAME` downloads one" in text
    assert str(tmp_path) not in json.dumps(report) + text and list(tmp_path.iterdir()) == []
    assert report["versions"]["torch"] == importlib.metadata.version("torch") and "torch-fidelity" in report["versions"]
    assert report["disk"]["data"]["free"] == pytest.approx(files.free_bytes(tmp_path), rel=0.1)
    assert report["memory"]["total"] >= report["memory"]["available"] > 0
    assert re.search(r"^  device +.*CPU, \d+ cores", text, re.M)


def test_here_damaged_and_not_pinned(folders: tuple[Path, Path], server: list[str]) -> None:
    own, hub = folders
    own.mkdir()
    hub.mkdir(parents=True)
    (own / WEIGHTS["alexnet"].filename).write_bytes(CONTENT["alexnet"])
    (hub / "squeezenet1_1.safetensors").write_text("any conversion")
    (hub / WEIGHTS["vgg16"].filename).write_bytes(CONTENT["vgg16"][1:])
    (own / WEIGHTS["inception"].filename).write_bytes(b"")
    statistics = next(known_statistics())
    np.savez(hub / statistics.file, mu=np.zeros(2))
    report = look()
    states = {name: file["state"] for name, file in report["weights"].items()}
    assert states == dict.fromkeys(WEIGHTS, "missing") | {
        "alexnet": "ok", "squeezenet1_1": "not pinned", "vgg16": "damaged", "inception": "damaged"}
    assert report["weights"]["vgg16"]["path"] == f"~/torch/hub/checkpoints/{WEIGHTS['vgg16'].filename}"
    text = "\n".join(describe(report))
    assert f"\n      ~/own/{WEIGHTS['alexnet'].filename}\n" in text and "3 missing" in text
    assert f"\n  {statistics.name}\n      ~/torch/hub/checkpoints/{statistics.file}\n" in text
    assert "\nProblems\n" in text and server == []
    with pytest.raises(DamagedFiles) as caught:
        check(report)
    assert caught.value.exit_code == 3 and len(caught.value.lines) == 2
    assert all(re.search(r"^~/.* has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}.*--fetch (vgg16|inception)`", line)
               for line in caught.value.lines)


def test_what_keeps_brics_from_working(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [
        "torch>=99.1", "numpy>=1.0", "no-such-package>=2", "absent; extra == 'bench'", "rich"])
    real = builtins.__import__

    def broken(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    report = look()
    monkeypatch.undo()
    assert [re.split(r"[ ,(]", problem)[0] for problem in report["problems"]] == ["torch", "no-such-package", "torch"]
    assert "brics needs 99.1 or newer" in report["problems"][0] and "libcudart" in report["problems"][2]
    assert "torch cannot be imported" in "\n".join(describe(report))
    with pytest.raises(BricsError, match="Run `pip install -U torch`") as caught:
        check(report)
    assert caught.value.exit_code == 1


def test_a_disk_that_is_full_or_closed(folders: tuple[Path, Path], tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda folder: 1_000_000)
    (tmp_path / "runs").write_text("a file")
    report = look()
    check(report)  # said, but files may go elsewhere
    assert report["problems"] == ["data: only 1.0 MB free. Make room there, or work in another folder.",
                                  report["disk"]["runs"]["problem"]]
    assert "runs: cannot be written" in report["problems"][1]


def test_cards_are_listed(folders: tuple[Path, Path]) -> None:
    report = look() | {"torch": {"version": "2", "cuda": "12.8", "threads": 2, "devices": [
        {"name": "NVIDIA H100", "memory": 85_000_000_000, "capability": "9.0"}]}}
    assert "cuda:0 NVIDIA H100, 85.0 GB, compute capability 9.0" in "\n".join(describe(report))


# Fetching


def test_fetch_all_then_nothing(folders: tuple[Path, Path], server: list[str],
                                capsys: pytest.CaptureFixture[str]) -> None:
    own, _ = folders
    fetch([])
    assert {name: find_weights(name).read_bytes() for name in WEIGHTS} == CONTENT and server == list(WEIGHTS)
    assert sorted(path.name for path in own.iterdir()) == sorted(file.filename for file in WEIGHTS.values())
    said = capsys.readouterr().out
    assert said.startswith("7 of 7 files to download, 350.0 kB, into ~/own\n") and str(own) not in said
    fetch(["all"])
    assert server == list(WEIGHTS) and capsys.readouterr().out.count(": is here already\n") == 7
    assert {file["state"] for file in look()["weights"].values()} == {"ok"}


def test_fetch_some_into_torch_hubs_cache(folders: tuple[Path, Path], server: list[str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRICS_WEIGHTS")
    fetch(["alexnet", "vgg16", "alexnet"])
    assert sorted(server) == ["alexnet", "vgg16"] and len(list(folders[1].iterdir())) == 2


def test_fetch_what_is_damaged(folders: tuple[Path, Path], server: list[str]) -> None:
    """Also where the damaged file has another of its names, or lies in the other folder."""
    own, hub = folders
    own.mkdir()
    hub.mkdir(parents=True)
    (own / WEIGHTS["vgg16"].filename).write_text("damaged")
    (own / "pt_inception-2015-12-05-6726825d.pth").write_text("damaged")
    (hub / WEIGHTS["alexnet"].filename).write_text("damaged")
    names = ["vgg16", "inception_fidelity", "alexnet"]
    fetch(names)
    assert all(find_weights(name).read_bytes() == CONTENT[name] for name in names)


def test_unknown_names_fetch_nothing(folders: tuple[Path, Path], server: list[str]) -> None:
    with pytest.raises(RecipeError, match="Did you mean `dinov2_vitl14`"):
        fetch(["alexnet", "dinov2_vitl"])
    assert server == [] and not folders[0].exists()


def test_fetch_without_a_network(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line per file that says what to copy where; a server that does not answer is asked once."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(NotFetched) as caught:
        fetch([])
    assert caught.value.exit_code == 1 and len(caught.value.lines) == len(WEIGHTS)
    for line, file in zip(caught.value.lines, WEIGHTS.values(), strict=True):
        assert line.startswith(f"{file.url}: ") and line.endswith(
            f"opy the file to ~/own/{file.filename} (SHA-256 {file.sha256}).")
    assert sum("not tried, download.pytorch.org does not answer" in line for line in caught.value.lines) == 2
    assert not folders[0].exists()


def test_one_failure_does_not_stop_the_others(folders: tuple[Path, Path], server: list[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    for name, change in (("vgg16", {"url": WEIGHTS["vgg16"].url.replace("/vgg16/", "/gone/")}),
                         ("alexnet", {"bytes": 7}),
                         ("inception", {"files": {WEIGHTS["inception"].filename: "0" * 64}})):
        monkeypatch.setitem(weights.WEIGHTS, name, dataclasses.replace(WEIGHTS[name], **change))
    with pytest.raises(NotFetched) as caught:
        fetch(["vgg16", "alexnet", "inception", "clip_vit_b_32"])
    assert [re.search("404|has 50001 bytes, expected 7|expected 0{64}", line) is not None
            for line in caught.value.lines] == [True] * 3
    assert [path.name for path in folders[0].iterdir()] == ["ViT-B-32.pt"]
