"""What happens to images in front of every network: they are checked, resized by Pillow in threads, and computed on
in full float32."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Of torchvision's networks and DINOv2.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Images that go through a network together, while threads resize the next ones.
PASS_WIDTH = 32


def check_images(images: Tensor) -> Tensor:
    """The images themselves; another type or range would silently give other features."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images (B,3,H,W) uint8 expected, got {tuple(images.shape)} {images.dtype}")
    return images


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and float32 that is float32: TF32 rounds to 10 bits, which is another distance."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def iter_resized(images: Tensor, resize: Callable[[NDArray], NDArray], device: torch.device) -> Iterator[Tensor]:
    """uint8 (B,3,H,W) -> passes (b,3,h,w) of what `resize` makes of each image (H,W,3), on `device`.

    Pillow lets go of Python's lock while it resizes, so as many threads as torch has resize at once, and on a card they
    do so while it computes. The values do not depend on the number of threads.
    """
    pixels = check_images(images).permute(0, 2, 3, 1).cpu().numpy()
    threads = torch.get_num_threads()
    if threads == 1 and device.type == "cpu":
        yield from _passes(map(resize, pixels), device)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from _passes(pool.map(resize, pixels), device)


def _passes(resized: Iterator[NDArray], device: torch.device) -> Iterator[Tensor]:
    waiting: list[NDArray] = []
    for image in resized:
        waiting.append(image)
        if len(waiting) == PASS_WIDTH:
            yield _stacked(waiting, device)
            waiting = []
    if waiting:
        yield _stacked(waiting, device)


def _stacked(images: list[NDArray], device: torch.device) -> Tensor:
    """Channels stay last in memory, which is how convolutions on a CPU like them."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device, non_blocking=True)


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """0..255, uint8 or float -> float32 with the mean and the deviation of what a network was trained on."""
    scale = [pixels.new_tensor(numbers, dtype=torch.float32).view(1, 3, 1, 1) for numbers in (mean, std)]
    return (pixels.float() / 255 - scale[0]) / scale[1]
