"""A critic against the autoencoder: L_WGAN and L_gp of Eq. 5, and VQGAN's hinge loss with its adaptive weight.

WGAN arXiv:1701.07875, gradient penalty arXiv:1704.00028, hinge arXiv:1705.02894, VQGAN arXiv:2012.09841. Scores are
`(B,)`, one an image, or `(B, P)`, one a patch; high means real.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Added to the adversarial gradient's norm, and the largest weight.
#: Differs from VQGAN's Eq. 7, which adds 1e-6: both are taming's numbers.
ADAPTIVE_EPSILON, LARGEST_ADAPTIVE_WEIGHT = 1e-4, 1e4


def generator_loss(fake_score: Tensor) -> Tensor:
    """-E[D(fake)]."""
    return -fake_score.mean()


def critic_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """E[D(fake)] - E[D(real)]: minus the critic's estimate of the Wasserstein distance."""
    return fake_score.mean() - real_score.mean()


def hinge_critic_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """(E[max(0, 1 - D(real))] + E[max(0, 1 + D(fake))]) / 2, the half as in taming."""
    return (F.relu(1 - real_score).mean() + F.relu(1 + fake_score).mean()) / 2


#: `adversarial_loss` of a recipe -> the loss of the generator (fake) and that of the critic (real, fake).
ADVERSARIAL: dict[Literal["wgan", "hinge"], tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "wgan": (generator_loss, critic_loss),
    "hinge": (generator_loss, hinge_critic_loss),
}


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """E[(|grad D(x_hat)|_2 - 1)^2] with x_hat = mix real + (1 - mix) fake; `mix` `(B,)` in [0, 1]."""
    mix = mix.view(-1, 1, 1, 1)
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """lambda = |grad reconstruction| / (|grad adversarial| + epsilon) at the decoder's last layer (VQGAN, Eq. 7).

    A constant, at most 1e4: both losses pull equally hard. Their graphs stay for the backward pass.
    """
    losses = (reconstruction, adversarial)
    pull, push = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in losses)
    return (pull / (push + ADAPTIVE_EPSILON)).clamp(max=LARGEST_ADAPTIVE_WEIGHT)
