"""`brics launch`: scripts for a cluster."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bricscli.commands import options

app = typer.Typer(help="Write what a cluster needs to run a command.", no_args_is_help=True)


def slurm(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="The words of the command, after --.")],
    nodes: Annotated[int, typer.Option(metavar="N", help="How many machines.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(metavar="N", help="How many GPUs of each machine, a process on "
                                                "every one.")] = 1,
    time: Annotated[str, typer.Option(metavar="TIME", help="How long a job may take until it is queued again, as SLURM "
                                                           "writes it.")] = "24:00:00",
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="SLURM's partition.")] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="SLURM's account.")] = None,
    parts: Annotated[int | None, typer.Option(metavar="N", help="Of a stage that is no training: so many jobs, each "
                                              "with one GPU and one part of the work.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the script goes (default: it is "
                                                                  "printed).")] = None,
) -> None:
    """A script for sbatch that trains on several machines, or does a stage in parts, whatever happens to its jobs.

    A job whose time is over saves and is queued again; a command that dies is started again, at most ten times in an
    hour, unless it fails three times at the same checkpoint.

    Example: brics launch slurm --nodes 2 --gpus-per-node 8 --out train.sh -- train-ae --recipe church64x4.yaml
    """
    import shlex

    from bricscli.run.log import say
    from bricscli.tasks.launch import Allocation, slurm_script, write_script

    _check_words(context, words, in_parts=parts is not None)
    script = slurm_script(words, Allocation(nodes, gpus_per_node, time, partition, account, parts))
    if out is None:
        typer.echo(script, nl=False)
        return
    write_script(script, out)
    say(f"{out}: written. Read it, then submit it with `sbatch {shlex.quote(str(out))}`.")


def _check_words(context: typer.Context, words: list[str], in_parts: bool) -> None:
    """Reads a command's words as it would itself. Raises RecipeError where it has no parts, and what it raises."""
    from bricscli.errors import RecipeError

    group: Any = context.find_root().command
    names, rest = ["brics"], list(words)
    while hasattr(group, "get_command") and rest and (below := group.get_command(context, rest[0])) is not None:
        group = below
        names.append(rest.pop(0))
    if hasattr(group, "get_command"):
        return  # no command: the task says which there are
    if in_parts and not any("--part" in option.opts for option in group.params):
        raise RecipeError(f"--parts: `{' '.join(names)}` cannot be made in parts. Run it on one machine.")
    group.make_context(" ".join(names), rest)


app.command(help=options.manual(slurm))(slurm)
