"""Which numbers of the log are drawn together: all of them, each once; runs over one another in their colours."""

import ast
from pathlib import Path

import pytest

import bricscli
from bricscli.report.training import PLOTS, Plot, overlaid_curves, plot_of_metrics, training_curves

ROWS = [{"images_seen": 8.0, "l2": 2.0, "loss": 3.0}, {"images_seen": 16.0, "l2": 1.0, "critic": 5.0, "odd": 1.0}]


def test_curve_of_metrics() -> None:
    curve = plot_of_metrics(ROWS, Plot("t", "", {"l2": "L2", "critic": "critic", "gone": "gone"}))
    assert curve.series == {"L2": ([8.0, 16.0], [2.0, 1.0]), "critic": ([16.0], [5.0])}


def test_every_column_is_drawn_once_and_unknown_ones_last() -> None:
    curves = training_curves(ROWS, "autoencoder")
    assert [curve.title for curve in curves] == ["Loss", "Likeness", "Adversarial losses", "odd"]
    assert training_curves([], "diffusion") == []


@pytest.mark.parametrize("kind", PLOTS)
def test_no_column_is_in_two_plots(kind: str) -> None:
    columns = [column for plot in PLOTS[kind] for column in plot.columns]
    assert len(columns) == len(set(columns))


def test_all_that_training_logs_has_a_name() -> None:
    """The words of `log.add(name=...)` and of the bottlenecks' logs."""
    logged = set()
    for path in ("training/steps.py", "nn/bottleneck.py"):
        for node in ast.walk(ast.parse((Path(bricscli.__file__).parent / path).read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "log.add":
                logged |= {keyword.arg for keyword in node.keywords if keyword.arg}
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "log":
                logged |= {ast.literal_eval(key) for inner in ast.walk(node.value) if isinstance(inner, ast.Dict)
                           for key in inner.keys if key}
    assert len(logged) > 8
    assert logged <= {column for plots in PLOTS.values() for plot in plots for column in plot.columns}


def test_runs_over_one_another_keep_their_places() -> None:
    other = [{"images_seen": 8.0, "loss": 1.0}]
    curves = overlaid_curves({"a": ROWS, "b": [], "c": other}, "autoencoder")
    assert [curve.title for curve in curves] == ["Loss"]  # the one number that two of them logged
    assert list(curves[0].series) == ["a", "b", "c"] and curves[0].series["b"] == ([], [])
