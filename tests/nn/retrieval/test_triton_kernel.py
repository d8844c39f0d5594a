"""The GPU programs, without a GPU: run by Triton's interpreter against the paper's sum, and compiled for a card.

The interpreter has to be asked for before Triton is first imported, so one process of its own computes every case.
"""

import importlib.util
import itertools
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bricscli.nn import retrieval
from bricscli.nn.retrieval import triton_kernel

#: Memory is handed out full of NaN, so that an entry which nobody writes does not pass for 0.
INTERPRETED = """
import sys, torch
from bricscli.nn.retrieval import triton_kernel
assert triton_kernel.available(torch.device("cpu"))
torch.use_deterministic_algorithms(True)
assert torch.utils.deterministic.fill_uninitialized_memory

def compute(table, keys, weight, *levels):
    table, keys = table.requires_grad_(), keys.requires_grad_()
    result = triton_kernel.retrieve(table, keys, *levels)
    return result.detach(), *torch.autograd.grad((result * weight).sum(), (table, keys))

def compute_apart(table, keys, weight, *levels):
    for_table = triton_kernel.retrieve(table, keys.detach(), *levels)
    for_keys = triton_kernel.retrieve(table.detach(), keys, *levels)
    return (for_keys.detach(), torch.autograd.grad((for_table * weight).sum(), table)[0],
            torch.autograd.grad((for_keys * weight).sum(), keys)[0])

cases = torch.load(sys.argv[1])
results = {name: compute(*case) for name, case in cases.items()}
results["again"] = compute_apart(*cases["wraps around"])
torch.save(results, sys.argv[2])
"""


