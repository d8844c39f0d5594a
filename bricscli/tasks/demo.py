"""`brics demo`: the whole way on drawn churches, with the tiny recipes, and a page that shows what came of it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from bricscli import files
from bricscli.data.collection import find_images, open_folder
from bricscli.data.images import decode_image
from bricscli.data.loader import in_order, read_sample
from bricscli.data.shards import ShardSet
from bricscli.metrics.embeddings import pixel_embedding
from bricscli.metrics.neighbours import find_nearest
from bricscli.recipe.load import dump_recipe, load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.report.content import Command, Commands, Figures, Report, Section, Texts, Tiles
from bricscli.report.evaluations import evaluation_blocks, read_evaluation
from bricscli.report.page import write_report
from bricscli.report.training import Plot, plot_of_metrics
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics, say, show_seconds, track
from bricscli.tasks.encode import encode
from bricscli.tasks.eval.anchors import SHUFFLED, decode_anchors
from bricscli.tasks.eval.generation import evaluate_random
from bricscli.tasks.eval.reconstruction import evaluate_reconstruction, load_measures
from bricscli.tasks.eval.results import describe_result, save_result
from bricscli.tasks.models import load_autoencoder
from bricscli.tasks.prepare import prepare_toy
from bricscli.tasks.sample import sample_to_folder
from bricscli.tasks.train_ae import reconstruct_uint8, train_autoencoder
from bricscli.tasks.train_diffusion import train_denoiser

AUTOENCODER_RECIPE, DIFFUSION_RECIPE = "tiny/toy.yaml", "tiny/toy-diffusion.yaml"
SAMPLES, SHOWN, NEIGHBOURS, IMAGES = 128, 49, 14, 4096

AUTOENCODER_PLOT = Plot("Autoencoder", "Loss over images seen.", {"l2": "L2", "loss": "weighted sum"})
DIFFUSION_PLOT = Plot("Diffusion model", "Mean squared error over key codes seen.", {"loss": "noise prediction"})

Result = TypeVar("Result")


@dataclass
class _Way:
    """The commands gone so far, what each did, and the seconds spent on each, earlier attempts counted in."""

    record: Path  #: where the seconds are kept
    commands: list[Command] = field(default_factory=list)

    @property
    def seconds(self) -> dict[str, float]:
        return dict(json.loads(self.record.read_text())) if self.record.exists() else {}

    @property
    def time(self) -> str:
        """Of everything so far, for people."""
        return show_seconds(sum(self.seconds.values()))

    def go(self, text: str, does: str, task: Callable[[], Result]) -> Result:
        """Runs one part and tells which command would have done the same."""
        say(f"\n$ {text}")
        started = time.monotonic()
        try:
            return task()
        finally:
            seconds = self.seconds.get(text, 0.0) + time.monotonic() - started
            files.write_json(self.record, self.seconds | {text: round(seconds, 1)})
            self.commands.append(Command(text, f"{does} ({show_seconds(seconds)})"))


def demo(out: Path, *, device: torch.device) -> Path:
    """Prepares, trains, encodes, samples and measures below `out`; returns the report. Goes on where it was stopped.

    Raises what the parts raise.
    """
    way = _Way(out / "demo.json")
    data, runs = out / "data" / "toy", out / "runs"
    autoencoder_recipe = load_recipe(AUTOENCODER_RECIPE, kind="autoencoder")
    diffusion_recipe = load_recipe(DIFFUSION_RECIPE, kind="diffusion")
    assert isinstance(autoencoder_recipe, AutoencoderRecipe) and isinstance(diffusion_recipe, DiffusionRecipe)
    resolution = autoencoder_recipe.data.resolution
    way.commands.append(Command(f"cd {out.name}", "where everything lies"))
    way.go(f"brics prepare toy --resolution {resolution}", f"drew {IMAGES} churches into shards",
           lambda: prepare_toy(data, resolution=resolution, count=IMAGES, progress=track))
    autoencoder = way.go(f"brics train-ae --recipe {AUTOENCODER_RECIPE}", "learnt images -> key codes -> images",
                         lambda: train_autoencoder(autoencoder_recipe, data, runs / "toy", device=device))
    codes = way.go("brics encode --run runs/toy", "turned every image into its key code",
                   lambda: encode(autoencoder, data, device=device))
    diffusion = way.go(f"brics train-diffusion --recipe {DIFFUSION_RECIPE}", "learnt to draw key codes",
                       lambda: train_denoiser(diffusion_recipe, autoencoder.path, runs / "toy-diffusion",
                                              device=device))
    way.go(f"brics sample -n {SAMPLES} --out samples/", "drew new churches, one per seed",
           lambda: sample_to_folder(diffusion, out / "samples", seeds=range(SAMPLES), device=device))
    quality = way.go("brics eval reconstruction --metrics psnr,ssim", "compared reconstructions with their originals",
                     lambda: _evaluate_reconstruction(autoencoder, data, device))
    distance = way.go("brics eval fid --samples samples/ --ref toy --split val --features random --anchors runs/toy",
                      "compared samples with churches that neither model saw",
                      lambda: _evaluate_samples(autoencoder, data, out, device))
    report = Report(
        title="BRICS on drawn churches",
        summary=f"An autoencoder learnt {resolution}x{resolution} pictures as key codes of "
                f"{codes.header['shape'][1]}x{codes.header['shape'][2]}x{codes.header['shape'][0]} numbers, and a "
                f"diffusion model learnt to draw new ones: {way.time} on {device.type}.",
        highlights=[(f"{quality['metrics']['psnr']['mean']:.1f} dB", "PSNR of reconstructions it never trained on"),
                    (f"{_value(distance) / distance['anchors'][SHUFFLED]['value']:.2f}",
                     "distance of samples from the drawn churches, where shuffled codes have 1"),
                    (way.time, f"for all of it, on {device.type}")],
        sections=[
            *_sheets(autoencoder, data, out / "samples", device),
            Section("Training", "", [Figures([
                plot_of_metrics(read_metrics(autoencoder.metrics_path), AUTOENCODER_PLOT),
                plot_of_metrics(read_metrics(diffusion.metrics_path), DIFFUSION_PLOT)])]),
            Section("The numbers", "", [block for result in (quality, distance)
                                        for block in evaluation_blocks(read_evaluation(result["kind"], result))]),
            Section("The commands that made this", "", [Commands(way.commands)]),
            Section("Details", "", [Texts({
                AUTOENCODER_RECIPE: dump_recipe(autoencoder_recipe), DIFFUSION_RECIPE: dump_recipe(diffusion_recipe),
                "versions": "\n".join(f"{k}: {v}" for k, v in quality["versions"].items())})]),
        ],
    )
    path = out / "report.html"
    write_report(path, report)
    return path


def _evaluate_reconstruction(run: RunDirectory, data: Path, device: torch.device) -> dict[str, Any]:
    autoencoder = load_autoencoder(run, device)
    result = evaluate_reconstruction(autoencoder.model, find_images(data, "val"),
                                     load_measures(["psnr", "ssim"], device), autoencoder=autoencoder.digest,
                                     device=device)
    save_result(result, run.evals)
    say("\n".join(describe_result(result)))
    return result


def _evaluate_samples(run: RunDirectory, data: Path, out: Path, device: torch.device) -> dict[str, Any]:
    result = evaluate_random(open_folder(out / "samples"), find_images(data, "val"), device=device,
                             anchors=decode_anchors(run.path, SAMPLES, device))
    save_result(result, out / "evals")
    say("\n".join(describe_result(result)))
    return result


def _value(result: dict[str, Any]) -> float:
    return float(next(iter(result["metrics"].values()))["value"])


def _sheets(run: RunDirectory, data: Path, samples: Path, device: torch.device) -> list[Section]:
    """Originals beside reconstructions; samples beside the training images nearest to them."""
    autoencoder, shards = load_autoencoder(run, device), ShardSet.open(data)
    val = torch.from_numpy(next(in_order(shards.split("val"), decode_image, shards.image_extension, 21)))
    drawn = open_folder(samples)
    shown = np.stack([drawn.read(i) for i in range(SHOWN)])
    nearest = _nearest(shown[:NEIGHBOURS], shards)
    return [
        Section("Originals and reconstructions",
                "Validation images, never trained on, above what the autoencoder makes of their key codes.",
                [Tiles({"original": val.numpy(),
                        "reconstruction": reconstruct_uint8(autoencoder.model, val, device).numpy()})]),
        Section("Samples", "New churches, uncurated: seeds 0, 1, 2, …",
                [Tiles({"sample": shown}, [f"seed {i}" for i in range(SHOWN)])]),
        Section("Not copies",
                "Samples above the training image nearest to each (least mean squared difference of pixels).",
                [Tiles({"sample": shown[:NEIGHBOURS], "nearest training image": nearest})]),
    ]


def _nearest(images: np.ndarray, shards: ShardSet) -> np.ndarray:
    """For each uint8 image `(N, 3, H, W)` the training image with the least mean squared difference."""
    train, extension = shards.split("train"), shards.image_extension
    chunks = (torch.from_numpy(chunk) for chunk in in_order(train, decode_image, extension, 256))
    found = find_nearest(torch.from_numpy(images), chunks, pixel_embedding(torch.device("cpu")), k=1)
    return np.stack([read_sample(train, i, decode_image, extension) for i in found.index[:, 0].tolist()])
