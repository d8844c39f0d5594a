"""Stages in parts, by one process or several: what they make is what one makes, whatever the size of its batches."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

from bricscli.data.collection import find_images, open_folder
from bricscli.data.sources import open_source
from bricscli.metrics.features import load_extractor
from bricscli.parts import Part
from bricscli.run.directory import RunDirectory
from bricscli.selftest.children import finish_child, start_child
from bricscli.selftest.trials import Bench, Trials
from bricscli.selftest.workload import CPU, RESOLUTION, SEEDS, Place, Undisturbed, compare, digest_tree
from bricscli.tasks.encode import encode_part
from bricscli.tasks.eval.generation import RANDOM, Comparison, Plan
from bricscli.tasks.eval.references import ImageReference
from bricscli.tasks.eval.results import save_result
from bricscli.tasks.gather import gather
from bricscli.tasks.prepare import prepare_part
from bricscli.tasks.sample import sample_part, sample_to_folder

BATCH_SIZES = (1, 3, 8)
TIMEOUT = 300.0
#: Images whose features are summed at once, here: so that few images are several chunks.
_CHUNK = 8


def try_parts(bench: Bench, stages: dict[str, Undisturbed], most: int) -> Trials:
    """Every stage that can be made in parts, in 1 ... `most` of them at once; samples in batches of each size."""
    trials = Trials("Data, codes, samples and features are the same bytes for any number of processes and batch size")
    with trials.timed():
        for name, make in (("prepare", _prepare), ("encode", _encode), ("sample", _sample)):
            stage = stages[name]
            for processes in range(1, most + 1):
                bench.progress(f"{name} by {processes} processes")
                root = bench.folder / "parts"
                place = stage.begin(root)
                failed = _at_once([partial(make, place, Part(i + 1, processes)) for i in range(processes)], bench.log)
                failed = failed or _at_once([partial(gather, _made(name, place))], bench.log)
                trials.add(failed or compare(digest_tree(root), stage.after, f"{name} by {processes} processes"))
                shutil.rmtree(root)
        _try_batches(bench, trials, stages["sample"])
        _try_features(bench, trials, stages["eval"], most)
    return trials


def _try_batches(bench: Bench, trials: Trials, stage: Undisturbed) -> None:
    """The same samples, in another order and in other batches."""
    for size in BATCH_SIZES:
        bench.progress(f"sample in batches of {size}")
        root = bench.folder / "batches"
        place = stage.begin(root)
        run = RunDirectory.open(place.diffusion)
        jobs = [partial(sample_to_folder, run, place.samples, seeds=seeds, device=CPU, batch_size=size)
                for seeds in (SEEDS[7:], SEEDS)]
        failed = next((said for job in jobs if (said := _at_once([job], bench.log))), None)
        trials.add(failed or compare(digest_tree(root), stage.after, f"samples in batches of {size}"))
        shutil.rmtree(root)


def _try_features(bench: Bench, trials: Trials, stage: Undisturbed, most: int) -> None:
    """A distance whose features were computed by several processes."""
    found: list[dict[str, str]] = []
    for processes in range(1, most + 1):
        bench.progress(f"eval by {processes} processes")
        root = bench.folder / "features"
        place = stage.begin(root)
        parts = [Part(i + 1, processes) for i in range(processes)] if processes > 1 else []
        failed = _at_once([partial(_measure, place, part) for part in parts], bench.log)
        failed = failed or _at_once([partial(_measure, place, None)], bench.log)
        found.append(digest_tree(root))
        trials.add(failed or compare(found[-1], found[0], f"eval by {processes} processes"))
        shutil.rmtree(root)


def _measure(place: Place, part: Part | None) -> None:
    """A part of the features, or the distance."""
    with patch("bricscli.tasks.eval.collecting.CHUNK", _CHUNK):
        reference = ImageReference(find_images(str(place.data), "all", place.root))
        work = Comparison(open_folder(place.samples), reference, Plan(None, RANDOM, {}),
                          {"random": load_extractor("random", CPU)}, results=place.evals)
        if part is not None:
            work.keep_part(part)
            return
        save_result(work.measure(), place.evals)
        work.forget()


def _prepare(place: Place, part: Part) -> None:
    prepare_part(place.data, open_source("folder", place.pictures), part, resolution=RESOLUTION, val_fraction=0.3,
                 workers=1, samples_per_shard=12)


def _encode(place: Place, part: Part) -> None:
    encode_part(RunDirectory.open(place.autoencoder), place.data, part, device=CPU)


def _sample(place: Place, part: Part) -> None:
    sample_part(RunDirectory.open(place.diffusion), place.samples, part, seeds=SEEDS, device=CPU, batch_size=8)


def _made(stage: str, place: Place) -> Path:
    return {"prepare": place.data, "encode": place.autoencoder, "sample": place.samples}[stage]


def _at_once(actions: Sequence[Callable[[], object]], log: Path) -> str | None:
    """Runs each in a child of its own; words where one of them failed."""
    children = [start_child(action, log) for action in actions]
    codes = [finish_child(child, TIMEOUT) for child in children]
    return f"exit codes {codes}: {log.read_text()[-500:]}" if any(codes) else None
