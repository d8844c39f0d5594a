"""The average of the weights: its warm-up, its memory, its independence."""

import pytest
import torch
from torch import nn

from bricscli.training.ema import EMA


def weight_of(ema: EMA) -> float:
    (weight,) = ema.module.parameters()
    return weight.item()


def test_warm_up_then_decay() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    ema = EMA(module, 0.5)
    nn.init.constant_(module.weight, 1.0)
    average = 0.0
    for updates in range(20):
        ema.update(module, updates)
        decay = min(0.5, (1 + updates) / (10 + updates))
        average = decay * average + (1 - decay)
        assert weight_of(ema) == pytest.approx(average, abs=1e-6)


def test_a_long_run_forgets_its_start() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 100.0)
    ema = EMA(module, 0.9999)
    nn.init.constant_(module.weight, 1.0)
    for updates in range(200):
        ema.update(module, updates)
    assert weight_of(ema) == pytest.approx(1, abs=1e-3)


def test_it_is_a_copy_of_its_own() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    ema = EMA(module, 0.9)
    before = [p.detach().clone() for p in ema.module.parameters()]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(ema.module.parameters(), before, strict=True))
    assert not any(p.requires_grad for p in ema.module.parameters()) and not ema.module.training
    weights = [p.detach().clone() for p in module.parameters()]
    ema.update(module, 5)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), weights, strict=True))
    assert all(p.requires_grad for p in module.parameters()) and module.training


def test_buffers_are_copied_whole() -> None:
    """Running statistics and codebooks are averages already, and counters have no average."""
    torch.manual_seed(0)
    module = nn.BatchNorm1d(3)
    ema = EMA(module, 0.9)
    for updates in range(3):
        module(torch.randn(8, 3) + 5)
        with torch.no_grad():
            module.weight.add_(1)
        ema.update(module, updates)
        mine, latest = dict(ema.module.named_buffers()), dict(module.named_buffers())
        assert mine.keys() == {"running_mean", "running_var", "num_batches_tracked"} == latest.keys()
        assert all(torch.equal(mine[name], buffer) for name, buffer in latest.items())
        assert mine["num_batches_tracked"] == updates + 1
    assert not torch.equal(ema.module.weight, module.weight)
    module(torch.randn(8, 3))
    assert mine["num_batches_tracked"] == 3 and latest["num_batches_tracked"] == 4, "copied, not shared"
