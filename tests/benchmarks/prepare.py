"""What preparing and reading images of 256x256 costs, beside plain Pillow, and what a training step consumes.

    python tests/benchmarks/prepare.py --photos FOLDER --json tests/benchmarks/results/prepare-cpu.json

Prepared: centre crop, Lanczos, PNG. Plain Pillow does it in one process, at zlib's usual level 6, a file per image into
a folder. `brics prepare` does it by two processes, and by one; it also hashes the files, checks them for copies, and
writes shards with their digests, synced to the disk. Read: whole images as uint8 (3, H, W), in a random order, from
shards as training does (`Split.read` checks each CRC-32) and from that folder, by one thread.

The rows take turns, so that a busy machine slows all of them alike. Wall times and CPU times, of all processes, are
given: on a machine that others use only the second tell what the work costs. Torch is loaded late, as in the command:
spawned processes load what this file does. Without --photos, pictures with the
spectrum of photographs are drawn.
"""

import argparse
import io
import os
import random
import resource
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image, features

from bricscli.data.images import decode_image, encode_png, encode_webp, load_image, raster_extensions, to_pixels
from bricscli.data.resize import RESIZES
from bricscli.data.shards import ShardSet
from bricscli.files import write_json
from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.tasks.prepare import prepare_folder

RESOLUTION = 256
PLAIN, OURS, ALONE = "plain Pillow, 1 process", "brics prepare, 2 processes", "brics prepare, 1 process"
PREPARED_GOAL, READ_GOAL = 1.5, 3.0


