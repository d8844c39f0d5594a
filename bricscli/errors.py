"""Errors for people: one line each, `where: what. What to do.`, one exit code per class.

Anything that is not a `BricsError` is a bug and keeps its traceback.
"""


class BricsError(Exception):
    """Something failed while running (exit code 1); several problems may be reported at once."""

    exit_code = 1

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))

    @property
    def lines(self) -> list[str]:
        """The message, one entry per line to print."""
        return str(self).split("\n")


class RecipeError(BricsError):
    """A recipe or an option is wrong (exit code 2)."""

    exit_code = 2


class DataError(BricsError):
    """Data, weights or a run are wrong or missing (exit code 3)."""

    exit_code = 3


class MismatchError(BricsError):
    """Two things were not made by the same autoencoder or recipe (exit code 4)."""

    exit_code = 4


class InterruptedRun(BricsError):
    """The user stopped the run; everything is saved (exit code 130)."""

    exit_code = 130
