"""Perceptual loss: squared distance of a frozen network's features (Johnson et al., arXiv:1603.08155v1, section 3.2).

BRICS (arXiv:2305.18601v3, App. A.3) weighs it by 5 and names neither layers nor network; the four layers of VGG16 are
Johnson's. SqueezeNet 1.1 is the small stand-in. VQGAN and latent-diffusion train with LPIPS instead.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from bricscli import weights
from bricscli.errors import DataError
from bricscli.nn.lpips import LPIPS_WEIGHTS, LpipsDistance

#: torchvision's normalisation of RGB in [0, 1] for networks trained on ImageNet.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Index into torchvision's `features` after which a feature map is taken.
TAPS: dict[str, tuple[int, ...]] = {
    "vgg16": (3, 8, 15, 22),  # relu1_2, relu2_2, relu3_3, relu4_3
    "squeezenet1_1": (1, 4, 7, 12),  # conv1's ReLU, fire3, fire5, fire9
}

#: Each layer's squared error is divided by this. VGG16: by nothing, as Johnson has it. SqueezeNet has no normalisation
#: inside and its features grow with depth, so the last layer would be all of the loss; divided by the mean square of
#: the features of photographs (measured at 64x64, 0.59-0.63, 15-18, 301-385, 170-616) every layer counts alike.
SCALES: dict[str, tuple[float, ...]] = {
    "vgg16": (1.0, 1.0, 1.0, 1.0),
    "squeezenet1_1": (0.6, 16.0, 340.0, 340.0),
}


class PerceptualLoss(nn.Module):
    """Sum over four layers of the mean squared difference of features, |phi(fake) - phi(real)|^2 / (C H W scale).

    `state`: torchvision's state dict of the network (`weights.load_state`); None leaves it random, for tests.
    Raises DataError where the state does not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: Literal["vgg16", "squeezenet1_1"], state: Mapping[str, Tensor] | None
    ) -> None:
        super().__init__()
        self.network = network
        taps = TAPS[network]
        # With a state, nothing is allocated or drawn twice, and the process's random numbers stay untouched.
        with torch.device("meta" if state is not None else "cpu"):
            layers = _features(network)[: taps[-1] + 1]
        if state is not None:
            _load(layers, state, network)
        edges = (-1, *taps)
        self.stages = nn.ModuleList(layers[a + 1 : b + 1] for a, b in zip(edges, taps, strict=False))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def features(self, image: Tensor) -> list[Tensor]:
        """(B,3,H,W) in [-1,1] -> four feature maps, fine to coarse."""
        x = ((image + 1) / 2 - self.mean) / self.std
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Scalar, the mean over the batch. Gradients flow to `fake` only."""
        with torch.no_grad():
            targets = self.features(real)
        layers = zip(self.features(fake), targets, SCALES[self.network], strict=True)
        return torch.stack([nn.functional.mse_loss(f, t) / scale for f, t, scale in layers]).sum()


class LpipsLoss(nn.Module):
    """LPIPS with VGG16, the perceptual loss of VQGAN (arXiv:2012.09841). `state` as in `PerceptualLoss`."""

    def __init__(self, state: Mapping[str, Tensor] | None) -> None:
        super().__init__()
        self.distance = LpipsDistance("vgg", state)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """(B,3,H,W) in [-1,1], sides of at least 16 pixels -> scalar, the mean over the batch.

        Gradients flow to `fake` only.
        """
        return self.distance(fake, real.detach()).mean()


def load_perceptual_loss(network: Literal["vgg16", "squeezenet1_1", "lpips_vgg"]) -> PerceptualLoss | LpipsLoss:
    """The loss with its pretrained network. Raises MissingWeights, DataError."""
    if network == "lpips_vgg":
        return LpipsLoss(weights.load_state(LPIPS_WEIGHTS["vgg"]))
    return PerceptualLoss(network, weights.load_state(network))


def _features(network: str) -> nn.Sequential:
    if network == "vgg16":
        from torchvision.models.vgg import cfgs, make_layers

        return make_layers(cfgs["D"], batch_norm=False)  # without the classifier, 90 % of VGG16
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(weights=None).features


def _load(layers: nn.Sequential, state: Mapping[str, Tensor], network: str) -> None:
    own = layers.state_dict()
    wrong = [k for k, v in own.items() if f"features.{k}" not in state or state[f"features.{k}"].shape != v.shape]
    if wrong:
        raise DataError(
            f"weights of {network}: features.{wrong[0]} is missing or of another shape"
            f" ({len(wrong)} of {len(own)} tensors do not fit). Use torchvision's file."
        )
    layers.load_state_dict({k: state[f"features.{k}"].float() for k in own}, assign=True)
