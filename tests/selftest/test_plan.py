"""Which trials there are, and the table of what they came to."""

from pathlib import Path

import pytest

from bricscli.errors import RecipeError
from bricscli.selftest.damage import DAMAGES, try_cuts, try_damage
from bricscli.selftest.plan import NOT_COVERED, as_json, describe, run_plan
from bricscli.selftest.trials import Bench, Trials
from bricscli.selftest.workload import STAGES, Undisturbed


def test_a_group_that_is_not_one() -> None:
    with pytest.raises(RecipeError, match=r"--only: `kill` is unknown. Did you mean `kills`"):
        run_plan(["kill"], thorough=False, seed=0)


def test_the_table_says_what_was_tried_and_what_failed() -> None:
    good, bad = Trials("Nothing is lost"), Trials("Nothing gets in")
    good.add(count=1234)
    good.tell("kills", 7)
    bad.add("the door was open")
    lines = describe({"kills": good, "hostile": bad})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["name", "guarantee", "trials", "failures", "seconds"]
    assert cells[2:] == [["kills", "Nothing is lost (kills 7)", "1,234", "0", "0"],
                         ["hostile", "Nothing gets in", "1", "1", "0"]]
    assert "failed: hostile: the door was open" in lines and lines[-1] == f"- {NOT_COVERED[-1]}"
    found = as_json({"hostile": bad}, thorough=True, seed=3)["results"]["hostile"]
    assert found == {"guarantee": "Nothing gets in", "trials": 1, "failures": ["the door was open"], "kinds": {},
                     "seconds": 0.0}


def test_damage_is_found_and_would_be_missed(bench: Bench, stages: dict[str, Undisturbed],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Every damage once; and where verify saw nothing, every trial fails."""
    assert list(stages) == list(STAGES)
    trials = try_damage(bench, stages, each=1)
    assert trials.failures == [] and trials.kinds == dict.fromkeys(DAMAGES, 4)
    monkeypatch.setattr("bricscli.selftest.damage.verify", lambda path: iter(()))
    assert len(try_damage(bench, stages, each=1).failures) >= 18, "blanks of what was blank are none"


def test_cuts_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, seed=0)
    assert try_cuts(bench, 20).failures == []
    monkeypatch.setattr("bricscli.selftest.damage._refused", lambda folder: False)
    assert len(try_cuts(bench, 5).failures) == 5
