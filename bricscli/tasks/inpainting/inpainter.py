"""Models that fill holes in pictures of any size, loaded once: what `brics inpaint` and its page share.

The models see R x R pixels. A hole that fits is seen in one window with what is around it; of a larger one the window
is shrunk, filled, and enlarged again, which is softer than the picture around it; beyond `MOST_SHRINKING` windows of
R pixels tile the hole from its border inwards, each with what the ones before it filled as known.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bricscli.data.images import to_float
from bricscli.data.pictures import colours_of, put_back
from bricscli.data.windows import (
    MOST_SHRINKING,
    Mask,
    Picture,
    Values,
    Window,
    enlarge,
    extend,
    feather,
    next_tile,
    overlap,
    plan_crop,
    shrink,
    to_picture,
)
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.nn.decoders.conditional import Kept
from bricscli.run.directory import RunDirectory
from bricscli.runtime import in_passes
from bricscli.tasks.choices import AS_IN_RECIPE, Asked, Blend, choose_sampling, choose_window
from bricscli.tasks.classes import check_conditions
from bricscli.tasks.draw import step_levels
from bricscli.tasks.inpainting.fill import Hole, Holes, Method, Way, fill_latents, whole_pass
from bricscli.tasks.models import LoadedAutoencoder, LoadedDenoiser, find_inpainting_decoder, load_denoiser
from bricscli.tasks.models import load_inpainting_decoder as load_decoder

Progress = Callable[[float], None]
#: Of RePaint, unless told otherwise.
RESAMPLINGS, JUMP = 5, 5


@dataclass(frozen=True)
class Job:
    """A picture to fill once: RGB or RGBA, `mask` bool (H, W), True: replaced."""

    image: Image.Image
    mask: Mask
    seed: int
    variant: int


@dataclass(frozen=True)
class Inpainter:
    """`decoder` is mask-conditioned, or None: the denoiser's own autoencoder decodes. Use `prepare_inpainter`."""

    denoiser: LoadedDenoiser
    decoder: LoadedAutoencoder | None
    device: torch.device
    asked: Asked = AS_IN_RECIPE
    only: str | None = None
    resamplings: int | None = None
    jump: int | None = None
    grow: int = 0

    @property
    def resolution(self) -> int:
        """R."""
        return self.denoiser.autoencoder.recipe.data.resolution

    @property
    def methods(self) -> list[Method]:
        """What the denoiser was made for; the first is the default."""
        return ["concat"] if self.denoiser.recipe.conditioning else ["blended", "repaint"]

    def choose(self, method: str | None = None) -> Way:
        """Raises RecipeError for a method that there is not, and options that do not go with it; MismatchError where
        the denoiser is for another."""
        return _choose_way(self, method)

    def describe(self, method: str | None = None) -> dict[str, Any]:
        """All that decides the pixels of a picture with a mask, a seed and a variant, but for the blend and window."""
        way = self.choose(method)
        repaint = {"resamplings": way.resamplings, "jump": way.jump} if way.method == "repaint" else {}
        return {
            "denoiser": {"run": self.denoiser.name, "digest": self.denoiser.digest},
            "autoencoder": self.denoiser.autoencoder.digest, "decoder": self.decoder.digest if self.decoder else None,
            "ema": self.denoiser.ema, "method": way.method, "sampling": way.sampling.model_dump(), **repaint,
            "grow": way.grow, "class": self.only,
            "dtype": str(next(self.denoiser.prior.denoiser.parameters()).dtype).removeprefix("torch."),
            "device": self.device.type}

    def check(self, image: Image.Image, mask: Mask, *, blend: str = "feather:8", window: str | None = None) -> None:
        """Raises DataError where the mask is not of the picture's size, or replaces nothing or everything; RecipeError
        for a blend or window that there is not, or not here."""
        _plan(image, mask, self.resolution, Blend.parse(blend), window)

    def fill(self, image: Image.Image, mask: Mask, *, seed: int = 0, variants: int = 1, method: str | None = None,
             blend: str = "feather:8", window: str | None = None, progress: Progress | None = None
             ) -> Iterator[Image.Image]:
        """`variants` fillings of one picture (`pictures.read_picture`): the first ones are the same for any number.

        Raises as `choose` and `check`; `progress` is told shares of 1, and may raise to end it.
        """
        jobs = [Job(image, mask, seed, variant) for variant in range(variants)]
        yield from self.fill_all(jobs, method=method, blend=blend, window=window, progress=progress)

    def fill_all(self, jobs: Sequence[Job], *, method: str | None = None, blend: str = "feather:8",
                 window: str | None = None, progress: Progress | None = None) -> Iterator[Image.Image]:
        """The filled pictures of `jobs`, in order, as many at a time as cost no more than one."""
        way, how = self.choose(method), Blend.parse(blend)
        width, done = whole_pass(self.device), 0
        for start in range(0, len(jobs), width):
            part = jobs[start : start + width]

            def tell(share: float, done: int = done, part: Sequence[Job] = part) -> None:
                if progress:
                    progress((done + share * len(part)) / len(jobs))

            yield from self._fill_together(part, way, how, window, tell)
            done += len(part)

    def _fill_together(self, jobs: Sequence[Job], way: Way, how: Blend, window: str | None, tell: Progress
                       ) -> list[Image.Image]:
        """Each job's next window, all of them in one pass; again, until no job has any."""
        works = [_fill_picture(job, self.resolution, how, window) for job in jobs]
        waiting = {number: next(work) for number, work in enumerate(works)}
        results: dict[int, Image.Image] = {}
        meter = _Meter([int(job.mask.sum()) for job in jobs], way.evaluations(self.denoiser.prior), tell)
        while waiting:
            tick = meter.start({number: part.todo for number, part in waiting.items()})
            filled = self._fill_windows([part.hole for part in waiting.values()], way, tick)
            for number, values in zip(list(waiting), filled, strict=True):
                try:
                    waiting[number] = works[number].send(values)
                except StopIteration as end:
                    results[number] = end.value
                    del waiting[number]
        return [results[number] for number in range(len(jobs))]

    def _fill_windows(self, holes: Sequence[Hole], way: Way, tick: Callable[[int], None]) -> list[Values]:
        """float32 (R, R, 3) each, 0..255 and a little beyond: as decoded, kept pixels too."""
        seen = Holes(holes)
        latents = fill_latents(self.denoiser.prior, self.denoiser.autoencoder.model, seen, way, self.device, tick)
        images = self.decode(latents, seen, told=self.decoder is not None)
        return list(((images.float() + 1) * 127.5).permute(0, 2, 3, 1).contiguous().numpy())

    def encode(self, images: Tensor) -> Tensor:
        """uint8 `(B, 3, R, R)` -> their latents, on the CPU."""
        return in_passes(self.denoiser.autoencoder.model.latent, to_float(images.cpu()), self.device)

    def decode(self, latents: Tensor, seen: Holes, *, told: bool) -> Tensor:
        """float `(B, 3, R, R)` on the CPU; `told`: by the mask-conditioned decoder, which sees the kept pixels."""
        model = (self.decoder if told and self.decoder else self.denoiser.autoencoder).model

        def decode(rows: Tensor) -> Tensor:
            rows = rows.cpu()
            latent = latents[rows].float().to(self.device)
            if not told:
                return model.decode_latent(latent)
            kept = Kept(seen.gray[rows].to(self.device), seen.mask[rows].to(self.device))
            return model.decode_latent(latent, kept)

        return in_passes(decode, torch.arange(len(latents)), self.device)


