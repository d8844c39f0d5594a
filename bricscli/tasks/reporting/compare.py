"""Several runs beside one another: verdicts, numbers that compare, recipes that differ, curves over one another."""

from collections.abc import Mapping

from bricscli.recipe.load import KINDS, differing_keys
from bricscli.report.content import Block, Cell, Figures, Notes, Pictures, Section, Table
from bricscli.report.evaluations import compare
from bricscli.report.training import overlaid_curves
from bricscli.tasks.reporting.expected import TONES
from bricscli.tasks.reporting.run_page import RunPage
from bricscli.tasks.reporting.run_results import evaluations_of

Pages = Mapping[str, RunPage]


def comparison_sections(pages: Pages) -> list[Section]:
    """Run's name on the page -> its page; what there is nothing to compare of is absent."""
    sections = [_overview(pages), _expected(pages), _numbers(pages), _recipes(pages), _curves(pages), _sheets(pages)]
    return [section for section in sections if section is not None]


def _overview(pages: Pages) -> Section:
    rows = [(name, [Cell(page.recipe.kind), Cell(page.progress), Cell(page.recipe.description, "soft")])
            for name, page in pages.items()]
    return Section("The runs", "", [Table(("run", "kind", "training", "what it is"), rows)])


def _expected(pages: Pages) -> Section | None:
    labels = {verdict.metric: verdict.label for page in pages.values() for verdict in page.verdicts}
    if not labels:
        return None
    rows = []
    for name, page in pages.items():
        found = {v.metric: Cell(v.status, TONES[v.status], ", ".join(
            [*([v.shown] if v.value is not None else []), f"expected {v.wanted}"])) for v in page.verdicts}
        if found:
            rows.append((name, [found.get(metric, Cell("nothing expected", "soft")) for metric in labels]))
    return Section("Expected and reached", "What each run's recipe says should come out of it; why something is not "
                   "comparable stands with the run, below.", [Table(("run", *labels.values()), rows)])


def _numbers(pages: Pages) -> Section | None:
    blocks = [block for kind in KINDS for block in compare({
        name: evaluations_of(page.results) for name, page in pages.items() if page.recipe.kind == kind})]
    if not blocks:
        return Section("The numbers", "Nothing was measured of any of these runs yet.")
    return Section("The numbers", "A table for each way of measuring: same metric, protocol and reference images, by "
                                  "digest. Numbers of different tables do not compare.", blocks)


def _recipes(pages: Pages) -> Section | None:
    """Of each kind, what differs from its first run."""
    blocks: list[Block] = []
    for kind in KINDS:
        first, *others = [name for name, page in pages.items() if page.recipe.kind == kind] or [""]
        for other in others:
            lines = differing_keys(pages[first].recipe, pages[other].recipe)
            blocks.append(Notes(f"{first} -> {other}", lines or ["the same in every key that decides a number"]))
    return Section("How the recipes differ", "", blocks) if blocks else None


def _curves(pages: Pages) -> Section | None:
    blocks: list[Block] = []
    for kind in KINDS:
        rows = {name: page.results.metrics for name, page in pages.items() if page.recipe.kind == kind}
        if curves := overlaid_curves(rows, kind):
            blocks.append(Figures(curves))
    return Section("Training", "Over images seen; a run has the same colour and dashes everywhere.",
                   blocks) if blocks else None


def _sheets(pages: Pages) -> Section | None:
    """The newest of each."""
    pictures = [picture for name, page in pages.items() for picture in page.pictures(name)[-1:]]
    return Section("Newest previews", "", [Pictures(pictures)]) if pictures else None
