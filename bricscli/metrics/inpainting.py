"""What filling a hole does to a picture: to the pixels that were to stay, at the hole's edge, and in the hole.

All of one picture, of values in [0, 1]; `mask` is True where pixels are replaced.

pre_error  mean squared error of the kept pixels (Asymmetric VQGAN, arXiv:2306.04632v1, section 4.1: Pre_error)
seam       of all pairs of neighbours of which one is kept and one replaced, the mean absolute error of their
           difference: 0 where the step across the edge is the original's, whatever lies beyond it
ring       mean squared error of the pixels at most RING away from the edge, on both sides
hole       mean squared error of the replaced pixels: a filling may be good and different, so this ranks nothing

Asymmetric VQGAN publishes no program for its Pre_error, and not the range of its pixels; [0, 1] is taken here.
"""

import torch
from torch import Tensor
from torch.nn import functional

#: Pixels.
RING = 2


def hole_errors(real: Tensor, fake: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """uint8 `(B, 3, H, W)` twice, bool `(B, H, W)` -> name -> `(B,)` float64.

    A mask that keeps or replaces everything has no edge: raises ValueError.
    """
    if real.shape != fake.shape or real.dtype != torch.uint8 or fake.dtype != torch.uint8:
        raise ValueError(f"uint8 images of one shape expected, got {real.dtype} {tuple(real.shape)} and "
                         f"{fake.dtype} {tuple(fake.shape)}")
    if not mask.flatten(1).any(1).all() or mask.flatten(1).all(1).any():
        raise ValueError("masks that replace a part expected")
    error = (fake.double() - real.double()) / 255
    square = error.square().mean(1)
    ring = _grown(mask) & _grown(~mask)
    below, beside = mask[:, 1:] != mask[:, :-1], mask[:, :, 1:] != mask[:, :, :-1]
    steps = (((error[:, :, 1:] - error[:, :, :-1]).abs().mean(1) * below).sum((1, 2))
             + ((error[..., 1:] - error[..., :-1]).abs().mean(1) * beside).sum((1, 2)))
    return {"pre_error": _mean(square, ~mask), "seam": steps / (below.sum((1, 2)) + beside.sum((1, 2))),
            "ring": _mean(square, ring), "hole": _mean(square, mask)}


def _grown(mask: Tensor) -> Tensor:
    side = 2 * RING + 1
    return functional.max_pool2d(mask.float()[:, None], side, stride=1, padding=RING)[:, 0] > 0


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum((1, 2)) / where.sum((1, 2))
