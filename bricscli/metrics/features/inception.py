"""The two Inceptions behind what is printed as FID: torch-fidelity's and clean-fid's.

One network (TensorFlow's Inception of 2015-12-05, 2048 features) and two ways to its 299x299 pixels; the distances
differ, most where images are small.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bricscli.errors import DataError
from bricscli.metrics.features import EXTRACTORS
from bricscli.metrics.features.pixels import PASS_WIDTH, check_images, full_precision, iter_resized


class InceptionFeatures:
    """FID, KID and the Inception Score as torch-fidelity 0.4 computes them: its own network, its own resize.

    Outputs `features` (2048, behind the last pooling) and `logits` (1008: the last layer without its bias, which is
    what TensorFlow's graph of the Inception Score computes). `state`: torch-fidelity's file.
    """

    name = "inception"

    def __init__(
        self, state: Mapping[str, Tensor], device: torch.device | str = "cpu", digest: str | None = None
    ) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        copy = io.BytesIO()  # its constructor reads a file, unpickling it, or downloads one: it gets our own bytes
        torch.save(dict(state), copy)
        copy.seek(0)
        try:
            with torch.random.fork_rng([]):  # random weights are drawn, then replaced
                network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], copy)
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
            raise DataError(f"weights of Inception: do not fit ({reason}). Use torch-fidelity's file.") from error
        self.outputs, self.digest = EXTRACTORS[self.name].outputs, digest
        self._device = torch.device(device)
        self._network = network.to(self._device).to(memory_format=torch.channels_last)  # a third faster on a CPU

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with full_precision(self._device):
            passes = [self._network(part.to(self._device)) for part in check_images(images).split(PASS_WIDTH)]
        features, logits = (torch.cat(parts) for parts in zip(*passes, strict=True))
        return {"features": features, "logits": logits}


class CleanInceptionFeatures:
    """The 2048 features of FID as clean-fid computes them (arXiv:2104.11222v3, mode `clean`).

    clean-fid's network wrapper and its PIL bicubic resize to 299x299 in float are used as they are; only the download
    is not: `path` is a checked `inception-2015-12-05.pt` (`weights.find_weights("inception")`).
    """

    name = "inception_clean"

    def __init__(self, path: Path, device: torch.device | str = "cpu", digest: str | None = None) -> None:
        self._device = torch.device(device)
        with warnings.catch_warnings():  # clean-fid silences warnings for the whole process; not for ours
            warnings.simplefilter("ignore")
            from cleanfid.inception_torchscript import InceptionV3W
            from cleanfid.resize import build_resizer

            try:
                network = InceptionV3W(str(path.parent), download=False)
            except RuntimeError as error:
                reason = str(error).strip().split("\n")[0]
                raise DataError(f"{path}: cannot be loaded ({reason}). Download it again.") from error
            self._resize = build_resizer("clean")
        self._network = network.to(self._device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.outputs, self.digest = EXTRACTORS[self.name].outputs, digest

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with full_precision(self._device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clean-fid speaks to Pillow in words that are deprecated
            passes = [self._network(part).float() for part in iter_resized(images, self._resize, self._device)]
        return {"features": torch.cat(passes)}
