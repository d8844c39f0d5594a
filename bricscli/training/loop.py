"""The loop around a step: where it starts, what it logs, when it saves, how it stops.

Nothing here decides a number of the model. A run that is stopped and started again leaves the same bytes (on a CPU)
as one that was not, since a step depends on its number only.

Of several processes, which all go around it, the first one writes and speaks, and decides by its clock when to save.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVarTuple

from torch import Tensor

from bricscli.errors import BricsError, InterruptedRun, RecipeError
from bricscli.parallel.world import ALONE, World
from bricscli.run.checkpoint import latest_checkpoint, load_checkpoint, prune, save_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.log import RunLog, say
from bricscli.training.learner import NonFiniteError

LOG_LINES = 400  #: of a whole run, in metrics.jsonl
PREVIEWS = 4  #: sheets of a whole run
KEPT_CHECKPOINTS = 2

Batch = TypeVarTuple("Batch")


class Step(Protocol[*Batch]):
    """What the loop needs of `training.steps`; a batch is one tensor or several."""

    def __call__(self, step: int, /, *batch: *Batch) -> dict[str, float]: ...
    def weights(self) -> dict[str, Tensor]: ...
    def more_averages(self) -> dict[float, dict[str, Tensor]]: ...
    def training_state(self) -> dict[str, Tensor]: ...
    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor],
             averages: Mapping[float, dict[str, Tensor]] = ..., /) -> None: ...


class StopRequest:
    """Set by the first SIGINT or SIGTERM; the second SIGINT ends the process at once (checkpoints stay whole)."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a request, for as long as the block lasts."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    step_function: Step[*Batch],
    run: RunDirectory,
    recipe_text: str,
    *,
    images: int,
    batch_size: int,
    read_batch: Callable[[int], tuple[*Batch]],
    preview: Callable[[Path], Mapping[str, float]],
    save_every: float = 600.0,
    protect: Callable[[], list[Path]] = list,
    world: World = ALONE,
) -> Path:
    """Trains until `images` were seen and returns the last checkpoint; continues where `run` has one.

    `read_batch(step)` gives this process's rows of a batch on the right device; `preview(file)` writes a sheet and may
    return numbers for the log; `save_every` is in seconds; `protect()` names checkpoints that must stay.

    Raises:
        InterruptedRun: SIGINT or SIGTERM came; everything is saved.
        BricsError: a loss or gradient was not finite; names the last good checkpoint.
    """
    last = math.ceil(images / batch_size)
    first, checkpoint = _resume(step_function, run, world)
    if first >= last and checkpoint is not None:
        say(f"{run.path}: already trained ({first * batch_size} images seen).")
        return checkpoint
    log_steps = max(1, last // LOG_LINES)
    preview_steps = {math.ceil(last * i / PREVIEWS) for i in range(1, PREVIEWS + 1)}

    def save(step: int) -> Path:
        path = None
        with world.together():
            if world.acts:
                learned = step_function.weights(), step_function.training_state(), step_function.more_averages()
            if log is not None:
                log.sync()
                path = save_checkpoint(run.checkpoints, step, learned[0], learned[1],
                                       {"step": step, "images_seen": step * batch_size}, recipe_text, learned[2])
                prune(run.checkpoints, KEPT_CHECKPOINTS, protect())
        return Path(world.told(str(path)))

    with ExitStack() as stack:
        stop, log = stack.enter_context(stop_request()), None
        with world.together():
            if world.first:
                log = stack.enter_context(RunLog(run, last * batch_size, first * batch_size))
        saved = time.monotonic()
        for step in range(first, last):
            try:
                numbers = step_function(step, *read_batch(step))
            except NonFiniteError as error:
                with world.together():
                    raise _not_finite(run, error, step, batch_size) from None
            done, seen = step + 1, (step + 1) * batch_size
            if done in preview_steps and world.acts:
                numbers |= preview(run.sheets / f"{seen:09d}.png")
            if log is not None:
                (log.log if done in preview_steps or step % log_steps == 0 else log.show)(seen, numbers)
            stopped, due = world.any(stop.requested, world.first and time.monotonic() - saved > save_every)
            if stopped or due or done == last:
                checkpoint, saved = save(done), time.monotonic()
            if stopped:
                with world.together():
                    raise InterruptedRun(f"{run.path}: stopped and saved after {seen} of {last * batch_size} images. "
                                         "The same command again goes on from there.")
    assert checkpoint is not None
    return checkpoint


def _resume(step_function: Step[*Batch], run: RunDirectory, world: World) -> tuple[int, Path | None]:
    """All processes go on from the checkpoint that the first one finds."""
    found = None
    with world.together():
        if world.first:
            found = latest_checkpoint(run.checkpoints)
    name = world.told(found and found.name)
    if name is None:
        return 0, None
    path = run.checkpoints / name
    with world.together():
        checkpoint = load_checkpoint(path, training=True)
        assert checkpoint.training is not None
        try:
            step_function.load(checkpoint.weights, checkpoint.training, checkpoint.averages)
        except RuntimeError:  # the recipe is equal, so the program must be another
            raise RecipeError(f"{path}: was written by a brics with other layers. Choose another --run.") from None
    say(f"{run.path}: goes on after {checkpoint.state['images_seen']} images.")
    return checkpoint.step, path


def _not_finite(run: RunDirectory, error: NonFiniteError, step: int, batch_size: int) -> BricsError:
    good = latest_checkpoint(run.checkpoints)
    kept = f"The last good checkpoint is {good}" if good else "There is no checkpoint before it"
    return BricsError(f"{run.path}: the {error} is not finite at step {step} ({step * batch_size} images seen). "
                      f"{kept}; in another --run a smaller training.learning_rate may help.")
