"""No code of ours runs what it reads: kept by reading every call and every import, whatever name it goes by there.

Each rule is proven by a snippet that breaks it. Tests and benchmarks are not bound by this.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import bricscli

ROOT = Path(bricscli.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

#: What is nowhere imported: readers that run what they read, other ways to the network.
NO_IMPORT = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "runpy", "pty",
             "code", "codeop", "requests", "httpx", "aiohttp", "urllib3", "ftplib", "telnetlib", "smtplib", "xmlrpc"}
#: Who downloads, after a look at where to.
_DOWNLOADS = {"download.py", "data/addresses.py", "data/remote.py"}
#: Ways to the network, and the files that may go there. Besides, the page listens, a lock names its machine, a trial
#: waits for who should not come, and an address in a bucket is signed.
NETWORK = {"socket": {"page/place.py", "page/server.py", "run/lock.py", "selftest/intruders.py", *_DOWNLOADS},
           "http": _DOWNLOADS, "urllib.request": _DOWNLOADS, "ssl": _DOWNLOADS, "boto3": {"data/buckets.py"}}
#: Full names that nobody may so much as mention.
FORBIDDEN = re.compile(r"""
    (builtins\.)?(eval|exec|__import__) | builtins\.compile
    | os\.(system|popen|startfile|exec\w+|spawn\w+|posix_spawnp?)
    | subprocess\.(getoutput|getstatusoutput) | multiprocessing\.connection(\..*)?
    | yaml\.(load|load_all|unsafe_load\w*|full_load\w*|Loader|CLoader|UnsafeLoader|FullLoader)
    | torch\.(hub|package|jit\.load|distributed\.checkpoint)(\..*)? | shutil\.unpack_archive
    | webdataset\.(WebDataset|WebLoader|gopen|cache|autodecode|handlers)(\..*)? | safetensors\.torch\.load_model
    | (numpy|pandas)\.(\w+\.)*(loads|fromregex|read_pickle) | logging\.config\.\w+ | ctypes\.pythonapi
    """, re.VERBOSE)
#: Ends of the names of methods.
FORBIDDEN_METHODS = (".extractall", ".extract", ".load_state_dict_from_url", ".unpack_archive", ".decode_pickle")
#: What asks numpy not to unpickle.
_ARRAYS = {"numpy.load", "numpy.save", "numpy.lib.format.read_array", "numpy.lib.npyio.NpzFile"}


def names_in(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `np` for numpy, `system` for os.system."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                      for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """`np.lib.load` -> numpy.lib.load; of what is no name, such as a call's result, what comes after it."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, names)}.{node.attr}"
    return "?"


def dangers(source: str, path: str = "module.py") -> Iterator[str]:
    """What in a module may run, fetch or unpickle what it reads."""
    tree = ast.parse(source)
    names = names_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from dangers_of_import(node, path)
        elif isinstance(node, ast.Name | ast.Attribute):
            name = full_name(node, names)
            if FORBIDDEN.fullmatch(name) or name.endswith(FORBIDDEN_METHODS):
                yield name
        elif isinstance(node, ast.Call):
            yield from dangers_of_call(full_name(node.func, names), node)


def dangers_of_import(node: ast.Import | ast.ImportFrom, path: str) -> Iterator[str]:
    inside = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    found = [f"{inside}{alias.name}" for alias in node.names]
    yield from (f"import {name}" for name in found if name.split(".")[0] in NO_IMPORT)
    yield from (name for name in [*found, inside.rstrip(".")] if FORBIDDEN.fullmatch(name))
    for part, allowed in NETWORK.items():
        if path not in allowed and any(f"{name}.".startswith(f"{part}.") for name in found):
            yield f"import {part}"


def dangers_of_call(name: str, call: ast.Call) -> Iterator[str]:
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    first = call.args[0] if call.args else None
    if name == "compile":
        yield name
    if options.get("shell", "False") != "False":
        yield f"{name}: shell"
    if options.get("allow_pickle", "False") != "False" or (name in _ARRAYS and "allow_pickle" not in options):
        yield f"{name}: allow_pickle"
    if name == "torch.load" and options.get("weights_only") != "True":
        yield f"{name}: weights_only"
    if name.startswith("subprocess.") and isinstance(first, ast.Constant | ast.JoinedStr | ast.BinOp):
        yield f"{name}: a command in one text"
    if name == "importlib.import_module" and not isinstance(first, ast.Constant):
        yield f"{name}: a name that is read"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_runs_what_it_reads(path: Path) -> None:
    assert list(dangers(path.read_text(), path.relative_to(ROOT).as_posix())) == []


