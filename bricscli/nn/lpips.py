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


#: Layout in memory in which a CPU is faster (at 64x64: squeeze 1.6 times, vgg 1.1 times; alex is slower).
_CHANNELS_LAST = frozenset({"squeeze", "vgg"})
#: What lpips adds to a feature's length before it divides by it (`normalize_tensor`).
_LENGTH_EPS = 1e-10


class LpipsEmbedding(LpipsDistance):
    """Images `(B, 3, H, W)` in [-1, 1] -> vectors `(B, D)` whose squared Euclidean distance is their LPIPS.

    LPIPS is a sum over layers l and channels c, and a mean over the H_l W_l positions, of w_lc (u_lc(a) - u_lc(b))^2,
    where u are features divided by their length. So sqrt(w_lc / (H_l W_l)) u_lc, of all layers, is such a vector.
    It asks for weights that are not negative: those of lpips 0.1.4 are not. Raises DataError for others.
    """

    def __init__(self, net: Literal["alex", "vgg", "squeeze"], state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(net, state)
        for number, layer in enumerate(self._lpips.lins):
            lowest = float(layer.model[-1].weight.min())
            if not lowest >= 0:
                raise DataError(f"lpips ({net}): a linear weight of layer {number} is {lowest:.3g}; a distance needs "
                                "weights of at least 0. Install lpips 0.1.4 again.")
        self.layout = torch.channels_last if net in _CHANNELS_LAST else torch.contiguous_format
        self._lpips.net.to(memory_format=self.layout)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        features = self._lpips.net(self._lpips.scaling_layer(images.contiguous(memory_format=self.layout)))
        parts = []
        for feature, layer in zip(features, self._lpips.lins, strict=True):
            weight = layer.model[-1].weight.view(1, -1, 1, 1)
            length = feature.square().sum(1, keepdim=True).sqrt() + _LENGTH_EPS
            scale = (weight / feature[0, 0].numel()).sqrt()
            parts.append((feature * (scale / length)).permute(0, 2, 3, 1).flatten(1))  # D in the order of the memory
        return torch.cat(parts, 1)
