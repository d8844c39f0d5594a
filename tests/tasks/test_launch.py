"""The script for SLURM, run with stand-ins for its programs: success, death, preemption, and what cannot be helped."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from bricscli.app import app
from bricscli.errors import DataError, RecipeError
from bricscli.tasks.launch import Allocation, slurm_script, write_script

TRAIN = ["train-ae", "--recipe", "a b.yaml", "--run", "my runs/it's"]

#: srun does what the next line of `plan` says: `exit CODE [STEP]`, after a checkpoint of that step was written;
#: `preempted CODE`, after it was told that its time is over; `tasks N`: runs its command N times.
SRUN = """#!/bin/bash
echo "srun $*" >> calls
read -r what code at < plan
sed -i 1d plan
case "$what" in
exit)
    [ -n "${at:-}" ] && mkdir -p "my runs/it's/checkpoints/step-$at"
    exit "$code" ;;
preempted)
    echo $$ > task
    trap 'exit '"$code" TERM
    kill -USR1 "$PPID"
    while true; do read -r -t 0.05 <> <(:); done ;;
tasks)
    while [[ "$1" == --* ]]; do shift; done
    for ((i = 0; i < code; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$((i % 2)) "$@" || exit; done ;;
esac
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >> calls
kill -TERM "$(cat task)"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> calls
[ "$1" = show ] && printf 'first\\nsecond\\n'
exit 0
"""
BRICS = """#!/bin/bash
for word in "$@" "$RANK/$WORLD_SIZE" "$LOCAL_RANK" "$MASTER_ADDR:$MASTER_PORT"; do printf '%s|' "$word"; done >> ran
echo >> ran
"""


class Ended(NamedTuple):
    code: int
    calls: list[str]
    said: str


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with stand-ins for SLURM's programs, and for those that wait."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL, "brics": BRICS,
                       "sleep": "#!/bin/bash\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path


def run(job: Path, script: str, *plan: str, **env: str) -> Ended:
    (job / "plan").write_text("".join(f"{line}\n" for line in plan))
    (job / "job.sh").write_text(script)
    subprocess.run(["bash", "-n", job / "job.sh"], check=True)
    done = subprocess.run(["bash", "job.sh"], cwd=job, capture_output=True, text=True, timeout=60, env={
        "PATH": f"{job / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "20077", "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NTASKS": "4"} | env)
    calls = (job / "calls").read_text().splitlines()
    return Ended(done.returncode, [call for call in calls if "show hostnames" not in call], done.stderr)


def test_what_is_asked_for() -> None:
    asked = Allocation(nodes=2, gpus_per_node=8, time="2-12:00:00", partition="gpu,big", account="me")
    lines = slurm_script(TRAIN, asked).splitlines()
    assert lines[0] == "#!/bin/bash"
    wanted = {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=2-12:00:00", "--partition=gpu,big",
              "--account=me", "--signal=B:USR1@120", "--requeue", "--open-mode=append", "--job-name=brics-train-ae"}
    assert wanted <= {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert "--partition" not in slurm_script(TRAIN, Allocation())
    assert "torchrun" not in slurm_script(TRAIN, asked)


def test_every_gpu_runs_the_command_as_it_was_given(job: Path) -> None:
    words = [*TRAIN, "--set", "a=[1, 2]", "--data", "$HOME `x` \"y\" 'z' *"]
    ended = run(job, slurm_script(words, Allocation(2, 2)), "tasks 4")
    assert ended.code == 0 and len(ended.calls) == 1
    ran = [line.split("|")[:-1] for line in (job / "ran").read_text().splitlines()]
    assert ran == [[*words, f"{rank}/4", str(rank % 2), "first:20077"] for rank in range(4)]


@pytest.mark.parametrize("code", [0, 2, 3, 4])
def test_what_is_done_or_cannot_be_helped_ends_the_job(job: Path, code: int) -> None:
    assert run(job, slurm_script(TRAIN, Allocation()), f"exit {code}")[:2] == (code, [
        "srun --kill-on-bad-exit=0 --wait=60 bash -c export RANK=\"$SLURM_PROCID\" LOCAL_RANK=\"$SLURM_LOCALID\"; "
        "exec \"$@\" task brics train-ae --recipe a b.yaml --run my runs/it's"])


def test_after_a_death_it_is_started_again(job: Path) -> None:
    ended = run(job, slurm_script(TRAIN, Allocation()), "exit 137 0000010", "exit 1 0000020", "exit 0")
    assert ended.code == 0 and len(ended.calls) == 3
    assert "ended with exit code 137 at checkpoint 0000010; started again" in ended.said


@pytest.mark.parametrize(("before", "at"), [([], "none"), (["exit 1 0000010", "exit 1 0000020"], "0000020")])
def test_three_deaths_at_one_checkpoint_are_enough(job: Path, before: list[str], at: str) -> None:
    plan = [*before, *["exit 9"] * (3 - bool(before)), "exit 0"]
    ended = run(job, slurm_script(TRAIN, Allocation()), *plan)
    assert ended.code == 9 and len(ended.calls) == len(plan) - 1
    assert f"failed three times at checkpoint {at} (exit code 9); given up" in ended.said


def test_ten_starts_in_an_hour_are_enough(job: Path) -> None:
    ended = run(job, slurm_script(TRAIN, Allocation()), *(f"exit 9 {step:07d}" for step in range(1, 30)))
    assert ended.code == 9 and len(ended.calls) == 11
    assert "started again ten times within an hour" in ended.said


@pytest.mark.parametrize("before", [[], ["exit 1 0000010"]])
def test_preempted_it_saves_and_is_queued_again(job: Path, before: list[str]) -> None:
    """The signal goes to the step that runs, not to srun, which would kill it."""
    ended = run(job, slurm_script(TRAIN, Allocation()), *before, "preempted 130")
    assert ended.code == 130
    assert ended.calls[len(before) + 1:] == [f"scancel --signal=TERM 20077.{len(before)}", "scontrol requeue 20077"]


@pytest.mark.parametrize(("code", "calls"), [(0, 2), (3, 2), (1, 3)])
def test_preempted_at_its_end(job: Path, code: int, calls: int) -> None:
    """What was done just then, or cannot be helped, is not queued again; what died is."""
    ended = run(job, slurm_script(TRAIN, Allocation()), f"preempted {code}")
    assert len(ended.calls) == calls and ended.code == (code if calls == 2 else 130)


def test_stopped_by_somebody_it_stays_so(job: Path) -> None:
    ended = run(job, slurm_script(TRAIN, Allocation()), "exit 130", "exit 0")
    assert ended.code == 130 and len(ended.calls) == 1


def test_a_stage_in_parts(job: Path) -> None:
    script = slurm_script(["sample", "-n", "9", "--out", "a b"], Allocation(parts=800))
    assert "#SBATCH --array=1-800\n" in script and "MASTER" not in script
    ended = run(job, script, "tasks 1", SLURM_ARRAY_TASK_ID="37", RANK="", WORLD_SIZE="", LOCAL_RANK="", MASTER_ADDR="",
                MASTER_PORT="")
    assert ended.code == 0
    assert (job / "ran").read_text().startswith("sample|-n|9|--out|a b|--part|37/800|")


@pytest.mark.parametrize(("words", "asked", "problem"), [
    ([], Allocation(), "``: does not run on all GPUs"), (["sample"], Allocation(), "sample.*Add --parts"),
    (["demo"], Allocation(), "demo.*Name one"), (["train-ae", "-r", "x"], Allocation(parts=3), "Leave --parts out"),
    (["sample", "--part=1/2"], Allocation(parts=3), "--part: is what"),
    ([*TRAIN, "--devices", "2"], Allocation(), "--devices: is what"), (["train-ae"], Allocation(), "--recipe: is miss"),
    ([*TRAIN, "\n#SBATCH --x"], Allocation(), "cannot be printed"),
    (TRAIN, Allocation(nodes=0), "--nodes: 0"), (TRAIN, Allocation(gpus_per_node=0), "--gpus-per-node: 0"),
    (["sample"], Allocation(parts=-1), "--parts: -1"), (["sample"], Allocation(parts=3, nodes=2), "one GPU"),
    (TRAIN, Allocation(time="1h"), "--time: `1h`"), (TRAIN, Allocation(time="1:00\n#"), "--time"),
    (TRAIN, Allocation(partition="a b"), "--partition: `a b`"), (TRAIN, Allocation(account="$(x)"), "--account")])
def test_what_makes_no_script(words: list[str], asked: Allocation, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        slurm_script(words, asked)


@pytest.mark.parametrize(("words", "run"), [
    (["--recipe", "tiny/toy.yaml"], "runs/toy"), (["-r", "x/a b.yaml"], "runs/a b"),
    (["--recipe=c.yaml", "--run=d"], "d"), (["--run", "e", "-r", "c.yaml"], "e")])
def test_whose_checkpoints_are_watched(words: list[str], run: str) -> None:
    assert f"\nrun={shlex.quote(run)} " in slurm_script(["train-ae", *words], Allocation())


def test_the_command(tmp_path: Path) -> None:
    words = ["launch", "slurm", "--nodes", "2", "--gpus-per-node", "4"]
    script = slurm_script(TRAIN, Allocation(2, 4))
    assert CliRunner().invoke(app, [*words, "--", *TRAIN]).output == script
    out = tmp_path / "job.sh"
    for _ in range(2):  # one of ours is replaced
        done = CliRunner().invoke(app, [*words, "--out", str(out), "--", *TRAIN])
        assert done.exit_code == 0 and "Read it, then submit it" in done.output and out.read_text() == script
    out.write_text("#!/bin/bash\nrm x\n")
    with pytest.raises(DataError, match="no script of"):
        write_script(script, out)
    with pytest.raises(DataError, match="no script of"):
        write_script(script, tmp_path)
