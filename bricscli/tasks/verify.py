"""`brics verify`: what brics wrote is read again from beginning to end, and all that is not as it was written is named.

Shards, codes, samples and checkpoints carry digests: no bit of them can have changed unnoticed. Recipes, logs, results
and previews carry none: of these, only that they can still be read.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bricscli import files
from bricscli.data.audit import iter_shard_problems, iter_strangers
from bricscli.data.filled import KIND as FILLED
from bricscli.data.filled import FilledFolder
from bricscli.data.images import ImageError, load_image
from bricscli.data.manifest import AGAIN, MANIFEST, Shard, read_manifest
from bricscli.data.samples import SampleFolder, sample_key
from bricscli.errors import BricsError, DataError
from bricscli.run.checkpoint import checkpoint_digest, is_checkpoint, iter_damage, list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.run.log import read_metrics, track
from bricscli.strict_json import MOST_RESULT_BYTES, read_json

THREADS = 4
#: Where `brics eval` keeps statistics of a data set, in its folder.
STATISTICS = "statistics"
#: The endings of what `_verify_file` reads.
RESULTS = {".json", ".png", ".safetensors"}
#: What to do, by what is wrong.
DRAW, FILL = ("The same `brics sample` again draws what is damaged.", "The same `brics inpaint` again fills it.")
TRAIN, PUT_BACK = "Choose another checkpoint, or train again.", "Put the right file back."

Item = TypeVar("Item")


@dataclass(frozen=True)
class Checked:
    """One thing that was read again: what is in it, its size, and a line for everything that is wrong with it."""

    path: Path
    found: str
    bytes: int
    problems: tuple[str, ...] = ()


def verify(path: Path, *, quick: bool = False) -> Iterator[Checked]:
    """Checks a data set, codes, a folder of samples, a run, a checkpoint, or results; `quick`: only lengths and names.

    Raises DataError where there is nothing that brics wrote.
    """
    if path.is_file() and is_checkpoint(path.parent):
        yield _verify_checkpoint(path.parent, quick)
    elif path.is_file() and (path.parent / MANIFEST).exists() and path.suffix in (".tar", ".bin"):
        yield from _verify_folder(path.parent, quick)
    elif path.is_file():
        yield _verify_file(path)
    elif is_checkpoint(path):
        yield _verify_checkpoint(path, quick)
    elif any(file.exists() for file in (RunDirectory(path).recipe_path, RunDirectory(path).info_path)):
        yield from _verify_run(RunDirectory(path), quick)
    elif (path / MANIFEST).exists() or any(path.glob("*.tar")):
        yield from _verify_folder(path, quick)
    elif checkpoints := list_checkpoints(path):
        yield from (_verify_checkpoint(checkpoint, quick) for checkpoint in checkpoints)
    elif any(any(path.glob(pattern)) for pattern in ("*.json", "*.safetensors")):
        yield _verify_results(path)
    else:
        what = "holds nothing that brics wrote" if path.is_dir() else "no such file or folder"
        raise DataError(f"{path}: {what}. Choose a data set, a run, a checkpoint, samples or results.")


def _verify_folder(path: Path, quick: bool) -> Iterator[Checked]:
    """What a manifest of data/manifest.py lists: a data set, codes, samples, or filled pictures."""
    try:
        header, shards = read_manifest(path)
        if header["kind"] == FILLED:
            yield _verify_filled(FilledFolder.open(path), quick)
        elif header["kind"] == "samples":
            yield _verify_samples(SampleFolder.open(path), shards, quick)
        else:
            yield _verify_shards(path, header, shards, quick)
    except DataError as error:
        yield Checked(path, "a manifest that cannot be used", _size([path / MANIFEST]), tuple(error.lines))
    if (path / STATISTICS).is_dir():
        yield _verify_results(path / STATISTICS)


def _verify_shards(path: Path, header: dict[str, Any], shards: list[Shard], quick: bool) -> Checked:
    problems = [*_shard_problems(path, shards, quick, AGAIN), *_strangers(path, header, [s.name for s in shards])]
    samples = sum(shard.samples for shard in shards)
    members = sum(shard.contents.table.size for shard in shards)
    return Checked(path, f"{str(header['kind']).replace('_', ' ')}, {len(shards)} shards with {samples} samples, "
                   f"{members} files", sum(shard.bytes for shard in shards), tuple(problems))


def _shard_problems(path: Path, shards: list[Shard], quick: bool, advice: str) -> Iterator[str]:
    def check(shard: Shard) -> list[str]:
        return list(iter_shard_problems(path, shard, quick=quick))

    total = sum(shard.samples for shard in shards)
    for _, problems in track(_in_threads(check, shards), total, f"reading {path.name}", "samples",
                             size=lambda pair: pair[0].samples):
        yield from (f"{problem}. {advice}" for problem in problems)


def _strangers(path: Path, header: dict[str, Any], names: Iterable[str]) -> Iterator[str]:
    index = [header["index"]["name"]] if "index" in header else []
    yield from iter_strangers(path, {MANIFEST, STATISTICS, *index, *names})


def _verify_samples(folder: SampleFolder, shards: list[Shard], quick: bool) -> Checked:
    path, found = folder.path, f"{len(folder.seeds)} samples"
    if shards:
        names = [shard.name for shard in shards]
        problems = [*_shard_problems(path, shards, quick, DRAW), *_strangers(path, folder.header, names)]
        return Checked(path, f"{found} in {len(shards)} shards", sum(s.bytes for s in shards), tuple(problems))
    pictures = [path / f"{sample_key(seed)}.png" for seed in folder.seeds]

    def check(seed: int) -> str | None:
        return _sample_problem(folder, seed, quick)

    problems = [problem for _, problem in track(_in_threads(check, folder.seeds), len(folder.seeds),
                                                f"reading {path.name}", "samples") if problem]
    problems += _strangers(path, folder.header, [picture.name for picture in pictures])
    return Checked(path, found, _size(pictures), tuple(problems))


def _sample_problem(folder: SampleFolder, seed: int, quick: bool) -> str | None:
    path = folder.path / f"{sample_key(seed)}.png"
    if not path.is_file():
        return f"{path}: listed in {MANIFEST}, but it is missing. {DRAW}"
    return None if quick or folder.holds(seed) else f"{path}: damaged. {DRAW}"


def _verify_filled(folder: FilledFolder, quick: bool) -> Checked:
    variants = [(name, int(number) - 1) for name, about in folder.pictures.items() for number in about["variants"]]
    pictures = [folder.file(*variant) for variant in variants]
    problems = []
    for variant, picture in track(zip(variants, pictures, strict=True), len(variants), folder.path.name, "pictures"):
        if not picture.is_file():
            problems.append(f"{picture}: listed in {MANIFEST}, but it is missing. {FILL}")
        elif not quick and not folder.holds(*variant):
            problems.append(f"{picture}: damaged (its SHA-256 differs from the manifest's). {FILL}")
    problems += _strangers(folder.path, folder.header, [picture.name for picture in pictures])
    return Checked(folder.path, f"{len(pictures)} filled pictures", _size(pictures), tuple(problems))


def _verify_run(run: RunDirectory, quick: bool) -> Iterator[Checked]:
    yield _attempt(run.recipe_path, "recipe", lambda: run.recipe)
    yield _attempt(run.info_path, "what made it", lambda: run.info)
    if run.metrics_path.exists():
        yield _attempt(run.metrics_path, "log", lambda: read_metrics(run.metrics_path))
    for checkpoint in list_checkpoints(run.checkpoints):
        yield _verify_checkpoint(checkpoint, quick)
    if (checked := _verify_autoencoder(run, quick)) is not None:
        yield checked
    if run.codes.exists():
        yield from _verify_folder(run.codes, quick)
        if (checked := _verify_origin(run)) is not None:
            yield checked
    if run.sheets.is_dir():
        yield _verify_results(run.sheets)
    if (run.samples / MANIFEST).exists():
        yield from _verify_folder(run.samples, quick)
    if run.evals.is_dir():
        yield _verify_results(run.evals)


def _verify_checkpoint(path: Path, quick: bool) -> Checked:
    there = [file for file in path.glob("*") if file.is_file()]
    problems = [f"{path}: {reason}. {TRAIN}" for reason in iter_damage(path, quick=quick)]
    try:
        listed = set(read_json(path / MANIFEST)["files"])
        problems += iter_strangers(path, {MANIFEST, *listed})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # said already
    return Checked(path, f"checkpoint of {len(there)} files", _size(there), tuple(problems))


def _verify_autoencoder(run: RunDirectory, quick: bool) -> Checked | None:
    """The copy of the weights that a diffusion run decodes with; None of a run that has none."""
    try:
        wanted = run.info["autoencoder"]["digest"]
    except (DataError, KeyError, TypeError):
        return None
    path = run.autoencoder_path
    if not path.is_file():
        begun = bool(list_checkpoints(run.checkpoints))
        return Checked(path, "autoencoder", 0, (f"{path}: is missing. {PUT_BACK}",)) if begun else None
    damaged = not quick and files.sha256_file(path) != wanted
    problem = (f"{path}: damaged, or another autoencoder's (its SHA-256 is not that in run.json). {PUT_BACK}",)
    return Checked(path, "autoencoder", _size([path]), problem if damaged else ())


def _verify_origin(run: RunDirectory) -> Checked | None:
    """Whether the run still has the checkpoint that its codes were encoded by; None where that is so."""
    try:
        digest = read_manifest(run.codes)[0]["autoencoder"]["digest"]
    except (DataError, KeyError, TypeError):
        return None  # said already
    if digest in map(checkpoint_digest, list_checkpoints(run.checkpoints)):
        return None
    problem = f"was encoded by checkpoint {str(digest)[:8]}, which the run has not. Run `brics encode` again."
    return Checked(run.codes, "where the codes are from", 0, (f"{run.codes}: {problem}",))


def _verify_results(path: Path) -> Checked:
    """JSON, pictures and statistics of one folder; others may lie among them."""
    there = [entry for entry in sorted(path.iterdir()) if entry.suffix in RESULTS and not entry.name.startswith(".")]
    problems = [problem for file in there for problem in _verify_file(file).problems]
    return Checked(path, f"{len(there)} files", _size(there), tuple(problems))


def _verify_file(path: Path) -> Checked:
    match path.suffix:
        case ".json":
            return _attempt(path, "result", partial(_read_result, path))
        case ".png":
            return _attempt(path, "picture", lambda: load_image(path))
        case ".safetensors":
            from bricscli.tasks.eval.references import read_statistics  # imports torch

            return _attempt(path, "statistics", lambda: read_statistics(path))
    raise DataError(f"{path}: is nothing that brics wrote. Choose a result, a picture or statistics.")


def _read_result(path: Path) -> None:
    if not isinstance(read_json(path, MOST_RESULT_BYTES)["kind"], str):
        raise TypeError("its kind is not a text")


def _attempt(path: Path, what: str, read: Callable[[], object]) -> Checked:
    """Whether something can be read at all."""
    problems: Sequence[str] = ()
    try:
        read()
    except BricsError as error:
        problems = error.lines
    except OSError as error:
        problems = [f"{path}: cannot be read ({error.strerror}). {PUT_BACK}"]
    except ImageError as error:
        problems = [f"{path}: {error}. Make it again."]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        problems = [f"{path}: damaged: not what a {what} is like. Make it again."]
    return Checked(path, what, _size([path]), tuple(problems))


def _size(paths: Iterable[Path]) -> int:
    """Bytes of those that are there."""
    return sum(path.stat().st_size for path in paths if path.is_file())


def _in_threads(check: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
    """Items and what is found of them, in order; reading and hashing run beside one another."""
    pool = ThreadPoolExecutor(THREADS, "brics-verify")
    try:
        yield from zip(items, pool.map(check, items), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
