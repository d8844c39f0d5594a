"""WGAN-GP and the adaptive weight where gradients are known, the hinge loss where its corners are."""

import pytest
import torch
from torch import Tensor, nn

from bricscli.losses.adversarial import ADVERSARIAL, adaptive_weight, critic_loss, generator_loss, gradient_penalty


class Linear(nn.Module):
    """D(x) = <slope, x> of every image."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.slope).flatten(1).sum(1)


class Bowl(nn.Module):
    """D(x) = steepness |x|^2 / 2, with gradient steepness x."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(steepness, dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        return self.steepness * image.flatten(1).square().sum(1) / 2


def images(seed: int) -> Tensor:
    return torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_signs() -> None:
    real, fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0])
    assert generator_loss(fake).item() == -1.5
    assert critic_loss(real, fake).item() == -2.5


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 3.0])
def test_penalty_of_a_linear_critic(norm: float) -> None:
    slope = torch.randn(3, 4, 4, dtype=torch.float64)
    critic = Linear(slope / slope.norm() * norm)
    penalty = gradient_penalty(critic, images(0), images(1), torch.rand(5, dtype=torch.float64))
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-12)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_penalty_and_its_own_gradient_between_real_and_fake(mix: float) -> None:
    """With |x_hat| = n: the penalty is mean (c n - 1)^2, its derivative by c is mean 2 (c n - 1) n."""
    critic, real, fake = Bowl(0.7), images(0), images(1)
    penalty = gradient_penalty(critic, real, fake, torch.full((5,), mix, dtype=torch.float64))
    norms = (mix * real + (1 - mix) * fake).flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty, (0.7 * norms - 1).square().mean())
    penalty.backward()
    torch.testing.assert_close(critic.steepness.grad, (2 * (0.7 * norms - 1) * norms).mean())


def test_every_image_has_its_own_mix() -> None:
    mix = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    together = gradient_penalty(Bowl(1.0), images(0), images(1), mix)
    apart = [gradient_penalty(Bowl(1.0), images(0)[i : i + 1], images(1)[i : i + 1], mix[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(together, torch.stack(apart).mean())


def test_penalty_leaves_the_images_alone() -> None:
    fake = images(1).requires_grad_()
    gradient_penalty(Bowl(1.0), images(0), fake, torch.rand(5, dtype=torch.float64)).backward()
    assert fake.grad is None


def test_penalty_of_scores_by_patch_is_that_of_their_sum() -> None:
    class Patches(Linear):
        def forward(self, image: Tensor) -> Tensor:
            return (image * self.slope).flatten(1)

    slope = torch.randn(3, 4, 4, dtype=torch.float64)
    mix = torch.rand(5, dtype=torch.float64)
    expected = gradient_penalty(Linear(slope), images(0), images(1), mix)
    torch.testing.assert_close(gradient_penalty(Patches(slope), images(0), images(1), mix), expected)


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_hinge(shape: tuple[int, ...]) -> None:
    """Scores beyond their margin cost nothing and have no gradient."""
    loss_of_generator, loss_of_critic = ADVERSARIAL["hinge"]
    real = torch.tensor([2.0, 0.5, -1.0, 1.5]).view(shape).requires_grad_()
    fake = torch.tensor([-3.0, -0.5, 1.0, -1.5]).view(shape).requires_grad_()
    loss = loss_of_critic(real, fake)
    assert loss.item() == pytest.approx(((0.5 + 2) / 4 + (0.5 + 2) / 4) / 2)
    loss.backward()
    assert real.grad is not None and real.grad.flatten().tolist() == [0, -1 / 8, -1 / 8, 0]
    assert fake.grad is not None and fake.grad.flatten().tolist() == [0, 1 / 8, 1 / 8, 0]
    assert loss_of_generator(fake).item() == 1.0


def test_both_kinds_are_there() -> None:
    assert ADVERSARIAL["wgan"] == (generator_loss, critic_loss)


def test_adaptive_weight_makes_both_pulls_equal() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2).double(), torch.randn(5, 3, dtype=torch.float64)
    fake = layer(x)
    reconstruction, adversarial = fake.square().mean(), -0.01 * fake[:, 0].mean()
    weight = adaptive_weight(reconstruction, adversarial, layer.weight)
    pull = (2 * fake.T @ x / fake.numel()).norm()
    push = 0.01 * x.mean(0).norm()
    torch.testing.assert_close(weight, (pull / (push + 1e-4)).detach())
    assert weight > 1 and not weight.requires_grad and layer.weight.grad is None
    (reconstruction + weight * adversarial).backward()  # the graph is still there
    assert layer.weight.grad is not None


def test_adaptive_weight_is_bounded() -> None:
    layer = nn.Parameter(torch.ones(1))
    assert adaptive_weight(1e9 * layer.sum(), 0 * layer.sum(), layer) == 1e4
    assert adaptive_weight(1e-2 * layer.sum(), 0 * layer.sum(), layer).item() == pytest.approx(100)
    assert adaptive_weight(0 * layer.sum(), layer.sum(), layer) == 0
