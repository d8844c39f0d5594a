"""What the page does, without any of its looks: pictures are opened, masks painted, holes filled, files handed out.

A guest is one open page. All that is kept of it is in memory and in a folder of its own, until it leaves.
"""

import secrets
import shlex
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from bricscli.data.images import encode_png
from bricscli.data.pictures import colours_of, read_picture
from bricscli.data.windows import Mask
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.tasks.choices import Blend, check_range
from bricscli.tasks.inpainting.inpaint import describe_picture, encode_variant, settings_of
from bricscli.tasks.inpainting.inpainter import Inpainter

MOST_PIXELS = 16_000_000
MOST_VARIANTS = 8
#: The longer side of what is painted on, in pixels: small pictures are shown enlarged, large ones reduced.
SMALLEST_VIEW, LARGEST_VIEW = 640, 1280
#: The longer side to the shorter: nobody paints on a thread.
NARROWEST = 20
#: Seconds between two words of progress: at each of them gradio's page sends its whole canvas (6.31).
MOST_OFTEN = 1.0
#: Of a stroke, in pixels of the picture, that is opaque enough, of 255.
_OPAQUE = 128


class Stopped(BricsError):
    """The person has had enough of it."""


@dataclass(frozen=True)
class Choice:
    """What the controls say; None: what is best of what there is."""

    method: str | None = None
    decoder: str | None = None
    variants: int = 1
    seed: int = 0
    blend: str = "feather:8"


AT_FIRST = Choice()


@dataclass(frozen=True)
class Painting:
    """Files that came from the page: `layers` (PNG, WebP), and `others` that nobody reads."""

    layers: Sequence[Path]
    others: Sequence[Path] = ()


@dataclass(frozen=True)
class Filled:
    """Files: the picture and its fillings as they are shown, and to save; and the command that makes the same."""

    before: Path
    views: list[Path]
    pictures: list[Path]
    mask: Path
    command: str


@dataclass
class Guest:
    """An open page."""

    folder: Path
    name: str = ""  #: of the picture's file
    data: bytes = b""
    size: tuple[int, int] = (0, 0)  #: width, height
    view: Path = Path()  #: what is painted on
    view_size: tuple[int, int] = (0, 0)
    sent: set[Path] = field(default_factory=set)  #: files of the last painting
    runs: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


