"""One optimisation step of each model: what is computed, what is updated, what a checkpoint must hold.

A step is a pure function of its state, its batch and its number: every random draw is seeded by (seed, purpose, step).
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bricscli.build import build_autoencoder, build_denoiser, build_discriminator, build_schedule
from bricscli.diffusion.denoiser import Denoised, Scaling, denoise, draw_times
from bricscli.diffusion.guidance import Guided, drop_labels
from bricscli.diffusion.inpainting import Surrounded
from bricscli.losses.adversarial import ADVERSARIAL, adaptive_weight, gradient_penalty
from bricscli.losses.latent_perceptual import LatentPerceptualLoss
from bricscli.losses.reconstruction import l1_loss, l2_loss
from bricscli.nn.autoencoder import Autoencoder
from bricscli.nn.decoders.conditional import Kept
from bricscli.nn.discriminator import PatchDiscriminator, StyleDiscriminator
from bricscli.nn.unet import UNet
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.runtime import derive_seed, generator_for
from bricscli.training.learner import Learner, Means, under
from bricscli.training.optimiser import learning_rate_at

Critic = StyleDiscriminator | PatchDiscriminator


class AutoencoderStep:
    """Eq. 5 and the baselines' losses; a term is only computed where its weight is not 0.

    A batch is computed in `training.accumulate` parts, whose gradients are averaged. Of a conditional decoder's recipe
    only the decoder learns; `weights`, of another autoencoder, are where its training begins.
    """

    def __init__(self, recipe: AutoencoderRecipe, device: torch.device, perceptual: nn.Module | None,
                 weights: Mapping[str, Tensor] | None = None) -> None:
        self.recipe, self.perceptual, self.device = recipe, perceptual, device
        training = recipe.training
        torch.manual_seed(derive_seed(training.seed, "weights"))
        model = build_autoencoder(recipe).to(device)
        if weights is not None:
            model.begin_with(weights)
        adam = torch.optim.Adam(_parameters(model, recipe), betas=training.betas, eps=training.epsilon)
        self.generator = Learner(model, adam, [training.ema], training.gradient_clip)
        self.critic: Learner[Critic] | None = None
        if recipe.losses.adversarial:
            self.generator_loss, self.critic_loss = ADVERSARIAL[recipe.losses.adversarial_loss]
            critic = build_discriminator(recipe).to(device)
            adam = torch.optim.Adam(critic.parameters(), betas=training.betas, eps=training.discriminator_epsilon)
            self.critic = Learner(critic, adam, ema=[], largest_norm=0.0)

    @property
    def averaged(self) -> Autoencoder:
        return self.generator.averaged

    def __call__(self, step: int, real: Tensor, mask: Tensor | None = None, /) -> dict[str, float]:
        """`real` `(B, 3, H, W)` in [-1, 1]; returns the numbers for the log. Raises NonFiniteError.

        `mask` `(B, 1, H, W)`, of a conditional decoder: 1 where it is not told what `real` is.
        """
        training = self.recipe.training
        images_seen = step * training.batch_size
        rate = learning_rate_at(images_seen, peak=training.learning_rate, warmup=training.warmup_images,
                                decay=training.images if training.schedule == "cosine" else 0)
        critic = self.critic if images_seen >= self.recipe.losses.adversarial_start else None
        parts, fakes, log = real.chunk(training.accumulate), list[Tensor](), Means()
        known = [None] * len(parts) if mask is None else list(
            map(Kept, parts, mask.to(real).chunk(training.accumulate)))
        losses = self._generator_losses(critic, step, parts, known, fakes, log)
        norms = {"gradient": self.generator.differentiate("loss", losses)}
        if critic is not None:
            losses = self._critic_losses(critic, step, parts, fakes, log)
            norms["critic_gradient"] = critic.differentiate("critic's loss", losses)
            critic.update(step, rate)
        self.generator.update(step, rate)
        return log.means() | norms

    def _generator_losses(self, critic: Learner[Critic] | None, step: int, parts: tuple[Tensor, ...],
                          known: Sequence[Kept | None], fakes: list[Tensor], log: Means) -> Iterator[Tensor]:
        """The loss of each part; leaves its fakes in `fakes` and its numbers in `log`."""
        noise = generator_for(self.recipe.training.seed, "precision", step)
        if critic is not None:
            critic.model.requires_grad_(False)
        for real, kept in zip(parts, known, strict=True):
            with self._autocast():
                reconstruction = self.generator.model.reconstruct(real, noise, kept)
                fake = reconstruction.image.float()
                likeness = self._likeness(fake, real, log)
                score = critic.model(fake).float() if critic is not None else None
            loss = likeness if self.recipe.decoder.conditional else likeness + reconstruction.coded.loss
            if score is not None:
                loss = loss + self._persuasion(score, likeness, log)
            fakes.append(fake.detach())
            log.add(loss=loss, **reconstruction.coded.log)
            yield loss / len(parts)

    def _likeness(self, fake: Tensor, real: Tensor, log: Means) -> Tensor:
        """What compares a fake with its original, weighted."""
        total = fake.new_zeros(())
        for name, measure in (("l1", l1_loss), ("l2", l2_loss), ("perceptual", self.perceptual)):
            weight = getattr(self.recipe.losses, name)
            if weight and measure is not None:
                term = measure(fake, real)
                log.add(**{name: term})
                total = total + weight * term
        return total

    def _persuasion(self, score: Tensor, likeness: Tensor, log: Means) -> Tensor:
        """The generator's adversarial loss, weighted."""
        weights, term = self.recipe.losses, self.generator_loss(score)
        log.add(generator=term)
        if not weights.adaptive:
            return weights.adversarial * term
        ratio = adaptive_weight(likeness, term, self.generator.model.decoder.last_layer)
        log.add(adversarial_weight=weights.adversarial * ratio)
        return weights.adversarial * ratio * term

    def _critic_losses(self, critic: Learner[Critic], step: int, parts: tuple[Tensor, ...], fakes: list[Tensor],
                       log: Means) -> Iterator[Tensor]:
        """The critic's loss on each part and its fakes. The penalty, differentiated twice, is always fp32."""
        critic.model.requires_grad_(True)
        mixes = generator_for(self.recipe.training.seed, "penalty", step)
        for real, fake in zip(parts, fakes, strict=True):
            with self._autocast():
                real_score, fake_score = critic.model(real).float(), critic.model(fake).float()
            loss = self.critic_loss(real_score, fake_score)
            log.add(critic=loss, real_score=real_score.mean(), fake_score=fake_score.mean())
            if self.recipe.losses.gradient_penalty:
                mix = torch.rand(len(real), generator=mixes).to(real)
                penalty = gradient_penalty(critic.model, real, fake, mix)
                log.add(penalty=penalty)
                loss = loss + self.recipe.losses.gradient_penalty * penalty
            yield loss / len(parts)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.training.precision == "bf16")

    def players(self) -> list[Learner[Any]]:
        return [self.generator, *([self.critic] if self.critic else [])]

    def weights(self) -> dict[str, Tensor]:
        return dict(self.averaged.state_dict())

    def more_averages(self) -> dict[float, dict[str, Tensor]]:
        return self.generator.more_averages()

    def training_state(self) -> dict[str, Tensor]:
        state = self.generator.training_state("generator")
        if self.critic is not None:
            critic = {f"critic.weights.{name}": value for name, value in self.critic.averaged.state_dict().items()}
            state |= critic | self.critic.training_state("critic")
        return state

    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor],
             averages: Mapping[float, dict[str, Tensor]] = {}) -> None:
        self.generator.load("generator", weights, training, averages)
        if self.critic is not None:
            self.critic.load("critic", under(training, "critic.weights."), training)


