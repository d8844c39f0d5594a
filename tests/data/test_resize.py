"""Each way to resize, beside the library that it is named after, on the same pictures: equal to a grey level."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize
from torchvision.transforms import Compose as Chain

from bricscli.data.images import ImageError
from bricscli.data.resize import RESIZES

Pixels = npt.NDArray[np.uint8]

#: width, height, resolution: odd and even, landscape and portrait, to smaller and to larger, and already of the size
SHAPES = [(97, 64, 32), (64, 97, 32), (101, 67, 48), (67, 101, 47), (40, 31, 64), (31, 41, 65), (33, 33, 64),
          (128, 128, 32), (32, 45, 32), (48, 33, 33), (300, 41, 40), (41, 300, 40), (257, 255, 64), (32, 32, 32)]


def picture(width: int, height: int) -> Image.Image:
    """Noise over slopes: every misplaced pixel shows."""
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3)).astype(np.float64)
    values[: height // 2] = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray(values.astype(np.uint8))


def lower_upper(pixels: Pixels) -> Pixels:
    """The centred square as latent-diffusion and NVlabs slice it."""
    height, width, _ = pixels.shape
    side = min(height, width)
    return pixels[(height - side) // 2 : (height + side) // 2, (width - side) // 2 : (width + side) // 2]


def crop_first(filter: Image.Resampling) -> Callable[[Pixels, int], Pixels]:
    return lambda pixels, r: np.asarray(Image.fromarray(lower_upper(pixels)).resize((r, r), resample=filter))


def box_first(pixels: Pixels, r: int) -> Pixels:
    """As guided-diffusion's datasets/lsun_bedroom.py slices."""
    height, width, _ = pixels.shape
    scale = r / min(width, height)
    size = round(scale * width), round(scale * height)
    scaled = np.asarray(Image.fromarray(pixels).resize(size, resample=Image.Resampling.BOX))
    down, right = (scaled.shape[0] - r) // 2, (scaled.shape[1] - r) // 2
    return scaled[down : down + r, right : right + r]


def torchvisions(pixels: Pixels, r: int) -> Pixels:
    transform = Chain([Resize(r, InterpolationMode.BILINEAR), CenterCrop(r)])
    return np.asarray(transform(Image.fromarray(pixels)))


def opencvs(pixels: Pixels, r: int) -> Pixels:
    """albumentations 0.4.3: SmallestMaxSize and CenterCrop."""
    height, width, _ = pixels.shape
    scale = r / float(min(height, width))
    if scale != 1.0:
        size = round(width * scale), round(height * scale)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    down, right = (pixels.shape[0] - r) // 2, (pixels.shape[1] - r) // 2
    return pixels[down : down + r, right : right + r]


ORIGINALS: dict[str, Callable[[Pixels, int], Pixels]] = {
    "ldm": crop_first(Image.Resampling.BICUBIC), "adm": box_first, "nvlabs": crop_first(Image.Resampling.LANCZOS),
    "rqvae": torchvisions, "taming": opencvs, "lanczos": crop_first(Image.Resampling.LANCZOS)}


def test_every_way_has_an_original() -> None:
    assert ORIGINALS.keys() == RESIZES.keys()
    assert all(way.crop == "center" and way.filter and "/" in way.source + "/" for way in RESIZES.values())


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize(("width", "height", "resolution"), SHAPES)
def test_equal_to_the_original(name: str, width: int, height: int, resolution: int) -> None:
    image = picture(width, height)
    ours = np.asarray(RESIZES[name](image, resolution))
    theirs = ORIGINALS[name](np.asarray(image), resolution)
    assert ours.shape == theirs.shape == (resolution, resolution, 3)
    worst = np.abs(ours.astype(int) - theirs).max()
    assert worst <= (1 if name == "taming" else 0), worst


def test_the_ways_differ() -> None:
    """On one picture all but the two that are the same: so a mistaken name would show."""
    image = picture(131, 90)
    made = {name: np.asarray(way(image, 32)).astype(int) for name, way in RESIZES.items()}
    assert (made["nvlabs"] == made["lanczos"]).all()
    names = sorted(made.keys() - {"lanczos"})
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert np.abs(made[one] - made[other]).max() > 8, (one, other)


def test_what_is_not_antialiased_keeps_the_noise() -> None:
    """White noise, four times smaller: its deviation falls to a half in the mean of four, to a quarter in one of 16."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    before = np.asarray(noise).std()
    assert np.asarray(RESIZES["taming"](noise, 128)).std() == pytest.approx(before / 2, rel=0.03)
    assert np.asarray(RESIZES["adm"](noise, 128)).std() == pytest.approx(before / 4, rel=0.03)


@pytest.mark.parametrize("name", ["adm", "rqvae", "taming"])
def test_a_thread_does_not_fill_the_memory(name: str) -> None:
    with pytest.raises(ImageError, match="too long and thin"):
        RESIZES[name](Image.new("RGB", (1, 20_000)), 256)
    assert RESIZES["lanczos"](Image.new("RGB", (1, 20_000)), 256).size == (256, 256)
