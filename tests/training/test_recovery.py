"""Steps that are not finite: skipped, gone back from, given up; and none of it depends on kills or clocks."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bricscli.errors import BricsError
from bricscli.parallel.world import World
from bricscli.recipe.load import dump_recipe, recipe_from_dict
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.run.checkpoint import list_checkpoints, load_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics
from bricscli.training import recovery
from bricscli.training.learner import Learner, require_finite, under
from bricscli.training.loop import train
from bricscli.training.recovery import Again, Recovery, Rollback, Setbacks
from bricscli.training.steps import AutoencoderStep

STEPS, BATCH, SPACING = 24, 4, 4
NAN = float("nan")
MakeAutoencoder = Callable[..., AutoencoderRecipe]
RECIPE = recipe_from_dict({"kind": "diffusion", "autoencoder": "toy", "training": {
    "images": STEPS * BATCH, "batch_size": BATCH, "seed": 5}})


class Line:
    """As little as can be trained: a layer with its average, and a buffer that moves whenever it is looked through."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        self.seen = torch.zeros(3)
        model.register_buffer("seen", self.seen)
        self.learner = Learner(model, torch.optim.Adam(model.parameters()), [0.9, 0.5], 1.0)

    def __call__(self, step: int, batch: Tensor, /) -> dict[str, float]:
        self.seen += batch.sum(0)
        loss = self.learner.model(batch).square().mean()
        norm = self.learner.differentiate("loss", [loss])
        self.learner.update(step, 0.01)
        return {"loss": float(loss.detach()), "gradient": norm}

    def players(self) -> list[Learner[Any]]:
        return [self.learner]

    def weights(self) -> dict[str, Tensor]:
        return dict(self.learner.averaged.state_dict())

    def more_averages(self) -> dict[float, dict[str, Tensor]]:
        return self.learner.more_averages()

    def training_state(self) -> dict[str, Tensor]:
        return self.learner.training_state("line")

    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor],
             averages: Mapping[float, dict[str, Tensor]] = {}) -> None:
        self.learner.load("line", weights, training, averages)

    def everything(self) -> dict[str, Tensor]:
        found = self.weights() | self.training_state()
        return {name: tensor.clone() for name, tensor in found.items()}


def draw(step: int, bad: Collection[int]) -> Tensor:
    batch = torch.rand(BATCH, 3, generator=torch.Generator().manual_seed(step))
    if step in bad:
        batch[1, 1] = NAN
    return batch


def go(path: Path, bad: Collection[int], save_every: float = 600.0) -> RunDirectory:
    """Trains, or goes on training, a line; the batches of the `bad` steps hold a NaN."""
    run = RunDirectory.create(path, RECIPE, {"kind": "diffusion"})
    with run.lock():
        train(Line(), run, dump_recipe(RECIPE), images=STEPS * BATCH, batch_size=BATCH,
              read_batch=lambda step: (draw(step, bad),), preview=lambda path: {"val": 1.0}, save_every=save_every,
              again=Again(["train-diffusion", "--autoencoder", "runs/a b"], lambda step: [f"key{step}", "other"]))
    return run


def learnt(run: RunDirectory) -> dict[str, bytes]:
    """Every file that the run leaves: log, checkpoints, nothing else."""
    return {str(path.relative_to(run.path)): path.read_bytes() for path in sorted(run.path.rglob("*"))
            if path.is_file() and path.name not in ("run.lock", "run.json", "recipe.yaml")}


def last_state(run: RunDirectory) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(run.checkpoints)[-1]).state


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def trained(run: RunDirectory) -> dict[str, Tensor]:
    checkpoint = load_checkpoint(list_checkpoints(run.checkpoints)[-1], training=True)
    assert checkpoint.training is not None
    return checkpoint.weights | checkpoint.training


def by_hand(taken: Collection[int], milestones: dict[int, int] = {}) -> dict[str, Tensor]:  # noqa: B006
    """What a line learns of these steps alone; after step `at` it goes back to where it was before step `to`."""
    line, before = Line(), {}
    for step in range(STEPS):
        before[step] = copy.deepcopy((line.weights(), line.training_state(), line.more_averages()))
        if step in taken:
            line(step, draw(step, ()))
        if step in milestones:
            line.load(*before[milestones[step]])
    return line.everything()


@pytest.fixture(autouse=True)
def near_milestones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "MILESTONE_STEPS", SPACING)


def test_milestones_are_a_twentieth_apart_or_a_hundred_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    run = RunDirectory.create(tmp_path / "run", RECIPE, {})
    for last, wanted in ((30, 100), (2000, 100), (2001, 101), (400_000, 20_000)):
        assert Recovery(Line(), run, "", last=last, batch_size=1).spacing == wanted


