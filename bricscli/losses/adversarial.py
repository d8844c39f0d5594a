"""L_WGAN and L_gp of Eq. 5: Wasserstein GAN (arXiv:1701.07875) with gradient penalty (arXiv:1704.00028)."""

import torch
from torch import Tensor, nn


def generator_loss(fake_score: Tensor) -> Tensor:
    """-E[D(fake)]."""
    return -fake_score.mean()


def critic_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """E[D(fake)] - E[D(real)]: minus the critic's estimate of the Wasserstein distance."""
    return fake_score.mean() - real_score.mean()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """E[(|grad D(x_hat)|_2 - 1)^2] with x_hat = mix real + (1 - mix) fake; `mix` `(B,)` in [0, 1]."""
    mix = mix.view(-1, 1, 1, 1)
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