class _Meter:
    """Which share of the pixels of all holes is filled, and by how many answers of the denoiser the next ones are."""

    def __init__(self, areas: Sequence[int], evaluations: int, tell: Progress) -> None:
        self.total, self.evaluations, self.tell, self.done = sum(areas), evaluations, tell, 0

    def start(self, areas: Mapping[int, int]) -> Callable[[int], None]:
        """`areas` are those of the windows that are filled together; returns what is called after every answer."""
        before, area, needed, answers = self.done, sum(areas.values()), self.evaluations * len(areas), 0
        self.done += area

        def tick(count: int) -> None:
            nonlocal answers
            answers += count
            self.tell(min(1.0, (before + area * answers / needed) / self.total))

        return tick


@dataclass(frozen=True)
class _Part:
    """A window of a picture that waits to be filled, and how many pixels of the picture's hole that will fill."""

    hole: Hole
    todo: int


def _fill_picture(job: Job, resolution: int, how: Blend, window: str | None
                  ) -> Generator[_Part, Values, Image.Image]:
    """Yields windows, is sent them filled, and returns the picture."""
    crop, colours = _plan(job.image, job.mask, resolution, how, window), colours_of(job.image)
    if crop is None:
        return (yield from _fill_tiles(job, colours, resolution, how))
    return (yield from _fill_crop(job, colours, crop, resolution, how))


