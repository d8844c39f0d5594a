"""`brics eval`: reconstruction and fid."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options

app = typer.Typer(help="Measure reconstructions and samples; results also go into JSON files with their protocol.",
                  no_args_is_help=True)

Split = Annotated[str | None, typer.Option(help="Which part of a prepared REF: train, val or all (default: val for "
                                               "reconstruction, all for fid).")]
Limit = Annotated[int | None, typer.Option(metavar="IMAGES", min=1, help="Use only so many images, chosen at random "
                                                                         "once and for all.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the JSON file goes (default: evals in the run, or "
                                                              "beside the samples).")]


def reconstruction(
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The autoencoder's run (default: the one under runs/ "
                                                                 "that was trained last).")] = None,
    ref: Annotated[str | None, typer.Option(metavar="REF", help="A prepared data set, by path, name or a part of its "
                                            "name, or a folder of images (default: the one trained on).")] = None,
    split: Split = None,
    metrics: Annotated[str, typer.Option(help="Some of psnr, ssim, lpips, separated by commas.")] = "psnr,ssim,lpips",
    limit: Limit = None,
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
    from bricscli.errors import DataError
    from bricscli.run.directory import RunDirectory, newest_run
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.datasets import trained_data
    from bricscli.tasks.eval import choose_metrics, describe_result, evaluate_reconstruction, load_measures, save_result
    from bricscli.tasks.models import load_autoencoder

    chosen, place = choose_metrics(metrics.split(",")), choose_device(device)
    directory = RunDirectory.open(run) if run else newest_run(options.RUNS_ROOT, "autoencoder")
    if directory is None:
        raise DataError(f"{options.RUNS_ROOT}: has no trained autoencoder. Train one with `brics train-ae`.")
    files.check_writable(out or directory.evals)
    measures = load_measures(chosen, place)
    autoencoder = load_autoencoder(directory, place, checkpoint)
    images = find_images(ref or trained_data(directory, options.DATA_ROOT), split, default="val")
    autoencoder.check_resolution(images.shape, images.name)
    result = evaluate_reconstruction(autoencoder.model, images, measures, autoencoder=autoencoder.digest, device=place,
                                     limit=limit)
    say("\n".join([*describe_result(result), f"written to {save_result(result, out or directory.evals)}"]))


def fid(
    ref: Annotated[str, typer.Option(metavar="REF", help="What the samples are compared with: a prepared data set, by "
                                     "path, name or a part of its name, or a folder of images.")],
    samples: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder of images (default: the samples under "
                                                 "runs/ or here that were drawn last).")] = None,
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
    from bricscli.tasks.sample import newest_samples

    place = choose_device(device)
    if features not in ("inception", "random"):
        raise RecipeError(f"--features: `{features}` is unknown. Use inception or random.")
    extractor = load_features(features, place)  # type: ignore[arg-type]
    reference = find_images(ref, split)
    folder = samples or newest_samples(Path(), options.RUNS_ROOT)
    if samples is None:
        say(f"{folder}: are the samples that were drawn last; using them.")
    images = open_folder(folder)
    files.check_writable(out or folder.parent / "evals")
    compared = decode_anchors(anchors, images.used(limit), place) if anchors else {}
    result = evaluate_frechet(images, reference, extractor, anchors=compared, limit=limit)
    say("\n".join([*describe_result(result),
                   f"written to {save_result(result, out or folder.parent / 'evals')}"]))


for command in (reconstruction, fid):
    app.command(help=options.manual(command))(command)
