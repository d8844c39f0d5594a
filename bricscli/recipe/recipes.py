"""The two kinds of recipe: everything that decides the numbers of a run, and nothing that does not.

Checks that need more than one field live here; they run after every single field was found valid.
"""

from typing import Literal

from pydantic import Field, model_validator

from bricscli.errors import RecipeError
from bricscli.recipe.diffusion_specs import (
    BetaLinearSpec,
    ChenCosineSpec,
    DenoisingSpec,
    DiffusionTrainingSpec,
    InpaintSpec,
    LatentPerceptualSpec,
    SamplingSpec,
    ScaledLinearSpec,
    ScheduleSpec,
    UNetSpec,
)
from bricscli.recipe.specs import (
    AutoencoderLossSpec,
    AutoencoderTrainingSpec,
    BottleneckSpec,
    DataSpec,
    DecoderSpec,
    DiscriminatorSpec,
    EncoderSpec,
    Expected,
    FeatureGridSpec,
    KeyCodeSpec,
    KLKeyCodeSpec,
    PatchDiscriminatorSpec,
    RetrievalSpec,
    RQSpec,
    Spec,
    StyleDecoderSpec,
    StyleDiscriminatorSpec,
)

#: What a recipe that says nothing about it has.
_LABEL_DROPOUT = DiffusionTrainingSpec.model_fields["label_dropout"].default


