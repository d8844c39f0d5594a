"""Small feature grids, and keys at which the interpolation is smooth."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bricscli.nn.retrieval.feature_grid import FeatureGrid

MakeGrid = Callable[..., FeatureGrid]


@pytest.fixture
def make_grid() -> MakeGrid:
    """`make_grid(levels=2)`: float64, entries far from 0; the last level's 6^3 nodes wrap around at 64 entries."""

    def make(**changes: object) -> FeatureGrid:
        torch.manual_seed(0)
        arguments: dict[str, object] = {
            "groups": 2, "key_length": 1, "size": 4, "levels": 3, "r_min": 2, "r_max": 5, "index": "modulo",
            "entry_channels": 2, "max_entries": 64, "mlp_width": 4, "mlp_layers": 3, "channels": 6}
        grid = FeatureGrid(**(arguments | changes)).double()  # type: ignore[arg-type]
        torch.nn.init.normal_(grid.table)
        for bias in grid.mlp.biases:
            torch.nn.init.normal_(bias)
        return grid

    return make


@pytest.fixture
def draw_keys() -> Callable[..., Tensor]:
    """`draw_keys(grid)`: at least 1e-3 of a cell from every node, where the interpolation is not differentiable."""

    def draw(grid: FeatureGrid, batch: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        shape = (batch, grid.groups * grid.key_length, grid.size, grid.size)
        keys = torch.rand(shape, generator=generator, dtype=torch.float64)
        while (near := torch.stack([(keys * r % 1 - 0.5).abs() > 0.499 for r in grid.resolutions]).any(0)).any():
            keys[near] = torch.rand(int(near.sum()), generator=generator, dtype=torch.float64)
        return keys.to(grid.table.dtype)

    return draw
