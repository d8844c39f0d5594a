"""Is the Triton retrieval right on a card? Forward and both gradients against the paper's 8 corners in float64.

    python tests/benchmarks/retrieval_on_card.py --json tests/benchmarks/results/retrieval_on_card.json

For every number of groups and batch size: fresh random table, keys and weights of the result. A relative error is
max |found - exact| / max |exact|, of the worst level; two runs must agree to the bit. Levels as in Table 3: 16..64 for
4 groups, else 4..64; r = 64 has 65^3 > 2^18 nodes, so the last level wraps around. Exits with 1 where a row fails.

Without a card, in a minute: TRITON_INTERPRET=1, --device cpu --size 8 --groups 2 --batches 1 2 --levels 3 --r-max 8
--max-entries 256.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from bricscli.files import write_json
from bricscli.nn.retrieval import reference, triton_kernel
from bricscli.nn.retrieval.levels import Level, level_resolutions
from bricscli.run.provenance import describe_process

NAMES = ("forward", "table_gradient", "key_gradient")
TOLERANCE = 1e-5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--size", type=int, default=64, help="H_d = W_d")
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--r-max", type=int, default=64)
    parser.add_argument("--max-entries", type=int, default=2**18)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def random_keys(*shape: int, device: torch.device) -> Tensor:
    """Odd multiples of 2^-17 in (0, 1): exact in float32 when scaled by r <= 64, and never on a node, where the
    gradient jumps and either side is right."""
    return (2 * torch.randint(2**16, shape, device=device) + 1) / 2**17


def exact(table: Tensor, keys: Tensor, weight: Tensor, levels: list[Level]) -> tuple[Tensor, Tensor, Tensor]:
    """Result and gradients in float64, a group at a time: the corners of all at once would fill the memory."""
    parts = []
    for group in zip(table.double(), keys.double(), weight.double(), strict=True):
        leaves = [tensor[None].requires_grad_() for tensor in group[:2]]
        result = reference.retrieve(leaves[0], leaves[1][None], levels)
        parts.append((result.detach(), *torch.autograd.grad((result * group[2]).sum(), leaves)))
    result, table_gradient, key_gradient = (torch.cat(part) for part in zip(*parts, strict=True))
    return result, table_gradient, key_gradient


def found(table: Tensor, keys: Tensor, weight: Tensor, levels: list[Level]) -> tuple[Tensor, Tensor, Tensor]:
    """The same from the kernel."""
    table, keys = table.clone().requires_grad_(), keys.clone().requires_grad_()
    result = triton_kernel.retrieve(table, keys, [level.resolution for level in levels],
                                    [level.entries for level in levels], levels[0].max_entries)
    table_gradient, key_gradient = torch.autograd.grad((result * weight).sum(), (table, keys))
    return result.detach(), table_gradient, key_gradient


def relative_error(one: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Of the worst part; NaN counts as 1e30, which JSON can hold and which no tolerance lets pass."""
    errors = [(a - b).abs().max() / b.abs().max() for a, b in zip(one, exact, strict=True)]
    return float(torch.stack(errors).nan_to_num(nan=1e30, posinf=1e30).max())


def check(groups: int, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of figures."""
    r_min = min(16 if groups == 4 else 4, arguments.r_max)
    resolutions = level_resolutions(r_min, arguments.r_max, arguments.levels)
    levels = [Level(r, 3, arguments.max_entries, "modulo") for r in resolutions]
    size, device = arguments.size, arguments.device
    table = torch.randn(groups, sum(level.entries for level in levels), 4, device=device)
    keys = random_keys(groups, batch, size, size, device=device)
    weight = torch.randn(groups, batch * size * size, 4 * len(levels), device=device)
    once, twice = found(table, keys, weight, levels), found(table, keys, weight, levels)

    def by_level(result: Tensor, table_gradient: Tensor, key_gradient: Tensor) -> list[Sequence[Tensor]]:
        entries = [level.entries for level in levels]
        return [result.split(4, dim=-1), table_gradient.split(entries, dim=1), [key_gradient]]

    errors = {name: relative_error(one, right) for name, one, right
              in zip(NAMES, by_level(*once), by_level(*exact(table, keys, weight, levels)), strict=True)}
    same = all(torch.equal(one, other) for one, other in zip(once, twice, strict=True))
    return {"groups": groups, "batch": batch, "size": size, "r": resolutions, "max_entries": arguments.max_entries,
            "levels_that_wrap": sum(not level.dense for level in levels), "relative_errors": errors,
            "same_bits": same, "passed": same and max(errors.values()) < TOLERANCE}


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every row, printed as it comes."""
    print("groups batch wraps  " + "  ".join(f"{name:>14}" for name in NAMES) + "  same bits")
    for groups in arguments.groups:
        for batch in arguments.batches:
            row = check(groups, batch, arguments)
            figures = "  ".join(f"{row['relative_errors'][name]:14.2e}" for name in NAMES)
            print(f"{groups:6} {batch:5} {row['levels_that_wrap']:5}  {figures}  {row['same_bits']!s:>9}  "
                  f"{'PASS' if row['passed'] else 'FAIL'}", flush=True)
            yield row


def main() -> None:
    arguments = parse_arguments()
    present = arguments.device.type != "cuda" or torch.cuda.is_available()
    if not (present and triton_kernel.available(arguments.device)):
        sys.exit(f"No Triton on {arguments.device}: take a card, or set TRITON_INTERPRET=1 and pass --device cpu.")
    seed = torch.seed()
    done = list(rows(arguments))
    card = torch.cuda.get_device_name(arguments.device) if arguments.device.type == "cuda" else "Triton's interpreter"
    versions = describe_process() | {"triton": triton.__version__, "cuda": torch.version.cuda}
    del versions["argv"]
    record = {"what": "Triton retrieval against 8 corners in float64, maximum relative errors", "card": card,
              "versions": versions, "command": "python " + shlex.join(sys.argv), "seed": seed,
              "date": datetime.now(UTC).isoformat(timespec="seconds"), "tolerance": TOLERANCE,
              "passed": all(row["passed"] for row in done), "rows": done}
    if arguments.json:
        write_json(arguments.json, record)
    sys.exit(0 if record["passed"] else 1)


if __name__ == "__main__":
    main()
