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
    "fid": Metric(
        "FID (clean-fid)", "generation", "lower", "", "distance of two sets of images, Inception features", "inception"
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
