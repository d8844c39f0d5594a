"""`brics nn-search`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bricscli.commands import options, processes


def nn_search(
    queries: Annotated[Path, typer.Argument(metavar="QUERIES", help="The samples: a folder of images.")],
    ref: Annotated[str, typer.Option("--ref", metavar="REF", help="The training images: a prepared data set, by path, "
                                     "name, a part of its name or https:// or s3:// address, or a folder of "
                                     "images.")],
    k: Annotated[int, typer.Option("-k", metavar="K", help="How many neighbours of each sample.")] = 8,
    metric: Annotated[str, typer.Option(help="lpips-vgg, lpips-alex or lpips-squeeze; clip: 1 - cosine of features; "
                                             "pixel, mean squared difference, needs no download.")] = "lpips-alex",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the result goes (default: beside the samples, "
                                                                 "as SAMPLES-neighbours-METRIC).")] = None,
    split: Annotated[Literal["train", "val", "all"] | None,
                     typer.Option(help="Which part of a prepared REF (default: train).")] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Compare with mirror images of the training images too, as "
                                                          "after training with flips.")] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only so many samples, chosen at random once "
                                                                       "and for all.")] = None,
    own: Annotated[int, typer.Option(metavar="N", help="How many training images, chosen at random once and for all, "
                                     "show how near training images are to each other; 0: judge no copies.")] = 500,
    quantile: Annotated[float, typer.Option(metavar="Q", help="A sample is called a copy where it is nearer to a "
                                            "training image than this share of training images are to their nearest "
                                            "other one.")] = 0.01,
    memory: Annotated[float, typer.Option(metavar="GB", help="Gigabytes, on the device, for what samples and a piece "
                                          "of the training set are compared by. Samples that do not fit wait for "
                                          "another pass over the training set.")] = 4.0,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
    part: processes.MeasuredPart = None,
    devices: processes.Devices = None,
) -> None:
    """The training images nearest to each sample, and how many samples are copies.

    Exact: no neighbour is missed and distances are LPIPS itself. The training set is read once, from beginning to end,
    and kept nowhere; an interrupted search goes on with the same command. Parts go through blocks of 1024 training
    images; any number of them gives the same bytes. DIR gets neighbours.json, sheet.png (samples
    at the left, their neighbours at the right) and closest.png (the samples that are nearest to a training image).

    Copies: there is no distance below which an image is a copy in all data. Here a sample counts as one where it is
    nearer than nearly all training images are to each other (--quantile), and perhaps as a changed copy where its
    nearest training image is nearer, relative to the second nearest, than nearly all training images have it. Samples
    that are like further training images fall below these limits by chance as well: each count is printed beside the
    one expected, with the probability of so many. In a training set with many near-duplicates the limits are low and
    copies can hide; blurred or uniform samples are near to everything, which the medians show. Look at closest.png.

    Example: brics nn-search samples --ref lsun-church -k 8 --metric lpips-alex --mirror
    """
    from bricscli.data.collection import find_images
    from bricscli.errors import DataError
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.nn_search import Search, check_metric, describe_result, load_embedding

    place = choose_device(device)
    check_metric(metric)
    ref = options.at_hand(ref, allow_host)
    samples, reference = find_images(queries), find_images(ref, split, default="train")
    folder = out or queries.parent / f"{queries.absolute().name}-neighbours-{metric}"
    if any(Path(where).resolve() in (folder / "sheet.png").resolve().parents for where in (queries, ref)):
        raise DataError(f"{folder}: lies in a folder that is searched, whose images its sheets would be. "
                        "Choose another --out.")
    chosen = processes.begin(part, devices, device)
    embedding, digest = load_embedding(metric, place)
    work = Search(samples, reference, embedding, folder, weights_digest=digest, k=k, mirror=mirror, limit=limit,
                  own=own, quantile=quantile, memory=memory)
    if chosen is not None:
        work.keep_part(chosen)
        processes.tell_part(folder, chosen)
        return
    result = work.finish()
    say("\n".join([*describe_result(result), f"written to {folder}: neighbours.json, sheet.png, closest.png"]))