def _parameters(model: Autoencoder, recipe: AutoencoderRecipe) -> list[dict[str, Any]]:
    """What learns, in groups: everything, or of a conditional decoder's recipe the decoder at two rates.

    A concatenation's convolution, through which the plain decoder's features go too, is as slow as that.
    """
    spec, condition = recipe.decoder.conditional, model.decoder.condition
    if spec is None or condition is None:
        return [{"params": list(model.parameters())}]
    model.freeze_code()
    new = set(condition.parameters()) - set(condition.mix.parameters())
    return [{"params": [p for p in condition.parameters() if p in new], "scale": 1.0},
            {"params": [p for p in model.decoder.parameters() if p not in new], "scale": spec.decoder_rate}]


class DiffusionStep:
    """Denoising of key codes (section 4, App. A.6) or other latents, in `training.accumulate` parts of a batch.

    `perceptual` is added where the recipe asks for it; `weights`, of the first stage, are where a second one starts.
    One that learns to inpaint may start with those of an unconditional denoiser, and is one until it has learned more.
    """

    def __init__(self, recipe: DiffusionRecipe, device: torch.device, scaling: Scaling, *, channels: int, size: int,
                 perceptual: LatentPerceptualLoss | None = None, weights: dict[str, Tensor] | None = None) -> None:
        self.recipe, self.device, self.scaling, self.perceptual = recipe, device, scaling, perceptual
        training = recipe.training
        torch.manual_seed(derive_seed(training.seed, "weights"))
        model = build_denoiser(recipe, channels, size).to(device)
        if weights is not None:
            model.load_state_dict(weights | {"stem.weight": _widened(weights["stem.weight"], model.inputs)})
        self.schedule = build_schedule(recipe.schedule)
        self.denoiser = Learner(model, torch.optim.Adam(model.parameters()), training.ema, training.gradient_clip)

    @property
    def averaged(self) -> UNet:
        return self.denoiser.averaged

    def __call__(self, step: int, latent: Tensor, label: Tensor | None = None, surroundings: Tensor | None = None, /
                 ) -> dict[str, float]:
        """`latent` `(B, C_z, H_z, W_z)`, as encoded; returns the numbers for the log. Raises NonFiniteError.

        `label` int64 `(B,)`, of a denoiser with classes; `surroundings` as of `inpainting.surroundings_of`, of one that
        learns to inpaint.
        """
        training, log = self.recipe.training, Means()
        losses = self._losses(step, self.scaling.to_x_0(latent), label, surroundings, log)
        norm = self.denoiser.differentiate("loss", losses)
        self.denoiser.update(step, learning_rate_at(
            step * training.batch_size, peak=training.learning_rate, warmup=training.warmup_images,
            decay=training.decay_images))
        return log.means() | {"gradient": norm}

    def _losses(self, step: int, x_0: Tensor, label: Tensor | None, surroundings: Tensor | None, log: Means
                ) -> Iterator[Tensor]:
        """The loss of each part; everything is drawn for the whole batch, however it is divided."""
        training, denoising = self.recipe.training, self.recipe.denoising
        t = draw_times(len(x_0), generator_for(training.seed, "time", step)).to(x_0)
        noise = torch.randn(x_0.shape, generator=generator_for(training.seed, "noise", step)).to(x_0)
        labels: Iterable[Tensor | None] = itertools.repeat(None, training.accumulate)
        if label is not None:
            labels = drop_labels(label, training.label_dropout, self.recipe.denoiser.classes,
                                 generator_for(training.seed, "label", step)).chunk(training.accumulate)
        shown: Iterable[Tensor | None] = itertools.repeat(None, training.accumulate)
        if surroundings is not None:
            shown = surroundings.chunk(training.accumulate)
        parts = zip(*(whole.chunk(training.accumulate) for whole in (x_0, t, noise)), strict=True)
        for told, seen, part in zip(labels, shown, parts, strict=True):
            model = self.denoiser.model if seen is None else Surrounded(self.denoiser.model, seen)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                denoised = denoise(Guided(model, told), self.schedule, *part, weight=denoising.weight,
                                   gamma=denoising.gamma)
            loss = self._with_perceptual(denoised, part[0], log)
            log.add(loss=loss)
            yield loss / training.accumulate

    def _with_perceptual(self, denoised: Denoised, x_0: Tensor, log: Means) -> Tensor:
        """L_Diff + w L_LPL (LPL, Eq. 3), the second always in float32.

        A prediction beyond the range of the data is decoded as its end, as in sampling; there only L_Diff moves it.
        """
        if self.perceptual is None or self.recipe.latent_perceptual is None:
            return denoised.loss
        clean, predicted = self.scaling.to_latent(x_0), self.scaling.to_latent(denoised.x_0)
        term = self.perceptual(clean, predicted, denoised.noise_to_data)
        log.add(denoising=denoised.loss, latent_perceptual=term)
        return denoised.loss + self.recipe.latent_perceptual.weight * term

    def players(self) -> list[Learner[Any]]:
        return [self.denoiser]

    def weights(self) -> dict[str, Tensor]:
        return dict(self.averaged.state_dict())

    def more_averages(self) -> dict[float, dict[str, Tensor]]:
        return self.denoiser.more_averages()

    def training_state(self) -> dict[str, Tensor]:
        return self.denoiser.training_state("denoiser")

    def load(self, weights: dict[str, Tensor], training: dict[str, Tensor],
             averages: Mapping[float, dict[str, Tensor]] = {}) -> None:
        self.denoiser.load("denoiser", weights, training, averages)


def _widened(kernel: Tensor, inputs: int) -> Tensor:
    """A convolution's `(O, I, k, k)` with zeros for the inputs that it does not have yet."""
    return torch.cat([kernel, kernel.new_zeros(len(kernel), inputs - kernel.shape[1], *kernel.shape[2:])], dim=1)