def _plan(image: Image.Image, mask: Mask, resolution: int, how: Blend, window: str | None) -> Window | None:
    """The window of a picture, or None where it is to be tiled."""
    if mask.shape != (image.height, image.width):
        raise DataError(f"the mask is {mask.shape[1]}x{mask.shape[0]}, the picture is {image.width}x{image.height}. "
                        "Make them of one size.")
    if not mask.any() or mask.all():
        raise DataError(f"the mask replaces {'nothing' if not mask.any() else 'everything'}. Paint a part of it white.")
    crop = plan_crop(mask, resolution)
    if choose_window(window, crop.side > MOST_SHRINKING * resolution) == "crop":
        return crop
    if how.kind == "none":
        raise RecipeError("--blend: `none` needs a hole that fits into one window. Use paste, or feather:8.")
    return None


def _fill_crop(job: Job, colours: Picture, crop: Window, resolution: int, how: Blend
               ) -> Generator[_Part, Values, Image.Image]:
    picture, hole = crop.cut(colours), crop.cut(job.mask)
    small, small_hole = shrink(to_picture(extend(picture, hole)), hole, resolution)
    values = yield _Part(Hole(small, small_hole, (job.seed, job.variant, 0)), int(job.mask.sum()))
    values = _blend(enlarge(values, crop.side), picture, hole, how)
    here, there = crop.inside(job.mask.shape)
    filled, changed = colours.copy(), job.mask.copy()
    filled[here] = to_picture(values)[there]
    if how.kind == "none":
        changed[here] = True
    return put_back(job.image, filled, changed)


def _fill_tiles(job: Job, colours: Picture, resolution: int, how: Blend) -> Generator[_Part, Values, Image.Image]:
    filled, todo, number = colours.copy(), job.mask.copy(), 0
    while (tile := next_tile(job.mask, todo, resolution)) is not None:
        picture, missing, hole = tile.cut(filled), tile.cut(todo), tile.cut(job.mask)
        here, there = tile.inside(job.mask.shape)
        draw = (job.seed, job.variant, number)
        values = yield _Part(Hole(picture, missing, draw), int(todo[here].sum()))
        values = overlap(_blend(values, picture, missing, how), picture, missing, hole, resolution)
        filled[here] = to_picture(values)[there]
        todo[here], number = False, number + 1
    return put_back(job.image, filled, job.mask)


def _blend(values: Values, picture: Picture, hole: Mask, how: Blend) -> Values:
    return feather(values, picture, hole, how.width) if how.kind == "feather" else values


