"""Networks with random weights, as the files that the extractors expect."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """`tests/benchmarks/random_networks.py`."""
    path = Path(__file__).parents[1] / "benchmarks" / "random_networks.py"
    spec = importlib.util.spec_from_file_location("random_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def weights_folder(networks: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both Inceptions and a small CLIP, under their own names."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(networks.inception_state(), folder / "weights-inception-2015-12-05-6726825d.pth")
    networks.save_clean_inception(folder / "inception-2015-12-05.pt")
    networks.save_clip(folder / "ViT-B-32.pt", networks.clip_state())
    return folder


@pytest.fixture(scope="session")
def photos() -> tuple[Tensor, Tensor]:
    """Two sets (12,3,40,56) uint8 of smooth pictures; the second has more contrast."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(24, 3, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(40, 56), mode="bicubic")
    contrast = torch.tensor([30.0] * 12 + [55.0] * 12).view(-1, 1, 1, 1)
    images = (128 + contrast * smooth).round().clamp(0, 255).byte()
    return images[:12], images[12:]
