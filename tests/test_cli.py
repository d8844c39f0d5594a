"""The commands as a user meets them: each in a process of its own, on tiny data; and every way of getting them wrong.

What must be proven of a whole process (the usual way, signals, the entry point) is run as `python -m bricscli`. The
many wrong calls share one process that has torch loaded and forks for each: the same `main`, without its seconds.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import bricscli
from bricscli.data.manifest import read_manifest, write_manifest
from bricscli.data.shards import ShardSet
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints

AUTOENCODER = ["--recipe", "tiny/toy.yaml", "--set", "training.images=240", "--set", "training.batch_size=8",
               "--set", "encoder.channels=8", "--set", "decoder.channels=[16, 8]", "--set", "retrieval.channels=16",
               "--set", "losses.perceptual=0"]
DIFFUSION = ["--recipe", "tiny/toy-diffusion.yaml", "--set", "training.images=256", "--set", "training.batch_size=32",
             "--set", "denoiser.channels=16", "--set", "sampling.sampler=dpmpp_2m", "--set", "sampling.steps=4"]
COMMANDS = [["demo"], ["prepare"], ["train-ae"], ["encode"], ["train-diffusion"], ["sample"], ["inpaint"],
            ["gather"], ["import-checkpoint"], ["nn-search"], ["table"], ["report"], ["verify"], ["doctor"],
            ["selftest"], ["plot", "schedules"], ["launch", "slurm"], ["eval", "reconstruction"], ["eval", "usage"],
            ["eval", "fid"], ["eval", "all"], ["eval", "statistics"], ["eval", "spectrum"], ["eval", "inpaint"]]

#: A decoder for the codes of AUTOENCODER.
INPAINT = ["train-ae", "--recipe", "tiny/toy-inpaint.yaml", *AUTOENCODER[2:], "--set", "training.images=16"]

#: latent-diffusion's first stage: codes that are no key codes, and no grids.
GRIDLESS = ["--recipe", "tiny/toy.yaml", "--set", "training.images=8", "--set", "encoder.channels=8",
            "--set", "bottleneck={kind: kl, channels: 4}", "--set", "retrieval.kind=none",
            "--set", "decoder={kind: conv, channels: 8, multipliers: [1, 1, 1]}"]

SERVER = """
import json, os, sys, tempfile, traceback
import torch, PIL.Image, bricscli.tasks.train_ae, bricscli.tasks.train_diffusion, bricscli.tasks.eval
from bricscli import app

