"""`brics eval spectrum`: at which frequencies samples have more, or less, power than real images (LPL, Figs. 5, 6)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bricscli import files
from bricscli.data.collection import ImageCollection
from bricscli.errors import DataError
from bricscli.metrics.power_spectrum import BANDS, MeanSpectrum, band_errors, decibels, ring_frequencies
from bricscli.report.spectrum import draw_spectrum
from bricscli.run.log import Progress, warn
from bricscli.run.provenance import describe_process
from bricscli.tasks.eval.comparable import check_comparable, different_preparation
from bricscli.tasks.eval.results import some_of


def evaluate_spectrum(samples: ImageCollection, reference: ImageCollection, *, device: torch.device,
                      batch_size: int = 64, limit: int | None = None, force: bool = False) -> dict[str, Any]:
    """Mean power of both collections at each frequency, and their difference; `limit` holds for the samples only.

    Raises MismatchError where the two were prepared in different ways, unless `force`.
    """
    if samples.shape != reference.shape:
        raise DataError(f"{samples.name}: images are {samples.size}, those of {reference.name} {reference.size}. "
                        "Compare images of one resolution.")
    for images in (samples, reference):
        if images.lossy:
            warn(f"{images.name}: holds JPEG files, whose compression changes the spectrum. Compare PNG files.")
    forced = check_comparable(different_preparation(samples.describe(limit), reference.describe(None)), force)
    fake = decibels(_mean_spectrum(samples, device, batch_size, limit))
    real = decibels(_mean_spectrum(reference, device, batch_size, None))
    frequencies, process = ring_frequencies(*samples.shape), describe_process()
    return {
        "kind": "spectrum",
        "bands": {name: {"range": BANDS[name], **asdict(band)}
                  for name, band in band_errors(frequencies, fake - real).items()},
        "frequencies": frequencies.tolist(),
        "power": {"samples": fake.tolist(), "reference": real.tolist()},
        "forced": forced,
        "samples": samples.describe(limit),
        "reference": reference.describe(None),
        "protocol": "luma of BT.601 in [0, 1]; |DFT|^2 / (H W), no window; mean over rings and images, then decibels",
        "versions": {name: process[name] for name in ("brics", "torch", "numpy", "pillow")},
    }


def save_spectrum(result: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes the result and its plot below `folder`; returns both paths."""
    sides = f"{result['samples']['name']}-{result['reference']['name']}"
    name = f"spectrum-{sides}-{result['reference'].get('split', 'folder')}{some_of(result['samples'])}"
    table, plot = folder / f"{name}.json", folder / f"{name}.png"
    files.write_bytes(plot, draw_spectrum(result["frequencies"], result["power"], BANDS, {
        side: f"{result[side]['images']} images of {result[side]['name']}" for side in ("samples", "reference")}))
    files.write_json(table, result)
    return table, plot


def describe_spectrum(result: dict[str, Any]) -> list[str]:
    """The lines to print: one per band, then what they stand on."""
    lines = [f"{'band':8}  {'cycles per pixel':>16}  {'samples - real':>14}  {'mean |difference|':>17}"]
    for name, band in result["bands"].items():
        low, high = band["range"]
        lines.append(f"{name:8}  {f'{low:.3f} to {high:.3f}':>16}  {band['bias']:+11.2f} dB  {band['error']:14.2f} dB")
    (samples, reference) = (f"{side['images']} images of {side['name']}" for side in (
        result["samples"], result["reference"]))
    lines.append(f"power spectra of {samples} against {reference}; +3 dB is twice the power")
    return lines + [f"  FORCED: {reason}" for reason in result["forced"]]


def _mean_spectrum(images: ImageCollection, device: torch.device, batch_size: int, limit: int | None) -> torch.Tensor:
    spectrum = MeanSpectrum()
    with Progress(images.used(limit), f"spectrum of {images.name}", "images") as progress:
        for batch in images.batches(batch_size, limit):
            spectrum.update(torch.from_numpy(batch).to(device))
            progress.show(progress.done + len(batch))
    return spectrum.value
