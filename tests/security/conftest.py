"""One process with everything loaded that forks for each command, and says what the command took."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bricscli.build import build_autoencoder, build_denoiser
from bricscli.recipe.load import dump_recipe
from bricscli.run.checkpoint import save_checkpoint
from bricscli.run.directory import RunDirectory

SERVER = """
import json, os, resource, sys, tempfile, traceback
import torch, PIL.Image, av, safetensors.torch, bricscli.tasks.train_ae, bricscli.tasks.encode, bricscli.tasks.sample
import bricscli.tasks.eval.generation, bricscli.tasks.inpainting.inpaint, bricscli.tasks.import_checkpoint
import bricscli.tasks.prepare, bricscli.commands.options, bricscli.data.sources.videos, bricscli.data.sources.lsun
import bricscli.data.sources.archives, bricscli.data.sources.metadata, webdataset.writer
from bricscli import app

PIL.Image.init()
for line in sys.stdin:
    job = json.loads(line)
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(job["cwd"])
            resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["brics", *job["words"]]
            app.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    texts = []
    for file in (out, err):
        file.seek(0)
        texts.append(file.read().decode(errors="backslashreplace"))
        file.close()
    print(json.dumps([os.waitstatus_to_exitcode(status), *texts, used.ru_maxrss, used.ru_utime + used.ru_stime]),
          flush=True)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended; `memory` in bytes at the most, `seconds` of processor, its children's too."""

    code: int
    out: str
    err: str
    memory: int
    seconds: float


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`run(folder, *words)`: `brics *words` there; a command is killed after 15 s of processor."""
    folder = tmp_path_factory.mktemp("server")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "LANG": "C.UTF-8",
        "BRICS_WEIGHTS": str(folder), "TORCH_HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path),
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env=environment, cwd=folder)
    questions, answers = server.stdin, server.stdout
    assert questions is not None and answers is not None

    def ask(place: Path, *words: str, seconds: int = 15) -> Done:
        print(json.dumps({"cwd": str(place), "words": words, "seconds": seconds}), file=questions, flush=True)
        code, out, err, kilobytes, used = json.loads(answers.readline())
        return Done(code, out, err, kilobytes << 10, used)

    yield ask
    questions.close()
    server.wait(30)


@pytest.fixture(scope="session")
def listener() -> Iterator[tuple[str, list[Any]]]:
    """An address of this machine, and who has connected to it."""
    came: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, where = listening.accept()
                except OSError:
                    return
                came.append(where)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", came
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def diffusion_run(tmp_path_factory: pytest.TempPathFactory, tiny_autoencoder: Callable[..., Any],
                  tiny_diffusion: Callable[..., Any]) -> Path:
    """The run of a diffusion model that nobody has trained."""
    folder = tmp_path_factory.mktemp("runs")
    recipe, diffusion = tiny_autoencoder(), tiny_diffusion()
    path = save_checkpoint(folder / "ae", 1, build_autoencoder(recipe).state_dict(), {}, {"step": 1, "images_seen": 4},
                           dump_recipe(recipe))
    weights = (path / "weights.safetensors").read_bytes()
    digest = json.loads((path / "manifest.json").read_text())["files"]["weights.safetensors"]["sha256"]
    channels, size, _ = recipe.code_shape
    made = RunDirectory.create(folder / "toy-diffusion", diffusion, {"autoencoder": {"run": "toy", "digest": digest}})
    made.autoencoder_path.write_bytes(weights)
    save_checkpoint(made.checkpoints, 1, build_denoiser(diffusion, channels, size).state_dict(), {},
                    {"step": 1, "images_seen": 4}, dump_recipe(diffusion))
    return made.path


