"""One optimisation step of each model: what is computed, what is updated, what a checkpoint must hold.

A step is a pure function of its state, its batch and its number: every random draw is seeded by (seed, purpose, step).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bricscli.build import build_autoencoder, build_denoiser, build_discriminator, build_schedule
from bricscli.diffusion.denoiser import draw_times, noise_loss, to_x_0
from bricscli.losses.adversarial import critic_loss, generator_loss, gradient_penalty
from bricscli.losses.reconstruction import l2_loss
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.runtime import derive_seed, generator_for
from bricscli.training.ema import EMA
from bricscli.training.optimiser import (
    learning_rate_at,
    load_optimiser_tensors,
    optimiser_tensors,
    set_learning_rate,
)


@dataclass
class NonFiniteError(Exception):
    """A loss or a gradient is NaN or infinite; raised before anything was updated."""

    name: str


def require_finite(name: str, value: Tensor) -> float:
    number = float(value.detach())
    if number != number or number in (float("inf"), float("-inf")):
        raise NonFiniteError(name)
    return number


def clip_and_check(module: nn.Module, largest_norm: float) -> float:
    """Norm of the gradient, which is clipped to `largest_norm` (0: left alone)."""
    norm = nn.utils.clip_grad_norm_(module.parameters(), largest_norm or float("inf"))
    return require_finite("gradient", norm)


class AutoencoderStep:
    """Eq. 5: L2, perceptual, WGAN and gradient penalty, each only computed where its weight is not 0."""

    def __init__(self, recipe: AutoencoderRecipe, device: torch.device, perceptual: nn.Module | None) -> None:
        self.recipe, self.device, self.perceptual = recipe, device, perceptual
        training = recipe.training
        torch.manual_seed(derive_seed(training.seed, "weights"))
        self.model = build_autoencoder(recipe).to(device)
        self.ema = EMA(self.model, training.ema) if training.ema else None
        self.optimiser = torch.optim.Adam(self.model.parameters(), betas=training.betas, eps=training.epsilon)
        self.critic: nn.Module | None = None
        if recipe.losses.adversarial:
            self.critic = build_discriminator(recipe).to(device)
            self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), betas=training.betas,
                                                     eps=training.discriminator_epsilon)

    @property
    def averaged(self) -> nn.Module:
        """The weights that everything after training uses."""
        return self.ema.module if self.ema else self.model

    def __call__(self, step: int, real: Tensor) -> dict[str, float]:
        """`real` `(B, 3, H, W)` in [-1, 1]; returns the numbers for the log."""
        training, weights = self.recipe.training, self.recipe.losses
        images_seen = step * training.batch_size
        rate = learning_rate_at(images_seen, peak=training.learning_rate, warmup=training.warmup_images,
                                decay=training.images if training.schedule == "cosine" else 0)
        adversarial = self.critic is not None and images_seen >= weights.adversarial_start
        fake = self.model(real, generator_for(training.seed, "precision", step))
        terms = {"l2": (weights.l2, l2_loss(fake, real))}
        if self.perceptual is not None:
            terms["perceptual"] = (weights.perceptual, self.perceptual(fake, real))
        if adversarial:
            self.critic.requires_grad_(False)
            terms["generator"] = (weights.adversarial, generator_loss(self.critic(fake)))
        loss = sum(weight * term for weight, term in terms.values())
        log = {"loss": require_finite("loss", loss)} | {name: float(term.detach()) for name, (_, term) in terms.items()}
        self.optimiser.zero_grad()
        loss.backward()
        log["gradient"] = clip_and_check(self.model, training.gradient_clip)
        if adversarial:
            log |= self._update_critic(step, real, fake.detach(), rate)
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        if self.ema:
            self.ema.update(self.model, step)
        return log

    def _update_critic(self, step: int, real: Tensor, fake: Tensor, rate: float) -> dict[str, float]:
        critic, training = self.critic, self.recipe.training
        critic.requires_grad_(True)
        wasserstein = critic_loss(critic(real), critic(fake))
        loss, log = wasserstein, {"critic": float(wasserstein.detach())}
        if self.recipe.losses.gradient_penalty:
            mix = torch.rand(len(real), generator=generator_for(training.seed, "penalty", step)).to(real)
            penalty = gradient_penalty(critic, real, fake, mix)
            loss = loss + self.recipe.losses.gradient_penalty * penalty
            log["penalty"] = float(penalty.detach())
        require_finite("critic's loss", loss)
        self.critic_optimiser.zero_grad()
        loss.backward()
        clip_and_check(critic, 0.0)
        set_learning_rate(self.critic_optimiser, rate)
        self.critic_optimiser.step()
        return log

    def weights(self) -> dict[str, Tensor]:
        return dict(self.averaged.state_dict())

    def training_state(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()} if self.ema else {}
        tensors |= optimiser_tensors(self.optimiser, self.model, "optimiser")
        if self.critic is not None:
            tensors |= {f"critic.{k}": v for k, v in self.critic.state_dict().items()}
            tensors |= optimiser_tensors(self.critic_optimiser, self.critic, "critic_optimiser")
        return tensors

    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor]) -> None:
        self.averaged.load_state_dict(weights)
        if self.ema:
            self.model.load_state_dict(_under(training, "model"))
        load_optimiser_tensors(self.optimiser, self.model, "optimiser", training)
        if self.critic is not None:
            self.critic.load_state_dict(_under(training, "critic"))
            load_optimiser_tensors(self.critic_optimiser, self.critic, "critic_optimiser", training)


class DiffusionStep:
    """Noise prediction on key codes (section 4, App. A.6)."""

    def __init__(self, recipe: DiffusionRecipe, device: torch.device, *, channels: int, size: int) -> None:
        self.recipe, self.device = recipe, device
        training = recipe.training
        torch.manual_seed(derive_seed(training.seed, "weights"))
        self.model = build_denoiser(recipe, channels, size).to(device)
        self.schedule = build_schedule(recipe)
        self.ema = EMA(self.model, training.ema) if training.ema else None
        self.optimiser = torch.optim.Adam(self.model.parameters())

    @property
    def averaged(self) -> nn.Module:
        """The weights that everything after training uses."""
        return self.ema.module if self.ema else self.model

    def __call__(self, step: int, key_code: Tensor) -> dict[str, float]:
        """`key_code` `(B, C_z, H_z, W_z)` in [0, 1]; returns the numbers for the log."""
        training = self.recipe.training
        x_0 = to_x_0(key_code)
        t = draw_times(len(x_0), generator_for(training.seed, "time", step)).to(x_0)
        noise = torch.randn(x_0.shape, generator=generator_for(training.seed, "noise", step)).to(x_0)
        loss = noise_loss(self.model, self.schedule, x_0, t, noise)
        log = {"loss": require_finite("loss", loss)}
        self.optimiser.zero_grad()
        loss.backward()
        log["gradient"] = clip_and_check(self.model, training.gradient_clip)
        set_learning_rate(self.optimiser, learning_rate_at(
            step * training.batch_size, peak=training.learning_rate, warmup=training.warmup_images,
            decay=training.decay_images))
        self.optimiser.step()
        if self.ema:
            self.ema.update(self.model, step)
        return log

    def weights(self) -> dict[str, Tensor]:
        return dict(self.averaged.state_dict())

    def training_state(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()} if self.ema else {}
        return tensors | optimiser_tensors(self.optimiser, self.model, "optimiser")

    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor]) -> None:
        self.averaged.load_state_dict(weights)
        if self.ema:
            self.model.load_state_dict(_under(training, "model"))
        load_optimiser_tensors(self.optimiser, self.model, "optimiser", training)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): value for name, value in tensors.items() if name.startswith(prefix + ".")}
