"""The process that reads checkpoints: what it may not do, and that nothing is believed of what it leaves."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bricscli.errors import DataError
from bricscli.tasks.importing import process, reader

#: What the process does before it looks at a file, and then tells of itself.
CONFINED = """
import importlib.util, json, os, resource, socket, sys
spec = importlib.util.spec_from_file_location("reader", sys.argv[1])
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
before = os.stat("/proc/self/ns/net").st_ino
reader.leave_network()
reader.take_limits(1 << 20)
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), 1).close()
    reached = True
except OSError:
    reached = False
try:
    taken = len(bytearray(1 << 30))
except MemoryError:
    taken = 0
limits = [resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_FSIZE")]
print(json.dumps([os.stat("/proc/self/ns/net").st_ino != before, reached, taken, limits]))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "model.pt").write_bytes(b"\x80\x02x")
    return tmp_path / "model.pt"


@pytest.fixture
def read_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> "ReadBy":
    return ReadBy(tmp_path / "reader.py", monkeypatch, file)


class ReadBy:
    """Lets another program be the reader; calling it gives what is said then."""

    def __init__(self, script: Path, patch: pytest.MonkeyPatch, file: Path) -> None:
        self.script, self.file = script, file
        patch.setattr(reader, "__file__", str(script))

    def __call__(self, code: str) -> str:
        self.script.write_text(code)
        with pytest.raises(DataError) as raised:
            process.read_tensors(self.file)
        assert len(raised.value.lines) == 1
        return str(raised.value)


def test_it_gives_up_the_network_and_takes_limits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        done = subprocess.run([sys.executable, "-I", "-c", CONFINED, reader.__file__, port], capture_output=True,
                              text=True, check=True)
    left, reached, taken, limits = json.loads(done.stdout)
    assert taken == 0 and limits == [[60, 60], [64, 64], [5 << 20, 5 << 20]]
    assert reached is not left, "it reaches nobody, where the kernel lets it leave the network"


def test_it_starts_with_nothing(read_by: ReadBy) -> None:
    said = read_by("import json, os, sys\n"
                   f"same = os.path.samefile(sys.argv[1], {str(read_by.file)!r})\n"
                   "told = repr([sorted(os.environ), os.listdir(), sys.flags.isolated, same])\n"
                   "json.dump({'refused': told}, open('report.json', 'w'))")
    environment = re.search(r"\[\[(.*)\], \[\], 1, True\]", said)
    assert environment and "TORCH_FORCE" not in said and "PYTHONPATH" not in said and "HOME" not in said


@pytest.mark.parametrize(("code", "said"), [
    ("import os; os.abort()", "ended early (by signal 6)"),
    ("", "ended early (exit code 0)"),
    ("raise SystemExit(3)", "ended early (exit code 3)"),
    ("open('report.json', 'w').write('[' * 100_000)", "ended early"),
    ("open('report.json', 'w').write('{\"shapes\": {}}')", "ended early"),
    ("open('report.json', 'w').write('{\"shapes\": {\"a\": [-1]}}'); open('tensors.safetensors', 'w')", "ended early"),
    ("open('report.json', 'w').write('{\"shapes\": {}}'); open('tensors.safetensors', 'w').write('x' * 99)", "early"),
    ("import json; json.dump({'refused': 'a\\x1b[31mb'}, open('report.json', 'w'))", "a\x1b[31mb"),
])
def test_what_it_leaves_is_not_believed(code: str, said: str, read_by: ReadBy) -> None:
    assert said in read_by(code)


def test_a_report_that_does_not_fit_its_tensors(read_by: ReadBy) -> None:
    tensors = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    write = f"open('tensors.safetensors', 'wb').write({len(tensors).to_bytes(8, 'little') + tensors!r} + NUMBER)\n"
    report = "open('report.json', 'w').write('{\"shapes\": {\"a\": [%d]}}')\n"
    assert "ended early" in read_by(write.replace("NUMBER", "bytes(4)") + report % 2)
    nan = "bytes([0, 0, 192, 127])"
    assert "a has values that are not finite" in read_by(write.replace("NUMBER", nan) + report % 1)


def test_it_is_not_waited_for_without_end(read_by: ReadBy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SECONDS", 0.2)
    assert "took more than 0 s to read, and was given up" in read_by("import time; time.sleep(60)")
