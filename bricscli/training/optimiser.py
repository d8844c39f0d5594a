"""Learning rates, and Adam's state as named tensors (so that a checkpoint holds no pickled objects)."""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bricscli.parallel.sharding import for_saving, laid_out


def learning_rate_at(images_seen: int, *, peak: float, warmup: int, decay: int) -> float:
    """Linear warm-up over `warmup` images, then cosine decay to 0 at `decay` images (0: constant)."""
    rate = peak * min(1.0, (images_seen + 1) / warmup) if warmup else peak
    if decay:
        progress = min(1.0, max(0.0, (images_seen - warmup) / max(1, decay - warmup)))
        rate *= 0.5 * (1 + math.cos(math.pi * progress))
    return rate


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """The same rate for all parameters but those of groups with a `scale`, a share of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def optimiser_tensors(optimiser: Optimizer, module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Adam's moments and step counts as `prefix.parameter.moment`."""
    return {f"{prefix}.{name}.{key}": for_saving(value)
            for name, parameter in module.named_parameters() if parameter in optimiser.state
            for key, value in optimiser.state[parameter].items()}


@torch.no_grad()
def load_optimiser_tensors(optimiser: Optimizer, module: nn.Module, prefix: str, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimiser_tensors`, laid out as the parameters; those that had no state get none."""
    for name, parameter in module.named_parameters():
        optimiser.state.pop(parameter, None)
        keys = {key: f"{prefix}.{name}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
        if keys["step"] in tensors:
            optimiser.state[parameter] = {
                key: tensors[full].clone() if key == "step" else torch.empty_like(parameter).copy_(
                    laid_out(tensors[full], parameter))
                for key, full in keys.items()}
