"""LPIPS v0.1 (arXiv:1801.03924v2) of the `lpips` package: a metric, and VQGAN's perceptual loss.

Its linear weights ship in the package; the backbone is torchvision's and is put in here, so that nothing is downloaded.
"""

import warnings
from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor, nn

from bricscli.errors import DataError

#: lpips' name of a network -> ours in `weights.WEIGHTS`.
LPIPS_WEIGHTS: dict[str, str] = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


class LpipsDistance(nn.Module):
    """Two batches `(B, 3, H, W)` in [-1, 1] -> distances `(B,)`, differentiable in both; frozen, always in eval mode.

    `state`: torchvision's state dict of the backbone (`weights.load_state(LPIPS_WEIGHTS[net])`); None leaves it random,
    for tests. Sides of at least 31 pixels for AlexNet, 16 for VGG, 17 for SqueezeNet. Raises DataError where the state
    does not fit.
    """

    def __init__(self, net: Literal["alex", "vgg", "squeeze"], state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        with warnings.catch_warnings(), torch.random.fork_rng([]):  # a random backbone is drawn, then replaced
            warnings.simplefilter("ignore")  # lpips speaks to torchvision in words that are deprecated
            import lpips

            self._lpips = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        if state is not None:
            self._load_backbone(state, net)
        self.requires_grad_(False)
        self.eval()

    def _load_backbone(self, state: Mapping[str, Tensor], net: str) -> None:
        """lpips cuts torchvision's `features.7.weight` up into `slice3.7.weight`: the index stays."""
        own = self._lpips.net.state_dict()
        backbone = {}
        for key, value in own.items():
            source = "features." + key.split(".", 1)[1]
            if source not in state or state[source].shape != value.shape:
                raise DataError(f"weights of {LPIPS_WEIGHTS[net]}: {source} does not fit. Use torchvision's file.")
            backbone[key] = state[source]
        self._lpips.net.load_state_dict(backbone)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: lpips has dropout before its linear layers."""
        return super().train(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self._lpips(a, b).flatten()
