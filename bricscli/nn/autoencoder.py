"""The model in one sentence: image -> encoder -> bottleneck -> retrieval -> decoder -> image (BRICS, Fig. 3)."""

import torch
from torch import Tensor, nn

from bricscli.nn.bottleneck import KeyCode, relax_precision
from bricscli.nn.decoder import StyleDecoder
from bricscli.nn.encoder import Encoder
from bricscli.nn.feature_grid import FeatureGrid, tile


class Autoencoder(nn.Module):
    """Four places, filled by `build.build_autoencoder`."""

    def __init__(self, encoder: Encoder, bottleneck: KeyCode, retrieval: FeatureGrid, decoder: StyleDecoder, *,
                 relaxed: bool) -> None:
        super().__init__()
        self.encoder, self.bottleneck, self.retrieval, self.decoder = encoder, bottleneck, retrieval, decoder
        self.relaxed = relaxed  #: noise of relaxed precision in training

    def encode(self, image: Tensor) -> Tensor:
        """`(B, 3, H, W)` in [-1, 1] -> key code `(B, C_z, H_z, W_z)` in [0, 1]."""
        return self.bottleneck(self.encoder(image))

    def decode(self, key_code: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Key code in [0, 1] -> image `(B, 3, H, W)`, about [-1, 1].

        With a `generator` (training), eps_0 of relaxed precision is drawn from it on the CPU, whatever the device.
        """
        tiled = tile(key_code, self.retrieval.size)
        if generator is not None and self.relaxed:
            noise = torch.randn(tiled.shape, generator=generator).to(tiled)
            tiled = relax_precision(tiled, self.retrieval.r_max, noise)
        return self.decoder(self.retrieval(tiled))

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.decode(self.encode(image), generator)
