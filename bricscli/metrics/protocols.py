"""Published ways to measure generated images: which network, how many images, against what. Data only, no torch.

A number is comparable with a printed one only if all of this is the same. Each protocol says what it takes over, where
from, and what is known to differ here from the program behind the printed numbers.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MetricSpec:
    """One metric of a protocol.

    `extractor`: a key of `features.EXTRACTORS`, `output` one of its outputs. `settings`: arguments of the metric's own
    function, ready for JSON. `limit`: at most so many images of either side are used, the first ones; None: all.
    `reference_limit`: the same of the reference, where it differs.
    """

    extractor: str
    output: str = "features"
    settings: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    reference_limit: int | None = None
    needs_reference: bool = True


@dataclass(frozen=True)
class Protocol:
    """`metrics`: name (a key of `metrics.METRICS`) -> how it is measured, in the order of the printed table.

    `samples`: how many images the printed numbers stand on. `reference`: what they are compared with, in words.
    `source`: where all this is said. `differs`: what is known to differ here, a sentence each.
    """

    name: str
    title: str
    samples: int
    reference: str
    source: str
    metrics: dict[str, MetricSpec]
    differs: tuple[str, ...] = ()


_FID = MetricSpec("inception")
_FID_CLEAN = MetricSpec("inception_clean")
_CLIP_FID = MetricSpec("clip")
_IS = MetricSpec(
    "inception", "logits", {"splits": 10, "shuffle": True, "seed": 2020}, needs_reference=False
)
_VGG_NEIGHBOURS = MetricSpec("vgg16", settings={"k": 3}, limit=10_000)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "brics2023",
            "BRICS, Tables 4 and 5",
            samples=50_000,
            reference="the entire training set",
            source="arXiv:2305.18601v3, section 5, Appendix F: FID by torch-fidelity, CLIP-FID by clean-fid, precision"
                   " and recall by youngjung's program",
            metrics={
                "fid": _FID,
                "clip_fid": _CLIP_FID,
                "is": _IS,
                "precision": _VGG_NEIGHBOURS,
                "recall": _VGG_NEIGHBOURS,
                "f1": _VGG_NEIGHBOURS,
            },
            differs=(
                "IS as torch-fidelity has it, which the paper names for FID alone.",
                "CLIP in float32; clean-fid computes it in float16 on a card.",
                "Precision and recall on 10,000 x 10,000 images: that program's default; the paper prints no number.",
                "That program takes the first files in the order of the folder, this one the first in its own.",
                "The paper's row of LDM is copied from LDM, whose precision and recall are another program's.",
            ),
        ),
        Protocol(
            "ldm",
            "Latent diffusion, Tables 1 and 18",
            samples=50_000,
            reference="the entire training set",
            source="arXiv:2112.10752v2, its appendix on evaluation: torch-fidelity",
            metrics={
                "fid": _FID,
                "is": _IS,
                "precision": MetricSpec("inception", settings={"k": 3}),
                "recall": MetricSpec("inception", settings={"k": 3}),
            },
            differs=(
                "IS as torch-fidelity has it by default: inferred.",
                "Precision and recall on Inception's features, as in ADM's program, against the entire training set:"
                " inferred; LDM publishes no code for them.",
            ),
        ),
        Protocol(
            "adm",
            "ADM, Tables 4 and 5",
            samples=50_000,
            reference="the entire training set for FID, its first 10,000 images for precision and recall",
            source="arXiv:2105.05233v4; openai/guided-diffusion, evaluations/evaluator.py",
            metrics={
                "fid": _FID,
                "is": MetricSpec("inception", "logits", {"splits": 10, "shuffle": False}, needs_reference=False),
                "precision": MetricSpec("inception", settings={"k": 3}, limit=50_000, reference_limit=10_000),
                "recall": MetricSpec("inception", settings={"k": 3}, limit=50_000, reference_limit=10_000),
            },
            differs=(
                "sFID is not offered.",
                "The published reference batches are its own choice of images; here they are the first ones.",
                "IS: 10 splits, which are its splits of 5,000 where there are 50,000 images.",
                "That program takes less or equal for inside, and distances in float16 unless they overflow.",
                "The network is torch-fidelity's conversion of the same TensorFlow graph.",
            ),
        ),
        Protocol(
            "cleanfid",
            "clean-fid",
            samples=50_000,
            reference="the entire training set",
            source="arXiv:2104.11222v3 and arXiv:2203.06026v3; clean-fid 0.1.35, mode clean",
            metrics={
                "fid_clean": _FID_CLEAN,
                "kid": MetricSpec("inception_clean", settings={"subsets": 100, "size": 1000, "seed": 2020}),
                "clip_fid": _CLIP_FID,
            },
            differs=(
                "KID's subsets are drawn with a fixed seed; clean-fid draws others at every call.",
                "CLIP in float32; clean-fid computes it in float16 on a card.",
                "Compared with images here; clean-fid's own table uses statistics that it has precomputed.",
            ),
        ),
        Protocol(
            "edm2",
            "EDM2, Tables 1 and 2",
            samples=50_000,
            reference="the entire training set",
            source="arXiv:2312.02696v2; NVlabs/edm2, calculate_metrics.py",
            metrics={"fid": _FID, "fd_dinov2": MetricSpec("dinov2")},
            differs=(
                "The network of FID is torch-fidelity's conversion of the same TensorFlow graph.",
                "One set of samples; the paper prints the best of three.",
            ),
        ),
    )
}
