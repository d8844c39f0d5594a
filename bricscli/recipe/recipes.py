"""The two kinds of recipe: everything that decides the numbers of a run, and nothing that does not.

Checks that need more than one field live here; they run after every single field was found valid.
"""

from typing import Literal

from pydantic import Field, model_validator

from bricscli.errors import RecipeError
from bricscli.recipe.specs import (
    AutoencoderLossSpec,
    AutoencoderTrainingSpec,
    ChenCosineSpec,
    DataSpec,
    DiffusionTrainingSpec,
    DiscriminatorSpec,
    EncoderSpec,
    FeatureGridSpec,
    KeyCodeSpec,
    SamplingSpec,
    Spec,
    StyleDecoderSpec,
    UNetSpec,
)


class AutoencoderRecipe(Spec):
    """image -> encoder -> bottleneck -> retrieval -> decoder -> image."""

    kind: Literal["autoencoder"]
    description: str = ""
    data: DataSpec
    encoder: EncoderSpec = EncoderSpec()
    bottleneck: KeyCodeSpec = KeyCodeSpec()
    retrieval: FeatureGridSpec = FeatureGridSpec()
    decoder: StyleDecoderSpec = StyleDecoderSpec()
    discriminator: DiscriminatorSpec = DiscriminatorSpec()
    losses: AutoencoderLossSpec = AutoencoderLossSpec()
    training: AutoencoderTrainingSpec

    @property
    def code_size(self) -> int:
        """H_z = W_z."""
        return self.data.resolution // 2 ** (len(self.encoder.multipliers) - 1)

    @property
    def groups(self) -> int:
        """N_h = C_z / C_key."""
        return self.bottleneck.channels // self.retrieval.key_length

    @model_validator(mode="after")
    def check_sizes(self) -> "AutoencoderRecipe":
        problems = []
        halvings = len(self.encoder.multipliers) - 1
        grid, decoder = self.retrieval, self.decoder
        if self.data.resolution % 2**halvings:
            problems.append(f"data.resolution: {self.data.resolution} cannot be halved {halvings} times "
                            f"(encoder.multipliers has {halvings + 1} entries)")
        elif grid.size % self.code_size:
            problems.append(f"retrieval.size: {grid.size} is not a multiple of the code size {self.code_size}")
        if self.bottleneck.channels % grid.key_length:
            problems.append(f"bottleneck.channels: {self.bottleneck.channels} is not a multiple of "
                            f"retrieval.key_length {grid.key_length}")
        elif grid.channels % self.groups:
            problems.append(f"retrieval.channels: {grid.channels} is not a multiple of the {self.groups} groups")
        if grid.r_max < grid.r_min:
            problems.append(f"retrieval.r_max: {grid.r_max} is less than r_min {grid.r_min}")
        if grid.size * 2 ** (len(decoder.channels) - 1) != self.data.resolution:
            problems.append(f"decoder.channels: {len(decoder.channels)} widths take {grid.size} pixels to "
                            f"{grid.size * 2 ** (len(decoder.channels) - 1)}, not to {self.data.resolution}")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class DiffusionRecipe(Spec):
    """A denoiser on the key codes of one autoencoder."""

    kind: Literal["diffusion"]
    description: str = ""
    autoencoder: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  #: name of its run under `runs/`
    denoiser: UNetSpec = UNetSpec()
    schedule: ChenCosineSpec = ChenCosineSpec()
    sampling: SamplingSpec = SamplingSpec()
    training: DiffusionTrainingSpec

    @model_validator(mode="after")
    def check_values(self) -> "DiffusionRecipe":
        problems = []
        if self.schedule.end <= self.schedule.start:
            problems.append(f"schedule.end: {self.schedule.end} is not above schedule.start {self.schedule.start}")
        if self.denoiser.channels % 2:
            problems.append(f"denoiser.channels: {self.denoiser.channels} is odd; half of them are sines, half cosines")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def check_code_size(self, size: int) -> None:
        """Raises RecipeError unless the denoiser can halve key codes of `size` pixels as often as it wants to."""
        halvings = len(self.denoiser.multipliers) - 1
        if size % 2**halvings:
            raise RecipeError(f"denoiser.multipliers: {halvings + 1} entries halve the key code {halvings} times, and "
                              f"{size} cannot be. Use at most {(size & -size).bit_length()} entries.")


Recipe = AutoencoderRecipe | DiffusionRecipe
