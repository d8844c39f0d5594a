"""The parts of a recipe, as data: one frozen class per part, strict about names, types and ranges.

Symbols are the paper's (BRICS, arXiv:2305.18601v3, Table 1). Nothing here imports torch.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
#: A list in YAML, a tuple here.
Widths = Annotated[tuple[Annotated[int, Strict(), Field(gt=0)], ...], Strict(False), Field(min_length=1)]
Sizes = Annotated[tuple[Annotated[int, Strict(), Field(gt=0)], ...], Strict(False)]
Beta = Annotated[float, Field(gt=0, lt=1)]
Betas = Annotated[tuple[Fraction, Fraction], Strict(False)]
#: One decay or a list of them in YAML, a tuple here.
Decays = Annotated[
    tuple[Fraction, ...], Strict(False),
    BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,)),
    PlainSerializer(lambda decays: decays[0] if len(decays) == 1 else list(decays), return_type=float | list[float])]


class Spec(BaseModel):
    """Frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataSpec(Spec):
    """Which images: `name` is a folder under `data/`; `resolution` in pixels."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    resolution: Annotated[int, Field(ge=8, le=1024)]
    flip: bool = True  #: mirror half of the images in training


class EncoderSpec(Spec):
    """taming's VQGAN encoder (App. A.1): each multiplier after the first halves the resolution."""

    channels: PositiveInt = 32
    multipliers: Widths = (1, 2, 4)
    blocks: PositiveInt = 2
    attention: Literal["code", "middle", "none"] = "code"  #: at min(H_z, W_z) as in App. A.1, or only in the middle


class KeyCodeSpec(Spec):
    """Key code: a sigmoid, and in training noise of relaxed precision (section 3.4)."""

    kind: Literal["key_code"] = "key_code"
    channels: PositiveInt = 4  #: C_z
    noise: bool = True  #: eps_0 ~ N(0, 1 / (4 r_max)^2)


class KLKeyCodeSpec(Spec):
    """KL-regularised key code: sigmoid(mu + sigma eps) (App. A.4)."""

    kind: Literal["kl_key_code"] = "kl_key_code"
    channels: PositiveInt = 4
    weight: Weight = 1e-6  #: of the KL divergence
    reduction: Literal["sum", "mean"] = "sum"  #: over a code's values: latent-diffusion sums; both average over images


class KLSpec(Spec):
    """latent-diffusion's KL first stage: mu + sigma eps, unbounded."""

    kind: Literal["kl"] = "kl"
    channels: PositiveInt = 4
    weight: Weight = 1e-6
    reduction: Literal["sum", "mean"] = "sum"


class VQSpec(Spec):
    """VQGAN's bottleneck: the nearest of `entries` vectors of a learned codebook."""

    kind: Literal["vq"] = "vq"
    channels: PositiveInt = 256  #: length of a codebook vector
    entries: PositiveInt = 1024
    commitment: Weight = 0.25  #: beta of Eq. 9
    weight: Weight = 1.0  #: of the codebook's loss among the losses


class RQSpec(Spec):
    """RQ-VAE's bottleneck: `depth` vectors of one shared codebook, each the nearest to what the others left over."""

    kind: Literal["rq"] = "rq"
    channels: PositiveInt = 256
    entries: PositiveInt = 2048
    depth: Annotated[int, Field(ge=1, le=64)] = 4
    decay: Fraction = 0.99  #: of the codebook's moving averages
    weight: Weight = 0.25  #: of the commitment loss


class FeatureGridSpec(Spec):
    """Groups of multi-resolution feature grids (section 3.2, Fig. 8)."""

    kind: Literal["feature_grid"] = "feature_grid"
    size: PositiveInt = 64  #: H_d = W_d, to which the key code is tiled
    key_length: Literal[1, 2] = 1  #: C_key
    levels: Annotated[int, Field(ge=1, le=32)] = 16  #: N_r
    #: r_min and r_max where they are not given: what Table 3's counts say, or what the text says.
    preset: Literal["matched", "text"] = "matched"
    r_min: PositiveInt | None = None
    r_max: PositiveInt | None = None
    index: Literal["modulo", "hash"] = "modulo"  #: Eq. 6, or universal hashing (App. K)
    entry_channels: PositiveInt = 4  #: C_v
    max_entries: Annotated[int, Field(ge=8)] = 2**18  #: T
    mlp_width: PositiveInt = 64
    mlp_layers: PositiveInt = 3
    channels: PositiveInt = 512  #: C_d, of all groups together


