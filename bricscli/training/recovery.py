"""What a run does about a step whose loss or gradient is not finite: skips it, goes back, and in the end stops.

A step that is not finite moves nothing. At most `SKIPS` in a row are skipped; the next takes the run back to the
weights of its newest milestone, and on with the step after the bad ones: what lies between is passed over for good.
After `ROLLBACKS` of that the next one ends the run, and leaves another run that fails in its first step.

All of it is a function of the steps alone. Milestones are checkpoints at fixed steps, and what went wrong so far is a
part of every checkpoint, so it does not matter when a run was killed or which clock had it saved; and processes that
see the same numbers do the same.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVarTuple

import torch
from torch import Tensor

from bricscli import files
from bricscli.errors import BricsError
from bricscli.parallel.world import ALONE, World
from bricscli.run.checkpoint import iter_damage, list_checkpoints, load_checkpoint, save_checkpoint, step_of
from bricscli.run.directory import INFO, RECIPE, RunDirectory
from bricscli.run.log import warn
from bricscli.run.provenance import describe_arguments
from bricscli.training.learner import Learner, NonFiniteError

SKIPS = 3  #: in a row
ROLLBACKS = 2  #: of a whole run
MILESTONES = 20  #: of a whole run, if they are then not nearer to each other than
MILESTONE_STEPS = 100
BUNDLE = "bundle.json"

Batch = TypeVarTuple("Batch")
#: Weights, training state, other averages: what a checkpoint holds.
Learned = tuple[dict[str, Tensor], dict[str, Tensor], dict[float, dict[str, Tensor]]]


class Step(Protocol[*Batch]):
    """What training needs of `training.steps`; a batch is one tensor or several."""

    def __call__(self, step: int, /, *batch: *Batch) -> dict[str, float]: ...
    def players(self) -> Sequence[Learner[Any]]: ...
    def weights(self) -> dict[str, Tensor]: ...
    def more_averages(self) -> dict[float, dict[str, Tensor]]: ...
    def training_state(self) -> dict[str, Tensor]: ...
    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor],
             averages: Mapping[float, dict[str, Tensor]] = ..., /) -> None: ...


@dataclass(frozen=True)
class Rollback:
    """Steps `milestone` ... `last` are passed over; of them `first` ... `last` were not finite."""

    milestone: int
    first: int
    last: int


@dataclass(frozen=True)
class Setbacks:
    """What went wrong so far: the steps skipped in a row just now, and every return to a milestone."""

    skipped: int = 0
    rollbacks: tuple[Rollback, ...] = ()

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> "Setbacks":
        """Of a checkpoint's `state.json`; none in those that know nothing of it."""
        return cls(state.get("skipped", 0), tuple(Rollback(**window) for window in state.get("rollbacks", [])))


@dataclass(frozen=True)
class Again:
    """How a step can be made again: the command's words without --recipe and --run, the keys of a step's samples."""

    words: Sequence[str] = ()
    keys: Callable[[int], Sequence[str]] = lambda step: ()


class DivergedRun(BricsError):
    """A run cannot go on; every process of it raises this at the same step."""


