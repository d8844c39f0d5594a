"""What a page says of one run: the sections, from its results. `tasks.reporting.report` puts them on a page."""

import shlex
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from bricscli.build import build_schedule
from bricscli.errors import RecipeError
from bricscli.recipe.load import dump_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.report.content import (
    Block,
    Cell,
    Command,
    Commands,
    Curve,
    Facts,
    Figures,
    Folded,
    Notes,
    Picture,
    Pictures,
    Section,
    Table,
    Texts,
    Tiles,
)
from bricscli.report.evaluations import evaluation_blocks, show_side
from bricscli.report.schedules import schedule_curve
from bricscli.report.spectrum import spectrum_curves
from bricscli.report.training import training_curves
from bricscli.report.usage import usage_curves, usage_table
from bricscli.run.checkpoint import list_checkpoints
from bricscli.tasks.draw import step_levels
from bricscli.tasks.plot import describe
from bricscli.tasks.reporting.expected import count_verdicts, judge, verdict_table
from bricscli.tasks.reporting.run_facts import environment_facts, origin_facts, parameter_facts
from bricscli.tasks.reporting.run_results import RunResults, evaluations_of

#: Of the schedule's line.
SCHEDULE_POINTS = 401
#: Of measurements, at most: above the fold.
HIGHLIGHTS = 3


