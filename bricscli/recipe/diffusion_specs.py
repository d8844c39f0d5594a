"""The parts of a diffusion recipe, as data (`recipe.specs` has those of an autoencoder).

Symbols are the paper's (BRICS, arXiv:2305.18601v3, Table 1). Nothing here imports torch.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, Strict, model_validator

from bricscli.recipe.specs import Count, Fraction, PositiveInt, Spec, Weight, Widths

#: Possibly none.
Sizes = Annotated[tuple[Annotated[int, Strict(), Field(gt=0)], ...], Strict(False)]
Beta = Annotated[float, Field(gt=0, lt=1)]
#: One decay or a list of them in YAML, a tuple here.
Decays = Annotated[
    tuple[Fraction, ...], Strict(False),
    BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,)),
    PlainSerializer(lambda decays: decays[0] if len(decays) == 1 else list(decays), return_type=float | list[float])]


class UNetSpec(Spec):
    """The denoiser (App. A.5), conditioned on log SNR."""

    kind: Literal["unet"] = "unet"
    channels: PositiveInt = 256
    multipliers: Widths = (1, 2, 3, 4)
    blocks: PositiveInt = 2
    attention: Sizes = (32, 16, 8)  #: resolutions with self-attention
    head_channels: PositiveInt = 64
    classes: Count = 0  #: of images whose data set has labels; 0: unconditional, as in the paper


class ChenCosineSpec(Spec):
    """Chen 2023, Algorithm 1 (arXiv:2301.10972); the paper's `cosine variant`."""

    kind: Literal["chen_cosine"] = "chen_cosine"
    start: Annotated[float, Field(ge=0, lt=1)] = 0.2
    end: Annotated[float, Field(gt=0, le=1)] = 1.0
    tau: Annotated[float, Field(gt=0)] = 1.5


class NicholCosineSpec(Spec):
    """Nichol and Dhariwal's cosine (arXiv:2102.09672)."""

    kind: Literal["nichol_cosine"] = "nichol_cosine"
    s: Annotated[float, Field(ge=0, le=1)] = 0.008  #: how far from data t = 0 is, as a share of a quarter turn


class LinearSpec(Spec):
    """alpha_bar = 1 - t (App. D.2)."""

    kind: Literal["linear"] = "linear"


class BetaLinearSpec(Spec):
    """DDPM's schedule (arXiv:2006.11239): the beta of every step grows linearly."""

    kind: Literal["beta_linear"] = "beta_linear"
    start: Beta = 1e-4
    end: Beta = 0.02
    steps: PositiveInt = 1000


class ScaledLinearSpec(Spec):
    """latent-diffusion's schedule: the root of beta grows linearly. Its LSUN-Church model ends at 0.0155."""

    kind: Literal["scaled_linear"] = "scaled_linear"
    start: Beta = 0.0015
    end: Beta = 0.0195
    steps: PositiveInt = 1000


class FlowSpec(Spec):
    """The optimal-transport path of flow matching (arXiv:2210.02747): log SNR = 2 log((1 - t) / t)."""

    kind: Literal["flow"] = "flow"


class DenoisingSpec(Spec):
    """What the denoiser predicts, and what its errors weigh.

    `weight`: `eps` is uniform in the squared error of the noise (DDPM, Chen 2023), whatever is predicted; `v`, `x_0`
    and `flow` likewise; `min_snr` is min(SNR, gamma) on x_0 (arXiv:2303.09556). `{predicts: flow, weight: flow}` is
    flow matching's loss.
    """

    predicts: Literal["eps", "v", "x_0", "flow"] = "eps"
    weight: Literal["eps", "v", "x_0", "flow", "min_snr"] = "eps"
    gamma: Annotated[float, Field(gt=0)] = 5.0  #: of min_snr