@dataclass
class Row:
    """One way to do the same to `images` images, time after time; seconds."""

    name: str
    images: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    bytes: int | None = None  #: on the disk, of all images

    @contextmanager
    def timed(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _cpu()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(_cpu() - cpu)

    @property
    def per_second(self) -> float:
        return self.images / statistics.median(self.wall)

    @property
    def per_cpu_second(self) -> float:
        return self.images / statistics.median(self.cpu)


def _cpu() -> float:
    """CPU time of this process and of those that it has waited for."""
    return sum(usage.ru_utime + usage.ru_stime for usage in
               (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def draw_photographs(folder: Path, count: int) -> None:
    """JPEG files of 400x320: noise whose amplitude falls as 1/f, as in photographs, over slopes with edges."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(320), np.fft.rfftfreq(400), indexing="ij"))
    amplitude = 1 / np.maximum(frequency, 1 / 400)
    for i in range(count):
        dice = np.random.default_rng(i)
        waves = np.exp(2j * np.pi * dice.random((4, *frequency.shape))) * amplitude
        fields = np.fft.irfft2(waves, s=(320, 400))
        fields /= fields.std((1, 2), keepdims=True)
        colours = 120 + 45 * fields[3] + 14 * fields[:3] + 50 * (fields[3] > 0.4)
        image = Image.fromarray(colours.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        image.save(folder / f"{i:05d}.jpg", quality=92)


def copy_photographs(source: Path, folder: Path, count: int) -> None:
    """So many of those in `source`, evenly spaced."""
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in raster_extensions())
    count = min(count, len(paths))
    for i in range(count):
        path = paths[len(paths) * i // count]
        shutil.copy(path, folder / f"{i:05d}{path.suffix}")


def prepare_plainly(paths: list[Path], out: Path) -> None:
    """What a script of ten lines does."""
    out.mkdir()
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            picture = image.convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        square.resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS).save(out / f"{i:06d}.png", compress_level=6)


def measure_preparing(folder: Path, paths: list[Path], repeats: int, work: Path) -> list[Row]:
    import webdataset.writer  # noqa: F401  (once, not in the first of the times; it loads torch)

    rows = [Row(name, len(paths)) for name in (PLAIN, OURS, ALONE)]
    for repeat in range(repeats):
        for row, workers in zip(rows, (0, 2, 1), strict=True):
            out = work / f"{workers}-{repeat}"
            with row.timed():
                if workers == 0:
                    prepare_plainly(paths, out)
                else:
                    prepare_folder(out, folder=folder, resolution=RESOLUTION, workers=workers)
            row.bytes = sum(file.stat().st_size for file in out.iterdir())
    return rows


def measure_encoding(paths: list[Path], repeats: int) -> list[Row]:
    """Of the images in memory: where the time of preparing goes."""
    pictures = [RESIZES["lanczos"](load_image(path), RESOLUTION) for path in paths[:64]]

    def png(level: int) -> Callable[[Image.Image], bytes]:
        def encode(image: Image.Image) -> bytes:
            buffer = io.BytesIO()
            image.save(buffer, "PNG", compress_level=level)
            return buffer.getvalue()

        return encode

    ways = {"PNG, level 6": png(6), "PNG, as brics (level 3)": encode_png, "PNG, level 1": png(1),
            "WebP, as brics (lossless, method 1)": encode_webp}
    rows = [Row(name, len(pictures)) for name in ways]
    for _ in range(repeats):
        for row, encode in zip(rows, ways.values(), strict=True):
            with row.timed():
                row.bytes = sum(len(encode(picture)) for picture in pictures)
    return rows


def measure_reading(folder: Path, plain: Path, repeats: int, work: Path) -> list[Row]:
    sets = {"shards, PNG": prepare_folder(work / "png", folder=folder, resolution=RESOLUTION, workers=2).dataset,
            "shards, lossless WebP": prepare_folder(work / "webp", folder=folder, resolution=RESOLUTION, workers=2,
                                                    format="webp").dataset}
    files = sorted(plain.iterdir())
    rows = [Row("folder of PNG files, Pillow", len(files)), *(Row(name, len(files)) for name in sets)]
    for repeat in range(repeats):
        order = random.Random(repeat).sample(range(len(files)), len(files))
        with rows[0].timed():
            for i in order:
                with Image.open(files[i]) as image:
                    to_pixels(image)
        for row, dataset in zip(rows[1:], sets.values(), strict=True):
            read_shards(row, dataset, random.Random(repeat))
    return rows


def read_shards(row: Row, dataset: ShardSet, dice: random.Random) -> None:
    splits, extension = [dataset.split(name) for name in dataset.splits], dataset.image_extension
    samples = [(split, i) for split in splits for i in range(len(split))]
    dice.shuffle(samples)
    row.images, row.bytes = len(samples), sum(shard.bytes for shard in dataset.shards)
    with row.timed():
        for split, i in samples:
            decode_image(split.read(i, extension), dataset.header["resolution"])


def measure_training(names: list[str], steps: int, folder: Path, work: Path) -> list[tuple[Row, Row]]:
    """For each recipe reading shards of its resolution, and steps of its autoencoder.

    Without what needs pretrained networks: with them a step takes longer.
    """
    import torch

    from bricscli.training.steps import AutoencoderStep

    torch.set_num_threads(1)
    pairs = []
    for name in names:
        recipe = load_recipe(name, overrides=["losses.perceptual=0"])
        assert isinstance(recipe, AutoencoderRecipe)
        step = AutoencoderStep(recipe, torch.device("cpu"), None)
        size, count = recipe.data.resolution, recipe.training.batch_size
        real = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        dataset = prepare_folder(work / f"{size}", folder=folder, resolution=size, workers=1).dataset
        read, row = Row(f"shards, PNG of {size} pixels", 0), Row(f"training step of {name}, batch {count}", count)
        for number in range(steps + 1):
            read_shards(read, dataset, random.Random(number))
            with row.timed():
                step(number, real)
        del row.wall[0], row.cpu[0], read.wall[0], read.cpu[0]  # the first ones warm up
        pairs.append((read, row))
    return pairs


def print_rows(title: str, rows: list[Row], base: Row) -> None:
    print(f"\n{title:44}{'images/s':>10}{'ratio':>8}{'per CPU s':>11}{'ratio':>8}{'KiB/image':>11}")
    for row in rows:
        size = f"{row.bytes / 1024 / row.images:11.1f}" if row.bytes else ""
        print(f"{row.name:44}{row.per_second:10.1f}{row.per_second / base.per_second:8.2f}{row.per_cpu_second:11.1f}"
              f"{row.per_cpu_second / base.per_cpu_second:8.2f}{size}")


def verdict(what: str, ratio: float, goal: float) -> None:
    print(f"{what}: {ratio:.2f}; goal {goal}: {'reached' if ratio >= goal else 'not reached'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=384, help="how many of them, or how many are drawn without")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", default=["tiny/toy.yaml", "photos64.yaml"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (folder := work / "photos").mkdir()
        if options.photos is None:
            draw_photographs(folder, options.count)
        else:
            copy_photographs(options.photos, folder, options.count)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in raster_extensions())
        (work / "made").mkdir()
        preparing = measure_preparing(folder, paths, options.repeats, work / "made")
        encoding = measure_encoding(paths, options.repeats)
        reading = measure_reading(folder, work / "made" / "0-0", options.repeats, work)
        pairs = measure_training(options.recipes, options.steps, folder, work)
    training = [row for pair in pairs for row in pair]
    print(f"{len(paths)} images, {os.cpu_count()} cores, zlib-ng {features.version('zlib_ng')}")
    print_rows("preparing", preparing, preparing[0])
    print_rows("encoding", encoding, encoding[0])
    print_rows("reading", reading, reading[0])
    print_rows("training", training, training[1])
    verdict(f"{OURS} / {PLAIN}, wall", preparing[1].per_second / preparing[0].per_second, PREPARED_GOAL)
    verdict("the same, work for each CPU second, both cores", 2 * preparing[1].per_cpu_second
            / preparing[0].per_cpu_second, PREPARED_GOAL)
    for read, step in pairs:
        verdict(f"{read.name} / {step.name}", read.per_cpu_second / step.per_cpu_second, READ_GOAL)
    if options.json:
        import torch
        from machine import describe_versions, device_name

        write_json(options.json, {
            "what": f"preparing and reading {len(paths)} images at {RESOLUTION} pixels; seconds",
            "photos": "of a folder" if options.photos else "drawn", "versions": describe_versions(),
            "device": device_name(torch.device("cpu")), "cores": os.cpu_count(),
            "codecs": {name: features.version(name) for name in ("zlib_ng", "webp", "libjpeg_turbo")},
            "command": "python " + shlex.join(["FOLDER" if word == str(options.photos) else word for word in sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: [asdict(row) | {"images_per_second": row.per_second, "images_per_cpu_second": row.per_cpu_second}
                      for row in rows] for name, rows in (("preparing", preparing), ("encoding", encoding),
                                                          ("reading", reading), ("training", training))}})


if __name__ == "__main__":
    main()
