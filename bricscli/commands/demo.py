"""`brics demo`."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path("brics-demo"),
    device: options.Device = "auto",
) -> None:
    """See all of it in five minutes: drawn churches, tiny models, a page with pictures and numbers.

    Prepares the embedded data set, trains the autoencoder and the diffusion model, draws new images and measures them;
    prints each command on the way, and ends in DIR/report.html. Started again, it goes on where it was stopped.

    Example: brics demo --out brics-demo
    """
    from bricscli import files
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.demo import demo as run_demo

    files.check_writable(out)
    report = run_demo(out, device=choose_device(device))
    say(f"\n{report}: done. Open it in a browser.")