class InpaintSpec(Spec):
    """The denoiser also sees the code of the image with a grey hole, and the hole (arXiv:2112.10752, section 4.5)."""

    kind: Literal["inpaint"] = "inpaint"
    #: Holes of training, as `data.masks` draws them; mixed: LaMa's strokes and boxes.
    masks: Literal["thin", "medium", "thick", "mixed", "box", "half", "outpaint"] = "mixed"


class LatentPerceptualSpec(Spec):
    """Latent perceptual loss on the decoder's features, for a second stage of training (LPL, arXiv:2411.04873)."""

    weight: Annotated[float, Field(gt=0)] = 3.0  #: w_LPL (Eq. 3)
    #: tau_sigma: largest sigma / alpha at which it acts. The paper's best are 3 to 6 for latents of 64x64, and scale
    #: with their resolution.
    threshold: Annotated[float, Field(gt=0)] = 3.0
    blocks: PositiveInt | None = None  #: of the decoder, from the code on; null: all
    variant: Literal["paper", "diffusers"] = "paper"  #: as the text has it, or as the authors' program in diffusers
    #: Statistics (diffusers: lengths) of the predicted (diffusers: clean) features for both, of each its own, or none.
    normalisation: Literal["shared", "separate", "none"] = "shared"
    #: r_1 / r_l, as the text says and diffusers computes; 2^(-r_l / r_1), as the text prints; or 1.
    depth_weight: Literal["inverse", "formula", "uniform"] = "inverse"
    outliers: bool = True  #: mask those of the features (Algorithm 1)


class DiffusionTrainingSpec(Spec):
    """App. A.6. Lengths are counted in images (key codes) seen."""

    images: PositiveInt
    batch_size: PositiveInt = 64
    accumulate: PositiveInt = 1  #: parts of a batch that are computed one after another, to save memory
    precision: Literal["fp32", "bf16"] = "fp32"  #: the paper does not say; bf16: autocast
    learning_rate: Annotated[float, Field(gt=0)] = 8e-4
    warmup_images: Count = 640_000  #: 10^4 iterations of 64
    decay_images: Count = 64_000_000  #: cosine decay to 0 over 10^6 iterations of 64; 0: constant
    gradient_clip: Weight = 1.0
    #: Decays per step of the averaged weights; everything uses the first unless told otherwise. 0: none.
    ema: Decays = (0.9999,)
    flip: bool = True  #: use the mirrored image's key code half of the time
    label_dropout: Fraction = 0.1  #: share of the images whose label is not told; only with denoiser.classes
    seed: Count = 0


#: `diffusion.samplers` and `diffusion.step_grids` have one function for each.
Sampler = Literal["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc_2", "unipc_3", "heun", "flow_euler", "flow_heun"]
StepGrid = Literal["log_snr", "trailing"]
#: More are a slip of the finger.
MOST_STEPS = 100_000


class SamplingSpec(Spec):
    """How `brics sample` draws unless told otherwise; the paper states neither sampler nor steps."""

    sampler: Sampler = "dpmpp_2m"
    steps: Annotated[int, Field(gt=0, le=MOST_STEPS)] = 30
    grid: StepGrid = "log_snr"  #: uniform in log SNR, or in t
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0  #: fresh noise of `ddim`; 1 is DDPM
    #: Time at which pure noise is taken for x_t. Little of the training lies near 1, and an error there, divided by
    #: alpha, decides the whole image: a model that trained for minutes draws better from an earlier start.
    start: Annotated[float, Field(gt=0, le=1)] = 0.97
    #: Classifier-free guidance, unconditional + guidance (conditional - unconditional): 1 is none, 1 + w of its paper.
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0

    @model_validator(mode="after")
    def check_eta(self) -> "SamplingSpec":
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta: belongs to `ddim`, not to `{self.sampler}`; write 0")
        return self


ScheduleSpec = ChenCosineSpec | NicholCosineSpec | LinearSpec | BetaLinearSpec | ScaledLinearSpec | FlowSpec