@dataclass(frozen=True)
class Case:
    """What is retrieved. Keys are odd multiples of 2^-17: their positions are exact in float32, and never on a node,
    where the slope jumps. The numbers of nodes are no powers of two, and neither are the heights and widths."""

    groups: int = 2
    batch: int = 3
    height: int = 3
    width: int = 5
    channels: int = 4
    resolutions: tuple[int, ...] = (2, 6)
    max_entries: int = 4096
    keys: tuple[float, ...] = ()  #: instead of random ones

    @property
    def entries(self) -> list[int]:
        return [math.ceil(min(self.max_entries, (r + 1) ** 3) / 8) * 8 for r in self.resolutions]

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Table, keys, and what the result is weighted with."""
        random = torch.Generator().manual_seed(0)
        shape = (self.groups, self.batch, self.height, self.width)
        keys = (2 * torch.randint(2**16, shape, generator=random) + 1) / 2**17
        if self.keys:
            keys = torch.tensor(self.keys).take(torch.arange(keys.numel()) % len(self.keys)).view_as(keys)
        table = torch.randn(self.groups, sum(self.entries), self.channels, generator=random)
        outputs = (self.groups, keys[0].numel(), len(self.resolutions) * self.channels)
        return table, keys, torch.randn(outputs, generator=random)


CASES = {
    "plain": Case(),
    "one image": Case(batch=1, groups=3, resolutions=(4,), channels=2),
    "wraps around": Case(max_entries=60),  # 343 nodes, 64 entries stored, 4 of them padding
    "fewer entries than nodes on an axis": Case(max_entries=4, groups=1, resolutions=(4,)),
    "more images than a tile": Case(batch=18, groups=1, height=2, resolutions=(3,)),
    "more pixels than a tile": Case(batch=1, groups=1, height=11, width=14, resolutions=(6,), channels=1),
    "ends": Case(keys=(0.0, 1.0), groups=1, resolutions=(3,)),
    "beyond": Case(keys=(-0.5, 1.5), groups=1, resolutions=(3,)),
}


def papers_sum(table: Tensor, keys: Tensor, case: Case) -> Tensor:
    """Eq. 4 and Eq. 6: the 8 corners of every query, entry (k + n x + n^2 y) mod T."""
    x = ((torch.arange(case.width) + 0.5) / case.width).to(keys).expand_as(keys)
    y = ((torch.arange(case.height) + 0.5) / case.height).to(keys)[:, None].expand_as(keys)
    groups = torch.arange(case.groups)[:, None, None, None]
    levels = []
    for level, r in zip(table.split(case.entries, dim=1), case.resolutions, strict=True):
        total = torch.zeros(*keys.shape, case.channels, dtype=keys.dtype)
        for corner in itertools.product((0, 1), repeat=3):
            entry, weight = torch.zeros_like(keys, dtype=torch.long), torch.ones_like(keys)
            for axis, (coordinate, up) in enumerate(zip((keys, x, y), corner, strict=True)):
                low = (coordinate.detach() * r).floor().clamp(max=r - 1)
                fraction = coordinate * r - low
                weight = weight * (fraction if up else 1 - fraction)
                entry = entry + (low.long() + up) * (r + 1) ** axis
            total = total + weight[..., None] * level[groups, entry % case.max_entries]
        levels.append(total)
    return torch.cat(levels, dim=-1).flatten(1, 3)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each case (result, gradient to table, to keys); `again` is "wraps around" with one gradient at a time."""
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    folder = tmp_path_factory.mktemp("triton")
    torch.save({name: (*case.inputs(), list(case.resolutions), case.entries, case.max_entries)
                for name, case in CASES.items()}, folder / "cases.pt")
    done = subprocess.run([sys.executable, "-c", INTERPRETED, folder / "cases.pt", folder / "results.pt"],
                          env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("name", [name for name in CASES if name != "beyond"])
def test_it_is_the_papers_sum_with_its_gradients(computed: dict[str, Any], name: str) -> None:
    case = CASES[name]
    table, keys, weight = (tensor.double() for tensor in case.inputs())
    table.requires_grad_(), keys.requires_grad_()
    result = papers_sum(table, keys, case)
    wanted = (result.detach(), *torch.autograd.grad((result * weight).sum(), (table, keys)))
    for found, exact in zip(computed[name], wanted, strict=True):
        assert found.dtype == torch.float32 and found.shape == exact.shape
        # Sums of at most a few hundred terms of size 1 in float32: 1e-6 is usual.
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_two_runs_agree_to_the_bit(computed: dict[str, Any]) -> None:
    for one, other in zip(computed["wraps around"], computed["again"], strict=True):
        assert torch.equal(one, other)


def test_keys_beyond_the_ends_are_read_at_the_ends(computed: dict[str, Any]) -> None:
    for found, at_the_ends in zip(computed["beyond"], computed["ends"], strict=True):
        assert torch.equal(found, at_the_ends)


def test_without_triton_it_is_imported_but_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "bricscli.nn.retrieval._triton_programs", raising=False)
    monkeypatch.delattr(retrieval, "_triton_programs", raising=False)
    spec = importlib.util.spec_from_file_location("fresh", triton_kernel.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.available(torch.device("cuda"))


def test_it_is_for_cuda_where_there_is_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert not triton_kernel.available(torch.device("cuda"))
    monkeypatch.setenv("CC", "cc")
    assert triton_kernel.available(torch.device("cuda", 1))
    assert not triton_kernel.available(torch.device("cpu"))


GRID = {"LEVELS": 16, "MAX_ENTRIES": 2**18, "HEIGHT": 64, "WIDTH": 64, "CHANNELS": 4}
AXIS = {"SIZE": 64, "CHANNELS": 4, "BLOCK": triton_kernel.BLOCK}
#: For each program what is fixed when it is compiled, and its reads and writes of an entry of 4 channels.
PROGRAMS: list[tuple[str, dict[str, int], int, int]] = [
    ("interpolate", GRID | {"SAMPLES": 16, "PIXELS": 8}, 8, 1),
    ("key_gradient", GRID | {"SAMPLES": 1, "PIXELS": 128, "batch": 1}, 9, 0),
    ("spread_keys", {"AREA": 4096, "LEVELS": 16, "CHANNELS": 4, "BLOCK": triton_kernel.BLOCK, "batch": 1}, 2, 2),
    ("spread_keys", {"AREA": 4096, "LEVELS": 16, "CHANNELS": 4, "BLOCK": triton_kernel.BLOCK}, 10, 2),
    ("spread_axis", AXIS | {"OUTER": 64, "INNER_AXES": 1, "MAX_ENTRIES": triton_kernel.NO_WRAP}, 2, 2),
    ("spread_axis", AXIS | {"OUTER": 1, "INNER_AXES": 2, "MAX_ENTRIES": 2**18}, 2, 2),
]


@pytest.mark.parametrize(("name", "fixed", "reads", "writes"), PROGRAMS)
def test_it_compiles_for_a_card(name: str, fixed: dict[str, int], reads: int, writes: int, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code of sm_90, in which an entry is one access of 16 bytes and nothing spills out of the registers."""
    triton = pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    if not (Path(triton.__file__).parent / "backends/nvidia/bin/ptxas").exists():
        pytest.skip("this build of Triton has no ptxas")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the whole run is interpreted")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    program = getattr(triton_kernel.programs, name)
    types = {"batch": "i32", "group_entries": "i32", "resolutions": "*i32", "starts": "*i64", "source_starts": "*i64",
             "target_starts": "*i64"}
    signature = {word: "constexpr" if word in fixed else types.get(word, "*fp32") for word in program.arg_names}
    aligned = {(place,): [["tt.divisibility", 16]] for place, word in enumerate(program.arg_names)
               if signature[word].startswith("*")}  # as torch's memory is
    made = triton.compile(ASTSource(program, signature, fixed, aligned), target=GPUTarget("cuda", 90, 32),
                          options=triton_kernel.OPTIONS)
    assert made.asm["cubin"]
    accesses = Counter(word.split(".")[0] for word in made.asm["ptx"].split() if word.endswith(".global.v4.b32"))
    assert accesses == +Counter(ld=reads, st=writes)
    assert ".local" not in made.asm["ptx"]
