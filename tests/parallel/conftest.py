"""Several processes within a second: a server that has imported everything forks them, as many as a world has."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import bricscli
from bricscli.recipe.load import dump_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.tasks.encode import encode
from bricscli.tasks.prepare import prepare_toy
from bricscli.tasks.train_ae import train_autoencoder

#: Forks `size` processes for every job, each of which runs its `code` with `world` and `job`. `signals` are sent after
#: some seconds, each to a rank. Where a process ends by itself and not well, the others are given a second.
SERVER = r"""
import json, os, signal, sys, tempfile, time, traceback
from pathlib import Path
import torch
import torch.distributed as dist
import torch._dynamo, torch.distributed.tensor, torch.distributed.fsdp, torch.nn.parallel
from bricscli.errors import BricsError
from bricscli.parallel import reduction, sharding, world as worlds
from bricscli.recipe.load import read_recipe
from bricscli.tasks.train_ae import train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser
from bricscli.training import learner, loop, steps

worlds._COMPLAIN_AFTER = 0.0
torch.use_deterministic_algorithms(True)
torch.use_deterministic_algorithms(False)

def be(rank, job, folder):
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(job["size"]), "LOCAL_RANK": str(rank),
                       "BRICS_RENDEZVOUS": str(folder / "meeting"), "GLOO_SOCKET_IFNAME": "lo",
                       "BRICS_COLLECTIVE_SECONDS": str(job.get("patience", 30))})
    code = 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is said there would be taken for an answer
    try:
        with worlds.join_world("cpu", exact=job.get("exact", False), sharded=job.get("sharded", False)) as world:
            result = {}
            exec(job["code"], {**globals(), "world": world, "job": job, "result": result})
        (folder / f"result-{rank}").write_text(json.dumps(result))
    except BricsError as error:
        (folder / f"said-{rank}").write_text("\n".join(error.lines))
        code = error.exit_code
    except BaseException:
        (folder / f"said-{rank}").write_text(traceback.format_exc())
        code = 99
    finally:
        os._exit(code)

def wait(children, signals):
    began, codes, ended = time.monotonic(), {}, None
    while len(codes) < len(children):
        now = time.monotonic()
        for rank, number, after in [s for s in signals if now - began >= s[2]]:
            signals.remove([rank, number, after])
            if rank not in codes:
                os.kill(children[rank], number)
        for rank, child in children.items():
            if rank not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
                    ended = ended or (now if codes[rank] else None)
        if (ended and now - ended > 5) or now - began > 60:
            for rank in children.keys() - codes.keys():
                os.kill(children[rank], signal.SIGKILL)
        time.sleep(0.002)
    return [codes[rank] for rank in sorted(codes)]

def text(path):
    return path.read_text() if path.exists() else ""

for line in sys.stdin:
    job = json.loads(line)
    with tempfile.TemporaryDirectory() as folder:
        folder, children = Path(folder), {}
        for rank in range(job["size"]):
            children[rank] = os.fork()
            if children[rank] == 0:
                be(rank, job, folder)
        codes = wait(children, job.get("signals", []))
        ranks = range(job["size"])
        print(json.dumps([codes, [text(folder / f"said-{rank}") for rank in ranks],
                          [json.loads(text(folder / f"result-{rank}") or "null") for rank in ranks]]), flush=True)
"""
#: Code of a job: trains as its `recipe`, `data` and `run` say, and `before` that does what the test wants.
TRAIN = r"""
exec(job.get("before", ""))
recipe, run = read_recipe(Path(job["recipe"])), Path(job["run"])
options = {"device": world.device, "world": world, "save_every": job.get("save_every", 600.0)}
if recipe.kind == "autoencoder":
    train_autoencoder(recipe, Path(job["data"]), run, **options)
else:
    train_denoiser(recipe, Path(job["data"]), run, **options)
"""

#: For `before`: the process `victim` kills itself at the call number `kill` of those that others, or the disk, hear of.
DIE = r"""
if world.rank == job["victim"]:
    calls = [0]
    def deadly(call):
        def inner(*arguments, **options):
            calls[0] += 1
            if calls[0] == job["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return inner
    for module, names in ((os, ("replace", "rename", "fsync", "mkdir", "write")),
                          (dist, ("all_gather", "all_reduce", "all_to_all_single"))):
        for name in names:
            setattr(module, name, deadly(getattr(module, name)))
"""

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
                            "PYTHONPATH": str(Path(bricscli.__file__).parents[1])}


class Processes:
    """The server. Calls return the exit codes, what each had to say at its end, and what the code left in `result`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)

    def __call__(self, size: int, code: str = TRAIN, **job: Any) -> tuple[list[int], list[str], list[Any]]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"size": size, "code": code, **job}) + "\n")
        self.process.stdin.flush()
        codes, said, results = json.loads(self.process.stdout.readline())
        return codes, said, results

    def good(self, size: int, code: str = TRAIN, **job: Any) -> list[Any]:
        """What the processes leave, which all have to end well."""
        codes, said, results = self(size, code, **job)
        assert codes == [0] * size, "\n".join(said)
        return results

    def killed(self, size: int, victim: int, kill: int, **job: Any) -> bool:
        """Whether the process `victim` got as far as to kill itself; the others then end too, and without a bug."""
        codes, said, _ = self(size, before=DIE, victim=victim, kill=kill, **job)
        assert codes == [0] * size or (codes[victim] == -9 and {*codes} <= {-9, 1}), "\n".join(said)
        return codes[victim] != 0

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    server = Processes()
    yield server
    server.close()


class Trainings:
    """Small trainings: 28 images of 16 pixels, and the key codes of an autoencoder that has seen some of them."""

    code = TRAIN

    def __init__(self, root: Path, recipe: AutoencoderRecipe) -> None:
        self.root = root
        prepare_toy(root / "data", resolution=16, count=40, val_fraction=0.3, workers=1)
        self.codes = train_autoencoder(recipe, root / "data", root / "toy", device=torch.device("cpu"))
        encode(self.codes, root / "data", device=torch.device("cpu"))

    def job(self, path: Path, recipe: AutoencoderRecipe | DiffusionRecipe, **job: Any) -> dict[str, Any]:
        """What the processes need to know to train `recipe` into the run `path`."""
        file = path.parent / f"{path.name}.yaml"
        file.write_text(dump_recipe(recipe))
        data = self.root / "data" if isinstance(recipe, AutoencoderRecipe) else self.codes.path
        return {"recipe": str(file), "data": str(data), "run": str(path), **job}


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory, tiny_autoencoder: Callable[..., AutoencoderRecipe]
              ) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("trainings"),
                     tiny_autoencoder(losses={"adversarial": 0}, training={"images": 8}))


def learned(path: Path) -> dict[str, bytes]:
    """Every file of a run that says what was learned: of the newest checkpoint, the log, the sheets."""
    run = RunDirectory.open(path)
    files = [run.metrics_path, *list_checkpoints(run.checkpoints)[-1].iterdir(), *run.sheets.iterdir()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture(scope="session")
def differing() -> Callable[[Path, Path], list[str]]:
    """`differing(run, other)`: the files that say what was learned and are not the same bytes."""

    def differing(run: Path, other: Path) -> list[str]:
        found, wanted = learned(run), learned(other)
        assert {"metrics.jsonl"} < wanted.keys() and any("training" in name for name in wanted)
        return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))

    return differing
