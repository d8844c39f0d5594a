"""Which programs made a result: enough to make it again, nothing about whose machine it was."""

import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bricscli
from bricscli.run.log import redact

#: Those whose version can change a number.
PACKAGES = ("torch", "torchvision", "numpy", "pillow")


def describe_process() -> dict[str, Any]:
    """Versions, processor type, commit (null outside a checkout) and command line, for `run.json`."""
    return {
        "brics": bricscli.__version__,
        "python": platform.python_version(),
        **{name: package_version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        **_describe_checkout(Path(bricscli.__file__).parent.parent),
        "argv": describe_arguments(sys.argv),
    }


def describe_arguments(argv: list[str]) -> list[str]:
    """The command line with the program's bare name, `~` for the home folder, and no secrets of addresses."""
    return ["brics", *(hide_home(redact(argument)) for argument in argv[1:])]


def hide_home(text: str) -> str:
    """`text` with `~` for the home folder."""
    home = str(Path.home())
    if len(home) == 1:
        return text
    # Where a path begins (also in `--out=/home/ann` and `-r/home/ann`) and a name ends: not in `/home/anna`.
    return re.sub(rf"(?:(?<![\w.-])|(?<=^-\w)){re.escape(home)}(?=[/:,]|$)", "~", text)


def package_version(package: str) -> str | None:
    """Of an installed package; None where there is none of that name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _describe_checkout(folder: Path) -> dict[str, Any]:
    """`commit`, and whether tracked files differ from it (`modified`); both None outside a checkout or without git."""
    commit = _git(folder, "rev-parse", "HEAD") if (folder / ".git").exists() else None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "modified": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
