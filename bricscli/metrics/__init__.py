"""The measures: name -> what it says and what it needs. The numbers are made in the modules beside this one.

No torch at import.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """`weights`: a key of `weights.WEIGHTS` that must be on this machine, or None."""

    label: str
    of: Literal["reconstruction", "generation"]
    better: Literal["higher", "lower"]
    unit: str
    meaning: str
    weights: str | None = None


METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "reconstruction", "higher", "dB", "pixel error; every 6 dB halve the error"),
    "ssim": Metric("SSIM", "reconstruction", "higher", "", "local structure; 1 is a perfect copy"),
    "lpips_alex": Metric(
        "LPIPS (alex)", "reconstruction", "lower", "", "difference as people see it; 0 is a perfect copy", "alexnet"
    ),
    "lpips_vgg": Metric("LPIPS (vgg)", "reconstruction", "lower", "", "the same, seen by another network", "vgg16"),
    "lpips_squeeze": Metric(
        "LPIPS (squeeze)", "reconstruction", "lower", "", "the same, seen by a small network", "squeezenet1_1"
    ),
    "rfid": Metric(
        "rFID", "reconstruction", "lower", "", "FID of the reconstructions against their originals",
        "inception_fidelity",
    ),
    "fid": Metric(
        "FID", "generation", "lower", "", "distance of two sets of images, Inception features (torch-fidelity's)",
        "inception_fidelity",
    ),
    "fid_clean": Metric(
        "FID (clean)", "generation", "lower", "", "the same with clean-fid's resize; not comparable with FID",
        "inception",
    ),
    "clip_fid": Metric(
        "CLIP-FID", "generation", "lower", "", "distance of two sets of images, CLIP features", "clip_vit_b_32"
    ),
    "fd_dinov2": Metric(
        "FD-DINOv2", "generation", "lower", "", "distance of two sets of images, DINOv2 features", "dinov2_vitl14"
    ),
    "kid": Metric(
        "KID", "generation", "lower", "", "distance of two sets of images that few images do not bias; 0 is the same",
        "inception_fidelity",
    ),
    "is": Metric(
        "IS", "generation", "higher", "", "how many kinds of ImageNet object there are, and how clearly; no reference",
        "inception_fidelity",
    ),
    "precision": Metric(
        "precision", "generation", "higher", "", "share of the samples that lie among real images", "vgg16"
    ),
    "recall": Metric("recall", "generation", "higher", "", "share of real images that lie among the samples", "vgg16"),
    "f1": Metric("F1", "generation", "higher", "", "harmonic mean of precision and recall", "vgg16"),
    "density": Metric(
        "density", "generation", "higher", "", "how thickly real images lie around the samples; 1 where they are alike",
        "vgg16",
    ),
    "coverage": Metric(
        "coverage", "generation", "higher", "", "share of real images with a sample among their neighbours", "vgg16"
    ),
    "fd_random": Metric(
        "FD (random-conv features, not FID)",
        "generation",
        "lower",
        "",
        "distance of two sets of images, fixed random convolutions; comparable only with itself",
    ),
}

#: Names that stand for several.
GROUPS: dict[str, tuple[str, ...]] = {"lpips": ("lpips_alex", "lpips_vgg")}
