"""Facts of a run for its page: how large its model is, where it comes from, on what it ran."""

from collections.abc import Mapping
from typing import Any

import torch

from bricscli.build import build_autoencoder, build_denoiser, build_discriminator, count_parameters
from bricscli.errors import BricsError
from bricscli.recipe.load import parse_recipe
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.run.checkpoint import weights_recipe
from bricscli.run.directory import RunDirectory
from bricscli.tasks.reporting.run_results import RunResults

#: Of run.json's "process" -> the name on the page.
ENVIRONMENT = {"brics": "brics", "python": "Python", "torch": "torch", "torchvision": "torchvision",
               "numpy": "NumPy", "pillow": "Pillow", "machine": "machine"}
#: Digits of a digest that are shown.
DIGITS = 12

Pairs = list[tuple[str, str]]


def parameter_facts(run: RunDirectory) -> Pairs:
    """Counted on the meta device, which takes no memory; nothing of a diffusion run whose autoencoder is gone."""
    recipe = run.recipe
    with torch.device("meta"):
        if isinstance(recipe, AutoencoderRecipe):
            model = build_autoencoder(recipe)
            parts = {"encoder": model.encoder, "bottleneck": model.bottleneck, "retrieval": model.retrieval,
                     "decoder": model.decoder}
            counts = {name: count_parameters(part) for name, part in parts.items()}
            facts = [("parameters", _millions(sum(counts.values()), counts))]
            if recipe.losses.adversarial:
                facts.append(("critic", _millions(count_parameters(build_discriminator(recipe)), {})))
            return facts
        try:
            autoencoder = parse_recipe(weights_recipe(run.autoencoder_path), str(run.autoencoder_path))
        except BricsError:
            return []
        if not isinstance(autoencoder, AutoencoderRecipe):
            return []
        denoiser = build_denoiser(recipe, autoencoder.bottleneck.channels, autoencoder.code_size)
    return [("parameters", _millions(count_parameters(denoiser), {}))]


def origin_facts(info: Mapping[str, Any]) -> Pairs:
    """The data, the autoencoder and the first stage, as run.json names them; classes."""
    facts = []
    for key, name in (("data", "name"), ("autoencoder", "run"), ("from", "run")):
        record = info.get(key)
        if isinstance(record, dict):
            what, digest = "began with" if key == "from" else key, str(record.get("digest"))[:DIGITS]
            facts.append((what, f"{record.get(name)}, digest {digest}"))
    if isinstance(info.get("classes"), dict):
        facts.append(("classes", ", ".join(info["classes"])))
    return facts


def environment_facts(results: RunResults) -> Pairs:
    """Versions, machine and commit, as far as run.json says."""
    process, info = results.process, results.info
    facts = [(name, str(process[key])) for key, name in ENVIRONMENT.items() if process.get(key) is not None]
    if info.get("device"):
        facts.append(("device", str(info["device"])))
    if isinstance(info.get("acceleration"), dict):
        used = [name.replace("_", " ") for name, on in info["acceleration"].items() if on]
        facts.append(("acceleration", ", ".join(used) or "none"))
    if process.get("commit"):
        facts.append(("commit", f"{process['commit']}{', with changes' if process.get('modified') else ''}"))
    return facts


def _millions(total: int, parts: Mapping[str, int]) -> str:
    """`1.21 M: encoder 0.53 M, decoder 0.68 M`."""
    listed = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parts.items() if count)
    return f"{total / 1e6:.2f} M{f': {listed}' if listed else ''}"
