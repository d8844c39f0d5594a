"""The command `brics`: its words, and the only place where errors become lines and exit codes.

Commands import what they need in their bodies, so that `--help` never waits for torch.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TextIO

import typer

from bricscli import __version__
from bricscli.commands import (
    demo,
    doctor,
    encode,
    evaluate,
    gather,
    import_checkpoint,
    inpaint,
    launch,
    nn_search,
    options,
    plot,
    prepare,
    report,
    sample,
    selftest,
    table,
    train_ae,
    train_diffusion,
    verify,
)
from bricscli.copies import follow_parent
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
    "import-checkpoint": import_checkpoint.import_checkpoint,
    "nn-search": nn_search.nn_search,
    "table": table.table,
    "report": report.report,
    "verify": verify.verify,
    "doctor": doctor.doctor,
    "selftest": selftest.selftest,
}
for name, command in COMMANDS.items():
    app.command(name, help=options.manual(command))(command)
app.add_typer(evaluate.app, name="eval")
app.add_typer(plot.app, name="plot")
app.add_typer(launch.app, name="launch")


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
    follow_parent()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _run()
    finally:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except OSError:
            _mute(sys.stderr)


def _run() -> NoReturn:
    try:
        code = app(standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        if sys.stdout is not None:
            sys.stdout.flush()  # or Python does, and has nobody to tell where that fails
    except BricsError as error:
        _end(error.exit_code, *error.lines)
    except (KeyboardInterrupt, typer.Abort):
        _end(130, "interrupted; nothing half-written was left. Run the same command again.")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            # Nobody but the user makes names; and any look at such a path raises it, not only opening and writing.
            _end(3, f"{os.fsdecode(error.filename or 'a path')}: is longer than the file system allows. "
                    "Choose a shorter name.")
        if error.filename is not None or not _output_fails():
            raise
        _mute(sys.stdout)
        _end(1, *([] if error.errno == errno.EPIPE else [
            f"standard output: could not be written: {error.strerror}. See to that, then run the command again."]))
    except Exception as error:
        show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or exit_code is None:  # not one of click's: a bug
            raise
        show()
        sys.exit(exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _end(code: int, *lines: str) -> NoReturn:
    from bricscli.run.log import complain

    for line in lines:
        complain(line)
    sys.exit(code)


def _output_fails() -> bool:
    """Whether stdout takes nothing any more: what could not be written may be lost by now, so an empty line is."""
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def _mute(stream: TextIO) -> None:
    """What it could not write is not written at the end either, where Python would change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
