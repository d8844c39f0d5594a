"""What happens to files: bits that flip, ends that are missing, names that were exchanged. Everything is noticed."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from random import Random

from bricscli.data.shards import ShardSet, write_shards
from bricscli.errors import BricsError
from bricscli.selftest.trials import Bench, Trials
from bricscli.selftest.workload import Undisturbed
from bricscli.tasks.verify import verify


def flip(path: Path, files: list[Path], dice: Random) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, files: list[Path], dice: Random) -> None:
    """The end is missing, at least a byte of it."""
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def blank(path: Path, files: list[Path], dice: Random) -> None:
    """The second half is zeros, as after a crash of the file system."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))


def exchange(path: Path, files: list[Path], dice: Random) -> None:
    """With another file of the same kind."""
    content = path.read_bytes()
    others = [other for other in files if other.suffix == path.suffix and other.read_bytes() != content]
    if not others:
        return flip(path, files, dice)
    other = dice.choice(others)
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def delete(path: Path, files: list[Path], dice: Random) -> None:
    path.unlink()


DAMAGES: Mapping[str, Callable[[Path, list[Path], Random], None]] = {
    damage.__name__: damage for damage in (flip, truncate, blank, exchange, delete)}


def try_damage(bench: Bench, stages: dict[str, Undisturbed], each: int) -> Trials:
    """So many of every damage to every kind of artefact; `brics verify` must name what is wrong."""
    trials = Trials("Whatever happens to a file of a data set, a checkpoint, codes or samples, `brics verify` names it")
    place = stages["eval"].begin(bench.folder / "to-damage")
    artefacts = {"data set": place.data, "checkpoints": place.autoencoder / "checkpoints",
                 "codes": place.autoencoder / "codes", "samples": place.samples}
    with trials.timed():
        for artefact, root in artefacts.items():
            whole = _problems(root)
            trials.add(f"{artefact}: undamaged, and verify says: {whole[0]}" if whole else None)
            for name, damage in DAMAGES.items():
                bench.progress(f"{artefact}: {name}")
                for i in range(each):
                    trials.add(_try_one(bench, root, damage, bench.dice(f"{artefact} {name} {i}"), artefact))
                    trials.tell(name)
    shutil.rmtree(place.root)
    return trials


def _try_one(bench: Bench, root: Path, damage: Callable[[Path, list[Path], Random], None], dice: Random,
             artefact: str) -> str | None:
    copy = bench.folder / "damaged" / root.name
    shutil.copytree(root, copy)
    try:
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name not in (".lock", "run.lock"))
        chosen = dice.choice(files)
        before = {path: path.read_bytes() for path in files}
        damage(chosen, files, dice)
        changed = [path for path in files if not path.exists() or path.read_bytes() != before[path]]
        if not changed:
            return None  # such as the second half of zeros that was zeros
        problems = _problems(copy)
        what = f"{artefact}: {damage.__name__} of {chosen.relative_to(copy)}"
        if not problems:
            return f"{what}: nobody noticed"
        named = any(path.name in problem or path.parent.name in problem for path in changed for problem in problems)
        return None if named else f"{what}: noticed, but not named: {problems[0]}"
    finally:
        shutil.rmtree(copy)


def _problems(path: Path) -> list[str]:
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # its progress is nobody's
        try:
            return [problem for checked in verify(path) for problem in checked.problems]
        except BricsError as error:
            return error.lines


# A shard that ends too early


def try_cuts(bench: Bench, cuts: int) -> Trials:
    """A shard of small members, cut at every place of so many: an error each time, and never fewer samples."""
    trials = Trials("A shard that was cut off anywhere is an error, never a shorter epoch")
    folder = bench.folder / "cut"
    samples = [("train", f"{i:06d}", {"cls": str(i).encode(), "txt": b"x" * (i % 7)}) for i in range(40)]
    dataset = write_shards(folder, {"kind": "images"}, samples, samples_per_shard=40)
    shard = folder / dataset.shards[0].name
    whole = shard.read_bytes()
    with trials.timed():
        for i in range(cuts):
            shard.write_bytes(whole[: i * len(whole) // cuts])
            trials.add(None if _refused(folder) else f"cut at {i * len(whole) // cuts}: nobody noticed")
            trials.tell("read short without a word by tarfile as a stream",
                        _silently_short(shard.read_bytes(), len(samples)))
    shutil.rmtree(folder)
    return trials


def _refused(folder: Path) -> bool:
    """Whether reading everything is an error."""
    try:
        split = ShardSet.open(folder).split("train")
        for i in range(len(split)):
            split.read(i, "cls")
    except BricsError:
        return True
    return False


def _silently_short(data: bytes, count: int) -> bool:
    """Whether a reader of streams ends early and says nothing."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
            return sum(member.name.endswith(".cls") for member in tar) < count
    except (tarfile.TarError, OSError, EOFError):
        return False
