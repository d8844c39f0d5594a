"""A model of which every process has a part: torch's FSDP2 (`fully_shard`).

Parameters become DTensors, whose rows are divided among the processes; a module's are brought together when it is
computed. What is saved is whole, so that any number of processes can go on with it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bricscli.parallel.world import World

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(model: nn.Module, parts: Iterable[nn.Module], world: World) -> None:
    """Divides `model` in place: each of `parts`, which are brought together one at a time, and what is left over.

    What does not lie on the process's device yet goes there piece by piece.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for part in (*parts, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)  # also what no backward pass comes after


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # without importing what few need


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every process, each of which has to ask."""
    if not is_sharded(tensor):
        return tensor
    divided: DTensor = tensor  # type: ignore[assignment]
    return divided.full_tensor()


@torch.no_grad()
def for_saving(tensor: Tensor) -> Tensor:
    """All of a divided tensor, in the memory of the first process's machine; the others, who ask too, get none of it.

    So no device, and no other process, ever has more than one whole tensor of a model that was too large for it.
    """
    if not is_sharded(tensor):
        return tensor
    found = whole(tensor)
    return found.cpu() if dist.get_rank() == 0 else found.new_empty(0)


@torch.no_grad()
def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, divided where `like` is. Raises RuntimeError where the shapes differ."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    divided: DTensor = like  # type: ignore[assignment]
    if tensor.shape != divided.shape:
        raise RuntimeError(f"{tuple(tensor.shape)} is not {tuple(divided.shape)}")
    return distribute_tensor(tensor.to(divided.device), divided.device_mesh, divided.placements)
