"""The parts of a recipe, as data: one frozen class per part, strict about names, types and ranges.

Here those of an autoencoder and what all have in common; `recipe.diffusion_specs` has the others.

Symbols are the paper's (BRICS, arXiv:2305.18601v3, Table 1). Nothing here imports torch.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
#: A list in YAML, a tuple here.
Widths = Annotated[tuple[Annotated[int, Strict(), Field(gt=0)], ...], Strict(False), Field(min_length=1)]
Betas = Annotated[tuple[Fraction, Fraction], Strict(False)]
METRIC_NAME = r"^[a-z][a-z0-9_]*$"


class Spec(BaseModel):
    """Frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ExpectedSpec(Spec):
    """What a metric should come to, give or take `tolerance`; `source` says who says so and why that much."""

    value: Annotated[float, Field(allow_inf_nan=False)]
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    source: Annotated[str, Field(min_length=1)]


#: By `brics eval`'s name of the metric. It decides no number of a run.
Expected = dict[Annotated[str, Field(pattern=METRIC_NAME)], ExpectedSpec]


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


class ConditionalSpec(Spec):
    """A decoder that can be told what is kept of a picture (Asymmetric VQGAN, arXiv:2306.04632), and how it learns it.

    Encoder, bottleneck and retrieval stay as those of the run that training begins with (`--from`).
    """

    channels: PositiveInt = 32  #: of the encoder of what is kept, at the image's resolution
    blocks: PositiveInt = 1  #: of it, at each resolution
    blend: Literal["addition", "concatenation"] = "addition"
    masks: Literal["thin", "medium", "thick", "mixed", "box", "half", "outpaint"] = "mixed"
    full_masks: Annotated[float, Field(ge=0, le=1)] = 0.5  #: share of the images of which nothing is kept
    decoder_rate: Annotated[float, Field(gt=0, le=1)] = 0.1  #: the rest of the decoder learns so much more slowly


class StyleDecoderSpec(Spec):
    """StyleGAN2-shaped decoder: `channels[i]` at resolution H_d * 2^i."""

    kind: Literal["style"] = "style"
    channels: Widths = (512, 256, 192)
    style_width: PositiveInt = 512
    mapping_layers: PositiveInt = 4
    extra_layers: Count = 0  #: more than StyleGAN2's two, at each resolution
    conditional: ConditionalSpec | None = None


class ConvDecoderSpec(Spec):
    """taming's VQGAN decoder; as in the encoder, the first multiplier is that of the image's resolution."""

    kind: Literal["conv"] = "conv"
    channels: PositiveInt = 128
    multipliers: Widths = (1, 1, 2, 2, 4)
    blocks: PositiveInt = 2  #: taming's num_res_blocks; the decoder has one more at each resolution
    attention: Literal["code", "middle", "none"] = "code"  #: in the blocks at H_d and in the middle, or only there
    projection: Count = 0  #: channels of a 1x1 convolution in front, VQGAN's post_quant_conv; 0: none
    conditional: ConditionalSpec | None = None


class MoVQDecoderSpec(Spec):
    """MoVQ's decoder (arXiv:2209.09002): the same, with every norm modulated by the feature block."""

    kind: Literal["movq"] = "movq"
    channels: PositiveInt = 128
    multipliers: Widths = (1, 2, 4)
    blocks: PositiveInt = 2
    attention: Literal["code", "middle", "none"] = "code"
    conditional: ConditionalSpec | None = None


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


BottleneckSpec = KeyCodeSpec | KLKeyCodeSpec | KLSpec | VQSpec | RQSpec
RetrievalSpec = FeatureGridSpec | NoRetrievalSpec
DecoderSpec = StyleDecoderSpec | ConvDecoderSpec | MoVQDecoderSpec
DiscriminatorSpec = StyleDiscriminatorSpec | PatchDiscriminatorSpec
