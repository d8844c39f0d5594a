"""`brics eval`: reconstruction, usage, fid and spectrum."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bricscli.commands import options

if TYPE_CHECKING:
    from bricscli.run.directory import RunDirectory

app = typer.Typer(help="Measure reconstructions and samples; results also go into JSON files with their protocol.",
                  no_args_is_help=True)

Run = Annotated[Path | None, typer.Option(metavar="RUN", help="The autoencoder's run (default: the one under runs/ "
                                                              "that was trained last).")]
Ref = Annotated[str | None, typer.Option(metavar="REF", help="A prepared data set, by path, name or a part of its "
                                         "name, or a folder of images (default: the one trained on).")]
Split = Annotated[str | None, typer.Option(help="Which part of a prepared REF: train, val or all (default: val for "
                                               "reconstruction, train for usage, else all).")]
Limit = Annotated[int | None, typer.Option(metavar="IMAGES", min=1, help="Use only so many images, of samples and a "
                                         "reference of the samples only, chosen at random once and for all.")]
Samples = Annotated[Path | None, typer.Option(metavar="DIR", help="A folder of images (default: the samples under "
                                              "runs/ or here that were drawn last).")]
Compared = Annotated[str, typer.Option("--ref", metavar="REF", help="What the samples are compared with: a prepared "
                                       "data set, by path, name or a part of its name, or a folder of images.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the JSON file goes (default: evals in the run, or "
                                                              "beside the samples).")]


def reconstruction(
    run: Run = None,
    ref: Ref = None,
    split: Split = None,
    metrics: Annotated[str, typer.Option(help="Some of psnr, ssim, lpips, separated by commas.")] = "psnr,ssim,lpips",
    limit: Limit = None,
    perturb: Annotated[float, typer.Option(metavar="CELLS", min=0, help="Move every key by +CELLS / r_max or -CELLS / "
                                           "r_max before decoding: 0.5 is what training with noise should "
                                           "tolerate.")] = 0.0,
    checkpoint: options.Checkpoint = None,
    out: Out = None,
    device: options.Device = "auto",
) -> None:
    """PSNR, SSIM and LPIPS of the autoencoder's reconstructions: mean and standard deviation per image.

    LPIPS needs pretrained AlexNet and VGG16; where they are missing, the command says where to get them.

    Example: brics eval reconstruction --run runs/church64x4 --metrics psnr,ssim
    """
    from bricscli import files
    from bricscli.data.collection import find_images
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.datasets import trained_data
    from bricscli.tasks.eval import choose_metrics, describe_result, evaluate_reconstruction, load_measures, save_result
    from bricscli.tasks.models import load_autoencoder
    from bricscli.tasks.perturbed import perturbed

    chosen, place = choose_metrics(metrics.split(",")), choose_device(device)
    directory = _autoencoder_run(run)
    files.check_writable(out or directory.evals)
    measures = load_measures(chosen, place)
    autoencoder = load_autoencoder(directory, place, checkpoint)
    images = find_images(ref or trained_data(directory, options.DATA_ROOT), split, default="val")
    autoencoder.check_resolution(images.shape, images.name)
    reconstruct = perturbed(autoencoder, perturb) if perturb else autoencoder.model
    result = evaluate_reconstruction(reconstruct, images, measures, autoencoder=autoencoder.digest, moved=perturb,
                                     device=place, limit=limit)
    say("\n".join([*describe_result(result), f"written to {save_result(result, out or directory.evals)}"]))


def usage(
    run: Run = None,
    ref: Ref = None,
    split: Split = None,
    limit: Limit = None,
    checkpoint: options.Checkpoint = None,
    out: Out = None,
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
    from bricscli.tasks.models import load_autoencoder
    from bricscli.tasks.usage import describe_usage, evaluate_usage, save_usage

    place, directory = choose_device(device), _autoencoder_run(run)
    files.check_writable(out or directory.evals)
    autoencoder = load_autoencoder(directory, place, checkpoint)
    images = find_images(ref or trained_data(directory, options.DATA_ROOT), split, default="train")
    autoencoder.check_resolution(images.shape, images.name)
    result = evaluate_usage(autoencoder, images, device=place, limit=limit)
    table, plot = save_usage(result, out or directory.evals)
    say("\n".join([*describe_usage(result), f"written to {table} and {plot}"]))


def fid(
    ref: Compared,
    samples: Samples = None,
    split: Split = None,
    features: Annotated[str, typer.Option(help="inception: FID (clean-fid). random: a distance of its own on fixed "
                                               "random convolutions, which needs no download.")] = "inception",
    anchors: Annotated[Path | None, typer.Option(metavar="RUN", help="An encoded autoencoder run: also print the "
                                                 "distances of its reconstructions, and of images decoded from key "
                                                 "codes shuffled across images at each position.")] = None,
    limit: Limit = None,
    out: Out = None,
    device: options.Device = "auto",
) -> None:
    """Fréchet distance between samples and a reference.

    With inception features this is FID as clean-fid computes it, and needs its pretrained network; where that is
    missing, the command says where to get it. The distance on random features is printed under its own name: it ranks
    models of one data set and is not comparable with any FID.

    Example: brics eval fid --samples samples/ --ref lsun-church
    """
    from bricscli import files
    from bricscli.data.collection import find_images, open_folder
    from bricscli.errors import RecipeError
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.anchors import decode_anchors
    from bricscli.tasks.eval import describe_result, evaluate_frechet, load_features, save_result

    place = choose_device(device)
    if features not in ("inception", "random"):
        raise RecipeError(f"--features: `{features}` is unknown. Use inception or random.")
    extractor = load_features(features, place)  # type: ignore[arg-type]
    reference = find_images(ref, split)
    folder = samples or _newest_samples()
    images = open_folder(folder)
    files.check_writable(out or folder.parent / "evals")
    compared = decode_anchors(anchors, images.used(limit), place) if anchors else {}
    result = evaluate_frechet(images, reference, extractor, anchors=compared, limit=limit)
    say("\n".join([*describe_result(result),
                   f"written to {save_result(result, out or folder.parent / 'evals')}"]))


def spectrum(
    ref: Compared,
    samples: Samples = None,
    split: Split = None,
    limit: Limit = None,
    out: Out = None,
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
    from bricscli.tasks.spectrum import describe_spectrum, evaluate_spectrum, save_spectrum

    place, reference = choose_device(device), find_images(ref, split)
    folder = samples or _newest_samples()
    images, results = open_folder(folder), out or folder.parent / "evals"
    files.check_writable(results)
    result = evaluate_spectrum(images, reference, device=place, limit=limit)
    table, plot = save_spectrum(result, results)
    say("\n".join([*describe_spectrum(result), f"written to {table} and {plot}"]))


def _newest_samples() -> Path:
    from bricscli.data.samples import newest_samples
    from bricscli.run.log import say

    folder = newest_samples(Path(), options.RUNS_ROOT)
    say(f"{folder}: are the samples that were drawn last; using them.")
    return folder


def _autoencoder_run(run: Path | None) -> "RunDirectory":
    """The run that was named, or the autoencoder's that was trained last."""
    from bricscli.errors import DataError
    from bricscli.run.directory import RunDirectory, newest_run

    directory = RunDirectory.open(run) if run else newest_run(options.RUNS_ROOT, "autoencoder")
    if directory is None:
        raise DataError(f"{options.RUNS_ROOT}: has no trained autoencoder. Train one with `brics train-ae`.")
    return directory


for command in (reconstruction, usage, fid, spectrum):
    app.command(help=options.manual(command))(command)
