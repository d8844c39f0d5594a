"""`brics launch slurm`: a command as a batch script of SLURM, plain enough to be read before it is submitted."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bricscli import files
from bricscli.errors import DataError, RecipeError

MARK = "# Written by `brics launch slurm`: "
TRAINING = ("train-ae", "train-diffusion")
IN_PARTS = ("prepare", "encode", "sample", "eval", "nn-search")
_TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")
_NAME = re.compile(r"[\w.,:+-]+")


@dataclass(frozen=True)
class Allocation:
    """What a job asks for. `time`: as SLURM writes it, such as 30 (minutes), 24:00:00 or 2-12:00:00."""

    nodes: int = 1
    gpus_per_node: int = 1
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    parts: int | None = None


def slurm_script(words: Sequence[str], asked: Allocation) -> str:
    """The script that runs `brics WORDS`, of a training on every GPU, of another stage in `parts` as a job array.

    Raises RecipeError where the words or what is asked for cannot be run so.
    """
    _check(words, asked)
    name = f"brics-{words[0]}"
    lines = {"job-name": name, "nodes": asked.nodes, "ntasks-per-node": asked.gpus_per_node,
             "gpus-per-node": asked.gpus_per_node, "time": asked.time, "partition": asked.partition,
             "account": asked.account, "array": f"1-{asked.parts}" if asked.parts else None,
             "output": f"{name}-%A_%a.log" if asked.parts else f"{name}-%j.log"}
    headers = [f"#SBATCH --{key}={value}" for key, value in lines.items() if value is not None]
    command = shlex.join(["brics", *words])
    return _SCRIPT.format(
        headers="\n".join([*headers, "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR1@120", "#SBATCH --requeue"]),
        mark=MARK, what=command.replace("\n", " "), command=command,
        part=' --part "$SLURM_ARRAY_TASK_ID/' + f'{asked.parts}"' if asked.parts else "",
        ranks="" if asked.parts else _RANKS, run=shlex.quote(_run_of(words)) if words[0] in TRAINING else "''",
        task=_TASK_OF_ONE if asked.parts else _TASK)


def write_script(script: str, out: Path) -> None:
    """Raises DataError where something else is there already, or where it cannot be written."""
    if out.exists() and not (out.is_file() and MARK.encode() in out.read_bytes()[:2000]):
        raise DataError(f"{out}: is there already, and no script of `brics launch`. Choose another --out.")
    files.check_writable(out.parent)
    files.write_text(out, script)


def _check(words: Sequence[str], asked: Allocation) -> None:
    first, problems = words[0] if words else "", []
    possible, how = (IN_PARTS, "in parts") if asked.parts else (TRAINING, "on all GPUs at once")
    if first not in possible:
        instead = "Leave --parts out" if first in TRAINING else "Add --parts" if first in IN_PARTS else "Name one"
        problems.append(f"`{first}`: does not run {how}, as {', '.join(possible)} do. {instead}.")
    if any(not word.isprintable() for word in words):
        problems.append("the command: has characters that cannot be printed. Leave them out.")
    given = {word.partition("=")[0] for word in words}
    problems += [f"{option}: is what the script decides. Leave it out." for option in ("--part", "--devices")
                 if option in given]
    if asked.parts and (asked.nodes, asked.gpus_per_node) != (1, 1):
        problems.append("--parts: each part is a job on one GPU. Leave --nodes and --gpus-per-node out.")
    problems += [f"{option}: {value} is out of range. Choose at least 1." for option, value in (
        ("--nodes", asked.nodes), ("--gpus-per-node", asked.gpus_per_node), ("--parts", asked.parts))
        if value is not None and value < 1]
    if not _TIME.fullmatch(asked.time):
        problems.append(f"--time: `{asked.time}` is no time of SLURM. Write minutes, 24:00:00 or 2-12:00:00.")
    problems += [f"{option}: `{value}` is no name. Use letters, digits and . , : + _ -" for option, value in (
        ("--partition", asked.partition), ("--account", asked.account))
        if value is not None and not _NAME.fullmatch(value)]
    if problems:
        raise RecipeError(*problems)


def _run_of(words: Sequence[str]) -> str:
    """The folder of a training's run, as its command finds it."""
    found = {"--run": "", "--recipe": ""}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        option = "--recipe" if option == "-r" else option
        if option in found:
            found[option] = value if equals else following
    if found["--run"]:
        return found["--run"]
    if not found["--recipe"]:
        raise RecipeError("--recipe: is missing. Name the recipe to train by.")
    return f"runs/{Path(found['--recipe']).name.removesuffix('.yaml')}"


_RANKS = """
# One task per GPU; they find each other here.
export WORLD_SIZE="$SLURM_NTASKS"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
"""

#: Where one task has ended, the others have a minute to save what they are at.
_TASK = """srun --kill-on-bad-exit=0 --wait=60 bash -c \\
        'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID"; exec "$@"' task "${command[@]}" &"""
_TASK_OF_ONE = """srun "${command[@]}" &"""

_SCRIPT = """#!/bin/bash
{headers}
{mark}{what}
# Two minutes before its time is over, or where it has to make room, the job saves, stops and is queued again. A command
# that fails otherwise is started again, at most ten times in an hour, unless it fails three times at the same
# checkpoint. What cannot be helped by that (exit codes 2, 3 and 4) ends the job.
set -u
command=({command}{part})
run={run}  # whose checkpoints show whether it gets on
{ranks}
preempted=0
interrupted=0
step=0  # SLURM counts the steps of a job, and so do we

stop() {{
    preempted=1
    interrupted=1
    scancel --signal=TERM "$SLURM_JOB_ID.$step"
}}
trap stop USR1

queue_again() {{
    echo "brics: stopped and saved; the job is queued again."
    scontrol requeue "$SLURM_JOB_ID"
    exit 130
}}

newest() {{
    [ -n "$run" ] && ls "$run/checkpoints" 2>/dev/null | sed -n 's/^step-\\([0-9]*\\)$/\\1/p' | sort -n | tail -n 1
}}

failed_at=never
times=0
starts=()
while true; do
    {task}
    task=$!
    while true; do
        interrupted=0
        wait "$task"
        code=$?
        [ "$interrupted" = 1 ] || break
    done
    step=$((step + 1))
    case "$code" in
    0 | 2 | 3 | 4) exit "$code" ;;
    esac
    [ "$preempted" = 1 ] && queue_again
    [ "$code" = 130 ] && exit 130  # somebody stopped it
    at=$(newest)
    if [ "$at" = "$failed_at" ]; then times=$((times + 1)); else times=1; fi
    failed_at=$at
    if [ "$times" -ge 3 ]; then
        echo "brics: failed three times at checkpoint ${{at:-none}} (exit code $code); given up." >&2
        exit "$code"
    fi
    recent=()
    for start in "${{starts[@]}}"; do
        [ "$start" -gt $((SECONDS - 3600)) ] && recent+=("$start")
    done
    if [ "${{#recent[@]}}" -ge 10 ]; then
        echo "brics: started again ten times within an hour (exit code $code); given up." >&2
        exit "$code"
    fi
    starts=("${{recent[@]}}" "$SECONDS")
    echo "brics: ended with exit code $code at checkpoint ${{at:-none}}; started again." >&2
    sleep 10
    [ "$preempted" = 1 ] && queue_again
done
"""
