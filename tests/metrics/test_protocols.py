"""Protocols name what exists, and say what they are."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from bricscli.metrics import METRICS
from bricscli.metrics.features import EXTRACTORS
from bricscli.metrics.inception_score import inception_score
from bricscli.metrics.kernel_distance import kernel_distance
from bricscli.metrics.neighbourhoods import precision_recall
from bricscli.metrics.protocols import PROTOCOLS
from bricscli.weights import WEIGHTS

FUNCTIONS: dict[str, Callable[..., object]] = {
    "kid": kernel_distance, "is": inception_score, "precision": precision_recall, "recall": precision_recall,
    "f1": precision_recall}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_name_what_exists(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.name == name and protocol.samples >= 10_000
    assert "arXiv:" in protocol.source and protocol.reference and protocol.title
    for metric, spec in protocol.metrics.items():
        assert METRICS[metric].of == "generation"
        assert spec.output in EXTRACTORS[spec.extractor].outputs
        assert json.loads(json.dumps(spec.settings)) == spec.settings
        if spec.settings:
            assert spec.settings.keys() <= inspect.signature(FUNCTIONS[metric]).parameters.keys()
    assert all(sentence.endswith((".", ":")) for sentence in protocol.differs)


def test_the_papers_protocol_has_the_columns_of_its_tables() -> None:
    assert list(PROTOCOLS["brics2023"].metrics) == ["fid", "clip_fid", "is", "precision", "recall", "f1"]
    assert PROTOCOLS["brics2023"].metrics["precision"].limit == 10_000


def test_metrics_and_extractors_name_weights_that_exist() -> None:
    for metric in METRICS.values():
        assert metric.weights is None or metric.weights in WEIGHTS
    assert [info.weights for info in EXTRACTORS.values() if info.weights not in WEIGHTS] == [None]


def test_names_come_without_torch() -> None:
    code = "import bricscli.metrics.protocols, bricscli.metrics.features, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
