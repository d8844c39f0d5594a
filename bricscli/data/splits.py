"""Which images are for validation: as the source has it, or by their contents alone."""

from collections.abc import Sequence

TRAIN, VAL = "train", "val"


def choose_validation(digests: Sequence[bytes], share: float) -> set[int]:
    """The places of the validation images: those with the smallest digests.

    Equal files are never split between train and val: where the cut would part them it moves behind them, or before
    them if nothing were left to train on. Needs two different digests.
    """
    in_order = sorted(range(len(digests)), key=digests.__getitem__)
    last = digests[in_order[max(1, round(len(digests) * share)) - 1]]
    if last == digests[in_order[-1]]:
        return {i for i in in_order if digests[i] < last}
    return {i for i in in_order if digests[i] <= last}
