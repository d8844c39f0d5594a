"""Whether a run reached what its recipe expects: pass or fail where that can be said, else why not.

A number counts as in `brics table` (`tasks.measured`), and only without reservations: finished training, the recipe's
data, all of the split, an unchanged recipe, nothing forced.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bricscli.errors import BricsError, RecipeError
from bricscli.recipe.load import DECIDE_NOTHING
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.recipe.specs import ExpectedSpec
from bricscli.report.content import Cell, Table, Tone
from bricscli.report.evaluations import Evaluation, label_of
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.tasks.measured import numbers_of
from bricscli.tasks.reporting.run_results import DAMAGED, RunResults, evaluations_of

Status = Literal["pass", "fail", "not comparable", "not measured"]
#: Where a number would stand.
NOTHING = "-"
TONES: dict[Status, Tone] = {"pass": "pass", "fail": "fail", "not comparable": "open", "not measured": "soft"}


@dataclass(frozen=True)
class Verdict:
    """Of one metric; `reasons` say why its number does not count."""

    metric: str
    label: str
    expected: ExpectedSpec
    status: Status
    value: float | None
    shown: str
    reasons: tuple[str, ...]

    @property
    def wanted(self) -> str:
        return f"{self.expected.value:g}, tolerance {self.expected.tolerance:g}"


def judge(results: RunResults) -> list[Verdict]:
    """A verdict for every metric that the run's recipe expects a value of, by the number with fewest reservations."""
    changed = _changes(results)
    return [_judge_one(metric, expected, results, changed) for metric, expected in results.run.recipe.expected.items()]


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    rows = []
    for verdict in verdicts:
        rows.append((verdict.label, [
            Cell(verdict.status, TONES[verdict.status], "; ".join(verdict.reasons)),
            Cell(verdict.shown, "value" if verdict.value is not None else "soft"),
            Cell(verdict.wanted, "", verdict.expected.source)]))
    return Table(("measure", "verdict", "this run", "expected"), rows)


def count_verdicts(verdicts: Iterable[Verdict]) -> str:
    """`1 pass, 2 not measured`, in the order of TONES."""
    found = [verdict.status for verdict in verdicts]
    return ", ".join(f"{found.count(status)} {status}" for status in TONES if status in found)


def _judge_one(metric: str, expected: ExpectedSpec, results: RunResults, changed: tuple[str, ...]) -> Verdict:
    best: Verdict | None = None
    for evaluation in evaluations_of(results):
        number = next((m for m in evaluation.measurements if m.name == metric), None)
        if number is None:
            continue
        reasons = (*changed, *_reservations(metric, evaluation, results.run))
        near = abs(number.value - expected.value) <= expected.tolerance + 1e-12 * abs(expected.value)
        status: Status = "not comparable" if reasons else "pass" if near else "fail"
        verdict = Verdict(metric, number.label, expected, status, number.value, number.show(), reasons)
        if best is None or len(reasons) < len(best.reasons):
            best = verdict
    return best or Verdict(metric, label_of(metric), expected, "not measured", None, NOTHING, ())


def _changes(results: RunResults) -> tuple[str, ...]:
    """What of the run is not the recipe's that states the values."""
    overrides = results.info.get("overrides")
    if not isinstance(overrides, list):
        return ("run.json does not say whether the recipe was changed by --set",)
    changed = [str(override) for override in overrides if str(override).split("=")[0].split(".")[0]
               not in DECIDE_NOTHING]
    return (f"the recipe was changed: {', '.join(changed)}",) if changed else ()


def _reservations(metric: str, evaluation: Evaluation, run: RunDirectory) -> tuple[str, ...]:
    """As `brics table` has them; where it would not take the number at all, why."""
    try:
        found = numbers_of(dict(evaluation.result), run).get(metric)
    except RecipeError:
        return ("its autoencoder is of none of the shipped recipes, so that nobody knows on which data it counts",)
    except (*DAMAGED, BricsError):
        return ("the record of its samples cannot be read",)
    if found is not None:
        return found.notes
    return (*_disqualified(evaluation, run), *(f"forced: {reason}" for reason in evaluation.forced))


def _disqualified(evaluation: Evaluation, run: RunDirectory) -> tuple[str, ...]:
    result, recipe = evaluation.result, run.recipe
    if not isinstance(recipe, AutoencoderRecipe):
        return ("measured of samples that this run did not draw, of another data set, or of one class",)
    reasons, images = [], result.get("images", {})
    where = (images.get("name"), images.get("split"))
    if where != (recipe.data.name, "val"):
        reasons.append(f"measured on {where[0]}, {f'split {where[1]}' if where[1] else 'a folder'}, not on the val "
                       f"split of {recipe.data.name}")
    if result.get("keys_moved_by_cells"):
        reasons.append("measured of moved keys")
    digests = [checkpoint_digest(path) for path in list_checkpoints(run.checkpoints)]
    if evaluation.kind == "reconstruction" and result.get("autoencoder") not in digests:
        reasons.append("measured of weights that the run has no more")
    return tuple(reasons) or ("measured of something else than this run",)
