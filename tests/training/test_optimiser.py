"""Learning rates, and Adam that goes on as if it had never stopped."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bricscli.training.optimiser import (
    learning_rate_at,
    load_optimiser_tensors,
    optimiser_tensors,
    set_learning_rate,
)


@pytest.mark.parametrize(("seen", "rate"), [
    (0, 2e-3 / 100), (49, 1e-3), (99, 2e-3), (100, 2e-3), (550, 1e-3), (325, 2e-3 * (0.5 + math.sqrt(0.125))),
    (1000, 0.0), (5000, 0.0)])
def test_warm_up_and_cosine(seen: int, rate: float) -> None:
    assert learning_rate_at(seen, peak=2e-3, warmup=100, decay=1000) == pytest.approx(rate, abs=1e-15)


def test_without_warm_up_or_decay() -> None:
    assert learning_rate_at(0, peak=1e-3, warmup=0, decay=0) == 1e-3
    assert learning_rate_at(10**9, peak=1e-3, warmup=10, decay=0) == 1e-3
    assert learning_rate_at(0, peak=1e-3, warmup=0, decay=100) == 1e-3
    assert learning_rate_at(50, peak=1e-3, warmup=0, decay=100) == pytest.approx(5e-4)


def test_a_decay_shorter_than_the_warm_up_is_no_division_by_zero() -> None:
    assert learning_rate_at(5, peak=1.0, warmup=10, decay=10) == pytest.approx(0.6)
    assert learning_rate_at(20, peak=1.0, warmup=10, decay=10) == 0


def test_all_groups_get_the_rate() -> None:
    layers = nn.Linear(2, 2), nn.Linear(2, 2)
    optimiser = torch.optim.Adam([{"params": layer.parameters(), "lr": 1.0} for layer in layers])
    set_learning_rate(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25, 0.25]


class Net(nn.Module):
    """With a parameter that never gets a gradient, and so never has a state."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).tanh()


def make() -> tuple[Net, torch.optim.Adam]:
    torch.manual_seed(0)
    net = Net()
    return net, torch.optim.Adam(net.parameters(), betas=(0.5, 0.99), eps=1e-15)


def steps(net: Net, optimiser: torch.optim.Adam, numbers: range) -> None:
    for number in numbers:
        set_learning_rate(optimiser, learning_rate_at(number, peak=0.1, warmup=3, decay=10))
        optimiser.zero_grad()
        net(torch.randn(5, 4, generator=torch.Generator().manual_seed(number))).square().sum().backward()
        optimiser.step()


def test_saved_and_loaded_adam_goes_on_bit_by_bit(tmp_path_factory: pytest.TempPathFactory) -> None:
    whole, optimiser = make()
    steps(whole, optimiser, range(8))

    first, optimiser = make()
    steps(first, optimiser, range(3))
    path = tmp_path_factory.mktemp("adam") / "state.safetensors"
    save_file(optimiser_tensors(optimiser, first, "optimiser"), path)
    tensors = load_file(path)
    assert set(tensors) == {f"optimiser.used.{name}.{key}" for name in ("weight", "bias")
                            for key in ("step", "exp_avg", "exp_avg_sq")}
    second, optimiser = make()
    second.load_state_dict(first.state_dict())
    load_optimiser_tensors(optimiser, second, "optimiser", tensors)
    assert second.unused not in optimiser.state
    steps(second, optimiser, range(3, 8))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_two_optimisers_in_one_file_stay_apart() -> None:
    (a, first), (b, second) = make(), make()
    steps(a, first, range(2))
    tensors = optimiser_tensors(first, a, "critic_optimiser")
    load_optimiser_tensors(second, b, "optimiser", tensors)
    assert not second.state


def test_what_had_no_state_has_none_after_loading() -> None:
    """A run that goes back to its beginning forgets what came after it."""
    layer = nn.Linear(2, 1)
    adam = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    adam.step()
    load_optimiser_tensors(adam, layer, "x", {})
    assert not adam.state and optimiser_tensors(adam, layer, "x") == {}
