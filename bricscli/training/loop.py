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
from typing import TypeVarTuple

from bricscli.errors import InterruptedRun, RecipeError
from bricscli.parallel.world import ALONE, World
from bricscli.run.checkpoint import latest_checkpoint, load_checkpoint, prune
from bricscli.run.directory import RunDirectory
from bricscli.run.log import RunLog, say
from bricscli.training.recovery import Again, DivergedRun, Recovery, Setbacks, Step

LOG_LINES = 400  #: of a whole run, in metrics.jsonl
PREVIEWS = 4  #: sheets of a whole run
KEPT_CHECKPOINTS = 2

Batch = TypeVarTuple("Batch")


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
    check: Callable[[int], None] = lambda step: None,
    again: Again = Again(),  # noqa: B008 (frozen)
    world: World = ALONE,
) -> Path:
    """Trains until `images` were seen and returns the last checkpoint; continues where `run` has one.

    `read_batch(step)` gives this process's rows of a batch on the right device; `preview(file)` writes a sheet and may
    return numbers for the log; `save_every` is in seconds; `protect()` names checkpoints that must stay; `check(step)`
    raises where a run must not go on at that step; `again` tells how a step is repeated.

    Raises:
        InterruptedRun: SIGINT or SIGTERM came; everything is saved.
        BricsError: losses or gradients were not finite too often; names the command that shows it.
    """
    last = math.ceil(images / batch_size)
    recovery = Recovery(step_function, run, recipe_text, last=last, batch_size=batch_size, again=again, world=world)
    first, checkpoint = _resume(step_function, run, recovery, world)
    if first >= last and checkpoint is not None:
        if world.first:  # or what a process left that was killed just before it was done
            prune(run.checkpoints, KEPT_CHECKPOINTS, [*protect(), *recovery.needed(first)])
        say(f"{run.path}: already trained ({first * batch_size} images seen).")
        return checkpoint
    with world.together():
        if world.first:
            check(first)
    log_steps = max(1, last // LOG_LINES)
    preview_steps = {math.ceil(last * i / PREVIEWS) for i in range(1, PREVIEWS + 1)}

    def save(step: int) -> Path:
        learned, path = recovery.learned(), None
        with world.together():
            if log is not None and learned is not None:
                log.sync()
                path = recovery.save(run.checkpoints, step, learned)
                prune(run.checkpoints, KEPT_CHECKPOINTS, [*protect(), *recovery.needed(step)])
        return Path(world.told(str(path)))

    with ExitStack() as stack:
        stop, log = stack.enter_context(stop_request()), None
        with world.together():
            if world.first:
                log = stack.enter_context(RunLog(run, last * batch_size, first * batch_size))
        saved = time.monotonic()
        if checkpoint is None:
            with world.together():
                recovery.begin()
        for step in range(first, last):
            batch = read_batch(step)
            try:
                numbers = recovery.take(step, batch)
            except DivergedRun as error:
                with world.together():
                    raise error
            done, seen = step + 1, (step + 1) * batch_size
            if done in preview_steps and world.acts:
                numbers |= preview(run.sheets / f"{seen:09d}.png")
            if log is not None:
                logged = done in preview_steps or step % log_steps == 0 or "skipped" in numbers
                (log.log if logged else log.show)(seen, numbers)
            stopped, due = world.any(stop.requested, world.first and time.monotonic() - saved > save_every)
            if stopped or due or recovery.is_due(done):
                checkpoint, saved = save(done), time.monotonic()
            if stopped:
                with world.together():
                    raise InterruptedRun(f"{run.path}: stopped and saved after {seen} of {last * batch_size} images. "
                                         "The same command again goes on from there.")
    assert checkpoint is not None
    return checkpoint


def _resume(step_function: Step[*Batch], run: RunDirectory, recovery: Recovery[*Batch], world: World
            ) -> tuple[int, Path | None]:
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
    with world.together():  # of its own: what divides a model needs all processes
        try:
            step_function.load(checkpoint.weights, checkpoint.training, checkpoint.averages)
        except RuntimeError:  # the recipe is equal, so the program must be another
            raise RecipeError(f"{path}: was written by a brics with other layers. Choose another --run.") from None
    recovery.setbacks = Setbacks.read(checkpoint.state)
    say(f"{run.path}: goes on after {checkpoint.state['images_seen']} images.")
    return checkpoint.step, path

