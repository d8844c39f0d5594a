"""The command `brics`: its words, and the only place where errors become lines and exit codes.

Commands import what they need in their bodies, so that `--help` never waits for torch.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import typer

from bricscli import __version__
from bricscli.commands import (
    demo,
    doctor,
    encode,
    evaluate,
    gather,
    inpaint,
    nn_search,
    options,
    plot,
    prepare,
    report,
    sample,
    table,
    train_ae,
    train_diffusion,
)
from bricscli.errors import BricsError

app = typer.Typer(
    name="brics",
    help="Train, sample and measure BRICS: an autoencoder with key codes and feature grids, and a diffusion model on "
         "its codes.\n\nThe usual way: prepare -> train-ae -> encode -> train-diffusion -> sample -> eval. "
         "`brics demo` goes all of it on drawn churches, in five minutes.",
    epilog="Exit codes: 0 done, 1 failed while running, 2 wrong recipe or option, 3 wrong or missing data or weights, "
           "4 parts that do not belong together, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "prepare": prepare.prepare,
    "train-ae": train_ae.train_ae,
    "encode": encode.encode,
    "train-diffusion": train_diffusion.train_diffusion,
    "sample": sample.sample,
    "gather": gather.gather,
    "inpaint": inpaint.inpaint,
    "nn-search": nn_search.nn_search,
    "table": table.table,
    "report": report.report,
    "doctor": doctor.doctor,
}
for name, command in COMMANDS.items():
    app.command(name, help=options.manual(command))(command)
app.add_typer(evaluate.app, name="eval")
app.add_typer(plot.app, name="plot")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"brics {__version__}")
        raise typer.Exit


@app.callback()
def brics(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of `brics` itself."""


def main() -> None:
    """Runs the command line; every BricsError becomes its lines on stderr and its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except BricsError as error:
        from bricscli.run.log import escape

        for line in error.lines:
            print(f"brics: {escape(line)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("brics: interrupted; nothing half-written was left. Run the same command again.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        from bricscli.run.log import escape

        # Nobody but the user makes names; and any look at such a path raises it, not only opening and writing.
        print(f"brics: {escape(os.fsdecode(error.filename or 'a path'))}: is longer than the file system allows. "
              "Choose a shorter name.", file=sys.stderr)
        sys.exit(3)
    except Exception as error:
        show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or exit_code is None:  # not one of click's: a bug
            raise
        show()
        sys.exit(exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
