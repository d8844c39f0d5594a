"""`brics encode`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options, processes


def encode(
    run: Annotated[Path, typer.Option(metavar="RUN", help="The run of a trained autoencoder.")],
    data: Annotated[str | None, typer.Option(metavar="DATA", help="The prepared data set, a folder or its https:// or "
                                                                   "s3:// address (default: the one it was trained on, "
                                                                   "under data/).")] = None,
    checkpoint: options.Checkpoint = None,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
    part: processes.MadePart = None,
    devices: processes.Devices = None,
) -> None:
    """Encode every image of a data set into its key code, or another latent, for train-diffusion.

    The codes go into shards under RUN/codes, with the digest of the autoencoder that made them. Stopped, the same
    command goes on behind its last shard; a part is every Nth shard. On a CPU the codes do not depend on its cores.

    Example: brics encode --run runs/church64x4
    """
    from bricscli.copies import typed
    from bricscli.parts import WHOLE, parse_part
    from bricscli.recipe.recipes import AutoencoderRecipe
    from bricscli.run.directory import RunDirectory
    from bricscli.run.log import say
    from bricscli.runtime import choose_device
    from bricscli.tasks.datasets import check_images, trained_data
    from bricscli.tasks.encode import encode as run_encode
    from bricscli.tasks.encode import encode_part
    from bricscli.tasks.models import recipe_of

    which = parse_part(part) if part else WHOLE
    directory = RunDirectory.open(run)
    place, check = choose_device(device), partial(check_images, recipe=recipe_of(directory, AutoencoderRecipe))
    images = Path(options.at_hand(data, allow_host, check)) if data else trained_data(directory, options.DATA_ROOT)
    if devices is not None:
        processes.run_devices(directory.codes, devices, device, which)
        return
    if which != WHOLE:
        share = encode_part(directory, images, which, device=place, checkpoint=checkpoint,
                            command=typed("--part"))
        processes.tell_share(run, which, share)
        return
    codes = run_encode(directory, images, device=place, checkpoint=checkpoint)
    shape = "x".join(map(str, [*codes.header["shape"][1:], codes.header["shape"][0]]))
    what = codes.header["kind"].replace("_", " ")
    say(f"{codes.path}: {', '.join(f'{n} {split}' for split, n in codes.splits.items())} {what} of {shape}, by "
        f"autoencoder {codes.header['autoencoder']['digest'][:8]}.")
