"""Which entries are used (section 3.4 and Fig. 3(b) of BRICS arXiv:2305.18601v3: "all entries ... are hit").

An entry is hit by a query whose interpolation gives it a weight above 0. Pixels lie at fixed (x, y), so that only
columns of nodes beside a pixel centre can ever be hit: the others, and the padding to a multiple of 8, are stored but
not reachable. Shares are given of both.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from bricscli.nn.retrieval.feature_grid import FeatureGrid
from bricscli.nn.retrieval.levels import Level
from bricscli.nn.retrieval.portable import iter_corners


class EntryUsage:
    """Counts of hits, for every entry of every group, over all the key codes that `update` was shown."""

    def __init__(self, grid: FeatureGrid) -> None:
        self._grid = grid
        self._reachable = [reachable_entries(level, grid.size) for level in grid.levels]
        self.counts = torch.zeros(grid.table.shape[:2], dtype=torch.int64)  #: `(N_h, E)`, the levels side by side

    @torch.no_grad()
    def update(self, tiled: Tensor) -> None:
        """Count the queries of a tiled key code `(B, C_z, H_d, W_d)` in [0, 1]."""
        grid = self._grid
        keys = grid.keys(tiled).cpu()
        ends = list(itertools.product((0, 1), repeat=grid.key_length))
        for corners in iter_corners((*self.counts.shape, 1), keys, grid.levels, hoist=False):
            fractions = corners.fractions[..., 0]  # (C_key, N_h, P, B)
            for end, around in zip(ends, corners, strict=True):
                used = torch.stack([f > 0 if up else f < 1 for f, up in zip(fractions, end, strict=True)]).all(0)
                for rows, weights in around:
                    assert weights is not None
                    hit = (used & (weights[..., 0] > 0)).long()
                    self.counts.view(-1).scatter_add_(0, rows.flatten(), hit.flatten())

    def summary(self) -> list[dict[str, Any]]:
        """For each level its sizes, and for each group the shares of entries hit and the statistics of hits.

        Mean, variance and variation (standard deviation / mean) are over the reachable entries.
        """
        return [self._summarise(level, counts, reachable) for level, counts, reachable
                in zip(self._grid.levels, self._counts_of_levels(), self._reachable, strict=True)]

    def hit_share(self) -> float:
        """Of the reachable entries of all groups and levels, in [0, 1]."""
        hits = [counts[:, reachable] > 0 for counts, reachable
                in zip(self._counts_of_levels(), self._reachable, strict=True)]
        return sum(int(h.sum()) for h in hits) / sum(h.numel() for h in hits)

    def _counts_of_levels(self) -> tuple[Tensor, ...]:
        return self.counts.split(self._grid.entries, dim=1)

    @staticmethod
    def _summarise(level: Level, counts: Tensor, reachable: Tensor) -> dict[str, Any]:
        used = min(level.nodes, level.max_entries)
        groups = []
        for hits in counts[:, reachable].double():
            hit, mean, variance = int((hits > 0).sum()), float(hits.mean()), float(hits.var(correction=0))
            groups.append({"hit_of_used": hit / used, "hit_of_reachable": hit / len(hits), "mean": mean,
                           "variance": variance, "variation": variance**0.5 / mean if mean else 0.0})
        return {"resolution": level.resolution, "entries": level.entries, "used": used,
                "reachable": int(reachable.sum()), "groups": groups}


def reachable_entries(level: Level, size: int) -> Tensor:
    """Which of a level's entries some key at some pixel of `size` x `size` gives a weight above 0: `(E_l,)` bool."""
    terms, weights = level.pixel_corners(size, size)
    columns = terms[weights > 0].unique()
    nodes = torch.arange(level.resolution + 1)
    reachable = torch.zeros(level.entries, dtype=torch.bool)
    for others in itertools.product(nodes, repeat=level.dimensions - 3):  # the key's axes but the first
        key = level.join(level.term(nodes, 0), *(level.term(node, axis) for axis, node in enumerate(others, start=1)))
        reachable[level.entry(level.join(key, columns[:, None]))] = True
    return reachable
