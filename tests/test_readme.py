"""The README's commands do what it says: its photographs' way and its dry run go through the installed command."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from bricscli.recipe.load import list_recipes

README = (Path(__file__).parent.parent / "README.md").read_text()
#: Less of the same: what a test can afford of a training that takes a quarter of an hour.
SHORTER = {
    "train-ae": ["--set", "training.images=16"],
    "train-diffusion": ["--set", "training.images=32", "--set", "training.batch_size=16"],
}


def block(marker: str) -> list[str]:
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block <!-- {marker} -->"
    return found[1].strip().splitlines()


def run(line: str, folder: Path) -> str:
    words = shlex.split(line)
    assert words[0] == "brics"
    extra = SHORTER.get(words[1], []) if "--dry-run" not in words else []
    done = subprocess.run([sys.executable, "-m", "bricscli", *words[1:], *extra], cwd=folder, text=True,
                          capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_photographs(tmp_path: Path) -> None:
    photographs = tmp_path / "my-photos" / "holidays"
    photographs.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(80):  # 76 to train on: as many as --anchors wants for its 64
        gradient = np.linspace(random.integers(0, 255, 3), random.integers(0, 255, 3), 80)
        pixels = np.broadcast_to(gradient[:, None], (80, 100, 3)) + random.normal(0, 9, (80, 100, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(photographs / f"{i}.jpg")
    printed = {line: run(line, tmp_path) for line in block("photographs")}
    assert "76 train, 4 val" in printed["brics prepare folder --from my-photos --resolution 64 --out data/photos"]
    assert len(list((tmp_path / "samples").glob("*.png"))) == 64
    assert "shuffled key codes" in list(printed.values())[-2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data", "my-photos", "report.html", "runs", "samples", "samples-sheet.png"]


def test_dry_run(tmp_path: Path) -> None:
    (line,) = block("dry run")
    printed = run(line, tmp_path)
    assert "9.96 M parameters" in printed and "18.63 M" in printed
    assert not list(tmp_path.iterdir())


def test_table(tmp_path: Path) -> None:
    (line,) = block("table")
    printed = run(line, tmp_path)
    assert "126.79 GFlops           126.79 GFlops" in printed and "63.41 GFlops            63.41 GFlops" in printed


def test_setup_commands_are_the_two_that_the_project_promises() -> None:
    first, tests = re.findall(r"```sh\n(python3 -m venv .*)\n```", README)
    assert first.endswith(".venv/bin/brics demo")
    assert [tests] == block("tests")
    assert tests.endswith(".venv/bin/pytest")


def test_links_and_pictures_are_there() -> None:
    root = Path(__file__).parent.parent
    for page in (root / "README.md", root / "recipes" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).is_file(), (page.name, target)
        assert not re.search(r"@[A-Z]+@|TODO|TBD", page.read_text())


def test_every_shipped_recipe_is_in_the_table() -> None:
    table = (Path(__file__).parent.parent / "recipes" / "README.md").read_text()
    assert [name for name in list_recipes() if not name.startswith("base/") and f"`{name}`" not in table] == []
