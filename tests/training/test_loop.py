"""The loop: what is stopped and started again ends with the same bytes, and what goes wrong ends well."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bricscli.build import build_autoencoder
from bricscli.diffusion.denoiser import KEY_CODES
from bricscli.errors import InterruptedRun, RecipeError
from bricscli.recipe.load import dump_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.run.checkpoint import list_checkpoints, load_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics
from bricscli.runtime import deterministic_algorithms
from bricscli.training.loop import train
from bricscli.training.recovery import Step
from bricscli.training.steps import AutoencoderStep, DiffusionStep

CPU = torch.device("cpu")
STEPS, BATCH = 6, 4

MakeAutoencoder = Callable[..., AutoencoderRecipe]
Events = Mapping[int, Callable[[], object]]


def raise_signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


class Job:
    """One of the two trainings, in a folder of its own; `events[step]` happens while the batch of `step` is read."""

    def __init__(self, path: Path, recipe: AutoencoderRecipe | DiffusionRecipe) -> None:
        self.recipe = recipe
        self.run = RunDirectory.create(path, recipe, {})
        self.read: list[int] = []

    def make_step(self) -> Step:
        if isinstance(self.recipe, AutoencoderRecipe):
            return AutoencoderStep(self.recipe, CPU, None)
        return DiffusionStep(self.recipe, CPU, KEY_CODES, channels=2, size=8)

    def train(self, events: Events = {}, *, save_every: float = 600.0, step: Step | None = None) -> Path:  # noqa: B006
        shape = (3, 16, 16) if isinstance(self.recipe, AutoencoderRecipe) else (2, 8, 8)

        def read_batch(number: int) -> tuple[Tensor]:
            self.read.append(number)
            batch = torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(number))
            if number in events:
                changed = events[number]()
                return (changed if isinstance(changed, Tensor) else batch,)
            return (batch,)

        def preview(path: Path) -> dict[str, float]:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"a sheet")
            return {"val_psnr": 7.0}

        with deterministic_algorithms(torch.device("cpu")):
            return train(step or self.make_step(), self.run, dump_recipe(self.recipe), images=STEPS * BATCH,
                         batch_size=BATCH, read_batch=read_batch, preview=preview, save_every=save_every)

    def bytes(self) -> dict[str, bytes]:
        """Every file of the run that says what was learnt."""
        files = [self.run.metrics_path, *sorted(list_checkpoints(self.run.checkpoints)[-1].iterdir()),
                 *sorted(self.run.sheets.iterdir())]
        return {str(path.relative_to(self.run.path)): path.read_bytes() for path in files}


@pytest.fixture(params=["autoencoder", "autoencoder without averages", "diffusion"])
def make_job(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_autoencoder: MakeAutoencoder,
    tiny_diffusion: Callable[..., DiffusionRecipe]
) -> Callable[[str], Job]:
    recipe: AutoencoderRecipe | DiffusionRecipe
    if request.param == "diffusion":
        recipe = tiny_diffusion()
    else:
        recipe = tiny_autoencoder(training={"ema": 0.9 if request.param == "autoencoder" else 0, "schedule": "cosine"})
        assert recipe.losses.adversarial and build_autoencoder(recipe).relaxed
    return lambda name: Job(tmp_path / name, recipe)


@pytest.fixture
def job(tmp_path: Path, tiny_autoencoder: MakeAutoencoder) -> Job:
    return Job(tmp_path / "run", tiny_autoencoder(losses={"adversarial": 0}))


def test_stopped_and_started_again_is_the_same_bytes(make_job: Callable[[str], Job]) -> None:
    whole, stopped = make_job("whole"), make_job("stopped")
    whole.train()
    for step, number in ((1, signal.SIGINT), (4, signal.SIGTERM)):
        torch.randn(7)  # the random state of a new process is another
        with pytest.raises(InterruptedRun) as caught:
            stopped.train({step: raise_signal(number)})
        assert caught.value.exit_code == 130
        assert str(caught.value) == (f"{stopped.run.path}: stopped and saved after {(step + 1) * BATCH} of 24 images. "
                                     "The same command again goes on from there.")
        assert list_checkpoints(stopped.run.checkpoints)[-1].name == f"step-{step + 1:07d}"
    stopped.train()
    assert stopped.read == list(range(STEPS)), "no step twice"
    wanted, found = whole.bytes(), stopped.bytes()
    assert {"metrics.jsonl", "checkpoints/step-0000006/weights.safetensors",
            "checkpoints/step-0000006/training.safetensors", "sheets/000000024.png"} <= wanted.keys()
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_a_killed_run_repeats_what_was_not_saved(make_job: Callable[[str], Job]) -> None:
    """The log is then ahead of the checkpoint; its lines are not written twice."""

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    whole, killed = make_job("whole"), make_job("killed")
    whole.train()
    with pytest.raises(InterruptedRun):
        killed.train({1: raise_signal(signal.SIGINT)})
    with pytest.raises(Killed):
        killed.train({4: kill})
    assert len(read_metrics(killed.run.metrics_path)) == 4
    killed.train()
    assert killed.read == [0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert killed.bytes() == whole.bytes()


def test_a_finished_run_is_left_alone(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    last = job.train()
    before, job.read = job.bytes(), []
    capsys.readouterr()
    assert job.train() == last
    assert job.read == [] and job.bytes() == before
    assert "already trained (24 images seen)" in capsys.readouterr().out


def test_a_signal_in_the_last_step_still_stops_what_comes_after(job: Job) -> None:
    with pytest.raises(InterruptedRun, match="after 24 of 24 images"):
        job.train({STEPS - 1: raise_signal(signal.SIGTERM)})
    assert job.train().name == "step-0000006"


def test_signals_mean_what_they_meant_before(job: Job) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(InterruptedRun):
        job.train({0: raise_signal(signal.SIGTERM)})
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_ctrl_c_ends_at_once(job: Job) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        job.train({2: twice})
    assert list_checkpoints(job.run.checkpoints) == []
    job.train()


def test_checkpoints_on_the_way(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """With save_every = 0 after every step, of which the last two stay."""
    job.train(save_every=0)
    assert [path.name for path in list_checkpoints(job.run.checkpoints)] == ["step-0000005", "step-0000006"]
    loaded = load_checkpoint(job.run.checkpoints / "step-0000005", training=True)
    assert loaded.state == {"step": 5, "images_seen": 20, "skipped": 0, "rollbacks": []}
    assert loaded.recipe_text == dump_recipe(job.recipe)


def test_what_is_logged(job: Job) -> None:
    job.train()
    lines = read_metrics(job.run.metrics_path)
    assert [line["images_seen"] for line in lines] == [4, 8, 12, 16, 20, 24]
    assert all({"loss", "l2", "gradient"} <= line.keys() for line in lines)
    assert [line["images_seen"] for line in lines if "val_psnr" in line] == [8, 12, 20, 24], "four previews"
    assert sorted(path.name for path in job.run.sheets.iterdir()) == [f"{n:09d}.png" for n in (8, 12, 20, 24)]


def test_layers_of_another_version_are_told(job: Job, tiny_autoencoder: MakeAutoencoder) -> None:
    with pytest.raises(InterruptedRun):
        job.train({0: raise_signal(signal.SIGINT)})
    other = AutoencoderStep(tiny_autoencoder(encoder={"channels": 16}, losses={"adversarial": 0}), CPU, None)
    with pytest.raises(RecipeError, match="other layers"):
        job.train(step=other)


def test_metrics_hold_no_clock(job: Job) -> None:
    job.train()
    for line in job.run.metrics_path.read_text().splitlines():
        assert json.loads(line).keys() <= {"images_seen", "loss", "l2", "gradient", "code_std", "val_psnr"}


def test_a_check_comes_before_the_work_and_not_after_it(job: Job) -> None:
    """It is told at which step the run goes on; a finished run may be looked at by any program."""
    steps: list[int] = []

    def go(events: Events = {}) -> None:  # noqa: B006
        train(job.make_step(), job.run, dump_recipe(job.recipe), images=STEPS * BATCH, batch_size=BATCH,
              read_batch=lambda number: (events.get(number, lambda: None)(), torch.rand(BATCH, 3, 16, 16))[1:],
              preview=lambda path: {}, check=steps.append)

    with pytest.raises(InterruptedRun):
        go({3: raise_signal(signal.SIGINT)})
    go()
    go()
    assert steps == [0, 4]
