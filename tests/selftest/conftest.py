"""The small way of `brics selftest`, gone once; trials work on copies of it."""

import pytest
import torch

from bricscli.selftest.trials import Bench
from bricscli.selftest.workload import Undisturbed, go_undisturbed


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    return Bench(tmp_path_factory.mktemp("selftest"), seed=0)


@pytest.fixture(scope="session")
def stages(bench: Bench) -> dict[str, Undisturbed]:
    return go_undisturbed(bench.folder / "undisturbed", bench.log)
