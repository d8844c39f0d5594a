"""`brics gather`: parts that several processes made -> the finished thing, as one process would have left it."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from bricscli.data.shards import MANIFEST
from bricscli.data.unfinished import Record, Unfinished, is_begun, unfinished
from bricscli.errors import DataError
from bricscli.recipe.load import RECIPE
from bricscli.run.directory import RunDirectory

#: So many chunks, and commands, are named in a message.
NAMED = 20


def gather(path: Path) -> list[str]:
    """Closes all that was made in parts at `path`: a data set, a run's codes or samples, or a folder of samples.

    What each came to, for people; where there is nothing to do, that too.

    Raises:
        DataError: chunks are missing or damaged; says which, and how to make them. Or there is nothing at all.
        BricsError: a process is at work there, or the disk refuses.
    """
