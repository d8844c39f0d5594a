"""The plan of the house, kept by reading every import: they only go down, and the words come without the engines."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bricscli

ROOT = Path(bricscli.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

#: What each part may import, from the top of the house to its foundations.
ALLOWED = {
    "__main__": {"app"},
    "app": {"commands", "errors", "run", "copies", "__version__"},
    "commands": {"page", "selftest", "tasks", "parallel", "recipe", "run", "paper", "data", "runtime", "copies",
                 "parts", "files", "errors"},
    "page": {"tasks", "run", "data", "errors"},
    "selftest": {"tasks", "parallel", "metrics", "recipe", "run", "data", "runtime", "copies", "parts", "files",
                 "errors"},
    "tasks": {"build", "recipe", "run", "training", "parallel", "metrics", "report", "paper", "data", "runtime",
              "weights", "nn", "diffusion", "losses", "download", "copies", "parts", "files", "strict_json",
              "tensor_files", "errors"},
    "training": {"parallel", "build", "nn", "diffusion", "losses", "recipe", "run", "runtime", "files", "errors"},
    "parallel": {"copies", "runtime", "errors"},
    "build": {"recipe", "nn", "diffusion", "losses"},
    "report": {"metrics", "data", "files", "errors"},
    "paper": {"errors"},
    "metrics": {"nn", "runtime", "weights", "errors"},
    "losses": {"nn", "weights", "errors"},
    "diffusion": {"nn"},
    "run": {"recipe", "files", "strict_json", "tensor_files", "errors", "__version__"},
    "data": {"weights", "download", "files", "strict_json", "errors"},
    "weights": {"files", "tensor_files", "errors"},
    "download": {"files", "strict_json", "errors"},
    "recipe": {"errors"},
    "runtime": {"errors"},
    "copies": {"errors"},
    "parts": {"errors"},
    "files": {"errors"},
    "nn": {"errors"},
    "strict_json": set(),
    "tensor_files": set(),
    "errors": set(),
    "__init__": set(),
}
HEAVY = {"torch", "torchvision", "lpips", "cleanfid", "webdataset", "matplotlib", "vector_quantize_pytorch", "fvcore",
         "triton", "gradio", "uvicorn", "fastapi"}
#: These may not import torch or anything that does, other than inside a function.
LIGHT = ["__init__", "__main__", "app", "errors", "files", "strict_json", "tensor_files", "copies", "parts", "weights",
         "download", "commands", "recipe", "run", "data", "report", "paper"]


def part_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: not in functions, not under TYPE_CHECKING."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node)
        waiting += ast.iter_child_nodes(node)


def own_parts(names: Iterator[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.split(".")[0] == "bricscli" and "." in name}


def test_every_part_has_its_place() -> None:
    assert len(MODULES) > 40
    assert {part_of(path) for path in MODULES} <= ALLOWED.keys()
    order = list(ALLOWED)
    for part, below in ALLOWED.items():
        assert all(other == "__version__" or order.index(other) > order.index(part) for other in below), part


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    part = part_of(path)
    assert own_parts(imported(ast.parse(path.read_text()))) - {part} <= ALLOWED[part]


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) in LIGHT], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_torch_at_import_in_the_light_parts(path: Path) -> None:
    names = set(imported_at_once(ast.parse(path.read_text())))
    assert {name for name in names if name.split(".")[0] in HEAVY or name.startswith("safetensors.torch")} == set()
    heavy_parts = {"page", "selftest", "tasks", "training", "parallel", "build", "metrics", "losses", "diffusion", "nn",
                   "runtime"}
    assert own_parts(iter(names)) & heavy_parts <= ({"metrics"} if part_of(path) == "report" else set())


def test_only_the_shards_know_webdataset() -> None:
    names = {path.name: list(imported(ast.parse(path.read_text()))) for path in MODULES}
    assert [file for file, used in names.items() if any(n.startswith("webdataset") for n in used)] == ["shards.py"]


def loaded_after(statement: str) -> set[str]:
    """Top-level modules of a fresh process after a statement."""
    code = f"import sys, json\n{statement}\njson.dump(sorted(sys.modules), sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stderr)}


def test_help_loads_none_of_the_engines() -> None:
    heavy = {"torch", "torchvision", "numpy", "PIL", "yaml", "tqdm", "matplotlib", "safetensors", "gradio"}
    for arguments in (["--help"], ["train-ae", "--help"], ["eval", "fid", "--help"], ["--version"]):
        loaded = loaded_after(f"from bricscli import app\nsys.argv = {['brics', *arguments]!r}\n"
                              "try: app.main()\nexcept SystemExit as end: assert not end.code")
        assert "typer" in loaded and loaded & heavy == set(), arguments
        if arguments in (["--help"], ["--version"]):  # for options, typer itself looks at pydantic
            assert "pydantic" not in loaded


def test_recipes_and_runs_come_without_torch() -> None:
    loaded = loaded_after("import bricscli.recipe.load, bricscli.run.directory, bricscli.run.checkpoint\n"
                          "import bricscli.run.log, bricscli.run.provenance, bricscli.data.sources, bricscli.weights")
    assert "pydantic" in loaded and "torch" not in loaded


def test_modules_say_what_they_are() -> None:
    silent = [str(path.relative_to(ROOT)) for path in MODULES
              if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []
