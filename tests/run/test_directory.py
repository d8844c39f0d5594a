import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.recipe.load import recipe_from_dict
from bricscli.run.directory import RunDirectory, list_runs, newest_run

AUTOENCODER = {"kind": "autoencoder", "data": {"name": "toy", "resolution": 32}, "encoder": {"multipliers": [1, 2]},
               "retrieval": {"size": 16}, "decoder": {"channels": [8, 8]}, "training": {"images": 100}}
DIFFUSION = {"kind": "diffusion", "autoencoder": "toy", "training": {"images": 100}}


def create(path: Path, values: dict = DIFFUSION, **info: object) -> RunDirectory:
    return RunDirectory.create(path, recipe_from_dict(values), info)


def add_checkpoint(run: RunDirectory, step: int, time: int) -> None:
    path = run.checkpoints / f"step-{step:07d}"
    path.mkdir(parents=True)
    os.utime(path, (time, time))


def name_of(run: RunDirectory | None) -> str | None:
    return run.name if run else None


def test_create_open_and_what_is_written(tmp_path: Path) -> None:
    run = create(tmp_path / "runs" / "a", AUTOENCODER, argv=["brics"])
    assert sorted(entry.name for entry in run.path.iterdir()) == ["recipe.yaml", "run.json"]
    assert "max_entries: 262144" in run.recipe_path.read_text(), "every default is written"
    opened = RunDirectory.open(tmp_path / "runs" / "a")
    assert opened.recipe == recipe_from_dict(AUTOENCODER)
    assert opened.info == {"argv": ["brics"]}
    assert opened.name == "a"


def test_creating_again_with_an_equal_recipe_opens(tmp_path: Path) -> None:
    create(tmp_path / "a", first=True)
    described = DIFFUSION | {"description": "other words, same numbers"}
    assert create(tmp_path / "a", described, first=False).info == {"first": True}


def test_creating_again_with_another_recipe_names_the_keys(tmp_path: Path) -> None:
    create(tmp_path / "a")
    other = DIFFUSION | {"training": {"images": 200, "seed": 1}}
    with pytest.raises(RecipeError) as caught:
        create(tmp_path / "a", other)
    text = "\n".join(caught.value.lines)
    assert "training.images: 100 -> 200" in text and "training.seed: 0 -> 1" in text
    assert caught.value.lines[-1].endswith("Choose another --run, or delete it.")
    with pytest.raises(RecipeError, match="kind: 'diffusion' -> 'autoencoder'"):
        create(tmp_path / "a", AUTOENCODER)


@pytest.mark.parametrize("images", [100, 200])
def test_two_that_create_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    other = create(tmp_path / "other" / "a", DIFFUSION | {"training": {"images": images}}, first=True)
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        rename(other.path, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    if images == 100:
        assert create(tmp_path / "a", first=False).info == {"first": True}
    else:
        with pytest.raises(RecipeError, match=r"training\.images: 200 -> 100"):
            create(tmp_path / "a")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "other"]


def test_creating_where_something_else_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo.jpg").write_text("1")
    with pytest.raises(DataError, match="already exists"):
        create(tmp_path / "a")
    with pytest.raises(DataError, match="cannot be written"):
        create(tmp_path / "a" / "photo.jpg" / "run")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["a", "photo.jpg"]


def test_open_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such run\. Train one"):
        RunDirectory.open(tmp_path / "a")
    for name in "bc":
        create(tmp_path / name)
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=r"d: is not a run. There are: b, c\."):
        RunDirectory.open(tmp_path / "d")


def test_a_run_whose_files_were_changed(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    run.info_path.write_text("{")
    with pytest.raises(DataError, match=r"run\.json: cannot be read"):
        _ = run.info
    run.recipe_path.write_text(run.recipe_path.read_text().replace("images: 100", "images: -1"))
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+: training\.images: must be above 0, got -1"):
        _ = RunDirectory.open(run.path).recipe


def test_newest_run_is_of_the_kind_and_by_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newest_run(tmp_path / "nowhere", "diffusion") is None
    old, new, empty = (create(tmp_path / name) for name in ("z", "y", "x"))
    autoencoder, broken = create(tmp_path / "w", AUTOENCODER), create(tmp_path / "v")
    assert newest_run(tmp_path, "diffusion") is None
    add_checkpoint(old, 10, 1000)
    add_checkpoint(new, 1, 500)
    add_checkpoint(new, 2, 2000)
    add_checkpoint(autoencoder, 1, 5000)
    add_checkpoint(broken, 1, 9000)
    filling = AUTOENCODER | {"decoder": {"channels": [8, 8], "conditional": {"channels": 8}}}
    add_checkpoint(create(tmp_path / "u", filling), 1, 8000)  # a decoder for inpainting: nothing to go on with
    broken.recipe_path.write_text("kind: diffusion\n")
    assert name_of(newest_run(tmp_path, "diffusion")) == "y"
    assert "v: is left out" in capsys.readouterr().err
    assert name_of(newest_run(tmp_path, "autoencoder")) == "w"
    assert [run.name for run in list_runs(tmp_path)] == ["u", "v", "w", "x", "y", "z"]
    empty.path.rename(tmp_path / ".brics-tmp-x-1")
    assert "x" not in [run.name for run in list_runs(tmp_path)] and len(list_runs(tmp_path)) == 5


HOLD = """
import os, sys, time
from pathlib import Path
from bricscli.run.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    if os.fork() == 0:          # a worker that outlives its parent
        print("held", flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True,
                              start_new_session=True)
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "held\n"
        name = rf"a: is in use by process {holder.pid} on .* since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d.*\. Wait"
        with pytest.raises(BricsError, match=name) as caught, run.lock():
            raise AssertionError("two processes in one run")
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
        holder.kill()
        holder.wait()
        with run.lock():
            assert f"process {os.getpid()} on" in run.lock_path.read_text()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    run.lock_path.mkdir()
    with pytest.raises(BricsError, match=r"run\.lock: could not be written: Is a directory"), run.lock():
        pass


def test_lock_is_released_and_its_owner_forgotten(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), run.lock():
            1 / 0  # noqa: B018
    assert run.lock_path.read_text() == ""
    with run.lock(), pytest.raises(BricsError, match="in use"), run.lock():
        pass


def test_a_child_that_leaves_the_block_does_not_unlock(tmp_path: Path) -> None:
    run, child = create(tmp_path / "a"), -1
    try:
        with run.lock():
            child = os.fork()
            if child == 0:
                raise SystemExit
            assert os.waitpid(child, 0)[1] == 0
            assert run.lock_path.read_text().startswith("process")
            with pytest.raises(BricsError, match="in use"), run.lock():
                pass
    except BaseException as error:
        if child == 0:
            os._exit(0 if isinstance(error, SystemExit) else 1)
        raise


def test_lock_sweeps_what_the_killed_left(tmp_path: Path) -> None:
    run = create(tmp_path / "a")
    run.checkpoints.mkdir()
    (run.checkpoints / ".brics-tmp-step-0000001-99999999").mkdir()
    (run.path / ".brics-tmp-metrics.jsonl-99999999").write_text("")
    with run.lock():
        assert not list(run.path.rglob(".brics-tmp-*"))