class Recovery(Generic[*Batch]):
    """Takes the steps of a run of `last` steps. All processes of `world` decide the same, the first one writes."""

    def __init__(self, step_function: Step[*Batch], run: RunDirectory, recipe_text: str, *, last: int, batch_size: int,
                 again: Again = Again(), world: World = ALONE) -> None:
        self.step_function, self.run, self.recipe_text = step_function, run, recipe_text
        self.batch_size, self.again, self.world = batch_size, again, world
        self.last, self.spacing = last, max(MILESTONE_STEPS, -(-last // MILESTONES))
        self.setbacks = Setbacks()

    def begin(self) -> None:
        """Keeps the weights of a run that is about to take its first step: what it goes back to before a milestone."""
        learned = self.learned()
        if learned is not None and self.world.first:
            if self.run.start.exists():  # of a process that never came to a checkpoint
                files.remove_directory(self.run.start)
            self.save(self.run.start, 0, learned)

    def learned(self) -> Learned | None:
        """All that was learned so far; None where another process has it. Of a divided model every process must ask."""
        function = self.step_function
        if not self.world.acts:
            return None
        return function.weights(), function.training_state(), function.more_averages()

    def save(self, folder: Path, step: int, learned: Learned) -> Path:
        """Writes a checkpoint of `step` steps done into `folder`: what the first process does."""
        state = {"step": step, "images_seen": step * self.batch_size, **asdict(self.setbacks)}
        return save_checkpoint(folder, step, learned[0], learned[1], state, self.recipe_text, learned[2])

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after so many steps, whatever the time: a milestone, or the last."""
        return step % self.spacing == 0 or step == self.last

    def milestones(self, step: int) -> list[Path]:
        """Those that a run of so many steps may go back to, newest first; the weights it began with are the last."""
        sound = step - self.setbacks.skipped
        return [path for path in self._ways_back(step) if step_of(path) <= sound]

    def needed(self, step: int) -> list[Path]:
        """What must not be deleted after so many steps. The weights of the beginning go once there is a milestone.

        A milestone among steps that were skipped just now is a way back as soon as a step is not skipped.
        """
        sound = self.milestones(step)
        waiting, newest = [path for path in self._ways_back(step) if path not in sound], sound[:1]
        done = step == self.last or newest != list_checkpoints(self.run.start)
        if done and self.world.first and self.run.start.exists():
            files.remove_directory(self.run.start)
        return [*waiting, *newest]

    def _ways_back(self, step: int) -> list[Path]:
        """Milestones up to `step`, newest first, and the beginning; but none of what was passed over, which is there
        or not as the clock had it."""
        found = [path for path in list_checkpoints(self.run.checkpoints)
                 if (number := step_of(path)) <= step and number % self.spacing == 0
                 and not any(back.milestone < number <= back.last for back in self.setbacks.rollbacks)]
        return [*reversed(found), *list_checkpoints(self.run.start)]

    def take(self, step: int, batch: tuple[*Batch]) -> dict[str, float]:
        """Takes a step and returns the numbers for the log; of one that was not finite, what was done about it.

        Raises DivergedRun where the run has to stop, naming the command that makes the step fail again.
        """
        before = [(buffer, buffer.clone()) for player in self.step_function.players()
                  for buffer in player.model.buffers()]
        try:
            numbers = self.step_function(step, *batch)
        except NonFiniteError as error:
            with torch.no_grad():
                for buffer, value in before:  # a codebook that follows its vectors has moved already
                    buffer.copy_(value)
            return self._set_back(step, str(error))
        self.setbacks = replace(self.setbacks, skipped=0)
        return numbers

    def _set_back(self, step: int, what: str) -> dict[str, float]:
        where, was = f"{self.run.path}: the {what} is not finite at step {step}", self.setbacks
        if was.skipped < SKIPS:
            self.setbacks = replace(was, skipped=was.skipped + 1)
            warn(f"{where}. It is skipped ({self.setbacks.skipped} in a row, at most {SKIPS}).")
            return {"skipped": self.setbacks.skipped}
        milestone = self._go_back(step) if len(was.rollbacks) < ROLLBACKS else None
        if milestone is None:
            raise self._diverged(step, what)
        self.setbacks = Setbacks(0, (*was.rollbacks, Rollback(milestone, step - was.skipped, step)))
        warn(f"{where}, as at the {SKIPS} before it. Training goes on from the weights of step {milestone} with step "
             f"{step + 1}; what lies between is passed over.")
        return {"skipped": was.skipped + 1, "rolled_back_to": milestone * self.batch_size}

    def _go_back(self, step: int) -> int | None:
        """Loads the newest milestone that the first process finds intact, and says which step it is of."""
        found = self._intact_milestone(step) if self.world.first else None
        where = self.world.told(found and str(found.relative_to(self.run.path)))
        if where is None:
            return None
        with self.world.together():
            checkpoint = load_checkpoint(self.run.path / where, training=True)
        assert checkpoint.training is not None
        self.step_function.load(checkpoint.weights, checkpoint.training, checkpoint.averages)
        return checkpoint.step

    def _intact_milestone(self, step: int) -> Path | None:
        for path in self.milestones(step):
            damage = next(iter_damage(path), None)
            if damage is None:
                return path
            warn(f"{path}: {damage}. An older milestone is looked for.")
        return None

    def _diverged(self, step: int, what: str) -> DivergedRun:
        went = len(self.setbacks.rollbacks)
        why = (f"{self.run.path}: the {what} is not finite at step {step} ({step * self.batch_size} images seen), "
               f"{SKIPS} steps before it were skipped, and the run went back {went} times before")
        if (self.run.path / BUNDLE).exists():
            return DivergedRun(f"{why}. That is what this run was kept for.")
        bundle = self.run.path / f"diverged-{step}"
        command = ["brics", *self.again.words, "--recipe", str(bundle / RECIPE), "--run", str(bundle)]
        learned = self.learned()
        if learned is not None and self.world.first and not bundle.exists():
            try:
                self._write_bundle(bundle, step, what, command, learned)
            except BricsError as error:
                return DivergedRun(f"{why}. What it failed with could not be kept.", *error.lines)
        return DivergedRun(f"{why}. A smaller training.learning_rate, in another --run, may help. The state before the "
                          f"step is kept, and this command fails with it at once: {shlex.join(command)}")

    def _write_bundle(self, bundle: Path, step: int, what: str, command: list[str], learned: Learned) -> None:
        """A run whose first step is the one that failed."""
        with files.new_directory(bundle) as temporary:
            files.write_text(temporary / RECIPE, self.run.recipe_path.read_text("utf-8"))
            files.write_text(temporary / INFO, self.run.info_path.read_text("utf-8"))
            self.save(RunDirectory(temporary).checkpoints, step, learned)
            files.write_json(temporary / BUNDLE, {
                "step": step, "images_seen": step * self.batch_size, "not_finite": what,
                "keys": list(self.again.keys(step)), "seeds": {"training.seed": self.run.recipe.training.seed},
                **asdict(self.setbacks), "command": describe_arguments(command)})
