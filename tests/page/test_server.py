"""The server's folder and port; what needs gradio is skipped without it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bricscli.errors import BricsError, RecipeError
from bricscli.page import place
from bricscli.page.desk import Desk
from bricscli.page.place import bind, check_installed, private_folder
from bricscli.page.server import build_app
from bricscli.tasks.inpainting.inpainter import Inpainter

PATHS = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
HOLDS = """
import sys, time
from bricscli.page.place import private_folder
with private_folder() as folder:
    (folder / "upload.png").write_bytes(b"private")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_SSR_MODE", "GRADIO_RUN_HISTORY",
                 "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
    return tmp_path / "tmp"


def test_the_folder_is_private_and_gone_afterwards(temporary: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == temporary and folder.stat().st_mode & 0o777 == 0o700
        (folder / "a").mkdir()
    assert list(temporary.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), private_folder() as folder:
        (folder / "upload.png").touch()
        tempfile.tempdir = str(folder)
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == [] and tempfile.tempdir == str(temporary)


def test_what_a_killed_process_left_is_removed_by_the_next(temporary: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True,
                               env=PATHS | {"TMPDIR": str(temporary)})
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    (temporary / f"{place.PREFIX}link").symlink_to(temporary.parent)
    (temporary / f"{place.PREFIX}file").touch()
    with private_folder() as mine:
        assert left.is_dir() and mine.is_dir() and left.parent == mine.parent  # it lives
        process.kill()
        process.wait()
        place.remove_left_behind()
        assert not left.exists() and mine.is_dir()
    assert {path.name for path in temporary.iterdir()} == {f"{place.PREFIX}link", f"{place.PREFIX}file"}


def test_ports() -> None:
    with bind(0) as listening:
        address, port = listening.getsockname()
        assert address == "127.0.0.1" and port > 0
        listening.listen()
        with pytest.raises(RecipeError, match=rf"^--port: {port} cannot be used \(.*\)\. Choose another, or 0"):
            bind(port)
    for wrong in (-1, 65536):
        with pytest.raises(RecipeError, match=r"^--port: .* is out of range"):
            bind(wrong)


def test_without_gradio_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "find_spec", lambda name: None)
    with pytest.raises(BricsError, match=r"`pip install 'brics\[ui\]'`"):
        check_installed()


class TestTheWholeApplication:
    """Behind the guard, as it is served; needs gradio."""

    @pytest.fixture
    def client(self, inpainter: Inpainter) -> Iterator[object]:
        pytest.importorskip("gradio", reason="gradio is not installed: pip install 'brics[ui]'")
        from starlette.testclient import TestClient

        with private_folder() as folder:
            yield TestClient(build_app(Desk(inpainter, [], folder), 7860), base_url="http://127.0.0.1:7860")

    def test_the_page_names_no_other_host_and_no_folder_of_this_machine(self, client: object) -> None:
        page = client.get("/")  # type: ignore[attr-defined]
        assert page.status_code == 200 and "Fill a part of a picture" in page.text
        for name in ("fonts.googleapis", "fonts.gstatic", "cdn", "127.0.0.1:7861", str(Path.home()) + "/", os.getcwd(),
                     sys.prefix, "brics-page"):
            assert name not in page.text, name

    def test_strangers_and_other_paths_are_refused(self, client: object) -> None:
        get, post = client.get, client.post  # type: ignore[attr-defined]
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
            assert get("/", headers=headers).status_code == 403
            assert post("/gradio_api/upload", headers=headers, files={"files": b"x"}).status_code == 403
            assert post("/gradio_api/queue/join", headers=headers, json={}).status_code == 403
        for path in ("/docs", "/gradio_api/openapi.json", "/gradio_api/file=/etc/hostname",
                     "/gradio_api/proxy=http://10.0.0.1/", "/monitoring", "/gradio_api/file=http://10.0.0.1/"):
            assert get(path).status_code == 404, path
        assert post("/gradio_api/upload", content=b"x" * 40_000_001).status_code == 413
        assert "access-control-allow-origin" not in get("/", headers={"origin": "http://localhost:7860"}).headers


def test_ctrl_c_ends_the_command_and_leaves_nothing(runs: Path, temporary: Path) -> None:
    """And SIGTERM; the page is served until then."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'brics[ui]'")
    for number in (signal.SIGINT, signal.SIGTERM):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "bricscli", "inpaint", "--ui", "--port", str(port), "--run",
             str(runs / "toy-diffusion")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=PATHS | {"TMPDIR": str(temporary)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/ is the page. Ctrl-C ends it.\n"
        assert len(list(temporary.glob(f"{place.PREFIX}*"))) == 1
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/gradio_api/heartbeat/abc") as open_page:
            open_page.readline()
            started = time.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "") and time.monotonic() - started < 15
        assert list(temporary.glob(f"{place.PREFIX}*")) == []
