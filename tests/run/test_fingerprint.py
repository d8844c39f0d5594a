"""A run goes on as it began, or says since when it is another."""

from pathlib import Path
from typing import Any

import pytest

from bricscli.errors import MismatchError
from bricscli.recipe.load import recipe_from_dict
from bricscli.run.directory import RunDirectory
from bricscli.run.fingerprint import check_fingerprint, take_fingerprint

RECIPE = recipe_from_dict({"kind": "diffusion", "autoencoder": "toy", "training": {"images": 10}})
EXACT = {"determinism": "exact", "virtual_ranks": 8, "processes": 2}
BEGAN = {"brics": "0.1.0", "torch": "2.14.0", "device": "cpu", "threads": 2, "determinism": "fast",
         "virtual_ranks": None, "processes": 1}
OTHER = {"brics": "0.2.0", "torch": "2.15.0", "device": "cuda", "threads": 1, "determinism": "exact",
         "virtual_ranks": 8, "processes": 4}


def make(path: Path, began: dict[str, Any] | None = BEGAN) -> RunDirectory:
    return RunDirectory.create(path / "run", RECIPE, {"kind": "diffusion"} | (
        {"fingerprint": began} if began else {}) | {"process": {"python": "3.11"}})


def test_what_it_says() -> None:
    found = take_fingerprint("cuda", 1, EXACT)
    assert found.keys() == BEGAN.keys() and found | EXACT == found
    assert (found["device"], found["threads"]) == ("cuda", 1)


def test_the_same_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path)
    before = run.info_path.read_bytes()
    check_fingerprint(run, BEGAN, 7)
    assert run.info_path.read_bytes() == before and capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [name for name in BEGAN if name not in ("threads", "processes")])
def test_one_difference_is_refused_and_named(tmp_path: Path, name: str) -> None:
    run = make(tmp_path)
    before = run.info_path.read_bytes()
    with pytest.raises(MismatchError) as caught:
        check_fingerprint(run, BEGAN | {name: OTHER[name]}, 7)
    assert caught.value.exit_code == 4
    assert caught.value.lines == [
        f"{run.path}: goes on otherwise than it began: {name}: {BEGAN[name]} -> {OTHER[name]}",
        f"{run.path}: would become another run at step 7. Go on as before, or pass --allow-drift."]
    assert run.info_path.read_bytes() == before


def test_every_difference_is_listed(tmp_path: Path) -> None:
    with pytest.raises(MismatchError) as caught:
        check_fingerprint(make(tmp_path), OTHER, 7)
    assert len(caught.value.lines) == len(BEGAN) + 1


@pytest.mark.parametrize("changes", [{"threads": 1}, {"processes": 4}, {"threads": 4, "processes": 2}])
def test_sums_in_another_order_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                           changes: dict[str, int]) -> None:
    run = make(tmp_path)
    check_fingerprint(run, BEGAN | changes, 7)
    said = capsys.readouterr().err
    assert all(f"{name}: {BEGAN[name]} -> {value}" in said for name, value in changes.items())
    assert run.info["drift"] == [{"step": 7, "from": {name: BEGAN[name] for name in changes}, "to": changes}]


def test_exact_runs_may_change_their_processes_and_nothing_else(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path, BEGAN | EXACT)
    before = run.info_path.read_bytes()
    check_fingerprint(run, BEGAN | EXACT | {"processes": 8}, 7)
    assert run.info_path.read_bytes() == before and capsys.readouterr().err == ""
    with pytest.raises(MismatchError, match="threads: 2 -> 1") as caught:
        check_fingerprint(run, BEGAN | EXACT | {"processes": 8, "threads": 1}, 7)
    assert "processes" not in str(caught.value)


def test_a_change_that_is_allowed_is_noted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path)
    newer = BEGAN | {"torch": "2.15.0"}
    for step in (7, 9):
        check_fingerprint(run, newer, step, allow_drift=True)
    check_fingerprint(run, newer, 11)  # from now on that is how it is
    assert capsys.readouterr().err.count("warning") == 1
    first = {"step": 7, "from": {"torch": "2.14.0"}, "to": {"torch": "2.15.0"}}
    assert run.info["drift"] == [first] and run.info["fingerprint"] == BEGAN
    check_fingerprint(run, BEGAN, 12, allow_drift=True)
    assert run.info["drift"] == [first, {"step": 12, "from": {"torch": "2.15.0"}, "to": {"torch": "2.14.0"}}]
    assert run.info["process"] == {"python": "3.11"}, "the rest stays"


def test_a_run_that_never_said_says_so_from_now_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path, None)
    check_fingerprint(run, BEGAN, 5)
    check_fingerprint(run, BEGAN, 6)
    assert capsys.readouterr().err.count("does not say") == 1
    assert run.info["fingerprint"] == BEGAN
    assert run.info["drift"] == [{"step": 5, "from": None, "to": BEGAN}]
    with pytest.raises(MismatchError):
        check_fingerprint(run, OTHER, 7)
