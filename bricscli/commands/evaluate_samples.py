"""`brics eval fid`, `all` and `statistics`: samples against a reference, by a protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bricscli.commands import options, processes

if TYPE_CHECKING:
    from bricscli.tasks.eval.generation import Plan

Samples = Annotated[Path | None, typer.Option(metavar="DIR", help="A folder of images (default: the samples under "
                                              "runs/ or here that were drawn last).")]
Compared = Annotated[str, typer.Option("--ref", metavar="REF", help="What the samples are compared with: a prepared "
                                       "data set, by path, name, a part of its name or https:// or s3:// address, "
                                       "a folder of images, a statistics file, or a published statistic such as "
                                       "cleanfid:lsun_church:trainfull:256.")]
Split = Annotated[Literal["train", "val", "all"] | None,
                  typer.Option(help="Which part of a prepared REF (default: train, of which FID is measured; val for "
                                    "reconstruction; all for spectrum).")]
Limit = Annotated[int | None, typer.Option(metavar="IMAGES", min=1, help="Use only so many images, chosen at random "
                                         "once and for all; where samples are compared, so many samples.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the JSON file goes (default: evals in the run, or "
                                                              "beside samples of no run).")]
Force = Annotated[bool, typer.Option("--force", help="Measure although the two must not be compared (prepared in "
                                     "another way, fewer than 10,000 images, JPEG samples), and mark the number.")]
By = Annotated[str, typer.Option("--protocol", metavar="P", help="Whose numbers these are to be comparable with: "
                                 "brics2023, ldm, adm, cleanfid or edm2.")]
Anchors = Annotated[Path | None, typer.Option(metavar="RUN", help="An encoded autoencoder run: also print the "
                                              "distances of its reconstructions, and of images decoded from key codes "
                                              "shuffled across images at each position.")]


def fid(
    ref: Compared,
    samples: Samples = None,
    split: Split = None,
    protocol: By = "brics2023",
    features: Annotated[str | None, typer.Option(help="random: a distance of its own on fixed random convolutions, "
                                                      "which needs no download (default: the protocol's).")] = None,
    anchors: Anchors = None,
    limit: Limit = None,
    out: Out = None,
    force: Force = False,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
    part: processes.MeasuredPart = None,
    devices: processes.Devices = None,
) -> None:
    """Fréchet distance between samples and a reference: FID, as a protocol has it.

    brics2023, ldm, adm and edm2 measure with torch-fidelity's Inception, cleanfid with clean-fid's resizing; where the
    pretrained network is missing, the command says where to get it. A comparison that would give a number of nobody
    else's is refused. The distance on random features is printed under its own name: it ranks models of one data set
    and is not comparable with any FID.

    Example: brics eval fid --ref lsun-church
    """
    from bricscli.errors import RecipeError
    from bricscli.tasks.eval.generation import RANDOM, Plan, choose_fid

    if features not in (None, "random"):
        raise RecipeError(f"--features: `{features}` is unknown. Use random, or choose a --protocol.")
    by_protocol = choose_fid(protocol)
    plan = Plan(None, RANDOM, {}) if features else by_protocol
    _evaluate(plan, ref, samples, split, limit, out, force, device, allow_host, part, devices, anchors=anchors)


def everything(
    ref: Compared,
    samples: Samples = None,
    split: Split = None,
    protocol: By = "brics2023",
    metrics: Annotated[str | None, typer.Option(help="Only these of the protocol, separated by commas, such as "
                                                     "fid,kid,precision,recall.")] = None,
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="Leave out what needs a pretrained file that is "
                                               "not here.")] = False,
    anchors: Anchors = None,
    limit: Limit = None,
    out: Out = None,
    force: Force = False,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
    part: processes.MeasuredPart = None,
    devices: processes.Devices = None,
) -> None:
    """All metrics of a protocol, from one pass over samples and reference.

    brics2023: FID, IS, CLIP-FID, precision, recall, F1 and more; `brics doctor` tells which files they need.

    Example: brics eval all --ref lsun-church --protocol brics2023
    """
    from bricscli.tasks.eval.generation import choose_plan

    plan = choose_plan(protocol, metrics.split(",") if metrics is not None else None)
    _evaluate(plan, ref, samples, split, limit, out, force, device, allow_host, part, devices, anchors=anchors,
              skip_missing=skip_missing)


def statistics(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A prepared data set, by path, name, a part of its name or "
                                                           "https:// or s3:// address, or a folder of images.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, FILE.safetensors.")],
    split: Split = None,
    features: Annotated[str, typer.Option(help="inception, inception_clean, clip, vgg16, dinov2 or "
                                               "random.")] = "inception",
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
    part: processes.MeasuredPart = None,
    devices: processes.Devices = None,
) -> None:
    """Mean and covariance of a reference's features as a file that can be given to --ref, here or elsewhere.

    Of a prepared data set brics keeps them by itself; this is to take them along. The file names the data set, how its
    images were prepared, how many they are, and the network.

    Example: brics eval statistics lsun-church --out church.safetensors
    """
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.eval.references import StatisticsWork

    ref = options.at_hand(ref, allow_host)
    chosen = processes.begin(part, devices, device)
    work = StatisticsWork(ref, split, options.DATA_ROOT, features, out, choose_device(device))
    if chosen is not None:
        processes.tell_part(work.kept, chosen, processes.chunks(*work.keep_part(chosen)))
        return
    work.save()
    say(f"{out}: statistics of {work.about['images']:,} images of {work.about['name']}, {features} features.")


def newest() -> Path:
    """The samples that were drawn last."""
    from bricscli.data.samples import newest_samples
    from bricscli.run.log import say

    folder = newest_samples(Path(), options.RUNS_ROOT)
    say(f"{folder}: are the samples that were drawn last; using them.")
    return folder


def _evaluate(plan: "Plan", ref: str, samples: Path | None, split: str | None, limit: int | None, out: Path | None,
              force: bool, device: str, allow_host: list[str], part: str | None, devices: int | None, *,
              anchors: Path | None, skip_missing: bool = False) -> None:
    from bricscli import files
    from bricscli.data.collection import open_folder
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.eval.anchors import decode_anchors
    from bricscli.tasks.eval.generation import Comparison, load_extractors
    from bricscli.tasks.eval.references import check_name, open_reference
    from bricscli.tasks.eval.results import describe_result, place_of_results, save_result

    place = choose_device(device)
    check_name(ref)
    ref = options.at_hand(ref, allow_host)
    folder = samples or newest()
    chosen = processes.begin(part, devices, device, *([] if samples else ["--samples", str(folder)]))
    plan, extractors = load_extractors(plan, place, skip_missing)
    reference = open_reference(ref, split, options.DATA_ROOT, assumed=plan.extractors[0])
    images, results = open_folder(folder), out or place_of_results(folder, options.RUNS_ROOT)
    files.check_writable(results)
    work = Comparison(images, reference, plan, extractors, force=force, limit=limit, device=place, results=results)
    if chosen is not None:
        processes.tell_part(work.kept, chosen, processes.chunks(*work.keep_part(chosen)))
        return
    result = work.measure(decode_anchors(anchors, images.used(limit), place) if anchors else {})
    say("\n".join([*describe_result(result), f"written to {save_result(result, results)}"]))
    work.forget()