@pytest.mark.parametrize("snippet", [
    "eval(text)", "exec(text)", "compile(text, '', 'exec')", "__import__(text)", "run = eval",
    "import builtins\nbuiltins.exec", "import pickle", "from pickle import loads", "import dill as d",
    "import shelve", "import marshal", "import joblib", "import runpy", "import os\nos.system('x')",
    "from os import system", "import os as o\no.popen('x')", "import os\nos.execv('a', [])",
    "import os\nos.spawnl(0, 'a')", "import os\nos.posix_spawn('a', [], {})",
    "import subprocess\nsubprocess.run('ls x')", "import subprocess\nsubprocess.run(f'ls {x}')",
    "from subprocess import Popen\nPopen('ls ' + x)", "import subprocess\nsubprocess.run(['ls'], shell=True)",
    "import subprocess\nsubprocess.run(command, shell=flag)", "import subprocess as s\ns.getoutput(x)",
    "import yaml\nyaml.load(x, yaml.SafeLoader)", "import yaml\nyaml.unsafe_load(x)", "from yaml import full_load",
    "import yaml\nyaml.load_all(x, Loader=L)", "from yaml import Loader", "import torch\ntorch.load(x)",
    "import torch\ntorch.load(x, weights_only=False)", "from torch import load\nload(x, weights_only=flag)",
    "import torch\ntorch.jit.load(x)", "from torch.jit import load", "import torch\ntorch.hub.load('a', 'b')",
    "from torch import hub", "import torch.hub", "import torch\ntorch.hub.load_state_dict_from_url(x)",
    "from torch.package import PackageImporter", "import torch.distributed.checkpoint as dcp\ndcp.load(x)",
    "from torch.distributed.checkpoint import load", "archive.extractall(x)", "archive.extract(x)",
    "import shutil\nshutil.unpack_archive(x)", "import tarfile\ntarfile.open(x).extractall()",
    "import zipfile\nzipfile.ZipFile(x).extract('a')", "import importlib\nimportlib.import_module(x)",
    "from importlib import import_module\nimport_module(spec['class'])", "import numpy as np\nnp.load(x)",
    "import numpy\nnumpy.load(x, allow_pickle=True)", "from numpy import load\nload(x)",
    "import numpy as np\nnp.save(x, y)", "read(x, allow_pickle=flag)", "import webdataset as wds\nwds.WebDataset(x)",
    "from webdataset import WebDataset", "from webdataset.gopen import gopen", "import requests", "import httpx",
    "import urllib.request", "from urllib.request import urlopen", "import socket", "from urllib import request",
    "import http.client", "from http.server import HTTPServer", "from multiprocessing.connection import Listener",
    "import multiprocessing.connection as c\nc.Client(x)",
])
def test_what_breaks_a_rule_is_found(snippet: str) -> None:
    assert list(dangers(snippet)) != []


@pytest.mark.parametrize("snippet", [
    "model.eval()", "re.compile(x)", "import re\nre.compile(x)", "torch.compile(x)",
    "import torch\ntorch.compile(model)", "import torch\ntorch.load(x, map_location='cpu', weights_only=True)",
    "import numpy as np\nnp.load(x, allow_pickle=False)",
    "import subprocess\nsubprocess.run(['git', 'status'], check=True)", "import subprocess\nsubprocess.run(command)",
    "import importlib\nimportlib.import_module('diffusers')", "from importlib.util import find_spec",
    "from webdataset.writer import TarWriter", "import tarfile\ntarfile.open(x, 'r:')",
    "from urllib.parse import urlsplit", "import yaml\nyaml.dump(x)", "import os\nos.path.exists(x)",
    "import multiprocessing",
])
def test_what_breaks_none_is_let_be(snippet: str) -> None:
    assert list(dangers(snippet)) == []


def test_who_may_go_to_the_network() -> None:
    downloads = "from urllib.request import build_opener\nimport socket"
    assert list(dangers(downloads, "download.py")) == []
    assert list(dangers(downloads, "data/images.py")) == ["import urllib.request", "import socket"]
    assert list(dangers("import socket", "page/place.py")) == []
