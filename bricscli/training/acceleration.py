"""How fast a denoiser trains, and in how much memory: nothing here changes what is learned, but for rounding."""

from dataclasses import dataclass

import torch

from bricscli.errors import BricsError
from bricscli.nn.unet import Stage, UNet


@dataclass(frozen=True)
class Acceleration:
    """`compile`: torch.compile; `channels_last`: the layout in memory; `gradient_checkpointing`: compute what lies
    inside the UNet's stages again in the backward pass instead of keeping it."""

    compile: bool = False
    channels_last: bool = False
    gradient_checkpointing: bool = False

    def apply(self, model: UNet, batch: torch.Tensor, precision: str) -> None:
        """Makes `model` faster in place, under its old names; `batch` is an x_t of the shape that it will be shown.

        Raises BricsError where the model cannot be compiled; that takes one forward and backward pass.
        """
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        for stage in model.modules():
            if isinstance(stage, Stage):
                stage.recompute = self.gradient_checkpointing
        if self.compile:
            model.compile()  # of this module only: copies of it, and its state, know nothing of it
            try:
                with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
                    label = torch.zeros(len(batch), dtype=torch.int64, device=batch.device) if model.classes else None
                    model(batch, batch.new_zeros(len(batch)), label).sum().backward()
            except Exception as error:  # of many kinds: no compiler, no Triton, a graph that cannot be lowered
                reason = (str(error).strip() or "no reason given").splitlines()[0]
                raise BricsError(f"--compile: torch could not compile the denoiser ({type(error).__name__}: {reason}). "
                                 "On a CPU it needs a C++ compiler, such as g++; or leave --compile out.") from error
            model.zero_grad()


#: Nothing of it.
PLAIN = Acceleration()