class NoRetrievalSpec(Spec):
    """The code itself goes to the decoder: every method but BRICS."""

    kind: Literal["none"] = "none"


class StyleDecoderSpec(Spec):
    """StyleGAN2-shaped decoder: `channels[i]` at resolution H_d * 2^i."""

    kind: Literal["style"] = "style"
    channels: Widths = (512, 256, 192)
    style_width: PositiveInt = 512
    mapping_layers: PositiveInt = 4


class ConvDecoderSpec(Spec):
    """taming's VQGAN decoder; as in the encoder, the first multiplier is that of the image's resolution."""

    kind: Literal["conv"] = "conv"
    channels: PositiveInt = 128
    multipliers: Widths = (1, 1, 2, 2, 4)
    blocks: PositiveInt = 2  #: taming's num_res_blocks; the decoder has one more at each resolution
    attention: Literal["code", "middle", "none"] = "code"  #: in the blocks at H_d and in the middle, or only there


class MoVQDecoderSpec(Spec):
    """MoVQ's decoder (arXiv:2209.09002): the same, with every norm modulated by the feature block."""

    kind: Literal["movq"] = "movq"
    channels: PositiveInt = 128
    multipliers: Widths = (1, 2, 4)
    blocks: PositiveInt = 2
    attention: Literal["code", "middle", "none"] = "code"


class StyleDiscriminatorSpec(Spec):
    """StyleGAN2's residual discriminator: width `channels` at full resolution, doubling up to `max_channels`."""

    kind: Literal["style"] = "style"
    channels: PositiveInt = 128
    max_channels: PositiveInt = 512


class PatchDiscriminatorSpec(Spec):
    """pix2pix's PatchGAN, which VQGAN uses: a score for every patch after `layers` halvings."""

    kind: Literal["patch"] = "patch"
    channels: PositiveInt = 64
    layers: PositiveInt = 3


class AutoencoderLossSpec(Spec):
    """Weights of Eq. 5 (App. A.3); 0 turns a term off."""

    l1: Weight = 0.0
    l2: Weight = 20.0
    perceptual: Weight = 5.0
    perceptual_network: Literal["vgg16", "squeezenet1_1", "lpips_vgg"] = "vgg16"
    adversarial: Weight = 1.0
    adversarial_loss: Literal["wgan", "hinge"] = "wgan"
    #: Multiply the adversarial weight by the ratio of gradients at the last layer (VQGAN, arXiv:2012.09841, Eq. 7).
    adaptive: bool = False
    gradient_penalty: Weight = 4.0
    adversarial_start: Count = 0  #: images seen before the adversarial loss begins


class AutoencoderTrainingSpec(Spec):
    """App. A.2. Lengths are counted in images seen."""

    images: PositiveInt
    batch_size: PositiveInt = 12
    accumulate: PositiveInt = 1  #: parts of a batch that are computed one after another, to save memory
    precision: Literal["fp32", "bf16"] = "fp32"  #: the paper's is fp32; bf16: autocast, not for the penalty
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_images: Count = 0
    betas: Betas = (0.0, 0.99)
    epsilon: Annotated[float, Field(gt=0)] = 1e-15  #: Adam's, of encoder, grids and decoder
    discriminator_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    gradient_clip: Weight = 0.0  #: largest norm of the gradient; 0: not clipped
    ema: Fraction = 0.0  #: decay per step of the averaged weights; 0: none
    seed: Count = 0


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


class SamplingSpec(Spec):
    """How `brics sample` draws unless told otherwise; the paper states neither sampler nor steps."""

    sampler: Sampler = "dpmpp_2m"
    steps: PositiveInt = 30
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


BottleneckSpec = KeyCodeSpec | KLKeyCodeSpec | KLSpec | VQSpec | RQSpec
RetrievalSpec = FeatureGridSpec | NoRetrievalSpec
DecoderSpec = StyleDecoderSpec | ConvDecoderSpec | MoVQDecoderSpec
DiscriminatorSpec = StyleDiscriminatorSpec | PatchDiscriminatorSpec
ScheduleSpec = ChenCosineSpec | NicholCosineSpec | LinearSpec | BetaLinearSpec | ScaledLinearSpec | FlowSpec