@pytest.mark.parametrize("bad", [{0}, {7}, {STEPS - 1}, {3, 4, 5}, {1, 2, 4, 6, 7, 8}])
def test_bad_steps_are_as_if_they_were_not_there(tmp_path: Path, bad: set[int],
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    run = go(tmp_path / "run", bad)
    assert same(trained(run), by_hand(set(range(STEPS)) - bad))
    lines = {int(line["images_seen"]) // BATCH - 1: line for line in read_metrics(run.metrics_path)}
    assert {step for step, line in lines.items() if "skipped" in line} == bad
    assert all("loss" not in lines[step] for step in bad)
    assert capsys.readouterr().err.count("It is skipped") == len(bad)
    assert last_state(run)["rollbacks"] == []
    assert not run.start.exists()


@pytest.mark.parametrize(("first", "milestone"), [(0, 0), (2, 0), (4, 4), (9, 8), (15, 12), (20, 20)])
def test_the_fourth_in_a_row_goes_back_to_a_milestone(tmp_path: Path, first: int, milestone: int,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    bad = {first, first + 1, first + 2, first + 3}
    run = go(tmp_path / "run", bad)
    wanted = by_hand(set(range(STEPS)) - bad, {first + 3: milestone})
    assert same(trained(run), wanted), "weights, averages, moments and counts of the milestone"
    assert last_state(run)["rollbacks"] == [{"milestone": milestone, "first": first, "last": first + 3}]
    (line,) = [line for line in read_metrics(run.metrics_path) if "rolled_back_to" in line]
    assert (line["images_seen"], line["skipped"], line["rolled_back_to"]) == (
        (first + 4) * BATCH, 4, milestone * BATCH)
    assert f"goes on from the weights of step {milestone} with step {first + 4}" in capsys.readouterr().err


def test_a_milestone_among_bad_steps_is_no_way_back(tmp_path: Path) -> None:
    """The checkpoint of step 8 holds what went wrong: the run goes back to 4, which must not have been deleted."""
    bad = {6, 7, 8, 9}
    run = go(tmp_path / "run", bad, save_every=0)
    assert last_state(run)["rollbacks"] == [{"milestone": 4, "first": 6, "last": 9}]
    assert same(trained(run), by_hand(set(range(STEPS)) - bad, {9: 4}))


@pytest.mark.parametrize(("bad", "milestones"), [
    ({3, 6, 7, 8, 9, 14, 15, 16, 17}, [4, 12]),
    ({7, 8, 9, 10, 11, 12, 13, 14}, [4, 4]),  # 8 belongs to what was passed over
    ({7, 8, 9, 11, 12, 13, 14}, [8]),  # 8 is a way back again after step 10
])
def test_clocks_do_not_matter(tmp_path: Path, bad: set[int], milestones: list[int]) -> None:
    rare, often = go(tmp_path / "rare", bad), go(tmp_path / "often", bad, save_every=0)
    assert rare.metrics_path.read_bytes() == often.metrics_path.read_bytes()
    assert same(trained(rare), trained(often)) and last_state(rare) == last_state(often)
    assert [back["milestone"] for back in last_state(rare)["rollbacks"]] == milestones


def test_kept_are_two_and_the_newest_milestone(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", RECIPE, {})
    for at, kept in ((3, ["0000002", "0000003"]), (8, ["0000007", "0000008"]), (11, ["0000008", "0000010", "0000011"])):
        batches = {step: (draw(step, ()),) for step in range(at)}
        with pytest.raises(KeyError):
            train(Line(), run, dump_recipe(RECIPE), images=STEPS * BATCH, batch_size=BATCH, save_every=0,
                  read_batch=batches.__getitem__, preview=lambda path: {})
        assert [path.name.removeprefix("step-") for path in list_checkpoints(run.checkpoints)] == kept
        assert run.start.exists() == (at == 3)


BAD = {2, 3, 6, 7, 8, 9, 12, 13, 14, 15, 20}
KILLER = """
import sys
sys.path.insert(0, {folder!r})
import test_recovery
test_recovery.kill_chains({path!r}, {chains})
"""


def kill_chains(path: str, chains: list[list[int]]) -> None:
    """In a process that forks: each chain is a run that is killed at one of its calls five times, then left alone."""
    recovery.MILESTONE_STEPS = SPACING
    for parameter in (line := Line().learner).model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    line.update(0, 0.0)  # imports a second's worth
    kills = 0
    for number, (start, stride) in enumerate(chains):
        for attempt in range(6):
            child = os.fork()
            if not child:
                _die_at(start + stride * attempt if attempt < 5 else 0)
                go(Path(path, f"killed{number}"), BAD, save_every=0 if number % 2 else 600)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            kills += code == 9
        assert code == 0, code
    print(f"{kills} kills")


def _die_at(nth: int) -> None:
    count = 0

    def watched(call: Callable) -> Callable:
        def replacement(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == nth:
                os._exit(9)  # as SIGKILL: nothing is cleaned up
            return call(*arguments, **options)

        return replacement

    for name in ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
        setattr(os, name, watched(getattr(os, name)))


@pytest.mark.parametrize("chains", [
    pytest.param([(60, 7), (31, 23)], id="some"),
    pytest.param([(start, stride) for start in range(20, 120, 3) for stride in (1, 5, 19)], id="many",
                 marks=pytest.mark.slow)])
def test_kills_leave_no_trace(tmp_path: Path, chains: list[tuple[int, int]]) -> None:
    code = KILLER.format(folder=str(Path(__file__).parent), path=str(tmp_path), chains=chains)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-2]) >= 4 * len(chains)
    for number in range(len(chains)):
        whole = go(tmp_path / f"whole{number % 2}", BAD, save_every=0 if number % 2 else 600)
        killed = RunDirectory(tmp_path / f"killed{number}")
        wanted, found = learnt(whole), learnt(killed)
        final = f"checkpoints/step-{STEPS:07d}/"
        assert [name for name in wanted if (name.startswith(final) or name == "metrics.jsonl")
                and found[name] != wanted[name]] == []
        assert not killed.start.exists()


def stopped(path: Path, bad: Collection[int]) -> str:
    with pytest.raises(BricsError) as caught:
        go(path, bad)
    assert caught.value.exit_code == 1
    return str(caught.value)


LOST = {2, 3, 4, 5, 9, 10, 11, 12, 14, 15, 16, 17}


def test_the_third_return_is_the_end(tmp_path: Path) -> None:
    path = tmp_path / "my run"
    said = stopped(path, LOST)
    bundle = path / "diverged-17"
    assert said.startswith(f"{path}: the loss is not finite at step 17 (68 images seen), 3 steps before it were")
    assert "went back 2 times" in said and "learning_rate" in said
    assert said.endswith(f": brics train-diffusion --autoencoder 'runs/a b' --recipe '{bundle}/recipe.yaml' "
                         f"--run '{bundle}'")
    about = json.loads((bundle / "bundle.json").read_text())
    assert about["step"] == 17 and about["images_seen"] == 68 and about["not_finite"] == "loss"
    assert about["keys"] == ["key17", "other"] and about["seeds"] == {"training.seed": 5}
    assert about["command"][:2] == ["brics", "train-diffusion"] and about["skipped"] == 3
    assert about["rollbacks"] == [{"milestone": 0, "first": 2, "last": 5}, {"milestone": 8, "first": 9, "last": 12}]
    before = learnt(RunDirectory(bundle))
    assert stopped(path, LOST) == said, "the same command again says the same"
    assert learnt(RunDirectory(bundle)) == before


def test_the_bundle_fails_in_its_first_step(tmp_path: Path) -> None:
    stopped(tmp_path / "run", LOST)
    bundle = shutil.copytree(tmp_path / "run" / "diverged-17", tmp_path / "elsewhere")
    run = RunDirectory(bundle)
    assert run.recipe == RECIPE
    read: list[int] = []

    def read_batch(step: int) -> tuple[Tensor]:
        read.append(step)
        return (draw(step, LOST if len(read) < 3 else ()),)

    for _ in range(2):
        with pytest.raises(BricsError, match=r"not finite at step 17.* what this run was kept for"):
            train(Line(), run, dump_recipe(RECIPE), images=STEPS * BATCH, batch_size=BATCH, read_batch=read_batch,
                  preview=lambda path: {})
    assert read == [17, 17]
    assert not list(bundle.glob("diverged-*"))
    train(Line(), run, dump_recipe(RECIPE), images=STEPS * BATCH, batch_size=BATCH, read_batch=read_batch,
          preview=lambda path: {})  # what made it fail is gone


def test_nothing_on_disk_is_ever_not_finite(tmp_path: Path) -> None:
    stopped(tmp_path / "run", LOST)
    seen = list(tmp_path.rglob("step-*"))
    assert len(seen) >= 3
    for path in seen:
        checkpoint = load_checkpoint(path, training=True)
        assert checkpoint.training is not None
        for tensors in (checkpoint.weights, checkpoint.training, *checkpoint.averages.values()):
            assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_without_a_milestone_that_is_intact_it_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a run of an older version, or one whose disk rots."""
    path = tmp_path / "run"
    bad = {9, 10, 11, 12}

    def read_batch(step: int) -> tuple[Tensor]:
        if step == 12:
            weights = path / "checkpoints" / "step-0000008" / "weights.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        return (draw(step, bad),)

    run = RunDirectory.create(path, RECIPE, {})
    with pytest.raises(BricsError, match="went back 0 times"):
        train(Line(), run, dump_recipe(RECIPE), images=STEPS * BATCH, batch_size=BATCH, read_batch=read_batch,
              preview=lambda path: {})
    assert "step-0000008: weights.safetensors is damaged" in capsys.readouterr().err
    assert (path / "diverged-12" / "bundle.json").exists()


def test_a_disk_that_has_no_place_for_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise BricsError("no room")

    monkeypatch.setattr(Recovery, "_write_bundle", refuse)
    said = stopped(tmp_path / "run", LOST)
    assert said.splitlines()[0].endswith("could not be kept.") and said.splitlines()[1] == "no room"
    assert "is not finite at step 17" in said


def test_only_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others decide the same, of what the one wrote, and go back to where the first one says."""
    go(tmp_path / "run", ())
    run = RunDirectory(tmp_path / "run")
    before = learnt(run)
    other: Recovery[Tensor] = Recovery(Line(), run, "", last=STEPS, batch_size=BATCH, world=World(1, 2))
    monkeypatch.setattr(World, "told", lambda world, value: "checkpoints/step-0000020")
    monkeypatch.setattr(World, "gather_json", lambda world, value: [None, value])
    other.begin()
    for step in range(20, 24):
        numbers = other.take(step, (draw(step, range(20, 24)),))
    assert numbers == {"skipped": 4, "rolled_back_to": 80}
    assert other.setbacks == Setbacks(0, (Rollback(20, 20, 23),))
    other.setbacks = Setbacks(3, (Rollback(1, 2, 3),) * 2)
    with pytest.raises(BricsError, match="this command fails with it at once"):
        other.take(5, (draw(5, [5]),))
    assert learnt(run) == before


def test_counts_of_older_checkpoints() -> None:
    assert Setbacks.read({"step": 5, "images_seen": 20}) == Setbacks(0, ())


# What a step of a real model must not have moved


def spoil_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    critic_losses = AutoencoderStep._critic_losses
    monkeypatch.setattr(AutoencoderStep, "_critic_losses", lambda *given: (
        loss * NAN for loss in critic_losses(*given)))


def spoil_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss stays finite."""
    differentiate = Learner.differentiate

    def spoilt(self: Learner[Any], name: str, losses: Iterator[Tensor]) -> float:
        differentiate(self, name, losses)
        return require_finite(f"gradient of the {name}", torch.tensor(NAN))

    monkeypatch.setattr(Learner, "differentiate", spoilt)


@pytest.mark.parametrize("bottleneck", ["vq", "rq"])
@pytest.mark.parametrize("spoil", [None, spoil_gradient, spoil_critic])
def test_a_skipped_step_moves_neither_codebook_nor_critic(
    tmp_path: Path, tiny_autoencoder: MakeAutoencoder, monkeypatch: pytest.MonkeyPatch, bottleneck: str,
    spoil: Callable[[pytest.MonkeyPatch], None] | None
) -> None:
    kind = {"vq": {"kind": "vq", "channels": 8, "entries": 16},
            "rq": {"kind": "rq", "channels": 8, "entries": 16, "depth": 2}}[bottleneck]
    recipe = tiny_autoencoder(
        bottleneck=kind, retrieval={"kind": "none"}, training={"accumulate": 1 if bottleneck == "rq" else 2},
        decoder={"kind": "conv", "channels": 8, "multipliers": [1, 2], "blocks": 1},
        discriminator={"kind": "patch", "channels": 4, "layers": 2}, losses={"gradient_penalty": 0})
    step = AutoencoderStep(recipe, torch.device("cpu"), None)
    taken: Recovery[Tensor] = Recovery(step, RunDirectory(tmp_path), "", last=STEPS, batch_size=4)

    def everything() -> dict[str, Tensor]:
        assert step.critic is not None
        critic = {f"critic.{name}": value for name, value in step.critic.model.state_dict().items()}
        found = step.weights() | step.training_state() | critic | {
            f"model.{name}": value for name, value in step.generator.model.state_dict().items()}
        return {name: value.clone() for name, value in found.items()}

    batch = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert "loss" in taken.take(0, (batch,))
    before = everything()
    assert any("codebook" in name or "embed" in name for name in before)
    assert any("running_mean" in name for name in before), "a norm in the critic that follows what it sees"
    with monkeypatch.context() as patched:
        bad = batch.clone()
        if spoil:
            spoil(patched)
        else:
            bad[3] = NAN  # in the second part: the first has moved a codebook by then
        assert taken.take(1, (bad,)) == {"skipped": 1}
    assert same(everything(), before)
    taken.take(2, (batch,))
    assert not same(everything(), before) and taken.setbacks == Setbacks()
    assert under(step.training_state(), "critic.weights.")
