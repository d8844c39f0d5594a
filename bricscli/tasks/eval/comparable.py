"""Whether a distance between two collections may be published: what would make it a number that nobody else gets.

The costliest differences in this field are silent: a reference that was resized by another program than the training
images (latent-diffusion's LSUN-Church: FID 14 to 16 instead of 4.02), sets that are too small (FID's bias), samples
that went through JPEG. They are refused here, or, when forced, written beside the number for good.
"""

from collections.abc import Mapping
from typing import Any

from bricscli.errors import MismatchError

#: Fewer images make FID a number about their count (facts of its bias: Chong and Forsyth, arXiv:1911.07023v3).
LEAST_IMAGES = 10_000

_PREPARATION = {"crop": "cropped", "resize": "resized"}
_FORCE = "Or pass --force: the number is then measured all the same, and marked."


def reasons_against(samples: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """What is wrong with publishing a distance of the two sides, as an evaluation describes them; nothing: no reason.
    """
    reasons = [*too_few("samples", samples), *too_few("reference", reference)]
    if samples.get("lossy"):
        reasons.append(f"samples {samples['name']}: JPEG files, whose compression changes the distance")
    return reasons + different_preparation(samples, reference)


def different_preparation(samples: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Of those reasons the ones that make any distance another, published or not."""
    ours, theirs = samples.get("preparation"), reference.get("preparation")
    if not ours or not theirs:
        return []
    return [f"samples {samples['name']}: of models whose training images were {done} by `{ours[key] or 'nothing'}`, "
            f"those of the reference {reference['name']} by `{theirs[key] or 'nothing'}`"
            for key, done in _PREPARATION.items() if ours.get(key) != theirs.get(key)]


def too_few(role: str, side: Mapping[str, Any]) -> list[str]:
    """Of those reasons that of a side with few images: all that can be wrong between a set and what was made of it."""
    few = side.get("images") is not None and side["images"] < LEAST_IMAGES
    return [f"{role} {side['name']}: {side['images']:,} images, fewer than {LEAST_IMAGES:,}"] if few else []


def check_comparable(reasons: list[str], force: bool) -> list[str]:
    """`reasons`, where they are passed over. Raises MismatchError with a line for each where not."""
    if reasons and not force:
        raise MismatchError(*(f"{reason}." for reason in reasons),
                            f"Such a distance is nobody else's. Draw, prepare or name what was meant. {_FORCE}")
    return reasons


def open_questions(samples: Mapping[str, Any], reference: Mapping[str, Any], wanted: int | None) -> list[str]:
    """What is not known, or not as a protocol has it, and may be: it is written beside the numbers."""
    questions = [f"how the images of {side['name']} were prepared is not known"
                 for side in (samples, reference) if not side.get("preparation")]
    if wanted is not None and samples["images"] != wanted:
        questions.append(f"{samples['images']:,} samples, the protocol's are {wanted:,}")
    if only := (samples.get("drawn") or {}).get("class"):
        questions.append(f"all samples are of class {only}")
    if reference.get("split") == "val":
        questions.append("against validation images, the protocol's are those of training")
    return questions
