"""The model in one sentence: image -> encoder -> bottleneck -> retrieval -> decoder -> image (BRICS, Fig. 3).

BRICS, VQGAN, RQ-VAE and latent-diffusion's first stage are four ways to fill these four places.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bricscli.nn.bottleneck import Bottleneck, Coded, relax_precision
from bricscli.nn.decoders.conditional import Kept
from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.decoders.style import StyleDecoder
from bricscli.nn.encoder import Encoder
from bricscli.nn.noise import Noise
from bricscli.nn.retrieval.feature_grid import FeatureGrid, NoRetrieval

Retrieval = FeatureGrid | NoRetrieval
Decoder = StyleDecoder | ConvDecoder  # MoVQ's is a ConvDecoder


@dataclass(frozen=True)
class Reconstruction:
    """What a training step needs: the fake image `(B, 3, H, W)`, and the code with its loss."""

    image: Tensor
    coded: Coded


class Autoencoder(nn.Module):
    """Four places, filled by `build.build_autoencoder`."""

    def __init__(self, encoder: Encoder, bottleneck: Bottleneck, retrieval: Retrieval, decoder: Decoder, *,
                 relaxed: bool) -> None:
        """`relaxed`, for feature grids only: add the noise of relaxed precision in training."""
        super().__init__()
        self.encoder, self.bottleneck, self.retrieval, self.decoder = encoder, bottleneck, retrieval, decoder
        self.relaxed = relaxed

    def encode(self, image: Tensor) -> Tensor:
        """`(B, 3, H, W)` in [-1, 1] -> code `(B, C_z, H_z, W_z)`: key codes are in [0, 1], others unbounded."""
        return self.bottleneck(self.encoder(image))

    def latent(self, image: Tensor) -> Tensor:
        """Image -> what diffusion learns to draw: the code, before a codebook makes one of it."""
        return self.bottleneck.latent(self.encoder(image))

    def decode_latent(self, latent: Tensor, kept: Kept | None = None) -> Tensor:
        """Latent -> image."""
        return self.decode(self.bottleneck.snap(latent), kept)

    def decode(self, code: Tensor, kept: Kept | None = None) -> Tensor:
        """Code -> image `(B, 3, H, W)`, about [-1, 1]; `kept`, for a conditional decoder: what of it is known."""
        return self.decoder(self.retrieval(self.retrieval.tile(code)), kept)

    def iter_features(self, latent: Tensor) -> Iterator[Tensor]:
        """What the decoder computes between a latent and its image, from the latent on: `(B, C, H, W)` each.

        A block is only computed when it is asked for. Gradients flow to the latent: in feature grids to each key that
        lies in [0, 1], since one beyond is read at the end of its range; past a codebook straight through.
        """
        code = self.bottleneck.snap(latent.detach()) + (latent - latent.detach())
        return self.decoder.iter_features(self.retrieval(self.retrieval.tile(code)))

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))

    def freeze_code(self) -> None:
        """Of all parts only the decoder learns from now on; a codebook that moves by itself stands still."""
        for part in (self.encoder, self.bottleneck, self.retrieval):
            part.requires_grad_(False).eval()

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights of another autoencoder, as its `state_dict` names them, where they fit.

        Encoder, bottleneck and retrieval must be the same, or RuntimeError; a decoder may be wider or deeper.
        """
        own = self.state_dict()
        fitting = {name: tensor for name, tensor in weights.items()
                   if not name.startswith("decoder.") or (name in own and own[name].shape == tensor.shape)}
        decoder = {name: tensor for name, tensor in own.items() if name.startswith("decoder.")}
        self.load_state_dict(decoder | fitting)
        if isinstance(self.decoder, StyleDecoder):
            prefix = "decoder."
            self.decoder.widen({name.removeprefix(prefix): tensor for name, tensor in weights.items()
                                if name.startswith(prefix) and name not in fitting})

    def reconstruct(self, image: Tensor, noise: Noise, kept: Kept | None = None) -> Reconstruction:
        """As training sees it: with the bottleneck's noise and loss, and eps_0 of relaxed precision."""
        coded = self.bottleneck.draw(self.encoder(image), noise)
        tiled = self.retrieval.tile(coded.code)
        if self.relaxed:
            assert isinstance(self.retrieval, FeatureGrid)
            tiled = relax_precision(tiled, self.retrieval.r_max, noise.normal(tiled))
        return Reconstruction(self.decoder(self.retrieval(tiled), kept), coded)
