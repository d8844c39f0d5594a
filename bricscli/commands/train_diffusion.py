"""`brics train-diffusion`."""

from pathlib import Path
from typing import Annotated

import typer

from bricscli.commands import options, processes


def train_diffusion(
    recipe: options.Recipe,
    autoencoder: Annotated[Path | None, typer.Option(metavar="RUN", help="The autoencoder's run, encoded with `brics "
                                                     "encode` (default: runs/AUTOENCODER of the recipe).")] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The folder of the run "
                                                                 "(default: runs/NAME-OF-THE-RECIPE).")] = None,
    start: Annotated[Path | None, typer.Option("--from", metavar="RUN", help="A second stage of training: begin with "
                                               "the averaged weights of this diffusion run.")] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="For a recipe with `conditioning`: the images "
                                              "that the codes were encoded from, a folder or their https:// or s3:// "
                                                              "address (default: data/NAME).")] = None,
    overrides: options.Overrides = [],  # noqa: B006 (typer copies it)
    dry_run: options.DryRun = False,
    checkpoint: options.Checkpoint = None,
    save_every: options.SaveEvery = 600.0,
    allow_drift: options.AllowDrift = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the denoiser (torch.compile): a minute or two "
                                          "before the first step; on a CPU it needs a C++ compiler.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Keep the denoiser's numbers channels last in "
                                                "memory.")] = False,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Compute the inside of the "
                                                         "denoiser's stages twice instead of keeping it: less memory, "
                                                         "about a fifth more time.")] = False,
    allow_host: options.AllowHost = [],  # noqa: B006
    device: options.Device = "auto",
    devices: processes.TrainingDevices = None,
    determinism: options.Determinism = "fast",
    shard: Annotated[bool, typer.Option("--shard", help="Divide the denoiser among the processes (FSDP), where one GPU "
                                        "is too small for it: less memory, more to send.")] = False,
) -> None:
    """Train the diffusion model that draws new key codes, or latents.

    Refuses codes that another checkpoint of the autoencoder made. Ctrl-C finishes the step and saves; the same
    command again goes on where it stopped. A second stage, such as one with the latent perceptual loss, begins --from a
    run of the same denoiser on the same codes.

    Example: brics train-diffusion --recipe photos64-diffusion.yaml --autoencoder runs/cats --run runs/cats-diffusion
    """
    from bricscli.recipe.load import dump_recipe, load_recipe
    from bricscli.recipe.recipes import DiffusionRecipe

    resolved = load_recipe(recipe, overrides, "diffusion")
    assert isinstance(resolved, DiffusionRecipe)
    autoencoder = autoencoder or options.RUNS_ROOT / resolved.autoencoder
    run = run or options.RUNS_ROOT / options.run_name(recipe)

    from bricscli.parallel.world import join_world
    from bricscli.run.log import say
    from bricscli.tasks.train_ae import say_trained
    from bricscli.tasks.train_diffusion import Acceleration, describe_plan, train_denoiser

    if dry_run:
        say("\n".join([dump_recipe(resolved), *describe_plan(resolved, autoencoder, start)]))
        return
    if processes.spread_over(devices, device, resolved.training.batch_size, determinism == "exact"):
        return
    with join_world(device, exact=determinism == "exact", sharded=shard) as world:
        with world.together():
            images = Path(options.at_hand(data, allow_host)) if data else None
        say_trained(train_denoiser(resolved, autoencoder, run, device=world.device, checkpoint=checkpoint, start=start,
                                   data=images, overrides=overrides, save_every=save_every, allow_drift=allow_drift,
                                   acceleration=Acceleration(compile, channels_last, gradient_checkpointing),
                                   world=world))