class AutoencoderRecipe(Spec):
    """image -> encoder -> bottleneck -> retrieval -> decoder -> image."""

    kind: Literal["autoencoder"]
    description: str = ""
    data: DataSpec
    encoder: EncoderSpec = EncoderSpec()
    bottleneck: BottleneckSpec = Field(KeyCodeSpec(), discriminator="kind")
    retrieval: RetrievalSpec = Field(FeatureGridSpec(), discriminator="kind")
    decoder: DecoderSpec = Field(StyleDecoderSpec(), discriminator="kind")
    discriminator: DiscriminatorSpec = Field(StyleDiscriminatorSpec(), discriminator="kind")
    losses: AutoencoderLossSpec = AutoencoderLossSpec()
    training: AutoencoderTrainingSpec
    expected: Expected = Field(default_factory=dict)

    @property
    def code_size(self) -> int:
        """H_z = W_z."""
        return self.data.resolution // 2 ** (len(self.encoder.multipliers) - 1)

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """(C_z, H_z, W_z)."""
        return self.bottleneck.channels, self.code_size, self.code_size

    @property
    def has_key_codes(self) -> bool:
        """Whether codes lie in [0, 1]: what feature grids, and diffusion on key codes, need."""
        return isinstance(self.bottleneck, KeyCodeSpec | KLKeyCodeSpec)

    @property
    def decoder_size(self) -> int:
        """H_d = W_d: the resolution of the feature block."""
        return self.retrieval.size if isinstance(self.retrieval, FeatureGridSpec) else self.code_size

    @property
    def decoder_inputs(self) -> int:
        """C_d: the channels of the feature block."""
        return self.retrieval.channels if isinstance(self.retrieval, FeatureGridSpec) else self.bottleneck.channels

    @property
    def halvings(self) -> int:
        """How often the decoder doubles the resolution."""
        decoder = self.decoder
        return len(decoder.channels if isinstance(decoder, StyleDecoderSpec) else decoder.multipliers) - 1

    @property
    def decoder_blocks(self) -> int:
        """How many features it can be asked for: one a resolution, and of all but the style decoder one before."""
        return self.halvings + (1 if isinstance(self.decoder, StyleDecoderSpec) else 2)

    def level_range(self) -> tuple[int, int]:
        """(r_min, r_max) of the feature grids, from the preset where the recipe does not give them.

        `matched`: 16 to 64 for key codes of 64x64, else 4 to 64, which gives Table 3's counts of parameters.
        `text`: 4 to 64 for key codes of 64x64, else 4 to 32 (section 4, App. A.1).
        """
        grid = self.retrieval
        assert isinstance(grid, FeatureGridSpec)
        fine = self.code_size >= 64
        low, high = ((16 if fine else 4), 64) if grid.preset == "matched" else (4, 64 if fine else 32)
        return grid.r_min or low, grid.r_max or high

    @model_validator(mode="after")
    def check_sizes(self) -> "AutoencoderRecipe":
        problems = []
        halvings = len(self.encoder.multipliers) - 1
        if self.data.resolution % 2**halvings:
            problems.append(f"data.resolution: {self.data.resolution} cannot be halved {halvings} times "
                            f"(encoder.multipliers has {halvings + 1} entries)")
        if isinstance(self.retrieval, FeatureGridSpec):
            problems += self._problems_of_grids(self.retrieval)
        elif isinstance(self.bottleneck, KeyCodeSpec) and self.bottleneck.noise:
            problems.append("bottleneck.noise: is as strong as the feature grids are coarse, and there are none; write "
                            "false")
        if self.decoder_size * 2**self.halvings != self.data.resolution:
            widths = "channels" if isinstance(self.decoder, StyleDecoderSpec) else "multipliers"
            problems.append(f"decoder.{widths}: {self.halvings + 1} widths take {self.decoder_size} pixels to "
                            f"{self.decoder_size * 2**self.halvings}, not to {self.data.resolution}")
        problems += self._problems_of_training()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems_of_training(self) -> list[str]:
        problems, losses, discriminator = [], self.losses, self.discriminator
        batch_size, parts = self.training.batch_size, self.training.accumulate
        if batch_size % parts:
            problems.append(f"training.accumulate: {parts} parts do not divide a batch of {batch_size}")
        if parts > 1 and isinstance(self.bottleneck, RQSpec):
            problems.append("training.accumulate: the codebook of `rq` moves with every part; write 1")
        if not (losses.l1 or losses.l2 or losses.perceptual) and (losses.adaptive or not losses.adversarial):
            problems.append("losses: l1, l2 and perceptual are all 0; give one a weight")
        if losses.perceptual and losses.perceptual_network == "lpips_vgg" and self.data.resolution < 16:
            problems.append(f"losses.perceptual_network: `lpips_vgg` needs images of at least 16 pixels, "
                            f"not {self.data.resolution}")
        if losses.adversarial and losses.gradient_penalty and losses.adversarial_loss == "hinge":
            problems.append("losses.gradient_penalty: belongs to `wgan`; with `hinge` write 0")
        if losses.adversarial and isinstance(discriminator, PatchDiscriminatorSpec):
            if losses.gradient_penalty and losses.adversarial_loss == "wgan":
                problems.append("losses.gradient_penalty: is defined for each image, and a `patch` discriminator's "
                                "batch norm ties them together; write 0, or use discriminator `style`")
            if self.data.resolution < (least := 3 * 2**discriminator.layers):
                problems.append(f"discriminator.layers: {discriminator.layers} need images of at least {least} pixels, "
                                f"not {self.data.resolution}")
        return problems

    def _problems_of_grids(self, grid: FeatureGridSpec) -> list[str]:
        problems = []
        if not self.has_key_codes:
            problems.append(f"retrieval.kind: feature grids are indexed by key codes in [0, 1], not by bottleneck "
                            f"`{self.bottleneck.kind}`; write `none`")
        if not self.data.resolution % 2**(len(self.encoder.multipliers) - 1) and grid.size % self.code_size:
            problems.append(f"retrieval.size: {grid.size} is not a multiple of the code size {self.code_size}")
        if self.bottleneck.channels % grid.key_length:
            problems.append(f"bottleneck.channels: {self.bottleneck.channels} is not a multiple of "
                            f"retrieval.key_length {grid.key_length}")
        elif grid.channels % (groups := self.bottleneck.channels // grid.key_length):
            problems.append(f"retrieval.channels: {grid.channels} is not a multiple of the {groups} groups")
        if grid.index == "hash" and grid.max_entries & (grid.max_entries - 1):
            problems.append(f"retrieval.max_entries: {grid.max_entries} is no power of two, as `hash` needs")
        r_min, r_max = self.level_range()
        if r_max < r_min:
            problems.append(f"retrieval.r_max: {r_max} is less than r_min {r_min}")
        return problems


class DiffusionRecipe(Spec):
    """A denoiser on the key codes, or other latents, of one autoencoder."""

    kind: Literal["diffusion"]
    description: str = ""
    autoencoder: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  #: name of its run under `runs/`
    denoiser: UNetSpec = UNetSpec()
    conditioning: InpaintSpec | None = None  #: null: nothing but log SNR and the class
    schedule: ScheduleSpec = Field(ChenCosineSpec(), discriminator="kind")
    denoising: DenoisingSpec = DenoisingSpec()
    latent_perceptual: LatentPerceptualSpec | None = None  #: null: not computed
    sampling: SamplingSpec = SamplingSpec()
    training: DiffusionTrainingSpec
    expected: Expected = Field(default_factory=dict)

    @model_validator(mode="after")
    def check_values(self) -> "DiffusionRecipe":
        problems, schedule, denoising, training = [], self.schedule, self.denoising, self.training
        if isinstance(schedule, ChenCosineSpec | BetaLinearSpec | ScaledLinearSpec) and schedule.end <= schedule.start:
            problems.append(f"schedule.end: {schedule.end} is not above schedule.start {schedule.start}")
        if denoising.weight != "min_snr" and denoising.gamma != DenoisingSpec().gamma:
            problems.append(f"denoising.gamma: belongs to weight `min_snr`, not to `{denoising.weight}`")
        if training.batch_size % training.accumulate:
            problems.append(f"training.accumulate: {training.accumulate} parts do not divide a batch of "
                            f"{training.batch_size}")
        if self.denoiser.classes == 1:
            problems.append("denoiser.classes: a single class tells nothing; write 0, or 2 and more")
        if not self.denoiser.classes and training.label_dropout != _LABEL_DROPOUT:
            problems.append("training.label_dropout: belongs to a denoiser with classes; leave it out")
        if problem := self.problem_of_guidance(self.sampling.guidance):
            problems.append(f"sampling.guidance: {problem}; write 1")
        decays = set(training.ema)
        if training.ema != (0,) and (not decays or 0 in decays or len(decays) < len(training.ema)):
            problems.append("training.ema: must be 0, a decay, or a list of decays, each once")
        if self.denoiser.channels % 2:
            problems.append(f"denoiser.channels: {self.denoiser.channels} is odd; half of them are sines, half cosines")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def problem_of_guidance(self, guidance: float) -> str | None:
        """Why the denoiser cannot be guided so, which it would have to know both with labels and without."""
        if guidance == 1 or (self.denoiser.classes and self.training.label_dropout):
            return None
        lacking = "whose labels were dropped now and then" if self.denoiser.classes else "with classes"
        return f"{guidance:g} needs a denoiser {lacking}"

    def check_code_size(self, size: int) -> None:
        """Raises RecipeError unless the denoiser can halve codes of `size` pixels as often as it wants to."""
        halvings = len(self.denoiser.multipliers) - 1
        if size % 2**halvings:
            raise RecipeError(f"denoiser.multipliers: {halvings + 1} entries halve the code {halvings} times, and "
                              f"{size} cannot be. Use at most {(size & -size).bit_length()} entries.")

    def check_decoder_blocks(self, count: int) -> None:
        """Raises RecipeError where the latent perceptual loss wants more than the `count` blocks of a decoder."""
        if self.latent_perceptual and (self.latent_perceptual.blocks or 0) > count:
            raise RecipeError(f"latent_perceptual.blocks: the autoencoder's decoder has {count}, not "
                              f"{self.latent_perceptual.blocks}. Use fewer, or null for all.")


Recipe = AutoencoderRecipe | DiffusionRecipe