class Desk:
    """`inpainter` is with the mask-conditioned decoder where there is one; `words` are the command's that chose it.

    Raises as `Inpainter.choose`, and RecipeError, where `first`, what the page begins with, cannot be.
    """

    def __init__(self, inpainter: Inpainter, words: Sequence[str], folder: Path, first: Choice = AT_FIRST) -> None:
        self.inpainter, self.words, self.folder = inpainter, list(words), folder.resolve()
        self.guests: dict[str, Guest] = {}
        self.decoders = ["asymmetric", "plain"] if inpainter.decoder else ["plain"]
        self.methods: list[str] = [method for method in inpainter.methods if self._can(method)]
        method = inpainter.choose(first.method or next(iter(self.methods), None)).method
        self.first = replace(first, method=method, decoder=self.decoders[0])
        self._check(self.first)

    def _can(self, method: str) -> bool:
        """Whether it goes with the options that the models were prepared with."""
        try:
            self.inpainter.choose(method)
        except BricsError:
            return False
        return True

    def _check(self, choice: Choice) -> None:
        """Raises RecipeError."""
        check_range(seed=choice.seed)
        Blend.parse(choice.blend)
        if not 1 <= choice.variants <= MOST_VARIANTS:
            raise RecipeError(f"--variants: {choice.variants} are not made at once here. Choose 1 to {MOST_VARIANTS}.")
        if choice.decoder not in self.decoders or choice.method not in self.methods:
            raise RecipeError(f"--method {choice.method} with --decoder {choice.decoder}: is not there. Choose "
                              "another.")

    def open(self, key: str, name: str, data: bytes) -> Guest:
        """Takes the file of a picture; what the guest had before is gone. Raises DataError, and keeps what there was.
        """
        image = read_picture(data, name, MOST_PIXELS)
        if max(image.size) > NARROWEST * min(image.size):
            raise DataError(f"{name}: is {image.width}x{image.height}, too narrow to paint on. Make a mask with "
                            "another program, and use the command `brics inpaint`.")
        self._forget(key)
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        guest = Guest(folder, name, data, image.size)
        guest.view_size = _view_size(*image.size)
        guest.view = _save(folder / "picture.png", _view(image, guest.view_size))
        self.guests[key] = guest
        return guest

    def fill(self, key: str, painting: Painting, choice: Choice, progress: Callable[[float], None]) -> Filled:
        """Layers are as large as the view; what is opaque in any of them is replaced.

        Raises DataError for what was not opened or painted, RecipeError for a choice that cannot be, Stopped.
        """
        guest = self.guests.get(key)
        if guest is None:
            raise DataError("Open a picture first.")
        guest.stop.clear()
        painting = Painting(self._sent(painting.layers), self._sent(painting.others))
        sent = {path for path in (*painting.layers, *painting.others) if guest.folder not in path.parents}
        self.remove(guest.sent - sent)
        guest.sent = sent
        self._check(choice)
        mask = _mask_of(painting.layers, guest)
        inpainter = self.inpainter if choice.decoder == "asymmetric" else replace(self.inpainter, decoder=None)

        told = time.monotonic()

        def tell(share: float) -> None:
            nonlocal told
            if guest.stop.is_set():
                raise Stopped("Stopped.")
            if time.monotonic() - told >= MOST_OFTEN or share == 1:
                told = time.monotonic()
                progress(share)

        settings = settings_of(inpainter, method=choice.method, blend=choice.blend)
        picture = describe_picture(guest.data, mask, choice.seed)
        images = inpainter.fill(read_picture(guest.data, guest.name), mask, seed=choice.seed, variants=choice.variants,
                                method=choice.method, blend=choice.blend, progress=tell)
        made = [(image, encode_variant(image, settings, picture, number)) for number, image in enumerate(images)]
        if self.guests.get(key) is not guest:
            raise Stopped("Stopped.")
        return self._hand_out(guest, mask, choice, made)

    def _hand_out(self, guest: Guest, mask: Mask, choice: Choice, made: Sequence[tuple[Image.Image, bytes]]) -> Filled:
        shutil.rmtree(guest.folder / str(guest.runs), ignore_errors=True)
        guest.runs += 1
        folder, stem = guest.folder / str(guest.runs), Path(guest.name).stem
        folder.mkdir(mode=0o700)
        views, pictures = [], []
        for number, (image, png) in enumerate(made, start=1):
            pictures.append(folder / f"{stem}-{number}.png")
            pictures[-1].write_bytes(png)
            views.append(_save(folder / f"view-{number}.png", _view(image, guest.view_size)))
        saved = folder / f"{stem}-mask.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(saved)
        return Filled(guest.view, views, pictures, saved, self.command(guest.name, saved.name, choice))

    def command(self, name: str, mask: str, choice: Choice) -> str:
        """The command line of the same pictures; the page does not know where theirs and the mask's folders are."""
        words = ["brics", "inpaint", _word(name), "--mask", _word(mask), "--method", str(choice.method), "--variants",
                 str(choice.variants), "--seed", str(choice.seed), "--blend", choice.blend, "--decoder",
                 str(choice.decoder)]
        kept = self.words
        if choice.decoder == "plain" and "--autoencoder" in kept:
            place = kept.index("--autoencoder")
            kept = kept[:place] + kept[place + 2:]
        return shlex.join([*words, *kept, "--out", "filled"])

    def stop(self, key: str) -> None:
        """Ends what is being filled for the guest, within a step."""
        if guest := self.guests.get(key):
            guest.stop.set()

    def leave(self, key: str) -> None:
        """The page was closed: nothing of it stays."""
        self._forget(key)
        if not self.guests:  # what the page sent besides
            for path in self.folder.glob("[0-9a-f]" * 64):
                shutil.rmtree(path, ignore_errors=True)

    def _forget(self, key: str) -> None:
        if guest := self.guests.pop(key, None):
            guest.stop.set()
            shutil.rmtree(guest.folder, ignore_errors=True)
            self.remove(guest.sent)

    def _sent(self, paths: Sequence[Path]) -> list[Path]:
        """Those that are in this folder. Raises DataError for any other: the page was not told of it."""
        found = [path.resolve() for path in paths]
        if not all(self.folder in path.parents for path in found):
            raise DataError("What was painted could not be read. Open the picture again.")
        return found

    def remove(self, sent: set[Path]) -> None:
        """Files from the page, and gradio's folders of one file each."""
        for path in sent:
            if self.folder in path.parents:
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()

    def close(self) -> None:
        for key in list(self.guests):
            self.leave(key)


def _word(name: str) -> str:
    return f"./{name}" if name.startswith("-") else name


def _view_size(width: int, height: int) -> tuple[int, int]:
    longest = max(width, height)
    scale = min(1.0, LARGEST_VIEW / longest) if longest >= SMALLEST_VIEW else float(-(-SMALLEST_VIEW // longest))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _view(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    enlarged = size[0] > image.width
    colours = Image.fromarray(colours_of(image))
    return colours.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _save(path: Path, image: Image.Image) -> Path:
    path.write_bytes(encode_png(image))
    return path


def _mask_of(layers: Sequence[Path], guest: Guest) -> Mask:
    """Raises DataError where nothing or everything was painted, or it is not of this picture."""
    alpha = np.zeros(guest.view_size[::-1], np.uint8)
    for layer in layers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(layer, formats=("PNG", "WEBP")) as image:
                    if image.size != guest.view_size:
                        raise DataError("What was painted is not of this picture. Open the picture again.")
                    alpha = np.maximum(alpha, np.asarray(image.convert("RGBA"))[..., 3])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise DataError("What was painted could not be read. Open the picture again.") from None
    how = Image.Resampling.BOX if guest.view_size > guest.size else Image.Resampling.BILINEAR
    mask = np.asarray(np.asarray(Image.fromarray(alpha).resize(guest.size, how)) >= _OPAQUE)
    if not mask.any():
        raise DataError("Nothing is painted yet. Paint over what is to be replaced.")
    if mask.all():
        raise DataError("All of the picture is painted over, so that there is nothing to go by. Erase a part of it.")
    return mask
