"""The processes of one training: who they are, what they tell each other, and how they begin and end.

They are started by `torchrun`, by `srun` with RANK, WORLD_SIZE and LOCAL_RANK, or as copies of this command
(`copies.run_world`), speak gloo on CPUs and NCCL on CUDA, and send each other numbers and JSON, never objects.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bricscli.copies import RENDEZVOUS, CopyFailed
from bricscli.errors import BricsError, RecipeError
from bricscli.runtime import choose_device, one_thread

#: Seconds that a process waits for the others; its variable changes that.
COLLECTIVE_SECONDS, COLLECTIVE_VARIABLE = 600.0, "BRICS_COLLECTIVE_SECONDS"
#: Seconds that a process waits before it complains about another, so that the other's own words are heard first.
_COMPLAIN_AFTER = 1.0
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among those of one training; alone unless told otherwise.

    `exact`: the weights are the same, bit for bit, for every number of processes (on CPUs); `sharded`: no process has
    all of the model. Without an open process group only a world of one works.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    exact: bool = False
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks, and writes files."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def acts(self) -> bool:
        """Whether this process has to be there when the model is used outside of a step: for saving, for a preview."""
        return self.first or self.sharded

    @property
    def words(self) -> list[str]:
        """Options with which a command is such a world again, on one machine."""
        return [*(["--devices", str(self.size)] if self.size > 1 else []),
                *(["--determinism", "exact"] if self.exact else []), *(["--shard"] if self.sharded else [])]

    def rows(self, batch_size: int) -> range:
        """Which rows of every batch are this process's: neighbours, as many as anybody's."""
        count = batch_size // self.size
        return range(self.rank * count, (self.rank + 1) * count)

    def cut(self, tensor: Tensor) -> Tensor:
        """The rows of this process, of a tensor for a whole batch."""
        rows = self.rows(len(tensor))
        return tensor[rows.start:rows.stop]

    def gather(self, tensor: Tensor) -> Tensor:
        """`(...)`, of one shape everywhere -> `(size, ...)`, in the order of the processes."""
        if self.alone:
            return tensor[None]
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set anywhere."""
        if self.alone:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return [bool(flag) for flag in tensor.tolist()]

    def gather_json(self, value: Any) -> list[Any]:
        """What every process gives, in their order."""
        if self.alone:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        sizes = self.gather(torch.tensor(len(data), device=self.device)).tolist()
        texts = self.gather(torch.nn.functional.pad(data, (0, max(sizes) - len(data)))).cpu()
        return [json.loads(bytes(text[:size].tolist())) for text, size in zip(texts, sizes, strict=True)]

    def told(self, value: Any) -> Any:
        """The first process's value, which is JSON; the others' is not looked at."""
        return self.gather_json(value if self.first else None)[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Where a BricsError is raised in the block on any process, all of them end, and the first says what it is.

        The others raise CopyFailed, which has nothing to say. Every process has to pass here.
        """
        if self.alone:
            yield
            return
        error = None
        try:
            yield
        except BricsError as caught:
            error = caught
        reports = self.gather_json(error and {"code": error.exit_code, "lines": error.lines})
        failed = next((rank for rank, report in enumerate(reports) if report), None)
        if failed is None:
            return
        dist.barrier()
        if self.first and error is not None:
            raise error
        lines = [f"process {failed + 1} of {self.size}: {line}" for line in reports[failed]["lines"]]
        raise CopyFailed(reports[failed]["code"], *(lines if self.first else []))

    def describe(self, batch_size: int) -> dict[str, Any]:
        """For `run.json`."""
        exact = {"virtual_ranks": virtual_ranks(batch_size)} if self.exact else {}
        return {"determinism": "exact" if self.exact else "fast", **exact, "processes": self.size,
                "sharded": self.sharded}

    def check(self, batch_size: int, samples: int) -> None:
        """Raises RecipeError where this many processes cannot share out a batch, or a set of so many samples."""
        if self.exact and self.sharded:
            raise RecipeError("--shard: sums gradients in the order of the processes. Leave out --determinism exact.")
        sizes = [size for size in range(1, batch_size + 1) if batch_size % size == 0
                 and (not self.exact or virtual_ranks(batch_size) % size == 0)]
        if self.size not in sizes:
            how = "in exact mode on" if self.exact else "on"
            raise RecipeError(f"training.batch_size: a batch of {batch_size} can be computed {how} "
                              f"{', '.join(map(str, sizes))} process{'es' if len(sizes) > 1 else ''}, not on "
                              f"{self.size}. Start as many as that, or change it.")
        if self.size > 1 and samples < batch_size:
            raise RecipeError(f"training.batch_size: {self.size} processes need a batch of different samples, "
                              f"{batch_size}, and there are {samples} to train on. Prepare more, or lower it.")


#: The only process of a training.
ALONE = World()


def virtual_ranks(batch_size: int) -> int:
    """Into how many shares exact mode cuts a batch: the largest power of two that divides it, at most 8."""
    return batch_size & -batch_size if batch_size % 8 else 8


def in_world() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join_world(device: str, *, exact: bool = False, sharded: bool = False) -> Iterator[World]:
    """Meets the other processes that the environment speaks of, if it does, for as long as the block lasts.

    All but the first are silent inside; exact mode computes on one thread of a CPU. Raises RecipeError where there is
    no such device, BricsError where another process is gone or does not answer.
    """
    size, rank, local = (int(os.environ.get(name, other)) for name, other in
                         (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")))
    chosen = choose_device(device)
    if chosen.type == "cuda" and size > 1:
        if chosen.index is not None:
            raise RecipeError(f"--device: `{device}` is one device for {size} processes. Write cuda, and choose with "
                              "CUDA_VISIBLE_DEVICES.")
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    world = World(rank, size, chosen, exact, sharded)
    with ExitStack() as stack:
        if exact and chosen.type == "cpu":
            stack.enter_context(one_thread())
        if not world.first:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        if not world.alone:
            stack.enter_context(_process_group(world))
        yield world


@contextmanager
def _process_group(world: World) -> Iterator[None]:
    meeting = os.environ.get(RENDEZVOUS)
    where: dict[str, Any] = {"store": dist.FileStore(meeting, world.size)} if meeting else {"init_method": "env://"}
    seconds = float(os.environ.get(COLLECTIVE_VARIABLE, COLLECTIVE_SECONDS))
    try:
        dist.init_process_group("nccl" if world.device.type == "cuda" else "gloo", rank=world.rank,
                                world_size=world.size, timeout=timedelta(seconds=seconds), **where)
        yield
        dist.barrier()  # or one could hang up while another still listens
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        time.sleep(_COMPLAIN_AFTER)
        raise BricsError(f"process {world.rank + 1} of {world.size}: another one is gone, or does not answer. What was "
                         "saved is kept: run the same command again.") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
