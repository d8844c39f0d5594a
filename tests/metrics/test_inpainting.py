"""What a filled hole did to a picture, against sums written out pixel by pixel."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bricscli.metrics.inpainting import RING, hole_errors


def pictures(seed: int, count: int = 3, height: int = 14, width: int = 17) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, height, width)).astype(np.uint8))


def boxes(count: int = 3, height: int = 14, width: int = 17) -> Tensor:
    mask = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        mask[i, 3 : 8 + i, 4 : 9 + i] = True
    mask[2, :, 0] = True  # at the picture's own edge
    return mask


def by_hand(real: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Of one picture, with loops."""
    error = (fake.astype(float) - real.astype(float)) / 255
    height, width = mask.shape
    found: dict[str, list[float]] = {"pre_error": [], "hole": [], "ring": [], "seam": []}
    for y in range(height):
        for x in range(width):
            square = float((error[:, y, x] ** 2).mean())
            found["hole" if mask[y, x] else "pre_error"].append(square)
            around = mask[max(0, y - RING) : y + RING + 1, max(0, x - RING) : x + RING + 1]
            if around.any() and not around.all():
                found["ring"].append(square)
            for other_y, other_x in ((y + 1, x), (y, x + 1)):
                if other_y < height and other_x < width and mask[y, x] != mask[other_y, other_x]:
                    found["seam"].append(float(np.abs(error[:, other_y, other_x] - error[:, y, x]).mean()))
    return {name: sum(values) / len(values) for name, values in found.items()}


def test_each_error_is_what_it_says() -> None:
    real, fake, mask = pictures(0), pictures(1), boxes()
    found = hole_errors(real, fake, mask)
    for i in range(len(real)):
        expected = by_hand(real[i].numpy(), fake[i].numpy(), mask[i].numpy())
        assert {name: float(values[i]) for name, values in found.items()} == pytest.approx(expected, rel=1e-12)


def test_pasting_leaves_the_kept_pixels_and_not_the_seam() -> None:
    real, fake, mask = pictures(0), pictures(1), boxes()
    pasted = torch.where(mask[:, None], fake, real)
    found = hole_errors(real, pasted, mask)
    assert (found["pre_error"] == 0).all() and (found["hole"] == hole_errors(real, fake, mask)["hole"]).all()
    assert (found["seam"] > 0.1).all()


def test_an_offset_of_everything_makes_no_seam() -> None:
    real, mask = pictures(0) // 2, boxes()
    found = hole_errors(real, real + 51, mask)
    for name in ("pre_error", "ring", "hole"):
        assert found[name].tolist() == pytest.approx([0.04] * 3)
    assert found["seam"].abs().max() < 1e-12


def test_the_original_has_no_error() -> None:
    real, mask = pictures(0), boxes()
    assert all((values == 0).all() for values in hole_errors(real, real, mask).values())


@pytest.mark.parametrize("value", [True, False])
def test_a_mask_without_an_edge_is_refused(value: bool) -> None:
    mask = boxes()
    mask[1] = value
    with pytest.raises(ValueError, match="replace a part"):
        hole_errors(pictures(0), pictures(1), mask)


def test_other_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8 images of one shape"):
        hole_errors(pictures(0).float(), pictures(1), boxes())