def _choose_way(inpainter: Inpainter, method: str | None) -> Way:
    denoiser, asked = inpainter.denoiser, inpainter.asked
    known = ("blended", "repaint", "concat")
    if method is not None and method not in known:
        raise RecipeError(f"--method: `{method}` is unknown. There are: {', '.join(known)}.")
    chosen: Method = method or inpainter.methods[0]  # type: ignore[assignment]
    if chosen not in inpainter.methods:
        raise MismatchError(
            f"--method: {denoiser.name} was {'' if denoiser.recipe.conditioning else 'not '}trained to fill holes, and "
            f"`{chosen}` needs a diffusion model that was{' not' if denoiser.recipe.conditioning else ''}. Use "
            f"{' or '.join(inpainter.methods)}, or choose another --run.")
    repaint = chosen == "repaint"
    if repaint and asked.sampler is None:
        asked = replace(asked, sampler="ddim" if asked.eta is not None else "ddpm")
    sampling = choose_sampling(denoiser.recipe.sampling, asked)
    problems = []
    if repaint and sampling.sampler not in ("ddpm", "ddim"):
        problems.append(f"--sampler: `repaint` goes by ddpm or ddim, not by `{sampling.sampler}`. Leave it out.")
    for option, value in (("--resamplings", inpainter.resamplings), ("--jump", inpainter.jump)):
        if value is not None and not repaint:
            problems.append(f"{option}: belongs to `repaint`, not to `{chosen}`. Leave it out.")
        elif value is not None and not 1 <= value <= 1000:
            problems.append(f"{option}: {value} is out of range. Choose 1 to 1000.")
    if not 0 <= inpainter.grow <= 64:
        problems.append(f"--grow: {inpainter.grow} is out of range. Choose 0 to 64.")
    if problems:
        raise RecipeError(*problems)
    check_conditions(denoiser.name, denoiser.recipe, denoiser.classes, inpainter.only, sampling.guidance)
    if sampling.guidance != 1 and inpainter.only is None:
        raise RecipeError("--guidance: goes towards a class, and none is named. Add --class, or leave it out.")
    step_levels(sampling, denoiser.prior.schedule)  # or RecipeError
    label = None if inpainter.only is None else list(denoiser.classes).index(inpainter.only)
    return Way(chosen, sampling, inpainter.resamplings or RESAMPLINGS, inpainter.jump or JUMP, inpainter.grow, label)


def prepare_inpainter(run: RunDirectory, device: torch.device, *, asked: Asked = AS_IN_RECIPE, ema: float | None = None,
                      only: str | None = None, resamplings: int | None = None, jump: int | None = None, grow: int = 0,
                      decoder: str | None = None, autoencoder: RunDirectory | None = None, runs: Path | None = None
                      ) -> tuple[Inpainter, str | None]:
    """The models of a diffusion run, and a line about the decoder where it is not what one would hope for.

    `decoder`: asymmetric (the mask-conditioned one), plain, or None: asymmetric where one is found under `runs`, by
    default the folder that the run lies in. `autoencoder`: the mask-conditioned decoder's run.

    Raises as `load_denoiser`; RecipeError for another `decoder`; DataError where there is no such run; MismatchError
    where it began with another autoencoder.
    """
    if decoder not in (None, "asymmetric", "plain"):
        raise RecipeError(f"--decoder: `{decoder}` is unknown. There are: asymmetric, plain.")
    if decoder == "plain" and autoencoder is not None:
        raise RecipeError("--autoencoder: names the asymmetric decoder's run, and --decoder is plain. Leave one out.")
    denoiser, line = load_denoiser(run, device, ema), None
    digest = denoiser.autoencoder.digest
    if decoder != "plain" and autoencoder is None:
        autoencoder = find_inpainting_decoder(runs or run.path.absolute().parent, digest)
        if autoencoder is None:
            missing = (f"no mask-conditioned decoder of autoencoder {digest[:8]} (`{denoiser.autoencoder.name}`); "
                       "train one with `brics train-ae --recipe NAME-inpaint.yaml --from RUN`")
            if decoder == "asymmetric":
                raise DataError(f"--decoder: there is {missing}, or use --decoder plain.")
            line = f"{denoiser.name}: there is {missing}. Using the plain one."
    loaded = load_decoder(autoencoder, denoiser, device) if autoencoder else None
    return Inpainter(denoiser, loaded, device, asked, only, resamplings, jump, grow), line