for line in sys.stdin:
    job = json.loads(line)
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(job["cwd"])
            os.environ.update(job["env"])
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["brics", *job["arguments"]]
            app.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    texts = []
    for file in (out, err):
        file.seek(0)
        texts.append(file.read().decode())
        file.close()
    print(json.dumps([os.waitstatus_to_exitcode(status), *texts]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(folder: Path) -> dict[str, str]:
    """One thread, no terminal tricks, no pretrained file anywhere, and no network."""
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "LANG": "C.UTF-8",
                         "BRICS_WEIGHTS": str(folder / "no-weights"), "TORCH_HOME": str(folder / "no-torch"),
                         "https_proxy": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "no_proxy": ""}


def brics(folder: Path, *arguments: str) -> Done:
    done = subprocess.run([sys.executable, "-m", "bricscli", *arguments], cwd=folder, env=environment(folder),
                          capture_output=True, text=True, timeout=120)
    return Done(done.returncode, done.stdout, done.stderr)


class Server:
    """Forks a process with torch loaded for every command."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment(Path("/")))

    def __call__(self, folder: Path, *arguments: str, **env: str) -> Done:
        assert self.process.stdin is not None and self.process.stdout is not None
        job = {"cwd": str(folder), "arguments": arguments, "env": environment(folder) | env}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return Done(*json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@dataclass(frozen=True)
class World:
    """A folder in which the usual way was gone, and what each command said."""

    path: Path
    said: dict[str, Done]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path, said = tmp_path_factory.mktemp("world"), {}
    for words in (["prepare", "toy", "--count", "60", "--resolution", "32", "--val-fraction", "0.2"],
                  ["train-ae", *AUTOENCODER], ["encode", "--run", "runs/toy"], ["train-diffusion", *DIFFUSION],
                  ["sample", "-n", "12", "--out", "samples"],
                  ["eval", "reconstruction", "--metrics", "psnr,ssim"], ["eval", "usage"],
                  ["eval", "fid", "--ref", "toy", "--features", "random", "--anchors", "runs/toy"],
                  ["eval", "spectrum", "--ref", "toy", "--split", "val"]):
        done = brics(path, *words)
        assert done.code == 0, (words, done.err)
        assert "Traceback" not in done.err
        said[" ".join(words[:2]) if words[0] == "eval" else words[0]] = done
    return World(path, said)


@pytest.fixture(scope="module")
def fork() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def snapshot(folder: Path) -> dict[str, str]:
    """Every file and folder, with what it holds; a lock file without content says nothing."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            for path in folder.rglob("*") if path.name != "run.lock"}


# The usual way


def test_prepare(world: World) -> None:
    data = ShardSet.open(world.path / "data" / "toy")
    data.verify()
    assert data.splits == {"train": 48, "val": 12}
    assert world.said["prepare"].out == "data/toy: prepared: 48 train, 12 val images of 32 pixels.\n"


def test_train_ae(world: World) -> None:
    run = world.path / "runs" / "toy"
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-0000030"]
    assert world.said["train-ae"].out == (
        "runs/toy: trained; weights in runs/toy/checkpoints/step-0000030, sheets in runs/toy/sheets.\n")
    assert "training:\n  images: 240\n" in (run / "recipe.yaml").read_text()
    overrides = json.loads((run / "run.json").read_text())["overrides"]
    assert overrides == AUTOENCODER[3::2]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 30 and lines[-1]["loss"] < lines[0]["loss"]
    with Image.open(sorted((run / "sheets").iterdir())[-1]) as sheet:
        assert sheet.width > 8 * 32


def test_encode(world: World) -> None:
    digest = checkpoint_digest(list_checkpoints(world.path / "runs" / "toy" / "checkpoints")[-1])
    assert digest is not None
    depth, height, width = ShardSet.open(world.path / "runs" / "toy" / "codes").header["shape"]
    assert world.said["encode"].out == (f"runs/toy/codes: 48 train, 12 val key codes of {height}x{width}x{depth}, by "
                                        f"autoencoder {digest[:8]}.\n")


def test_train_diffusion(world: World) -> None:
    assert world.said["train-diffusion"].out.startswith("runs/toy-diffusion: trained; weights in runs/toy-diffusion/")
    assert (world.path / "runs" / "toy-diffusion" / "autoencoder.safetensors").is_file()


def test_sample(world: World) -> None:
    names = sorted(path.name for path in (world.path / "samples").iterdir())
    assert names == [".lock", *(f"{seed:06d}.png" for seed in range(12)), "manifest.json"]
    with Image.open(world.path / "samples" / "000011.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    assert "runs/toy-diffusion: is the diffusion model that was trained last" in world.said["sample"].out
    assert world.said["sample"].out.endswith(
        "samples: 12 images, seeds 0 to 11: 12 new, 0 kept, 0 redone; the first of them in samples-sheet.png.\n")
    with Image.open(world.path / "samples-sheet.png") as sheet:
        assert sheet.size == (2 + 8 * 34, 2 + 2 * 34)
    assert re.search(r"^sampling: 12 of 12 images, [\d.]+ images/s$", world.said["sample"].err, re.M)


def test_eval(world: World) -> None:
    assert re.search(r"^PSNR: [\d.]+ ± [\d.]+ dB\nSSIM: ", world.said["eval reconstruction"].out, re.M)
    out = world.said["eval fid"].out
    assert "samples: are the samples that were drawn last" in out
    assert not re.search(r"^FID", out, re.M), "on random features it is no FID, and is not called so"
    assert len(re.findall(r"for comparison, .*: [\d.e+]+ \(12 images\)", out)) == 2
    assert {path.name for path in (world.path / "runs" / "toy" / "evals").iterdir()} == {
        "reconstruction-toy-val.json", "usage-toy-train.json", "usage-toy-train.png"}
    (result,) = (world.path / "runs" / "toy-diffusion" / "evals").glob("fd_random-*.json")
    found = json.loads(result.read_text())
    assert list(found["extractors"]) == ["random"] and found["protocol"] is None
    prepared = {"source": "toy", "crop": None, "resize": None, "resolution": 32, "format": "png"}
    assert found["samples"]["preparation"] == found["reference"]["preparation"] == prepared


def test_statistics_of_a_reference_are_as_good_as_it(world: World, fork: Server, tmp_path: Path) -> None:
    data, samples = str(world.path / "data" / "toy"), str(world.path / "samples")
    done = fork(tmp_path, "eval", "statistics", data, "--features", "random", "--out", "toy.safetensors")
    assert done.out == "toy.safetensors: statistics of 48 images of toy, random features.\n"
    done = fork(tmp_path, "eval", "fid", "--ref", "toy.safetensors", "--features", "random", "--samples", samples,
                "--out", "evals")
    assert done.code == 0, done.err
    (ours,), (theirs,) = ((folder / "evals").glob("fd_random-*.json")
                          for folder in (tmp_path, world.path / "runs" / "toy-diffusion"))
    values = [json.loads(path.read_text())["metrics"]["fd_random"]["value"] for path in (ours, theirs)]
    assert values[0] == values[1]


def test_eval_usage(world: World) -> None:
    evals, out = world.path / "runs" / "toy" / "evals", world.said["eval usage"].out
    result = json.loads((evals / "usage-toy-train.json").read_text())
    assert [level["resolution"] for level in result["levels"]] == [2, 3, 3, 3, 3, 4, 4, 4]
    assert all(len(level["groups"]) == 4 for level in result["levels"])
    assert result["images"]["images"] == 48 and result["autoencoder"] == checkpoint_digest(
        list_checkpoints(world.path / "runs" / "toy" / "checkpoints")[-1])
    assert len(re.findall(r"^ +[234] +\d+ +\d+ +[\d.]+% +[\d.]+% +[\d.]+ +[\d.]+$", out, re.M)) == 8
    assert f"{result['hit_share']:.2%} of those of all levels were hit by 48 images of toy\n" in out
    assert out.endswith("written to runs/toy/evals/usage-toy-train.json and runs/toy/evals/usage-toy-train.png\n")
    assert world.said["eval usage"].err.splitlines()[-1].startswith("counting hits: 48 of 48 images")
    with Image.open(evals / "usage-toy-train.png") as plot:
        assert (plot.format, plot.size) == ("PNG", (1080, 408))


def test_eval_spectrum(world: World) -> None:
    out = world.said["eval spectrum"].out
    assert "samples: are the samples that were drawn last" in out
    assert len(re.findall(r"^(?:low|middle|high) +[\d.]+ to [\d.]+ +[+-][\d.]+ dB +[\d.]+ dB$", out, re.M)) == 3
    assert "power spectra of 12 images of samples against 12 images of toy" in out
    name = "runs/toy-diffusion/evals/spectrum-samples-toy-val"
    assert out.endswith(f"written to {name}.json and {name}.png\n")
    result = json.loads((world.path / "runs" / "toy-diffusion" / "evals" / "spectrum-samples-toy-val.json").read_text())
    assert len(result["frequencies"]) == len(result["power"]["samples"]) == 17
    with Image.open(world.path / "runs" / "toy-diffusion" / "evals" / "spectrum-samples-toy-val.png") as plot:
        assert plot.format == "PNG"


def test_verify(world: World, fork: Server) -> None:
    """All that the usual way left is as it was written; every one of several problems is a line."""
    before = snapshot(world.path)
    for path, says in (("data/toy", "images, 2 shards with 60 samples, 120 files"), ("runs/toy", "key codes, 2 shards"),
                       ("runs/toy-diffusion", "/evals: 3 files"), ("samples", "samples: 12 samples")):
        done = fork(world.path, "verify", path)
        assert done.code == 0 and says in done.out and done.out.endswith("\nall as written\n"), done
    assert "were not read" in fork(world.path, "verify", "samples", "--quick").out
    assert snapshot(world.path) == before


def test_a_second_stage(world: World, fork: Server, tmp_path: Path) -> None:
    """Through the words: trained --from the first, and told to be; another denoiser is refused in one line."""
    runs = world.path / "runs"
    words = ["train-diffusion", *DIFFUSION, "--set", "training.images=64", "--set", "latent_perceptual.weight=0.5",
             "--autoencoder", str(runs / "toy"), "--from", str(runs / "toy-diffusion")]
    before = snapshot(runs)
    done = fork(tmp_path, *words, "--run", "second")
    assert done.code == 0, done.err
    began = json.loads((tmp_path / "second" / "run.json").read_text())["from"]
    assert began == {"run": "toy-diffusion", "digest": checkpoint_digest(
        list_checkpoints(runs / "toy-diffusion" / "checkpoints")[-1])}
    assert "latent_perceptual" in (tmp_path / "second" / "metrics.jsonl").read_text()
    for extra in (["--run", "third"], ["--dry-run"]):
        done = fork(tmp_path, *words, "--set", "denoiser.channels=32", *extra)
        assert done.code == 4 and len(done.err.splitlines()) == 1
        assert "toy-diffusion: has another denoiser than the recipe (denoiser.channels: 16 -> 32)" in done.err
    assert snapshot(runs) == before and [path.name for path in tmp_path.iterdir()] == ["second"]


def test_eval_of_moved_keys(world: World, fork: Server, tmp_path: Path) -> None:
    """Further off, in a file of its own, and the same every time."""
    words = ["eval", "reconstruction", "--run", str(world.path / "runs" / "toy"), "--metrics", "psnr", "--ref",
             str(world.path / "data" / "toy"), "--out", str(tmp_path)]
    values = []
    for cells in ("0", "0.5", "4", "0.5"):
        done = fork(tmp_path, *words, "--perturb", cells)
        assert done.code == 0, done.err
        assert (f"every key was moved by +{cells} or -{cells} / r_max" in done.out) == (cells != "0")
        values.append(re.findall(r"^PSNR: .*$", done.out, re.M))
    assert values[1] == values[3] != values[0] != values[2]
    assert {path.name: json.loads(path.read_text())["keys_moved_by_cells"] for path in tmp_path.glob("*.json")} == {
        "reconstruction-toy-val.json": 0, "reconstruction-toy-val-perturbed0.5.json": 0.5,
        "reconstruction-toy-val-perturbed4.json": 4}


def test_table(world: World, fork: Server, tmp_path: Path) -> None:
    text, data = fork(world.path, "table", "3"), fork(world.path, "table", "3", "--json")
    assert (text.code, text.err, data.code, data.err) == (0, "", 0, "")
    assert text.out.startswith("Table 3. ") and "church64x4.yaml" in text.out
    filled = json.loads(data.out)
    assert filled["table"] == "3" and len(filled["rows"]) > 4
    cells = {cell["column"]: cell for row in filled["rows"] if row["recipe"] == "church64x4.yaml"
             for cell in row["cells"]}
    assert cells["grids"]["status"] == "counted" and cells["grids"]["ours"] == pytest.approx(18.63, abs=0.005)
    elsewhere = fork(tmp_path, "table", "2")
    assert elsewhere.code == 0 and "not measured" in elsewhere.out and list(tmp_path.iterdir()) == []


def test_doctor(fork: Server, tmp_path: Path) -> None:
    """Missing files are no error, damaged ones are; what is printed is 100 columns wide and names no home folder."""
    home = tmp_path / "home"
    own = home / "weights"
    own.mkdir(parents=True)
    env = {"HOME": str(home), "BRICS_WEIGHTS": str(own), "TORCH_HOME": str(home / "torch")}
    text, data = fork(tmp_path, "doctor", **env), fork(tmp_path, "doctor", "--json", **env)
    assert (text.code, text.err, data.code, data.err) == (0, "", 0, "")
    assert max(map(len, text.out.splitlines())) <= 100 and str(home) not in text.out + data.out
    assert "$BRICS_WEIGHTS (~/weights), then ~/torch/hub/checkpoints" in " ".join(text.out.split())
    report = json.loads(data.out)
    assert {file["state"] for file in report["weights"].values()} == {"missing"} and report["broken"] == []
    (own / "vgg16-397923af.pth").write_text("a page in its place")
    for words in (["doctor"], ["doctor", "--json"]):
        done = fork(tmp_path, *words, **env)
        assert done.code == 3 and re.search(
            r"^brics: ~/weights/vgg16-397923af\.pth: has SHA-256 .*`brics doctor --fetch vgg16` downloads it again\.$",
            done.err, re.M) and "damaged" in done.out
    assert [path.name for path in own.iterdir()] == ["vgg16-397923af.pth"] and not (home / "torch").exists()


def test_plot_schedules(fork: Server, tmp_path: Path) -> None:
    done = fork(tmp_path, "plot", "schedules")
    assert (done.code, done.out, done.err) == (0, "written to schedules.png\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["schedules.png"]
    with Image.open(tmp_path / "schedules.png") as plot:
        assert (plot.format, plot.size) == ("PNG", (900, 540))
    first = (tmp_path / "schedules.png").read_bytes()
    assert fork(tmp_path, "plot", "schedules").code == 0
    assert (tmp_path / "schedules.png").read_bytes() == first


def test_report(world: World, fork: Server, tmp_path: Path) -> None:
    one, out = fork(world.path, "report", "runs/toy"), tmp_path / "both.html"
    assert (one.code, one.out, one.err) == (0, "written to runs/toy/report.html\n", "")
    first = (world.path / "runs" / "toy" / "report.html").read_bytes()
    assert fork(world.path, "report", "runs/toy").code == 0
    assert (world.path / "runs" / "toy" / "report.html").read_bytes() == first
    (world.path / "runs" / "toy" / "report.html").unlink()
    assert b"Use of the feature grids" in first and b"PSNR" in first and not re.search(rb"(src|href)=.?http", first)
    both = fork(world.path, "report", "runs/toy", "runs/toy-diffusion", "--out", str(out))
    assert (both.code, both.err) == (0, "") and "2 runs compared" in out.read_text()
    newest = fork(world.path, "report", "--out", str(tmp_path / "newest.html"))
    assert newest.code == 0 and "<h1>toy-diffusion</h1>" in (tmp_path / "newest.html").read_text()
    wrong, empty = fork(world.path, "report", "runs/ghost"), fork(tmp_path, "report")
    assert (wrong.code, wrong.err) == (3, "brics: runs/ghost: no such run. There are: toy, toy-diffusion.\n")
    assert (empty.code, empty.out) == (3, "") and "runs: has no run." in empty.err


def test_nothing_half_written_is_left(world: World) -> None:
    assert [path for path in world.path.rglob("*") if ".brics-tmp-" in path.name] == []


def test_the_same_commands_again_change_nothing(world: World, fork: Server) -> None:
    before = snapshot(world.path)
    for words, said in ((["prepare", "toy", "--count", "60", "--resolution", "32", "--val-fraction", "0.2"], "already"),
                        (["train-ae", *AUTOENCODER], "already trained"), (["encode", "--run", "runs/toy"], "key codes"),
                        (["train-diffusion", *DIFFUSION], "already trained"),
                        (["sample", "-n", "12", "--out", "samples"], "0 new, 12 kept, 0 redone"),
                        (["eval", "reconstruction", "--metrics", "psnr,ssim"], "PSNR"),
                        (["eval", "reconstruction", "--metrics", "ssim"], "SSIM"),
                        (["eval", "usage"], "were hit by 48 images")):
        done = fork(world.path, *words)
        assert done.code == 0 and said in done.out, done
    assert snapshot(world.path) == before


def test_samples_depend_on_their_seeds_alone(world: World, fork: Server, tmp_path: Path) -> None:
    run = str(world.path / "runs" / "toy-diffusion")
    done = fork(tmp_path, "sample", "-n", "3", "--seed", "9", "--batch-size", "1", "--run", run, "--out", "few")
    assert done.code == 0, done.err
    for seed in (9, 10, 11):
        drawn = tmp_path / "few" / f"{seed:06d}.png"
        assert drawn.read_bytes() == (world.path / "samples" / drawn.name).read_bytes()
    done = fork(tmp_path, "sample", "--seeds", "3,8-11", "--run", run, "--out", "few")
    assert done.out == ("few: 5 images, some of the seeds 3 to 11: 2 new, 3 kept, 0 redone; the first of them in "
                        "few-sheet.png.\n"), done.err


def test_samples_drawn_as_asked(world: World, fork: Server, tmp_path: Path) -> None:
    """Noise at every step is the seed's too; and the record tells all that was asked."""
    asked = ["--sampler", "ddim", "--eta", "0.5", "--grid", "trailing", "--steps", "3", "--start", "0.9"]
    drawn = []
    for out, seeds in (("one", "5"), ("several", "3-6")):
        done = fork(tmp_path, "sample", "--run", str(world.path / "runs" / "toy-diffusion"), "--seeds", seeds, "--out",
                    out, *asked)
        assert done.code == 0, done.err
        drawn.append((tmp_path / out / "000005.png").read_bytes())
        assert json.loads((tmp_path / out / "manifest.json").read_text())["sampling"] == {
            "sampler": "ddim", "steps": 3, "grid": "trailing", "eta": 0.5, "start": 0.9, "guidance": 1.0}
    assert drawn[0] == drawn[1] != (world.path / "samples" / "000005.png").read_bytes()


def test_samples_in_shards(world: World, fork: Server, tmp_path: Path) -> None:
    """The same images, and the same distance, in another format."""
    run = str(world.path / "runs" / "toy-diffusion")
    for count in ("5", "12"):
        done = fork(tmp_path, "sample", "-n", count, "--run", run, "--out", "drawn/samples", "--format", "shards")
        assert done.code == 0, done.err
    assert "12 images, seeds 0 to 11: 7 new, 5 kept, 0 redone" in done.out
    shards = ShardSet.open(tmp_path / "drawn" / "samples")
    shards.verify()
    split = shards.split("samples")
    assert split.keys == [f"{seed:06d}" for seed in range(12)] and shards.header["seeds"] == "0-11"
    assert all(split.read(i) == (world.path / "samples" / f"{i:06d}.png").read_bytes() for i in range(12))
    done = fork(tmp_path, "eval", "fid", "--ref", str(world.path / "data" / "toy"), "--features", "random",
                "--samples", "drawn/samples")
    assert done.code == 0, done.err
    (ours,), (theirs,) = ((folder / "evals").glob("fd_random-*.json")
                          for folder in (tmp_path / "drawn", world.path / "runs" / "toy-diffusion"))
    assert json.loads(ours.read_text()) | {"anchors": {}} == json.loads(theirs.read_text()) | {"anchors": {}}
    assert (world.path / "data" / "toy" / "statistics" / "random-train.safetensors").is_file()


def test_inpaint(world: World, fork: Server, tmp_path: Path) -> None:
    """From a picture and a mask to fillings that keep the rest; the same command again does nothing."""
    make_pictures_to_fill(tmp_path / "fill")
    words = ["inpaint", "fill/cat.png", "--mask", "fill/mask.png", "--variants", "2", "--out", "filled", "--run",
             str(world.path / "runs" / "toy-diffusion")]
    done = fork(tmp_path, *words)
    assert done.code == 0, done.err
    assert done.out.endswith("filled: 2 filled pictures: 2 new, 0 kept; the first of them in filled-sheet.png.\n")
    assert "no mask-conditioned decoder" in done.out and "Using the plain one" in done.out
    with Image.open(tmp_path / "filled" / "cat-2.png") as filled, Image.open(tmp_path / "fill" / "cat.png") as before:
        assert filled.size == (40, 30) and json.loads(filled.info["brics"])["variant"] == 2
        kept = [(x, y) for x in range(40) for y in range(30) if not (8 <= x < 20 and 8 <= y < 16)]
        assert all(filled.getpixel(place) == before.getpixel(place) for place in kept)
    before_again = snapshot(tmp_path)
    assert "0 new, 2 kept" in fork(tmp_path, *words).out
    assert snapshot(tmp_path) == before_again


def test_training_to_inpaint(world: World, fork: Server, tmp_path: Path) -> None:
    """With the images that the codes were made from, found by their name; and used by `brics inpaint` at once."""
    shutil.copytree(world.path / "data", tmp_path / "data")
    shutil.copytree(world.path / "runs", tmp_path / "runs")
    make_pictures_to_fill(tmp_path / "fill")
    done = fork(tmp_path, "train-diffusion", *DIFFUSION, "--set", "conditioning.kind=inpaint", "--set",
                "training.images=64", "--from", "runs/toy-diffusion", "--run", "runs/toy-fill")
    assert done.code == 0, done.err
    done = fork(tmp_path, "inpaint", "fill/cat.png", "--mask", "thick:1", "--out", "filled")
    assert done.code == 0 and "runs/toy-fill: is the diffusion model that was trained last" in done.out, done.err
    assert json.loads((tmp_path / "filled" / "manifest.json").read_text())["method"] == "concat"
    done = fork(tmp_path, "inpaint", "fill/cat.png", "--mask", "thick:1", "--out", "new", "--method", "repaint")
    assert done.code == 4 and "`repaint` needs a diffusion model that was not. Use concat" in done.err
    done = fork(tmp_path, "sample", "-n", "1", "--run", "runs/toy-fill")
    assert done.code == 4 and "was trained to fill holes in pictures. Use `brics inpaint`" in done.err


def test_classes(fork: Server, tmp_path: Path) -> None:
    """From folders that name them to samples of one of them, in the record and the run."""
    for name in ("day", "night"):
        make_photographs(tmp_path / "photos" / name, 12)
        for i, path in enumerate(sorted((tmp_path / "photos" / name).iterdir())):
            Image.new("RGB", (20, 20), (i, 20, 200 if name == "day" else 30)).save(path)
    for words in (["prepare", "folder", "--from", "photos", "--classes", "--resolution", "32", "--val-fraction", "0.2"],
                  ["train-ae", *AUTOENCODER, "--set", "training.images=16", "--data", "data/photos"],
                  ["encode", "--run", "runs/toy", "--data", "data/photos"],
                  ["train-diffusion", *DIFFUSION, "--set", "denoiser.classes=2", "--set", "training.images=64"],
                  ["sample", "-n", "2", "--class", "night", "--guidance", "1.5", "--out", "samples"]):
        done = fork(tmp_path, *words)
        assert done.code == 0, (words, done.err)
        if words[0] == "prepare":
            assert done.out.endswith(" images of 32 pixels; 2 classes.\n")
    manifest = json.loads((tmp_path / "samples" / "manifest.json").read_text())
    assert (manifest["class"], manifest["sampling"]["guidance"]) == ("night", 1.5)
    info = json.loads((tmp_path / "runs" / "toy-diffusion" / "run.json").read_text())
    assert list(info["classes"]) == ["day", "night"] and sum(info["classes"].values()) == 19
    done = fork(tmp_path, "sample", "-n", "2", "--class", "nigt")
    assert (done.code, done.err) == (2, "brics: --class: `nigt` is unknown to toy-diffusion. Did you mean `night`?\n")


# Words


def test_installed_command() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="brics")
    assert entry.value == "bricscli.app:main"
    script = Path(sys.executable).parent / "brics"
    assert script.is_file(), "brics is not installed beside this Python"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"brics {bricscli.__version__}\n"


@pytest.mark.parametrize("words", [[], ["eval"], ["plot"], ["launch"], *COMMANDS],
                         ids=lambda words: " ".join(words) or "brics")
def test_help(words: list[str], fork: Server, tmp_path: Path) -> None:
    done = fork(tmp_path, *words, "--help")
    assert (done.code, done.err) == (0, "")
    assert "Usage: brics" in done.out
    if words in COMMANDS:
        assert "Example: brics " + " ".join(words) in " ".join(done.out.split())
        options = re.findall(r"^│ [* ]*(--[a-z-]+)", done.out, re.M)
        assert options and "--help" in options
    else:
        below = [command[-1] for command in COMMANDS if command[:-1] == words] or ["train-ae", "eval", "Exit codes"]
        assert all(name in done.out for name in below)
    assert list(tmp_path.iterdir()) == []


def test_help_tells_what_takes_long(fork: Server, tmp_path: Path) -> None:
    said = " ".join(fork(tmp_path, "eval", "usage", "--help").out.split())
    assert "on the CPU" in said and "--limit 1000 is enough" in said


def test_help_is_what_comes_without_words(fork: Server, tmp_path: Path) -> None:
    for words in ([], ["eval"]):
        done = fork(tmp_path, *words)
        assert done.code in (0, 2) and "Usage: brics" in done.out + done.err


def test_help_is_quick(tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        assert brics(tmp_path, "train-ae", "--help").code == 0
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.9, "0.2 s where nothing else runs; with torch it would be over a second more"


# Wrong words, wrong data


def make_photographs(folder: Path, good: int, bad: Sequence[str] = ()) -> None:
    folder.mkdir(parents=True)
    for i in range(good):
        Image.new("RGB", (20, 20), (i, 99, 200 - i)).save(folder / f"{i:03d}.png")
    for name in bad:
        (folder / name).write_text("this is a text")


def make_pictures_to_fill(folder: Path) -> None:
    """A picture of 40x30 with a mask, and everything that is no such picture or mask."""
    folder.mkdir()
    Image.new("RGB", (40, 30), (90, 120, 200)).save(folder / "cat.png")
    hole = Image.new("L", (40, 30))
    hole.paste(255, (8, 8, 20, 16))
    for name, image in (("mask", hole), ("small", hole.resize((20, 15), Image.Resampling.NEAREST)),
                        ("black", Image.new("L", (40, 30))), ("white", Image.new("L", (40, 30), 255))):
        image.save(folder / f"{name}.png")
    three = hole.copy()
    three.paste(127, (0, 0, 40, 6))
    three.save(folder / "three.png")
    Image.new("RGB", (100_000, 1)).save(folder / "thin.png")
    Image.new("CMYK", (40, 30)).save(folder / "printed.tif")
    Image.new("I;16", (40, 30)).save(folder / "deep.png")
    whole = (folder / "cat.png").read_bytes()
    (folder / "corrupt.png").write_bytes(whole[:-40])
    header = whole[12:16] + (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big") + whole[24:29]
    (folder / "huge.png").write_bytes(whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:])
    (folder / "text.png").write_text("this is a text")
    (folder / "masks").mkdir()
    (folder / "pairs.csv").write_text("image,mask\ncat.png,mask.png\ncat.png\n")
    (folder / "lost.csv").write_text("image,mask\ncat.png,nowhere.png\n")
    (folder / "misfit.csv").write_text("image,mask\ncat.png,small.png\n")


def test_a_decoder_for_inpainting(world: World, fork: Server, tmp_path: Path) -> None:
    """Begun with the autoencoder's weights; the same command again, also without --from, leaves it as it is."""
    for part in ("data", "runs"):
        shutil.copytree(world.path / part, tmp_path / part)
    words = [*INPAINT, "--run", "runs/inpaint"]
    done = fork(tmp_path, *words, "--from", "runs/toy", "--dry-run")
    assert done.code == 0 and "decoder " in done.out and not (tmp_path / "runs" / "inpaint").exists()
    done = fork(tmp_path, *words, "--from", "runs/toy")
    assert done.code == 0, done.err
    (newest,) = list_checkpoints(tmp_path / "runs" / "toy" / "checkpoints")
    info = json.loads((tmp_path / "runs" / "inpaint" / "run.json").read_text())
    assert info["from"] == {"run": "toy", "digest": checkpoint_digest(newest)}
    for again in (words, [*words, "--from", "runs/toy"]):
        done = fork(tmp_path, *again)
        assert done.code == 0 and "already trained" in done.err + done.out


@pytest.fixture(scope="module")
def wrong(world: World, fork: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the world with everything in it that can be got wrong."""
    path = tmp_path_factory.mktemp("wrong") / "world"
    shutil.copytree(world.path, path)
    (path / "empty").mkdir()
    make_photographs(path / "texts", 3, ["letter.jpg"])
    make_photographs(path / "letters", 0, ["one.jpg", "two.png"])
    make_photographs(path / "other", 2)
    (path / "in-the-way").write_text("a file")
    make_pictures_to_fill(path / "fill")
    (path / "own").mkdir()
    (path / "own" / "misspelt.yaml").write_text(
        "extends: tiny/toy.yaml\ndecoder: {style_widht: 3}\ntraining: {imges: 2}\n")
    (path / "own" / "broken.yaml").write_text("kind: [autoencoder\n")
    recoded = path / "runs" / "recoded"
    shutil.copytree(path / "runs" / "toy", recoded)
    header, shards = read_manifest(recoded / "codes")
    digest = header["autoencoder"]["digest"]
    write_manifest(recoded / "codes", header | {"autoencoder": {"run": "toy", "digest": "0" * 64}}, shards)
    changed = path / "runs" / "changed"
    shutil.copytree(path / "runs" / "toy-diffusion", changed)
    info = changed / "run.json"
    info.write_text(info.read_text().replace(digest, "0" * 64))
    shutil.copytree(path / "runs" / "toy-diffusion", path / "runs" / "untrained",
                    ignore=lambda folder, names: [name for name in names if name.startswith("step-")])
    shutil.copytree(path / "samples", path / "damaged-samples")
    (path / "damaged-samples" / "manifest.json").write_text("{")
    done = fork(path, "train-ae", *GRIDLESS, "--run", "gridless", "--data", "data/toy")
    assert done.code == 0, done.err
    damaged = path / "data" / "damaged"
    shutil.copytree(path / "data" / "toy", damaged)
    shard = damaged / "train-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    return path


FILL = ["inpaint", "fill/cat.png", "--out", "new", "--mask"]
FILL_WELL = [*FILL, "fill/mask.png"]


def inpaint(picture: str) -> list[str]:
    return ["inpaint", f"fill/{picture}", "--out", "new", "--mask", "box:1"]


TRAIN, DIFFUSE = ["train-ae", *AUTOENCODER], ["train-diffusion", *DIFFUSION]
FOLDER = ["prepare", "folder", "--resolution", "16", "--from"]
#: A name that no file system takes.
LONG = "x" * 300
#: arguments; exit code; words of the line on stderr
WRONG: list[tuple[list[str], int, str]] = [
    ([*FOLDER, "nowhere"], 3, "nowhere: "),
    ([*FOLDER, "empty"], 3, "empty: "),
    ([*FOLDER, "in-the-way"], 3, "in-the-way: "),
    ([*FOLDER, "texts"], 3, "texts: 1 of 4 image files cannot be read.*letter.jpg"),
    ([*FOLDER, "other", "--classes"], 3, "other: 000.png lies in none of the folders that name the classes"),
    (["prepare", "toy", "--classes"], 2, "--classes: goes with `folder`"),
    ([*FOLDER, "letters"], 3, "none of its 2 image files can be read: one.jpg"),
    ([*FOLDER, "other", "--out", "in-the-way"], 3, "in-the-way: "),
    ([*FOLDER, "other", "--out", "in-the-way/deep"], 3, "in-the-way/deep: cannot be written"),
    ([*FOLDER, "other", "--out", "READ-ONLY/data"], 3, "READ-ONLY/data: cannot be written"),
    ([*FOLDER, "other", "--out", "data/toy"], 3, "data/toy: holds another data set"),
    ([*FOLDER, "other", "--out", "texts"], 3, "texts: holds other files"),
    (["prepare", "folder", "--from", "other"], 2, "--resolution: is missing"),
    (["prepare", "folder", "--resolution", "16"], 2, "--from: is missing"),
    (["prepare", "photographs"], 2, r"`photographs` is unknown. There are: toy \(.*\), folder"),
    (["prepare", "toy", "--from", "other"], 2, "--from: goes with `folder`.*, not with `toy`"),
    ([*FOLDER, "other", "--resize", "bicubic"], 2, "--resize: `bicubic` is unknown. There are: ldm, adm, nvlabs"),
    ([*FOLDER, "other", "--format", "jpg"], 2, "--format: `jpg` is unknown. There are: png, webp, original"),
    ([*FOLDER, "other", "--format", "original"], 3, "--format original needs RGB images that are all 16x16"),
    ([*FOLDER, "other", "--format", "original", "--resize", "adm"], 2, "--resize: does not go with --format original"),
    ([*FOLDER, "other", "--split", "taming"], 2, "--split: goes with .*, not with `folder`"),
    (["launch", "slurm", "--parts", "3", "--", "eval", "spectrum", "--ref", "toy"], 2, "cannot be made in parts"),
    (["train-ae", "--recipe", "tiny/toy.yaml", "--devices", "100"], 2, "on 1, 2, 4, 8 processes, not on 100"),
    (["prepare", "toy", "--out", "new", "--resolution", "4"], 2, "--resolution: 4 is out of range"),
    (["prepare", "toy", "--out", "new", "--val-fraction", "1"], 2, "--val-fraction: "),
    (["prepare", "toy", "--out", "new", "--count", "1"], 2, "--count: "),
    (["prepare", "toy", "--out", "new", "--workers", "0"], 2, "--workers: "),
    (["prepare", "toy", "--out", "data/toy"], 3, "data/toy: holds another data set"),
    (["train-ae", "--recipe", "own/misspelt.yaml"], 2, "own/misspelt.yaml.*style_widht.*Did you mean `style_width`"),
    (["train-ae", "--recipe", "own/broken.yaml"], 2, "own/broken.yaml:"),
    (["train-ae", "--recipe", "tiny/toi.yaml"], 2, "toi.yaml.*toy"),
    (["train-ae", "--recipe", "tiny/toy-diffusion.yaml"], 2, "is a recipe for a diffusion model"),
    (["train-diffusion", "--recipe", "tiny/toy.yaml"], 2, "is a recipe for an autoencoder"),
    ([*TRAIN, "--set", "training.learning_rat=1"], 2, "Did you mean `(training.)?learning_rate`"),
    ([*TRAIN, "--set", "training.batch_size=0"], 2, "training.batch_size"),
    ([*TRAIN, "--set", "training.seed=1"], 2, "training.seed: 0 -> 1"),
    ([*TRAIN, "--data", "nowhere", "--run", "new"], 3, "nowhere: no prepared data set"),
    ([*TRAIN, "--data", "empty", "--run", "new"], 3, "empty: no prepared data set"),
    ([*TRAIN, "--data", "other", "--run", "new"], 3, "other: no prepared data set"),
    ([*TRAIN, "--data", "data/damaged", "--run", "new"], 3, "train-00000.tar: truncated"),
    (["verify", "data/damaged", "--quick"], 3, "train-00000.tar: truncated"),
    (["verify", "damaged-samples"], 3, "damaged-samples/manifest.json: not a manifest"),
    (["verify", "nowhere"], 3, "nowhere: no such file or folder. Choose a data set, a run"),
    ([*TRAIN, "--data", "runs/toy/codes", "--run", "new"], 3, "holds key_codes"),
    ([*TRAIN, "--run", "in-the-way"], 3, "in-the-way: "),
    ([*TRAIN, "--run", "in-the-way/deep"], 3, "in-the-way.*: cannot be written"),
    ([*TRAIN, "--run", "READ-ONLY/run"], 3, "READ-ONLY.*: cannot be written"),
    ([*TRAIN, "--run", "texts"], 3, "texts: "),
    ([*TRAIN, "--run", "new", "--device", "tpu"], 2, "--device: `tpu` is unknown"),
    ([*TRAIN, "--run", "new", "--device", "cuda:99"], 2, "--device: there is no `cuda:99`"),
    ([*TRAIN, "--run", "new", "--set", "losses.perceptual=5"], 3,
     "vgg16-397923af.pth: missing.*no-weights.*no-torch.*download.pytorch.org"),
    (["train-ae", "--recipe", "church64x4.yaml", "--data", "data/toy", "--run", "new"], 3, "images of 32 pixels"),
    ([*INPAINT, "--run", "new"], 2, "--from: decoder.conditional makes another decoder .* Pass its run"),
    ([*INPAINT, "--run", "new", "--from", "nowhere"], 3, "nowhere: no such run"),
    ([*INPAINT, "--run", "new", "--from", "runs/toy-diffusion"], 4, "is the run of a diffusion model"),
    ([*INPAINT, "--run", "new", "--from", "gridless"], 4, "gridless: makes other codes than the recipe"),
    ([*INPAINT, "--run", "new", "--set", "decoder.conditional.masks=round"], 2, "conditional.masks: must be `thin`"),
    ([*TRAIN, "--run", "new", "--from", "runs/toy"], 2, "--from: is for recipes with decoder.conditional"),
    (["encode", "--run", "runs/toi"], 3, "runs/toi: no such run. There are: .*toy"),
    (["encode", "--run", "empty"], 3, "empty: is not a run"),
    (["encode", "--run", "runs/toy-diffusion"], 4, "is the run of a diffusion model"),
    (["encode", "--run", "runs/toy", "--data", "nowhere"], 3, "nowhere: no prepared data set"),
    (["encode", "--run", "runs/toy", "--checkpoint", "ffffffffffff"], 3, "no checkpoint ffffffffffff"),
    (["encode", "--run", "runs/toy", "--device", "gpu"], 2, "--device: `gpu` is unknown"),
    ([*TRAIN, "--run", "new", "--set", "retrieval={kind: none}"], 2, "bottleneck.noise: .* write false"),
    ([*TRAIN, "--run", "new", "--set", "bottleneck.kind=vq"], 2, "retrieval.kind: feature grids are indexed by key"),
    ([*TRAIN, "--run", "new", "--set", "decoder.kind=cnov"], 2, "decoder.kind: .* Did you mean `conv`"),
    ([*TRAIN, "--run", "new", "--set", "training.accumulate=3"], 2, "3 parts do not divide a batch of 8"),
    ([*DIFFUSE, "--run", "new", "--autoencoder", "nowhere"], 3, "nowhere: no such run"),
    ([*DIFFUSE, "--run", "new", "--autoencoder", "runs/toy-diffusion"], 4, "is the run of a diffusion model"),
    ([*DIFFUSE, "--run", "new", "--autoencoder", "runs/recoded"], 4,
     "was encoded by checkpoint 00000000, but .*brics encode"),
    ([*DIFFUSE, "--run", "new", "--set", "denoiser.classes=3"], 3, "codes: has no labels, and denoiser.classes is 3"),
    ([*DIFFUSE, "--run", "in-the-way/deep"], 3, "in-the-way.*: cannot be written"),
    ([*DIFFUSE, "--run", "READ-ONLY/run"], 3, "READ-ONLY.*: cannot be written"),
    ([*DIFFUSE, "--run", "runs/toy"], 2, "was made with another recipe"),
    ([*DIFFUSE, "--set", "schedule.start=0.5", "--set", "schedule.end=0.1"], 2, "schedule.end: 0.1 is not above"),
    (["sample", "-n", "0"], 2, "-n: 0 is too small"),
    (["sample", "-n", "1", "--steps", "-1"], 2, "--steps: -1 is out of range"),
    (["sample", "-n", "1", "--seed", "-1"], 2, "--seed: "),
    (["sample", "-n", "1", "--sampler", "euler"], 2, "`euler` is unknown. There are: ddpm, ddim, dpmpp_2m"),
    (["sample", "-n", "1", "--steps", "0"], 2, "--steps: 0 is out of range"),
    (["sample", "-n", "1", "--grid", "even"], 2, "--grid: `even` is unknown. There are: log_snr, trailing"),
    (["sample", "-n", "1", "--sampler", "ddim", "--eta", "-1"], 2, "--eta: -1.0 is out of range"),
    (["sample", "-n", "1", "--sampler", "ddim", "--eta", "nan"], 2, "--eta: nan is out of range"),
    (["sample", "-n", "1", "--eta", "1"], 2, "--eta: belongs to `ddim`, not to `dpmpp_2m`"),
    (["sample", "-n", "1", "--start", "1e-12"], 2, "--start: 1e-12 leaves hardly any noise"),
    (["sample", "-n", "1", "--guidance", "-1"], 2, "--guidance: -1.0 is out of range. Choose 0 to 100; 1 is none"),
    (["sample", "-n", "1", "--guidance", "nan"], 2, "--guidance: nan is out of range"),
    (["sample", "-n", "1", "--guidance", "2"], 2, "--guidance: 2 needs a denoiser with classes, which toy-diff"),
    (["sample", "-n", "1", "--class", "chapel"], 2, "--class: toy-diffusion was trained without classes. Leave it out"),
    (["sample", "--seeds", "9-0"], 2, "--seeds: `9-0` is neither a seed nor a range of seeds"),
    (["sample", "--seeds", "0-3", "-n", "4"], 2, "--seeds: says already what -n and --seed would"),
    (["sample", "--seeds", ""], 2, "--seeds: `` is neither a seed nor a range of seeds"),
    (["sample", "--seeds", "a"], 2, "--seeds: `a` is neither a seed nor a range of seeds"),
    (["sample", "-n", "1", "--format", "jpeg"], 2, "--format: `jpeg` is unknown. There are: png, shards."),
    (["sample", "-n", "1", "--batch-size", "0"], 2, "--batch-size: 0 is too small"),
    (["sample"], 2, "-n: is missing"),
    (["sample", "-n", "1", "--run", "runs/toy"], 4, "is the run of an? autoencoder"),
    (["sample", "-n", "1", "--run", "runs/changed"], 4, "is autoencoder .*, but the run was trained with 00000000"),
    (["sample", "-n", "1", "--run", "nowhere"], 3, "nowhere: no such run"),
    (["sample", "-n", "1", "--run", "runs/untrained"], 3, "runs/untrained: has no checkpoint yet"),
    (["sample", "-n", "1", "--out", "in-the-way"], 3, "in-the-way: "),
    (["sample", "-n", "1", "--out", "in-the-way/deep"], 3, "in-the-way/deep: "),
    (["sample", "-n", "1", "--out", "READ-ONLY/samples"], 3, "READ-ONLY/samples: cannot be written"),
    (["sample", "-n", "1", "--out", "other"], 3, "other: holds images that brics did not draw"),
    (["sample", "-n", "1", "--out", "samples", "--steps", "5"], 3,
     r"samples: holds samples .* drawn in another way \(sampling.steps 4, not 5\)"),
    (["sample", "-n", "1", "--out", "samples", "--format", "shards"], 3, "format png, not shards"),
    (["sample", "-n", "1", "--out", "damaged-samples"], 3, "damaged-samples/manifest.json: is missing or damaged"),
    (["sample", "-n", "1", "--out", "data/toy"], 3, "data/toy: holds images, not samples"),
    (["sample", "-n", "1", "--device", "tpu"], 2, "--device: `tpu` is unknown"),
    ([*FILL, "fill/small.png"], 3, "small.png: is 20x15, the picture is 40x30"),
    ([*FILL, "fill/black.png"], 3, "black.png: has nothing white"),
    ([*FILL, "fill/white.png"], 3, "white.png: is white all over"),
    ([*FILL, "fill/three.png"], 3, "three.png: is not black and white .*--invert"),
    ([*FILL, "fill/corrupt.png"], 3, "corrupt.png: "),
    ([*FILL, "fill/text.png"], 3, "text.png: not an image"),
    ([*FILL, "nowhere.png"], 3, "nowhere.png: no such mask"),
    ([*FILL, "fill/masks"], 3, "fill/masks: has no mask of that name for fill/cat.png"),
    ([*FILL, "alpha"], 3, "cat.png: has no transparent parts"),
    ([*FILL, "thick"], 2, "--mask: `thick` is drawn from a seed. Write thick:0"),
    ([*FILL, "round:1"], 2, "--mask: `round` is no kind of mask that is drawn. There are: thin, medium"),
    (inpaint("corrupt.png"), 3, "corrupt.png: "),
    (inpaint("text.png"), 3, "text.png: not an image"),
    (inpaint("huge.png"), 3, "huge.png: more than 50 megapixels"),
    (inpaint("thin.png"), 3, "thin.png: is 100000x1, too narrow"),
    (inpaint("deep.png"), 3, "deep.png: has more than 8 bits a channel"),
    (inpaint("printed.tif"), 3, "printed.tif: has the colours of a printer"),
    (inpaint("nowhere.png"), 3, "nowhere.png: no such picture or folder"),
    (inpaint("masks"), 3, "fill/masks: holds no pictures"),
    (["inpaint", "fill/cat.png", "--mask", "box:1"], 2, "--out: is missing"),
    (["inpaint", "fill/cat.png", "--out", "new"], 2, "--mask: is missing"),
    (["inpaint", "--out", "new"], 2, "IMAGE: is missing"),
    (["inpaint", "fill/cat.png", "--ui", "--out", "new"], 2, "on the page. Leave IMAGE, --out out"),
    ([*FILL_WELL, "--port", "8000"], 2, "--port: belongs to the page"),
    (["inpaint", "--out", "new", "--pairs", "nowhere.csv"], 3, "nowhere.csv: cannot be read"),
    (["inpaint", "--out", "new", "--pairs", "fill/pairs.csv"], 3, "pairs.csv:3: has 1 values, not 2"),
    (["inpaint", "--out", "new", "--pairs", "fill/lost.csv"], 3, "lost.csv:2: .*nowhere.png: no such mask"),
    (["inpaint", "--out", "new", "--pairs", "fill/misfit.csv"], 3, "misfit.csv:2: .*small.png: is 20x15"),
    (["inpaint", "--out", "new", "--pairs", "fill/cat.png"], 3, "cat.png: is not text"),
    ([*FILL_WELL, "--pairs", "fill/pairs.csv"], 2, "Leave IMAGE and --mask out"),
    ([*FILL_WELL, "--method", "paint"], 2, "--method: `paint` is unknown. There are: blended, repaint, concat"),
    ([*FILL_WELL, "--method", "concat"], 4, "--method: toy-diffusion was not trained to fill holes"),
    ([*FILL_WELL, "--method", "repaint", "--sampler", "heun"], 2, "`repaint` goes by ddpm or ddim, not by `heun`"),
    ([*FILL_WELL, "--resamplings", "3"], 2, "--resamplings: belongs to `repaint`"),
    ([*FILL_WELL, "--jump", "3"], 2, "--jump: belongs to `repaint`"),
    ([*FILL_WELL, "--grow", "-1"], 2, "--grow: -1 is out of range"),
    ([*FILL_WELL, "--variants", "0"], 2, "--variants: 0 is out of range"),
    ([*FILL_WELL, "--seed", "-1"], 2, "--seed: -1 is too small"),
    ([*FILL_WELL, "--blend", "paist"], 2, "--blend: `paist` is unknown. There are: none, paste, feather:8"),
    ([*FILL_WELL, "--window", "all"], 2, "--window: `all` is unknown. There are: crop, tile"),
    ([*FILL_WELL, "--window", "tile", "--blend", "none"], 2, "--blend: `none` needs a hole that fits"),
    ([*FILL_WELL, "--decoder", "large"], 2, "--decoder: `large` is unknown. There are: asymmetric, plain"),
    ([*FILL_WELL, "--decoder", "asymmetric"], 3, "--decoder: there is no mask-conditioned decoder of autoencoder"),
    ([*FILL_WELL, "--autoencoder", "runs/toy"], 4, "runs/toy: its decoder cannot be told what is kept"),
    ([*FILL_WELL, "--sampler", "euler"], 2, "--sampler: `euler` is unknown"),
    ([*FILL_WELL, "--class", "cat"], 2, "--class: toy-diffusion was trained without classes"),
    ([*FILL_WELL, "--ema", "0.5"], 2, "--ema: .* has no average of decay 0.5"),
    ([*FILL_WELL, "--device", "tpu"], 2, "--device: `tpu` is unknown"),
    ([*FILL_WELL, "--run", "runs/toy"], 4, "runs/toy: is the run of an autoencoder, not of a diffusion model"),
    ([*FILL_WELL, "--run", "nowhere"], 3, "nowhere: no such run"),
    ([*FILL_WELL, "--out", "in-the-way"], 3, "in-the-way: is not a folder"),
    ([*FILL_WELL, "--out", "READ-ONLY/filled"], 3, "READ-ONLY/filled: cannot be written"),
    ([*FILL_WELL, "--out", "other"], 3, "other: holds images that `brics inpaint` did not make"),
    ([*FILL_WELL, "--out", "fill"], 3, "fill: is the folder of the pictures"),
    ([*FILL_WELL, "--out", "samples"], 3, "samples: holds samples, not filled pictures"),
    ([*FILL_WELL, "--out", "data/toy"], 3, "data/toy: holds images, not filled pictures"),
    (["eval", "reconstruction"], 3, "alexnet-owt-7be5be79.pth: missing.*no-weights.*no-torch.*download.pytorch.org"),
    (["eval", "reconstruction", "--metrics", "psnr,sim"], 2, "`sim` is unknown. Did you mean `ssim`"),
    (["eval", "reconstruction", "--metrics", "psnr", "--run", "nowhere"], 3, "nowhere: no such run"),
    (["eval", "reconstruction", "--metrics", "psnr", "--run", "runs/toy-diffusion"], 4, "run of a diffusion model"),
    (["eval", "reconstruction", "--metrics", "psnr", "--ref", "nowhere"], 3, "nowhere: neither a folder nor"),
    (["eval", "reconstruction", "--metrics", "psnr", "--ref", "other"], 3, "other: images are 20x20, toy needs 32x32"),
    (["eval", "reconstruction", "--metrics", "psnr", "--out", "in-the-way/deep"], 3, "in-the-way/deep"),
    (["eval", "reconstruction", "--metrics", "psnr", "--perturb", "0.5", "--run", "gridless"], 4,
     "gridless: has no feature grids, so --perturb means nothing"),
    (["eval", "usage", "--run", "gridless"], 4, "gridless: has no feature grids whose use could be counted"),
    (["eval", "usage", "--run", "runs/toy-diffusion"], 4, "run of a diffusion model"),
    (["eval", "usage", "--ref", "other"], 3, "other: images are 20x20, toy needs 32x32"),
    (["eval", "usage", "--out", "in-the-way/deep"], 3, "in-the-way/deep"),
    (["eval", "usage", "--out", "READ-ONLY/evals"], 3, "READ-ONLY/evals: cannot be written"),
    (["nn-search", "samples", "--ref", "toy"], 3, "alexnet-owt-7be5be79.pth: missing.*no-weights.*https://"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixle"], 2, "`pixle` is unknown. Did you mean `pixel`"),
    (["nn-search", "nowhere", "--ref", "toy", "--metric", "pixel"], 3, "nowhere: neither a folder nor"),
    (["nn-search", "samples", "--ref", "nowhere", "--metric", "pixel"], 3, "nowhere: neither a folder nor"),
    (["nn-search", "empty", "--ref", "toy", "--metric", "pixel"], 3, "empty: holds no images"),
    (["nn-search", "samples", "--ref", "letters", "--metric", "pixel"], 3, "letters/one.jpg: "),
    (["nn-search", "samples", "--ref", "other", "--metric", "pixel"], 3,
     "samples: images are 32x32, those of other 20x20"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "-k", "0"], 2, "-k: 0 is too small"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "--own", "-1"], 2, "--own: -1 is too small"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "--quantile", "1"], 2, "--quantile: 1 is not"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "--memory", "nan"], 2, "--memory nan: too small"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "--memory", "1e-9"], 2, "--memory 1e-09: too small"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "--out", "samples/near"], 3,
     "samples/near: lies in a folder that is searched"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "--out", "in-the-way/deep"], 3, "in-the-way/deep"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "--out", "READ-ONLY/near"], 3,
     "READ-ONLY/near: cannot be written"),
    (["table", "11"], 2, "table 11: .* There are: 2, 3, 4, .*, K"),
    (["table", ""], 2, "There are: 2, 3"),
    (["table", "2", "--runs", "nowhere"], 3, "--runs nowhere: no such folder"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "clip"], 3, "ViT-B-32.pt: missing"),
    (["eval", "fid", "--ref", "toy"], 3, "weights-inception-2015-12-05-6726825d.pth or .*: missing.*https://"),
    (["eval", "fid", "--ref", "toy", "--protocol", "cleanfid"], 3, "inception-2015-12-05.pt: missing.*https"),
    (["eval", "fid", "--ref", "toy", "--protocol", "fid50k", "--features", "random"], 2, "--protocol: `fid50k` is"),
    (["nn-search", "samples", "--ref", "toy", "--metric", "pixel", "--out", "letters"], 3, "letters: holds other"),
    (["eval", "fid", "--ref", "cleanfid:church:256"], 3, "cleanfid:church:256: no such published statistics"),
    (["eval", "fid", "--ref", "toy", "--protocol", "fid50k"], 2, "--protocol: `fid50k` is unknown"),
    (["eval", "all", "--ref", "toy", "--metrics", "fdi"], 2, "has no `fdi`. Did you mean `fid`"),
    (["eval", "all", "--ref", "toy", "--metrics", "kid,fd_dinov2"], 2, "--protocol edm2 has it"),
    (["eval", "all", "--ref", "toy", "--metrics", ""], 2, "has no ``"),
    (["eval", "statistics", "toy", "--out", "toy.npz"], 2, "toy.npz must end in .safetensors"),
    (["eval", "statistics", "toy", "--out", "toy.safetensors"], 3, "6726825d.pth or .*: missing"),
    (["eval", "statistics", "toy", "--out", "toy.safetensors", "--features", "dino"], 2, "`dino` is unknown"),
    (["eval", "statistics", "nowhere", "--out", "a.safetensors", "--features", "random"], 3, "nowhere: neither"),
    (["eval", "fid", "--ref", "cleanfid:church:256", "--features", "random"], 3, "cleanfid:church:256"),
    (["eval", "fid", "--ref", "letters/one.jpg", "--features", "random"], 3, "letters/one.jpg: neither a folder nor"),
    (["eval", "reconstruction", "--metrics", "psnr,rfid"], 3, "6726825d.pth or .*: missing"),
    (["eval", "fid", "--ref", "toy", "--features", "dino"], 2, "`dino` is unknown"),
    (["eval", "fid", "--ref", "nowhere", "--features", "random"], 3, "nowhere: neither a folder nor"),
    (["eval", "fid", "--ref", "empty", "--features", "random"], 3, "empty: holds no images"),
    (["eval", "fid", "--ref", "letters", "--features", "random"], 3, "letters/one.jpg: "),
    (["eval", "fid", "--ref", "other", "--features", "random"], 3, "samples: images are 32x32, those of other 20x20"),
    (["eval", "fid", "--ref", "toy", "--features", "random", "--samples", "nowhere"], 3, "nowhere: "),
    (["eval", "fid", "--ref", "toy", "--features", "random", "--out", "in-the-way/deep"], 3, "in-the-way/deep"),
    (["eval", "fid", "--ref", "toy", "--features", "random", "--anchors", "nowhere"], 3, "nowhere: no such run"),
    (["eval", "spectrum", "--ref", "nowhere"], 3, "nowhere: neither a folder nor"),
    (["eval", "spectrum", "--ref", "other"], 3, "samples: images are 32x32, those of other 20x20"),
    (["eval", "spectrum", "--ref", "toy", "--samples", "nowhere"], 3, "nowhere: "),
    (["eval", "spectrum", "--ref", "toy", "--out", "in-the-way/deep"], 3, "in-the-way/deep"),
    (["plot", "schedules", "--out", "empty"], 3, "empty: is a folder"),
    (["plot", "schedules", "--out", "in-the-way/deep.png"], 3, "in-the-way: cannot be written"),
    (["plot", "schedules", "--out", "READ-ONLY/x.png"], 3, "READ-ONLY: cannot be written"),
    (["demo", "--out", "in-the-way"], 3, "in-the-way: "),
    (["demo", "--out", "READ-ONLY/demo"], 3, "READ-ONLY/demo: cannot be written"),
    (["demo", "--out", "new", "--device", "tpu"], 2, "--device: `tpu` is unknown"),
    (["doctor", "vgg16"], 2, "NAME: `vgg16` goes with --fetch. Write `brics doctor --fetch vgg16`"),
    (["doctor", "--fetch", "vgg61"], 2, "NAME: `vgg61` is no pretrained file .* Did you mean `vgg16`"),
    (["doctor", "--fetch", "everything"], 2, "There are: vgg16, alexnet, .*, all"),
    (["doctor", "--fetch", "--json"], 2, "--json: goes without --fetch"),
    (["doctor", "--fetch", "alexnet"], 1,
     r"/alexnet-owt-7be5be79.pth: cannot be downloaded \(Connection refused\).*copy the file to .*no-weights/alexnet"
     r"-owt-7be5be79.pth \(SHA-256 7be5be79[0-9a-f]{56}\)"),
    *(([*words, LONG], 3, f"{LONG}.*(too|longer)") for words in (
        ["prepare", "toy", "--out"], [*FOLDER, "other", "--out"], FOLDER, [*TRAIN, "--run"], [*TRAIN, "--data"],
        [*DIFFUSE, "--run"], [*DIFFUSE, "--autoencoder"], ["encode", "--run"],
        ["encode", "--run", "runs/toy", "--data"],
        ["sample", "-n", "1", "--out"], ["sample", "-n", "1", "--run"], ["table", "2", "--runs"], ["demo", "--out"],
        ["eval", "fid", "--features", "random", "--ref"], ["eval", "spectrum", "--ref", "toy", "--samples"],
        ["eval", "usage", "--out"], ["eval", "reconstruction", "--metrics", "psnr", "--out"],
        ["plot", "schedules", "--out"])),
]


def read_only_folder(root: Path) -> Path:
    """A folder in which this user can make nothing. Permissions do not stop root: for root it is the kernel's."""
    if os.geteuid() == 0:
        return Path("/proc/sys")
    folder = root / "read-only"
    if not folder.exists():
        folder.mkdir()
        folder.chmod(0o555)
    return folder


@pytest.mark.parametrize(("words", "code", "says"), WRONG,
                         ids=[" ".join(words).replace(" ".join(AUTOENCODER), "...").replace(" ".join(DIFFUSION), "...")
                              for words, _, _ in WRONG])
def test_wrong_calls(words: list[str], code: int, says: str, wrong: Path, fork: Server) -> None:
    """One clear line, the right exit code, and nothing that was not there before."""
    if any("READ-ONLY" in word for word in words):
        place = str(read_only_folder(wrong))
        words, says = [word.replace("READ-ONLY", place) for word in words], says.replace("READ-ONLY", re.escape(place))
    before = snapshot(wrong)
    done = fork(wrong, *words)
    assert "Traceback" not in done.err, done.err
    assert done.code == code, done
    lines = [line for line in done.err.splitlines() if not re.match(r"[a-z ]+: \d+ of \d+ \w+, ", line)]  # progress
    lines = [line for line in lines if not line.startswith("brics: warning: ")]
    assert lines and all(line.startswith("brics: ") for line in lines), done.err
    assert re.search(says, done.err), done.err
    assert len(lines) == 1 or code == 2, "only a recipe may have several problems"
    assert lines[-1].endswith((".", "?")), "a sentence that says what to do"
    after = snapshot(wrong)
    changed = {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)}
    if "image files cannot be read" in says:  # `--on-bad skip` goes on with what is finished
        changed = {name for name in changed if not name.startswith("data/.brics-part-")}
    assert changed == set()


@pytest.mark.parametrize("words", [
    ["trian-ae"], ["train-ae"], ["train-ae", "--recipe", "tiny/toy.yaml", "--sett", "a=1"], ["sample", "-n", "many"],
    ["encode", "--run", "runs/toy", "--batch-size", "0"], [*TRAIN, "--save-every", "-1"], ["eval", "fid"], ["table"],
    ["eval", "usage", "--limit", "0"], ["eval", "reconstruction", "--perturb", "-1"],
    ["eval", "reconstruction", "--perturb", "much"], ["eval", "reconstruction", "--split", "vla"],
    ["nn-search", "samples", "--ref", "toy", "--split", "test"], ["eval", "fid", "--ref", "toy", "--devices", "0"]],
    ids=" ".join)
def test_words_that_are_not_words(words: list[str], wrong: Path, fork: Server) -> None:
    """What typer itself refuses: exit code 2 and its usage, no traceback."""
    before = snapshot(wrong)
    done = fork(wrong, *words)
    assert done.code == 2 and "Traceback" not in done.err
    assert "Usage: brics" in done.err and "Error" in done.err
    assert snapshot(wrong) == before


def test_all_problems_of_a_recipe_at_once(wrong: Path, fork: Server) -> None:
    done = fork(wrong, "train-ae", "--recipe", "own/misspelt.yaml")
    assert done.code == 2 and len(done.err.splitlines()) == 2
    assert "style_width" in done.err and "`images`" in done.err


@pytest.mark.parametrize("words", [TRAIN, DIFFUSE], ids=["train-ae", "train-diffusion"])
def test_a_dry_run_tells_and_leaves_nothing(words: list[str], world: World, fork: Server, tmp_path: Path) -> None:
    before = snapshot(world.path)
    done = fork(world.path, *words, "--run", "new", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert f"images: {240 if words is TRAIN else 256}" in done.out
    assert re.search(r"(encoder|denoiser) +\d+\.\d\d M parameters", done.out)
    assert "48 train, 12 val" in done.out and "train-00000.tar  48 samples" in done.out
    assert snapshot(world.path) == before
    elsewhere = fork(tmp_path, *words, "--dry-run")
    assert elsewhere.code == 0 and "not there yet" in elsewhere.out and list(tmp_path.iterdir()) == []


def test_a_recipe_of_the_paper_dry(fork: Server, tmp_path: Path) -> None:
    done = fork(tmp_path, "train-ae", "--recipe", "church64x4.yaml", "--dry-run")
    assert done.code == 0
    assert "18.63 M of them in grid entries" in done.out and re.search(r"decoder +9\.96 M parameters", done.out)
    assert list(tmp_path.iterdir()) == []


def test_names_of_files_do_not_drive_the_terminal(fork: Server, tmp_path: Path) -> None:
    done = fork(tmp_path, "prepare", "folder", "--resolution", "16", "--from", "a\x1b[2Jb")
    assert done.code == 3 and "\x1b" not in done.err and "a\\x1b[2Jb" in done.err


FULL = ("brics: standard output: could not be written: No space left on device. See to that, then run the command "
        "again.\n")


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(("words", "where", "code", "said"), [
    ("--version", ">/dev/full", 1, FULL), ("--help", ">/dev/full", 1, FULL), ("--version", ">&-", 0, ""),
    ("train-ae --recipe nowhere.yaml", "2>/dev/full", 2, ""), ("train-ae --recipe nowhere.yaml", "2>&-", 2, "")])
def test_an_output_that_is_full_or_gone(tmp_path: Path, words: str, where: str, code: int, said: str, buffered: str
                                        ) -> None:
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m bricscli {words} {where}"], cwd=tmp_path,
                          env=environment(tmp_path) | {"PYTHONUNBUFFERED": buffered}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_is_gone(tmp_path: Path, buffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "bricscli", "--help"], cwd=tmp_path, stdout=write, timeout=60,
                          stderr=subprocess.PIPE, env=environment(tmp_path) | {"PYTHONUNBUFFERED": buffered})
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_secrets_of_addresses_are_not_repeated(fork: Server, tmp_path: Path) -> None:
    done = fork(tmp_path, "report", "https://user:pw@host/x?X-Amz-Signature=5ec7e7")
    assert done.code == 3 and done.err.startswith("brics: https:/host/x?***: no such run."), done.err
    assert "pw" not in done.err and "5ec7e7" not in done.err


def test_weights_that_are_not_what_they_claim(world: World, fork: Server, tmp_path: Path) -> None:
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"something else")
    done = fork(world.path, "eval", "reconstruction", "--metrics", "lpips", BRICS_WEIGHTS=str(tmp_path))
    assert done.code == 3 and "SHA-256 begins" in done.err and len(done.err.splitlines()) == 1


def test_nearest_neighbours(world: World, fork: Server, tmp_path: Path) -> None:
    """From the installed words: each training image that is a sample is found, and said to be a copy.

    The others are blurred, of a model that has hardly learnt: near to everything, which is said as well.
    """
    data = world.path / "data" / "toy"
    shutil.copytree(world.path / "samples", tmp_path / "q", ignore=shutil.ignore_patterns("*.json"))
    split = ShardSet.open(data).split("train")
    for i in (3, 30):
        (tmp_path / "q" / f"training-{i}.png").write_bytes(split.read(i))
    words = ["nn-search", "q", "--ref", str(data), "--metric", "pixel", "-k", "2"]
    done = fork(tmp_path, *words)
    assert done.code == 0, done.err
    said = (r"14 samples of q against the 48 images of toy, split train, by mean squared difference\n"
            r"the nearest: training-3\.png, 0 from .*\ncopies: [0-9]+ of 14 samples.*doubtful")
    assert re.search(said, done.out), done.out
    result = json.loads((tmp_path / "q-neighbours-pixel" / "neighbours.json").read_text())
    found = {entry["name"]: (entry["neighbours"][0]["index"], entry["alone"]) for entry in result["queries"]}
    assert found["training-3.png"] == (3, True) and found["training-30.png"] == (30, True)
    again = fork(tmp_path, *words)
    assert again.code == 0 and again.out == "q-neighbours-pixel: this search is done already.\n" + done.out


# Stopping


def test_stopped_and_started_again(world: World, tmp_path: Path) -> None:
    """SIGTERM, then Ctrl-C, then to the end: the bytes of the run that was never stopped."""
    data = str(world.path / "data" / "toy")
    words = ["train-ae", *AUTOENCODER, "--run", "stopped", "--data", data, "--save-every", "0"]
    checkpoints = tmp_path / "stopped" / "checkpoints"
    reached = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-m", "bricscli", *words], cwd=tmp_path, env=environment(tmp_path),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(steps_of(checkpoints)) == 0 or max(steps_of(checkpoints)) <= reached:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, (out, err)
        lines = [line for line in err.splitlines() if line.startswith("brics: ")]
        assert len(lines) == 1 and "Traceback" not in err
        reached = max(steps_of(checkpoints))
        assert lines[0] == (f"brics: stopped: stopped and saved after {8 * reached} of 240 images. "
                            "The same command again goes on from there.")
    done = brics(tmp_path, *words)
    assert done.code == 0 and f"goes on after {8 * reached} images" in done.out, done.err
    whole, stopped = world.path / "runs" / "toy", tmp_path / "stopped"
    for name in ("checkpoints/step-0000030/weights.safetensors", "checkpoints/step-0000030/training.safetensors",
                 "metrics.jsonl", "sheets/000000240.png", "recipe.yaml"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name


def test_sampling_stopped_and_started_again(world: World, fork: Server, tmp_path: Path) -> None:
    """Ctrl-C says so in one line, and the same command again draws the rest."""
    words = ["sample", "--run", str(world.path / "runs" / "toy-diffusion"), "-n", "80", "--batch-size", "8", "--steps",
             "20", "--out", "stopped"]
    process = subprocess.Popen([sys.executable, "-m", "bricscli", *words], cwd=tmp_path, env=environment(tmp_path),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "stopped" / "000007.png").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if line.startswith("brics: ")] == [
        "brics: interrupted; nothing half-written was left. Run the same command again."]
    done = fork(tmp_path, *words)
    assert (kept := re.search(r"80 images, .* new, (\d+) kept, 0 redone", done.out)) and int(kept[1]) >= 8, done.err


def steps_of(checkpoints: Path) -> set[int]:
    with contextlib.suppress(FileNotFoundError):
        return {int(path.name.removeprefix("step-")) for path in list_checkpoints(checkpoints)}
    return set()


def test_a_run_in_use_is_left_alone(world: World, fork: Server, tmp_path: Path) -> None:
    """The second of two processes in one run ends at once and names the first."""
    words = ["train-ae", *AUTOENCODER, "--run", "used", "--data", str(world.path / "data" / "toy"), "--save-every", "0"]
    first = subprocess.Popen([sys.executable, "-m", "bricscli", *words], cwd=tmp_path, env=environment(tmp_path),
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not steps_of(tmp_path / "used" / "checkpoints"):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        done = fork(tmp_path, *words)
        assert done.code == 1, done
        assert re.fullmatch(rf"brics: used: is in use by process {first.pid} on .*\n", done.err)
    finally:
        first.kill()
        first.wait(30)
