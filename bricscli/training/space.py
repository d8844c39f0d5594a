"""What a run needs room for: on the disk, known before the first step, and in memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from bricscli import files
from bricscli.errors import BricsError
from bricscli.run.checkpoint import list_checkpoints, step_of
from bricscli.run.directory import RunDirectory
from bricscli.training.loop import KEPT_CHECKPOINTS
from bricscli.training.recovery import Step

#: At once: those that are kept, the newest milestone, and the one that is being written.
AT_ONCE = KEPT_CHECKPOINTS + 2
#: What a training changes that runs out of memory.
LESS_MEMORY = ("In another --run, a larger training.accumulate computes the same batch in more parts, and "
               "training.precision=bf16 keeps half as much of it.")


def checkpoint_bytes(step_function: Step[*tuple[Any, ...]]) -> int:
    """What a checkpoint takes once there has been a step: of each player the weights, their averages, two moments."""
    return sum(
        _bytes(player.model.state_dict().values()) * (1 + len(player.emas))
        + 2 * _bytes(parameter for parameter in player.model.parameters() if parameter.requires_grad)
        for player in step_function.players())


def check_room(path: Path, step_function: Step[*tuple[Any, ...]], last: int) -> None:
    """Raises BricsError where the disk of a run, which need not exist, cannot hold its checkpoints; nothing is left.

    `last`: how many steps it has in all. One that is done needs no room. Raises DataError where nothing can be written.
    """
    files.check_writable(path)
    run = RunDirectory(path)
    there = list_checkpoints(run.checkpoints)
    if there and step_of(there[-1]) >= last:
        return
    missing = max(1, AT_ONCE - len(there))
    needed, free = missing * checkpoint_bytes(step_function), files.free_bytes(path)
    if free < needed:
        raise BricsError(f"{path}: needs about {files.show_bytes(needed)} for {missing} checkpoints, "
                         f"{files.show_bytes(free)} are free. Delete runs, samples or data sets there that you no "
                         "longer need, or choose another --run.")


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
