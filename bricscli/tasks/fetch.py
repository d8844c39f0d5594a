"""`brics doctor --fetch`: pretrained files from where their publishers keep them, when asked for and checked.

The libraries of the metrics would download them on first use, unasked and mostly unchecked.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bricscli import files
from bricscli.download import Unreachable, download
from bricscli.errors import BricsError, RecipeError
from bricscli.run.log import Progress, say
from bricscli.run.provenance import hide_home
from bricscli.weights import WEIGHTS, WeightFile, locate_weights, weight_folders


class NotFetched(BricsError):
    """Some files could not be downloaded (exit code 1); one line each, with what to copy where."""

    @property
    def lines(self) -> list[str]:
        return str(self).split("\n")


def fetch(names: Sequence[str]) -> None:
    """Downloads those of the pretrained files `names` (none, or `all`: every one) that are not here yet, undamaged.

    They go to $BRICS_WEIGHTS, or to torch hub's cache where that is not set. Raises RecipeError for an unknown name
    before anything is downloaded, NotFetched at the end for all that could not be.
    """
    wanted, folder = _choose(names), weight_folders()[0]
    missing = [file for file in wanted if not _is_here(file)]
    if not missing:
        return
    sizes = [file.bytes or 0 for file in missing]
    say(f"{len(missing)} of {len(wanted)} files to download, {files.show_bytes(sum(sizes))}, into "
        f"{hide_home(str(folder))}")
    failed: list[str] = []
    silent: set[str | None] = set()  # servers that did not answer are not asked for the next file
    for file in missing:
        path, host = folder / file.filename, urlsplit(file.url).hostname
        try:
            if host in silent:
                raise Unreachable(f"{file.url}: not tried, {host} does not answer. Copy the file to {path} "
                                  f"(SHA-256 {file.sha256}).")
            _download(file, path)
        except Unreachable as error:
            silent.add(host)
            failed.append(hide_home(str(error)))
        except BricsError as error:
            if error.exit_code == 130:
                raise
            failed.append(hide_home(str(error)))
        else:
            say(f"{hide_home(str(path))}: downloaded, SHA-256 {file.sha256}; {file.licence}")
    if failed:
        raise NotFetched("\n".join(failed))


def _choose(names: Sequence[str]) -> list[WeightFile]:
    for name in names:
        if name != "all" and name not in WEIGHTS:
            near = difflib.get_close_matches(name, WEIGHTS, n=1)
            guess = f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(WEIGHTS)}, all."
            raise RecipeError(f"NAME: `{name}` is no pretrained file that brics knows. {guess}")
    return list(WEIGHTS.values()) if not names or "all" in names else [WEIGHTS[name] for name in dict.fromkeys(names)]


def _is_here(file: WeightFile) -> bool:
    path = locate_weights(file.name)
    if path is None:
        return False
    expected = file.files[path.name]
    try:
        here = expected is None or files.sha256_file(path) == expected
    except OSError:
        here = False
    if here:
        say(f"{hide_home(str(path))}: is here already")
    return here


def _download(file: WeightFile, path: Path) -> None:
    """With a progress bar in megabytes."""
    bar: Progress | None = None

    def show(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:  # now it is known how much is there from the last time
            bar = Progress((total or done) // 10**6, file.name, "MB", done=done // 10**6)
        bar.show(done // 10**6)

    try:
        download(file.url, path, sha256=file.sha256, size=file.bytes, progress=show)
    finally:
        if bar is not None:
            bar.close()
