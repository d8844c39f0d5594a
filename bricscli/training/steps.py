"""One optimisation step of each model: what is computed, what is updated, what a checkpoint must hold.

A step is a pure function of its state, its batch and its number: every random draw is seeded by (seed, purpose, step).
"""

import math

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


class NonFiniteError(Exception):
    """A loss or a gradient, which the message names, is NaN or infinite; raised before the weights were touched."""


def require_finite(name: str, value: Tensor) -> float:
    """The value as a number. Raises NonFiniteError."""
    number = float(value.detach())
    if not math.isfinite(number):
        raise NonFiniteError(name)
    return number


class Learner:
    """A model with its optimiser and its averaged weights: what is trained, saved and loaded together."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, ema: float, largest_norm: float) -> None:
        self.model, self.optimiser, self.largest_norm = model, optimiser, largest_norm
        self.ema = EMA(model, ema) if ema else None

    @property
    def averaged(self) -> nn.Module:
        """The weights that everything after training uses."""
        return self.ema.module if self.ema else self.model

    def differentiate(self, name: str, loss: Tensor) -> float:
        """Gradients of `loss`, clipped; returns their norm before that. Raises NonFiniteError."""
        require_finite(name, loss)
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.largest_norm or math.inf)
        return require_finite(f"gradient of the {name}", norm)

    def update(self, step: int, rate: float) -> None:
        """Moves the weights along the gradients, and the averages after them."""
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        if self.ema:
            self.ema.update(self.model, step)

    def training_state(self, prefix: str) -> dict[str, Tensor]:
        """All that `averaged` lacks for going on."""
        model = {f"{prefix}.model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return (model if self.ema else {}) | optimiser_tensors(self.optimiser, self.model, f"{prefix}.optimiser")

    def load(self, prefix: str, weights: dict[str, Tensor], training: dict[str, Tensor]) -> None:
        """From `averaged.state_dict` and `training_state`. Raises RuntimeError where names or shapes differ."""
        self.averaged.load_state_dict(weights)
        if self.ema:
            self.model.load_state_dict(_under(training, f"{prefix}.model."))
        load_optimiser_tensors(self.optimiser, self.model, f"{prefix}.optimiser", training)


class AutoencoderStep:
    """Eq. 5: L2, perceptual, WGAN and gradient penalty; all but L2 are only computed where their weight is not 0."""

    def __init__(self, recipe: AutoencoderRecipe, device: torch.device, perceptual: nn.Module | None) -> None:
        self.recipe, self.perceptual = recipe, perceptual
        training = recipe.training
        torch.manual_seed(derive_seed(training.seed, "weights"))
        model = build_autoencoder(recipe).to(device)
        adam = torch.optim.Adam(model.parameters(), betas=training.betas, eps=training.epsilon)
        self.generator = Learner(model, adam, training.ema, training.gradient_clip)
        self.critic: Learner | None = None
        if recipe.losses.adversarial:
            critic = build_discriminator(recipe).to(device)
            adam = torch.optim.Adam(critic.parameters(), betas=training.betas, eps=training.discriminator_epsilon)
            self.critic = Learner(critic, adam, ema=0.0, largest_norm=0.0)

    @property
    def averaged(self) -> nn.Module:
        return self.generator.averaged

    def __call__(self, step: int, real: Tensor, /) -> dict[str, float]:
        """`real` `(B, 3, H, W)` in [-1, 1]; returns the numbers for the log. Raises NonFiniteError."""
        training, weights = self.recipe.training, self.recipe.losses
        images_seen = step * training.batch_size
        rate = learning_rate_at(images_seen, peak=training.learning_rate, warmup=training.warmup_images,
                                decay=training.images if training.schedule == "cosine" else 0)
        critic = self.critic if images_seen >= weights.adversarial_start else None
        fake = self.generator.model(real, generator_for(training.seed, "precision", step))
        terms = {"l2": (weights.l2, l2_loss(fake, real))}
        if self.perceptual is not None:
            terms["perceptual"] = (weights.perceptual, self.perceptual(fake, real))
        if critic is not None:
            critic.model.requires_grad_(False)
            terms["generator"] = (weights.adversarial, generator_loss(critic.model(fake)))
        loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
        log = {"loss": float(loss.detach())} | {name: float(term.detach()) for name, (_, term) in terms.items()}
        log["gradient"] = self.generator.differentiate("loss", loss)
        if critic is not None:
            log |= self._criticise(critic, step, real, fake.detach())
            critic.update(step, rate)
        self.generator.update(step, rate)
        return log

    def _criticise(self, critic: Learner, step: int, real: Tensor, fake: Tensor) -> dict[str, float]:
        critic.model.requires_grad_(True)
        loss = critic_loss(critic.model(real), critic.model(fake))
        log = {"critic": float(loss.detach())}
        if self.recipe.losses.gradient_penalty:
            mix = torch.rand(len(real), generator=generator_for(self.recipe.training.seed, "penalty", step)).to(real)
            penalty = gradient_penalty(critic.model, real, fake, mix)
            loss = loss + self.recipe.losses.gradient_penalty * penalty
            log["penalty"] = float(penalty.detach())
        critic.differentiate("critic's loss", loss)
        return log

    def weights(self) -> dict[str, Tensor]:
        return dict(self.averaged.state_dict())

    def training_state(self) -> dict[str, Tensor]:
        state = self.generator.training_state("generator")
        if self.critic is not None:
            critic = {f"critic.weights.{name}": value for name, value in self.critic.averaged.state_dict().items()}
            state |= critic | self.critic.training_state("critic")
        return state

    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor]) -> None:
        self.generator.load("generator", weights, training)
        if self.critic is not None:
            self.critic.load("critic", _under(training, "critic.weights."), training)


class DiffusionStep:
    """Noise prediction on key codes (section 4, App. A.6)."""

    def __init__(self, recipe: DiffusionRecipe, device: torch.device, *, channels: int, size: int) -> None:
        self.recipe = recipe
        training = recipe.training
        torch.manual_seed(derive_seed(training.seed, "weights"))
        model = build_denoiser(recipe, channels, size).to(device)
        self.schedule = build_schedule(recipe)
        self.denoiser = Learner(model, torch.optim.Adam(model.parameters()), training.ema, training.gradient_clip)

    @property
    def averaged(self) -> nn.Module:
        return self.denoiser.averaged

    def __call__(self, step: int, key_code: Tensor, /) -> dict[str, float]:
        """`key_code` `(B, C_z, H_z, W_z)` in [0, 1]; returns the numbers for the log. Raises NonFiniteError."""
        training = self.recipe.training
        x_0 = to_x_0(key_code)
        t = draw_times(len(x_0), generator_for(training.seed, "time", step)).to(x_0)
        noise = torch.randn(x_0.shape, generator=generator_for(training.seed, "noise", step)).to(x_0)
        loss = noise_loss(self.denoiser.model, self.schedule, x_0, t, noise)
        log = {"loss": float(loss.detach()), "gradient": self.denoiser.differentiate("loss", loss)}
        self.denoiser.update(step, learning_rate_at(
            step * training.batch_size, peak=training.learning_rate, warmup=training.warmup_images,
            decay=training.decay_images))
        return log

    def weights(self) -> dict[str, Tensor]:
        return dict(self.averaged.state_dict())

    def training_state(self) -> dict[str, Tensor]:
        return self.denoiser.training_state("denoiser")

    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor]) -> None:
        self.denoiser.load("denoiser", weights, training)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
