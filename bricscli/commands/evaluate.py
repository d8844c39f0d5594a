"""`brics eval`: what is measured of an autoencoder, and the spectrum of samples."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bricscli.commands import options
from bricscli.commands.evaluate_inpainting import inpaint
from bricscli.commands.evaluate_samples import (
    Compared,
    Force,
    Limit,
    Out,
    Samples,
    Split,
    everything,
    fid,
    newest,
    statistics,
)

if TYPE_CHECKING:
    from bricscli.run.directory import RunDirectory

app = typer.Typer(help="Measure reconstructions and samples; results also go into JSON files with their protocol.",
                  no_args_is_help=True)

Run = Annotated[Path | None, typer.Option(metavar="RUN", help="The autoencoder's run (default: the one under runs/ "
                                                              "that was trained last).")]
Ref = Annotated[str | None, typer.Option(metavar="REF", help="A prepared data set, by path, name, a part of its "
                                         "name or https:// or s3:// address, or a folder of images (default: the one "
                                         "trained on).")]


def reconstruction(
    run: Run = None,
    ref: Ref = None,
    split: Split = None,
    metrics: Annotated[str, typer.Option(help="Some of psnr, ssim, lpips, lpips_squeeze and rfid, separated by "
                                              "commas.")] = "psnr,ssim,lpips",
    limit: Limit = None,
    perturb: Annotated[float, typer.Option(metavar="CELLS", min=0, help="Move every key by +CELLS / r_max or -CELLS / "
                                           "r_max before decoding: 0.5 is what training with noise should "
                                           "tolerate.")] = 0.0,
    checkpoint: options.Checkpoint = None,
    out: Out = None,
    force: Force = False,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
) -> None:
    """PSNR, SSIM and LPIPS of the autoencoder's reconstructions: mean and standard deviation per image.

    rfid is the Fréchet distance of reconstructions from their originals (torch-fidelity's Inception); it wants 10,000
    images. LPIPS needs pretrained AlexNet and VGG16, rfid Inception; where they are missing, the command says where to
    get them.

    Example: brics eval reconstruction --run runs/church64x4 --metrics psnr,ssim
    """
    from bricscli import files
    from bricscli.data.collection import find_images
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.datasets import trained_data
    from bricscli.tasks.eval.perturbed import perturbed
    from bricscli.tasks.eval.reconstruction import (
        choose_metrics,
        evaluate_reconstruction,
        load_measures,
        load_set_features,
    )
    from bricscli.tasks.eval.results import describe_result, save_result
    from bricscli.tasks.models import load_autoencoder

    chosen, place = choose_metrics(metrics.split(",")), choose_device(device)
    directory = _autoencoder_run(run)
    files.check_writable(out or directory.evals)
    measures, features = load_measures(chosen, place), load_set_features(chosen, place)
    autoencoder = load_autoencoder(directory, place, checkpoint)
    where = options.at_hand(ref, allow_host) if ref else trained_data(directory, options.DATA_ROOT)
    images = find_images(where, split, default="val")
    autoencoder.check_resolution(images.shape, images.name)
    reconstruct = perturbed(autoencoder, perturb) if perturb else autoencoder.model
    result = evaluate_reconstruction(reconstruct, images, measures, autoencoder=autoencoder.digest, moved=perturb,
                                     features=features, force=force, device=place, limit=limit)
    say("\n".join([*describe_result(result), f"written to {save_result(result, out or directory.evals)}"]))


def usage(
    run: Run = None,
    ref: Ref = None,
    split: Split = None,
    limit: Limit = None,
    checkpoint: options.Checkpoint = None,
    out: Out = None,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
) -> None:
    """Which entries of the feature grids the keys of a data set hit, and how evenly.

    Prints a line for each level, and writes the numbers of every group and a plot. Hits are counted on the CPU whatever
    the device, and by default over the whole train split: --limit 1000 is enough for most purposes.

    Example: brics eval usage --run runs/church64x4 --limit 1000
    """
    from bricscli import files
    from bricscli.data.collection import find_images
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.datasets import trained_data
    from bricscli.tasks.eval.usage import describe_usage, evaluate_usage, save_usage
    from bricscli.tasks.models import load_autoencoder

    place, directory = choose_device(device), _autoencoder_run(run)
    files.check_writable(out or directory.evals)
    autoencoder = load_autoencoder(directory, place, checkpoint)
    where = options.at_hand(ref, allow_host) if ref else trained_data(directory, options.DATA_ROOT)
    images = find_images(where, split, default="train")
    autoencoder.check_resolution(images.shape, images.name)
    result = evaluate_usage(autoencoder, images, device=place, limit=limit)
    table, plot = save_usage(result, out or directory.evals)
    say("\n".join([*describe_usage(result), f"written to {table} and {plot}"]))


def spectrum(
    ref: Compared,
    samples: Samples = None,
    split: Split = None,
    limit: Limit = None,
    out: Out = None,
    force: Force = False,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
) -> None:
    """At which frequencies samples have more or less power than real images: what is blurred, what is noisy.

    Compares radially averaged power spectra of luma, averaged over images, as the latent perceptual loss's paper does
    (its Figures 5 and 6). Prints the difference in low, middle and high frequencies, and writes all of it and a plot.

    Example: brics eval spectrum --samples samples/ --ref lsun-church --split val
    """
    from bricscli import files
    from bricscli.data.collection import find_images, open_folder
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.eval.results import place_of_results
    from bricscli.tasks.eval.spectrum import describe_spectrum, evaluate_spectrum, save_spectrum

    place = choose_device(device)
    reference = find_images(options.at_hand(ref, allow_host), split)
    folder = samples or newest()
    images, results = open_folder(folder), out or place_of_results(folder, options.RUNS_ROOT)
    files.check_writable(results)
    result = evaluate_spectrum(images, reference, device=place, limit=limit, force=force)
    table, plot = save_spectrum(result, results)
    say("\n".join([*describe_spectrum(result), f"written to {table} and {plot}"]))


def _autoencoder_run(run: Path | None) -> "RunDirectory":
    """The run that was named, or the autoencoder's that was trained last."""
    from bricscli.errors import DataError
    from bricscli.run.directory import RunDirectory, newest_run

    directory = RunDirectory.open(run) if run else newest_run(options.RUNS_ROOT, "autoencoder")
    if directory is None:
        raise DataError(f"{options.RUNS_ROOT}: has no trained autoencoder. Train one with `brics train-ae`.")
    return directory


COMMANDS: dict[str, Callable[..., None]] = {
    "reconstruction": reconstruction, "usage": usage, "fid": fid, "all": everything, "statistics": statistics,
    "spectrum": spectrum, "inpaint": inpaint}
for name, command in COMMANDS.items():
    app.command(name, help=options.manual(command))(command)