class RunPage:
    """The parts of the page of one run."""

    def __init__(self, results: RunResults) -> None:
        self.results, self.run, self.recipe = results, results.run, results.run.recipe
        self.name = self.run.name
        self.verdicts = judge(results)

    @cached_property
    def seen(self) -> int | None:
        """Images that the newest checkpoint was trained on; None before there is one."""
        checkpoints = list_checkpoints(self.run.checkpoints)
        step = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else None
        return None if step is None else step * self.recipe.training.batch_size

    @property
    def progress(self) -> str:
        total = self.recipe.training.images
        if self.seen is None:
            return f"no checkpoint yet, of {total:,} images of training"
        return f"{min(self.seen, total):,} of {total:,} images of training"

    @property
    def summary(self) -> str:
        recipe = self.recipe
        described = f"{recipe.description.rstrip('.')}. " if recipe.description else ""
        if isinstance(recipe, AutoencoderRecipe):
            depth, size, _ = recipe.code_shape
            what = (f"An autoencoder of {recipe.data.name} at {recipe.data.resolution} pixels, with codes of "
                    f"{size}x{size}x{depth}")
        else:
            what = f"A diffusion model on the codes of autoencoder {self._autoencoder_name}"
        return f"{described}{what}; {self.progress}."

    @property
    def _autoencoder_name(self) -> str:
        record = self.results.info.get("autoencoder")
        named = record.get("run") if isinstance(record, dict) else None
        return str(named or getattr(self.recipe, "autoencoder", ""))

    def highlights(self) -> list[tuple[str, str]]:
        """The first numbers of the first evaluation, and how far the training is."""
        found = []
        for evaluation in evaluations_of(self.results)[:1]:
            where = show_side(evaluation.result["images" if evaluation.kind == "reconstruction" else "reference"])
            of = "over" if evaluation.kind == "reconstruction" else "against"
            forced = ", forced" if evaluation.forced else ""
            found += [(f"{m.value:.4g}{f' {m.unit}' if m.unit else ''}", f"{m.label}, {of} {where}{forced}")
                      for m in evaluation.measurements[:HIGHLIGHTS]]
        logged = [row["val_psnr"] for row in self.results.metrics if "val_psnr" in row]
        if not found and logged:
            found.append((f"{logged[-1]:.4g} dB", "PSNR of the preview images, while training"))
        if self.verdicts:
            passed = sum(verdict.status == "pass" for verdict in self.verdicts)
            found.append((f"{passed} of {len(self.verdicts)}", "expected values reached"))
        total = self.recipe.training.images
        found.append((f"{min(1.0, (self.seen or 0) / total):.0%}", f"of {total:,} images of training"))
        return found

    def sections(self) -> list[Section]:
        """From top to bottom; those without anything to show are absent."""
        found = [self._nothing(), self._left_out(), self._expected(), self._samples(), self._sheets(), self._training(),
                 self._numbers(), self._usage(), self._schedule(), self._spectrum(), self._about(), self._made()]
        return [section for section in found if section is not None]

    def _nothing(self) -> Section | None:
        results = self.results
        if self.seen is not None or results.metrics or results.evaluations:
            return None
        command = "train-ae" if isinstance(self.recipe, AutoencoderRecipe) else "train-diffusion"
        return Section("Nothing here yet", "This run has a recipe, but no checkpoint, no log and no evaluation. "
                                           f"`brics {command}` trains it; curves and previews come as it goes.")

    def _left_out(self) -> Section | None:
        lines = self.results.left_out
        if not lines:
            return None
        return Section("Left out", "", [Notes("These files of the run could not be read", lines, "fail")])

    def _expected(self) -> Section | None:
        if not self.verdicts:
            return None
        return Section("Expected and reached", f"What the recipe says should come out of it: "
                       f"{count_verdicts(self.verdicts)}.", [verdict_table(self.verdicts)])

    def _samples(self) -> Section | None:
        found = self.results.samples
        if found is None:
            return None
        seeds, images, header = found
        sampling = header.get("sampling")
        how = f" Drawn with {_values(sampling)}." if isinstance(sampling, dict) else ""
        only = f" All of class {header['class']}." if header.get("class") else ""
        return Section("Samples", f"Uncurated: the first {len(seeds)} seeds that were drawn.{only}{how}",
                       [Tiles({"sample": images}, [f"seed {seed}" for seed in seeds])])

    def _sheets(self) -> Section | None:
        pictures = self.pictures()
        if not pictures:
            return None
        text = ("Rows of validation images, each above the row of their reconstructions."
                if isinstance(self.recipe, AutoencoderRecipe) else "Images drawn during training, from the same seeds.")
        return Section("Previews", text, [Pictures(pictures)])

    def pictures(self, name: str = "") -> list[Picture]:
        """The first preview sheet and the newest; `name` goes before their titles."""
        what = ("validation images above their reconstructions" if isinstance(self.recipe, AutoencoderRecipe)
                else "images drawn from fixed seeds")
        before = f"{name}, after" if name else "After"
        return [Picture(f"{before} {seen:,} images", image, f"Preview sheet after {seen:,} images: {what}")
                for seen, image in self.results.sheets]

    def _training(self) -> Section | None:
        if curves := training_curves(self.results.metrics, self.recipe.kind):
            return Section("Training", "", [Figures(curves)])
        return None

    def _numbers(self) -> Section | None:
        evaluations = evaluations_of(self.results)
        if evaluations:
            return Section("The numbers", "", [block for e in evaluations for block in evaluation_blocks(e)])
        if self.seen is None:
            return None
        command = ("brics eval reconstruction --run RUN" if isinstance(self.recipe, AutoencoderRecipe)
                   else "brics sample --run RUN -n 1000, then brics eval fid --samples RUN/samples --ref DATA")
        return Section("The numbers", f"Nothing was measured yet: {command}.")

    def _usage(self) -> Section | None:
        blocks: list[Block] = []
        for result in self.results.usages.values():
            share = f"{result['hit_share']:.2%} of the entries that a key can reach, by {show_side(result['images'])}"
            blocks += [Facts([("hit", share)]), Figures(usage_curves(result["levels"])),
                       Folded("Level by level", [usage_table(result["levels"])])]
        return Section("Use of the feature grids", "Which entries the keys of these images hit, and how evenly.",
                       blocks) if blocks else None

    def _schedule(self) -> Section | None:
        if not isinstance(self.recipe, DiffusionRecipe):
            return None
        sampling = self.recipe.sampling
        text = f"{describe(self.recipe.schedule)}. Sampling: {_values(sampling.model_dump())}."
        return Section("Noise schedule", text, [Figures([draw_schedule(self.recipe)])])

    def _spectrum(self) -> Section | None:
        blocks: list[Block] = []
        for result in self.results.spectra.values():
            bands = {name: (band["range"][0], band["range"][1]) for name, band in result["bands"].items()}
            labels = {side: show_side(result[side]) for side in ("samples", "reference")}
            rows = [(f"{name}: {band['range'][0]:.3f} to {band['range'][1]:.3f}", [
                Cell(f"{band['bias']:+.2f} dB", "value"), Cell(f"{band['error']:.2f} dB", "value")])
                for name, band in result["bands"].items()]
            protocol = [("protocol", str(result.get("protocol", "not stated"))),
                        *(("forced", str(reason)) for reason in result.get("forced", []))]
            blocks += [Figures(spectrum_curves(result["frequencies"], result["power"], bands, labels)),
                       Table(("band, cycles per pixel", "samples less real", "mean difference either way"), rows),
                       Facts(protocol) if result.get("forced") else Folded("Protocol", [Facts(protocol)])]
        return Section("Power spectrum", "At which frequencies samples have more, or less, power than real images.",
                       blocks) if blocks else None

    def _about(self) -> Section:
        facts = [("training", self.progress), *parameter_facts(self.run), *origin_facts(self.results.info)]
        return Section("What it is, and where it ran", "", [Facts([*facts, *environment_facts(self.results)])])

    def _made(self) -> Section:
        argv, overrides = self.results.process.get("argv"), self.results.info.get("overrides")
        blocks: list[Block] = []
        if isinstance(argv, list):
            blocks.append(Commands([Command(shlex.join(map(str, argv)), "began this run")]))
        if isinstance(overrides, list) and overrides:
            blocks.append(Notes("Changed in the recipe by --set", list(map(str, overrides))))
        recipe = Texts({"The recipe, with every default": dump_recipe(self.recipe)})
        return Section("How it was made", "", [*blocks, recipe])


def draw_schedule(recipe: DiffusionRecipe) -> Curve:
    """The recipe's schedule, and the levels that its sampling passes; their times are where the schedule has them."""
    schedule, sampling = build_schedule(recipe.schedule), recipe.sampling
    t = torch.linspace(0, 1, SCHEDULE_POINTS, dtype=torch.float64)
    log_snr = schedule.log_snr(t).numpy()
    try:
        levels = step_levels(sampling, schedule).numpy()
    except RecipeError:  # it begins where sampling ends
        levels = np.array([])
    times = np.interp(-levels, -log_snr, t.numpy())
    gamma = recipe.denoising.gamma if recipe.denoising.weight == "min_snr" else None
    return schedule_curve(describe(recipe.schedule), t.tolist(), log_snr.tolist(), (times.tolist(), levels.tolist()),
                          sampling.start, gamma)


def _values(values: Mapping[str, Any]) -> str:
    """`sampler dpmpp_2m, steps 30`."""
    return ", ".join(f"{name} {value}" for name, value in values.items())
