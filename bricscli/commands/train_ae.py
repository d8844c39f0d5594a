"""`brics train-ae`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options, processes


def train_ae(
    recipe: options.Recipe,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="The prepared data set, a folder or its https:// or "
                                                                  "s3:// address (default: data/NAME of the "
                                                                  "recipe).")] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The folder of the run "
                                                                 "(default: runs/NAME-OF-THE-RECIPE).")] = None,
    start: Annotated[Path | None, typer.Option("--from", metavar="RUN", help="The autoencoder's run that a recipe for "
                                               "inpainting begins with; only its decoder learns.")] = None,
    overrides: options.Overrides = [],  # noqa: B006 (typer copies it)
    dry_run: options.DryRun = False,
    save_every: options.SaveEvery = 600.0,
    allow_host: options.AllowHost = [],  # noqa: B006
    allow_drift: options.AllowDrift = False,
    device: options.Device = "auto",
    devices: processes.TrainingDevices = None,
    determinism: options.Determinism = "fast",
) -> None:
    """Train the autoencoder: images -> key codes -> images.

    Ctrl-C finishes the step and saves; the same command again goes on where it stopped, and on a CPU ends with the
    same bytes as if it had not been stopped.

    Example: brics train-ae --recipe photos64.yaml --data data/cats --run runs/cats
    """
    from bricscli.recipe.load import dump_recipe, load_recipe
    from bricscli.recipe.recipes import AutoencoderRecipe

    resolved = load_recipe(recipe, overrides, "autoencoder")
    assert isinstance(resolved, AutoencoderRecipe)
    data = data or str(options.DATA_ROOT / resolved.data.name)
    run = run or options.RUNS_ROOT / options.run_name(recipe)

    from bricscli.data.remote import is_remote, look_up
    from bricscli.parallel.world import join_world
    from bricscli.run.log import say
    from bricscli.tasks.datasets import check_images
    from bricscli.tasks.train_ae import describe_plan, say_trained, train_autoencoder

    if dry_run:
        found = look_up(data, allow_host) if is_remote(data) else Path(data)
        say("\n".join([dump_recipe(resolved), *describe_plan(resolved, found, start)]))
        return
    if processes.spread_over(devices, device, resolved.training.batch_size, determinism == "exact"):
        return
    with join_world(device, exact=determinism == "exact") as world:
        with world.together():
            images = Path(options.at_hand(data, allow_host, partial(check_images, recipe=resolved)))
        say_trained(train_autoencoder(resolved, images, run, device=world.device, start=start, overrides=overrides,
                                      save_every=save_every, allow_drift=allow_drift, world=world))
