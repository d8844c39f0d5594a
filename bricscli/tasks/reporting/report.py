"""`brics report`: one page about a run, or about several beside one another.

It holds no clock times and no paths of this machine: the same runs give the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

from bricscli import files
from bricscli.data.samples import SampleFolder
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.report.content import Chapter, Report
from bricscli.report.page import write_report
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints
from bricscli.run.directory import RunDirectory, list_runs
from bricscli.run.log import warn
from bricscli.tasks.reporting.compare import comparison_sections
from bricscli.tasks.reporting.run_page import RunPage
from bricscli.tasks.reporting.run_results import RunResults

NAME = "report.html"


def report(paths: Sequence[Path], out: Path | None = None, root: Path = Path("runs"), samples: Path | None = None
           ) -> Path:
    """Writes the page and returns its path: `out`, or else RUN/report.html of one run, ./report.html of several.

    `samples`: a folder that one of the runs drew, to be shown instead of its RUN/samples. Without `paths` it is the run
    under `root` that was trained last.

    Raises:
        DataError: a path is no run, or there is none.
        RecipeError: a run's recipe cannot be read.
        MismatchError: none of the runs drew the samples.
        BricsError: the page cannot be written.
    """
    runs = _different([RunDirectory.open(path) for path in paths] or [newest(root)])
    for run in runs:
        _ = run.recipe  # or RecipeError, before any work
    out = out or (runs[0].path / NAME if len(runs) == 1 else Path(NAME))
    if out.is_dir():
        raise DataError(f"{out}: is a folder. Name a file in it, such as {out / NAME}.")
    if out.exists() and out.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"{out}: is there already, and no page. Name a file such as {out.with_suffix('.html').name}.")
    files.check_writable(out.parent)
    drew = _who_drew(samples, runs) if samples else None
    results = [RunResults(run, samples if run is drew else None) for run in runs]
    write_report(out, _of_one(RunPage(results[0])) if len(runs) == 1 else _of_several(results))
    return out


def newest(root: Path) -> RunDirectory:
    """The run whose newest checkpoint was written last; of runs without one, that whose recipe was.

    Raises DataError where there is none.
    """
    found = []
    for run in list_runs(root):
        try:
            _ = run.recipe
        except RecipeError as error:
            warn(f"{run.path}: is left out, its recipe cannot be read ({error.lines[0]})")
            continue
        checkpoints = list_checkpoints(run.checkpoints)
        written = (checkpoints[-1] if checkpoints else run.recipe_path).stat().st_mtime_ns
        found.append((bool(checkpoints), written, run.name, run))
    if not found:
        raise DataError(f"{root}: has no run. Train one with `brics train-ae`, or name the run's folder.")
    return max(found)[-1]


def _who_drew(samples: Path, runs: Sequence[RunDirectory]) -> RunDirectory:
    """Raises MismatchError where none of them did."""
    digest = SampleFolder.open(samples).header["denoiser"]["digest"]
    for run in runs:
        if digest in map(checkpoint_digest, list_checkpoints(run.checkpoints)):
            return run
    raise MismatchError(f"{samples}: was drawn by {digest[:8]}, of which {' and '.join(str(run.path) for run in runs)} "
                        "has no checkpoint. Name the run that drew it, or leave --samples out.")


def _different(runs: Sequence[RunDirectory]) -> list[RunDirectory]:
    """Each once, in the order given."""
    return list({run.path.resolve(): run for run in runs}.values())


def _of_one(page: RunPage) -> Report:
    return Report(page.name, page.summary, page.highlights(), page.sections())


def _of_several(results: Sequence[RunResults]) -> Report:
    pages = {name: RunPage(result) for name, result in zip(_names(results), results, strict=True)}
    what = ", ".join(pages)
    return Report(
        f"{len(pages)} runs compared", f"{what}. Numbers stand in one column only where the same thing was measured in "
        "the same way, on the same images.", sections=comparison_sections(pages),
        chapters=[Chapter(name, page.summary, page.sections()) for name, page in pages.items()])


def _names(results: Sequence[RunResults]) -> list[str]:
    """A run's name, with its folder, or its place, where several have the same."""
    names = [result.run.name for result in results]
    if len(set(names)) < len(names):
        names = [f"{result.run.path.absolute().parent.name}/{result.run.name}" for result in results]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, start=1)]
