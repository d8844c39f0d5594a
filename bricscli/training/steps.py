"""One optimisation step of each model: what is computed, what is updated, what a checkpoint must hold.

A step is a pure function of its state, its batch and its number: every random draw is seeded by (seed, purpose, step),
and made for the whole batch, of which a process may have but some rows.
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
from bricscli.nn.noise import Noise
from bricscli.nn.unet import Stage, UNet
from bricscli.parallel.reduction import build_reduction, divide
from bricscli.parallel.world import ALONE, World
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.runtime import derive_seed, generator_for
from bricscli.training.learner import Learner, Means, under
from bricscli.training.optimiser import learning_rate_at

Critic = StyleDiscriminator | PatchDiscriminator


class AutoencoderStep:
    """Eq. 5 and the baselines' losses; a term is only computed where its weight is not 0.

    A batch is computed in parts, `training.accumulate` of them, whose gradients are averaged. Of a conditional
    decoder's recipe only the decoder learns; `weights`, of another autoencoder, are where its training begins.
    """

    def __init__(self, recipe: AutoencoderRecipe, device: torch.device, perceptual: nn.Module | None,
                 weights: Mapping[str, Tensor] | None = None, world: World = ALONE) -> None:
        self.recipe, self.perceptual, self.device, self.world = recipe, perceptual, device, world
        training = recipe.training
        self.division = divide(world, training.batch_size, training.accumulate)
        torch.manual_seed(derive_seed(training.seed, "weights"))
        model = build_autoencoder(recipe).to(device)
        if weights is not None:
            model.begin_with(weights)
        adam = torch.optim.Adam(_parameters(model, recipe), betas=training.betas, eps=training.epsilon)
        self.generator = Learner(model, adam, [training.ema], training.gradient_clip,
                                 build_reduction(model, world, self.division))
        self.critic: Learner[Critic] | None = None
        if recipe.losses.adversarial:
            self.generator_loss, self.critic_loss = ADVERSARIAL[recipe.losses.adversarial_loss]
            critic = build_discriminator(recipe).to(device)
            adam = torch.optim.Adam(critic.parameters(), betas=training.betas, eps=training.discriminator_epsilon)
            if world.exact:
                _stop_averages(critic)
            self.critic = Learner(critic, adam, [], 0.0, build_reduction(critic, world, self.division))

    @property
    def averaged(self) -> Autoencoder:
        return self.generator.averaged

    def __call__(self, step: int, real: Tensor, mask: Tensor | None = None, /) -> dict[str, float]:
        """`real` `(B, 3, H, W)` in [-1, 1]; returns the numbers for the log. Raises NonFiniteError.

        On several processes each is given its own rows of the batch. `mask` `(B, 1, H, W)`, of a conditional decoder:
        1 where it is not told what `real` is.
        """
        training = self.recipe.training
        images_seen = step * training.batch_size
        rate = learning_rate_at(images_seen, peak=training.learning_rate, warmup=training.warmup_images,
                                decay=training.images if training.schedule == "cosine" else 0)
        critic = self.critic if images_seen >= self.recipe.losses.adversarial_start else None
        parts, fakes, log = real.chunk(self.division.count), list[Tensor](), Means()
        known = [None] * len(parts) if mask is None else list(
            map(Kept, parts, mask.to(real).chunk(self.division.count)))
        losses = self._generator_losses(critic, step, parts, known, fakes, log)
        norms = {"gradient": self.generator.differentiate("loss", losses)}
        if critic is not None:
            critic.model.requires_grad_(True)
            losses = self._critic_losses(critic, step, parts, fakes, log)
            norms["critic_gradient"] = critic.differentiate("critic's loss", losses)
            critic.update(step, rate)
        self.generator.update(step, rate)
        return log.means(self.world) | norms

    def _generator_losses(self, critic: Learner[Critic] | None, step: int, parts: tuple[Tensor, ...],
                          known: Sequence[Kept | None], fakes: list[Tensor], log: Means) -> Iterator[Tensor]:
        """The loss of each part; leaves its fakes in `fakes` and its numbers in `log`."""
        rows = self.world.rows(sum(map(len, parts)) * self.world.size)
        noise = Noise(generator_for(self.recipe.training.seed, "precision", step), len(rows) * self.world.size)
        firsts = range(rows.start, rows.stop, len(parts[0]))
        if critic is not None:
            critic.model.requires_grad_(False)
        for real, kept, first in zip(parts, known, firsts, strict=True):
            with self._autocast():
                reconstruction = self.generator.model.reconstruct(real, noise.part(first), kept)
                fake = reconstruction.image.float()
                likeness = self._likeness(fake, real, log)
                score = critic.model(fake).float() if critic is not None else None
            loss = likeness if self.recipe.decoder.conditional else likeness + reconstruction.coded.loss
            if score is not None:
                loss = loss + self._persuasion(score, likeness, log)
            fakes.append(fake.detach())
            log.add(loss=loss, **reconstruction.coded.log)
            yield loss / self.division.parts

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
        generator = generator_for(self.recipe.training.seed, "penalty", step)
        mixes = self.world.cut(torch.rand(sum(map(len, parts)) * self.world.size, generator=generator)).chunk(
            len(parts))
        for real, fake, mix in zip(parts, fakes, mixes, strict=True):
            with self._autocast():
                real_score, fake_score = critic.model(real).float(), critic.model(fake).float()
            loss = self.critic_loss(real_score, fake_score)
            log.add(critic=loss, real_score=real_score.mean(), fake_score=fake_score.mean())
            if self.recipe.losses.gradient_penalty:
                penalty = gradient_penalty(critic.model, real, fake, mix.to(real))
                log.add(penalty=penalty)
                loss = loss + self.recipe.losses.gradient_penalty * penalty
            yield loss / self.division.parts

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.training.precision == "bf16")

    def players(self) -> list[Learner[Any]]:
        return [self.generator, *([self.critic] if self.critic else [])]

    def weights(self) -> dict[str, Tensor]:
        return self.generator.weights()

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


def _stop_averages(critic: nn.Module) -> None:
    """Batch norm's running averages, which nobody reads, since a critic is always in training, stand still from now on.

    They would move with every part that a process computes, and so tell how many processes there were.
    """
    for module in critic.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False


class DiffusionStep:
    """Denoising of key codes (section 4, App. A.6) or other latents, a batch in `training.accumulate` parts.

    `perceptual` is added where the recipe asks for it; `weights`, of the first stage, are where a second one starts.
    One that learns to inpaint may start with those of an unconditional denoiser, and is one until it has learned more.
    """

    def __init__(self, recipe: DiffusionRecipe, device: torch.device, scaling: Scaling, *, channels: int, size: int,
                 perceptual: LatentPerceptualLoss | None = None, weights: dict[str, Tensor] | None = None,
                 world: World = ALONE) -> None:
        self.recipe, self.device, self.scaling, self.perceptual = recipe, device, scaling, perceptual
        self.world, training = world, recipe.training
        self.division = divide(world, training.batch_size, training.accumulate)
        torch.manual_seed(derive_seed(training.seed, "weights"))
        model = build_denoiser(recipe, channels, size).to("cpu" if world.sharded else device)  # until it is divided
        if weights is not None:
            model.load_state_dict(weights | {"stem.weight": _widened(weights["stem.weight"], model.inputs)})
        self.schedule = build_schedule(recipe.schedule)
        self.denoiser = Learner(model, torch.optim.Adam(model.parameters()), training.ema, training.gradient_clip,
                                build_reduction(model, world, self.division))

    @property
    def averaged(self) -> UNet:
        return self.denoiser.averaged

    def shard(self) -> None:
        """Divides the denoiser among the processes, before anything is learned or loaded."""
        self.denoiser.shard(Stage, self.world)

    def __call__(self, step: int, latent: Tensor, label: Tensor | None = None, surroundings: Tensor | None = None, /
                 ) -> dict[str, float]:
        """`latent` `(B, C_z, H_z, W_z)`, as encoded; returns the numbers for the log. Raises NonFiniteError.

        On several processes each is given its own rows of the batch. `label` int64 `(B,)`, of a denoiser with classes;
        `surroundings` as of `inpainting.surroundings_of`, of one that learns to inpaint.
        """
        training, log = self.recipe.training, Means()
        losses = self._losses(step, self.scaling.to_x_0(latent), label, surroundings, log)
        norm = self.denoiser.differentiate("loss", losses)
        self.denoiser.update(step, learning_rate_at(
            step * training.batch_size, peak=training.learning_rate, warmup=training.warmup_images,
            decay=training.decay_images))
        return log.means(self.world) | {"gradient": norm}

    def _losses(self, step: int, x_0: Tensor, label: Tensor | None, surroundings: Tensor | None, log: Means
                ) -> Iterator[Tensor]:
        """The loss of each part; everything is drawn for the whole batch, however it is divided."""
        training, denoising, count = self.recipe.training, self.recipe.denoising, self.division.count
        batch = len(x_0) * self.world.size
        t = self.world.cut(draw_times(batch, generator_for(training.seed, "time", step))).to(x_0)
        noise = self.world.cut(torch.randn((batch, *x_0.shape[1:]), generator=generator_for(
            training.seed, "noise", step))).to(x_0)
        labels: Iterable[Tensor | None] = itertools.repeat(None, count)
        if label is not None:
            drawn = self.world.cut(torch.rand(batch, generator=generator_for(training.seed, "label", step)))
            labels = drop_labels(label, training.label_dropout, self.recipe.denoiser.classes, drawn).chunk(count)
        shown: Iterable[Tensor | None] = itertools.repeat(None, count)
        if surroundings is not None:
            shown = surroundings.chunk(count)
        parts = zip(*(whole.chunk(count) for whole in (x_0, t, noise)), strict=True)
        for told, seen, part in zip(labels, shown, parts, strict=True):
            model = self.denoiser.model if seen is None else Surrounded(self.denoiser.model, seen)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                denoised = denoise(Guided(model, told), self.schedule, *part, weight=denoising.weight,
                                   gamma=denoising.gamma)
            loss = self._with_perceptual(denoised, part[0], log)
            log.add(loss=loss)
            yield loss / self.division.parts

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
        return self.denoiser.weights()

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
