"""How a picture becomes a square of R x R pixels, in the ways of the code bases whose figures are compared.

Statistics of the same photographs prepared in two of these ways differ, so a data set says which one made it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from bricscli.data.images import MAX_PIXELS, ImageError

Size = tuple[int, int]


@dataclass(frozen=True)
class Resize:
    """A way to resize: `function(image, resolution)`, RGB -> RGB of (resolution, resolution)."""

    function: Callable[[Image.Image, int], Image.Image]
    order: str
    filter: str
    source: str
    crop: str = "center"

    def __call__(self, image: Image.Image, resolution: int) -> Image.Image:
        """Raises ImageError for a picture so long and thin that it would fill the memory once its short side fits."""
        return self.function(image, resolution)

    @property
    def description(self) -> str:
        return f"{self.order}, {self.filter}"


def center_square(image: Image.Image) -> Image.Image:
    """The largest centred square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _crop_first(filter: Image.Resampling) -> Callable[[Image.Image, int], Image.Image]:
    def resize(image: Image.Image, resolution: int) -> Image.Image:
        square = center_square(image)
        return square if square.width == resolution else square.resize((resolution, resolution), filter)

    return resize


def _adm(image: Image.Image, resolution: int) -> Image.Image:
    scale = resolution / min(image.size)
    size = round(scale * image.width), round(scale * image.height)
    _check_size(size)
    scaled = image.resize(size, Image.Resampling.BOX)
    return _cut(scaled, (scaled.width - resolution) // 2, (scaled.height - resolution) // 2, resolution)


def _rqvae(image: Image.Image, resolution: int) -> Image.Image:
    short = min(image.size)
    size = int(resolution * image.width / short), int(resolution * image.height / short)
    _check_size(size)
    scaled = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    # Python's rounding, as torchvision's CenterCrop: halves go to the even number.
    return _cut(scaled, round((scaled.width - resolution) / 2), round((scaled.height - resolution) / 2), resolution)


def _taming(image: Image.Image, resolution: int) -> Image.Image:
    scale = resolution / min(image.size)
    if scale == 1:
        return center_square(image)
    width, height = round(scale * image.width), round(scale * image.height)
    _check_size((width, height))
    # Each new pixel is read at its centre, between the four nearest old ones: that is cv2's INTER_LINEAR.
    steps = image.width / width, 0.0, 0.0, 0.0, image.height / height, 0.0
    scaled = image.transform((width, height), Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR)
    return _cut(scaled, (width - resolution) // 2, (height - resolution) // 2, resolution)


def _cut(image: Image.Image, left: int, top: int, resolution: int) -> Image.Image:
    return image.crop((left, top, left + resolution, top + resolution))


def _check_size(size: Size) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"too long and thin: {size[0]}x{size[1]} once its short side fits, more than "
                         f"{MAX_PIXELS / 1e6:g} megapixels")


_LANCZOS = _crop_first(Image.Resampling.LANCZOS)
_CROP, _SCALE = "crop, then resize", "resize, then crop"

RESIZES: dict[str, Resize] = {
    "ldm": Resize(_crop_first(Image.Resampling.BICUBIC), _CROP, "Pillow's bicubic, antialiased",
                  "CompVis/latent-diffusion, ldm/data/lsun.py"),
    "adm": Resize(_adm, _SCALE, "Pillow's box", "openai/guided-diffusion, datasets/lsun_bedroom.py"),
    "nvlabs": Resize(_LANCZOS, _CROP, "Pillow's Lanczos, antialiased",
                     "NVlabs/stylegan2-ada-pytorch, dataset_tool.py, center-crop"),
    "rqvae": Resize(_rqvae, _SCALE, "torchvision's bilinear, antialiased",
                    "kakaobrain/rq-vae-transformer, rqvae/img_datasets/transforms.py"),
    "taming": Resize(_taming, _SCALE, "OpenCV's linear, not antialiased",
                     "CompVis/taming-transformers, taming/data/base.py, with albumentations 0.4.3"),
    "lanczos": Resize(_LANCZOS, _CROP, "Pillow's Lanczos, antialiased", "our default; the same as nvlabs"),
}
DEFAULT = "lanczos"
