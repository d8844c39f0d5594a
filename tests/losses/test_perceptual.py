"""The perceptual loss: the right layers of the right network, frozen, and differentiable in its first argument."""

from importlib.resources import files
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1, vgg16
from torchvision.models.feature_extraction import create_feature_extractor

from bricscli.errors import DataError
from bricscli.losses import perceptual
from bricscli.losses.perceptual import SCALES, TAPS, LpipsLoss, PerceptualLoss, load_perceptual_loss

Name = Literal["vgg16", "squeezenet1_1"]
NETWORKS = sorted(TAPS)


@pytest.fixture(scope="module")
def references() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    with torch.device("meta"):
        vgg = vgg16(weights=None)  # its classifier is never needed, nor its memory
    vgg.features = vgg.features.to_empty(device="cpu")
    for parameter in vgg.features.parameters():
        nn.init.normal_(parameter, std=0.05)
    return {"vgg16": vgg.eval(), "squeezenet1_1": squeezenet1_1(weights=None).eval()}


def images(seed: int, size: int = 40) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def independent_loss(network: nn.Module, name: str, fake: Tensor, real: Tensor) -> Tensor:
    """With torchvision's own normalisation and feature extractor."""
    from torchvision.transforms.functional import normalize

    extract = create_feature_extractor(network, [f"features.{i}" for i in TAPS[name]])
    a, b = (extract(normalize((x + 1) / 2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])) for x in (fake, real))
    return sum(((a[k] - b[k]) ** 2).mean() / s for k, s in zip(a, SCALES[name], strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_torchvisions_extractor(name: Name, references: dict[str, nn.Module]) -> None:
    loss = PerceptualLoss(name, references[name].state_dict())
    expected = independent_loss(references[name], name, images(1), images(2))
    torch.testing.assert_close(loss(images(1), images(2)), expected)
    assert expected > 0


def test_vgg_layers_are_johnsons() -> None:
    """relu1_2, relu2_2, relu3_3, relu4_3: ReLUs just before the first three poolings, and the third of block four."""
    layers = vgg_layers()
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    assert TAPS["vgg16"] == tuple(pool - 1 for pool in pools[:4])
    assert all(isinstance(layers[i], nn.ReLU) for i in TAPS["vgg16"])


def vgg_layers() -> nn.Sequential:
    with torch.device("meta"):
        return vgg16(weights=None).features


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_the_first_argument_only(name: Name) -> None:
    torch.manual_seed(0)
    loss = PerceptualLoss(name, None)
    fake, real = images(1).requires_grad_(), images(2).requires_grad_()
    loss(fake, real).backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    assert real.grad is None
    assert not any(p.requires_grad for p in loss.parameters())


def test_gradient_is_that_of_the_value() -> None:
    torch.manual_seed(0)
    loss = PerceptualLoss("squeezenet1_1", None).double()
    fake, real = images(1).double().requires_grad_(), images(2).double()
    loss(fake, real).backward()
    direction = images(3).double()
    step = 1e-6
    numeric = (loss(fake + step * direction, real) - loss(fake - step * direction, real)) / (2 * step)
    assert fake.grad is not None
    torch.testing.assert_close((fake.grad * direction).sum(), numeric.detach(), rtol=1e-5, atol=0)


def test_equal_images_have_no_loss_and_batches_are_averaged() -> None:
    torch.manual_seed(0)
    loss = PerceptualLoss("squeezenet1_1", None)
    a, b = images(1), images(2)
    assert loss(a, a) == 0
    torch.testing.assert_close(loss(a, b), (loss(a[:1], b[:1]) + loss(a[1:], b[1:])) / 2)


def test_loading_leaves_the_random_numbers_alone(references: dict[str, nn.Module]) -> None:
    state = references["squeezenet1_1"].state_dict()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    PerceptualLoss("squeezenet1_1", state)
    assert torch.equal(torch.rand(4), expected)


def test_a_state_of_another_network_is_refused(references: dict[str, nn.Module]) -> None:
    with pytest.raises(DataError, match=r"weights of vgg16: features\.2\.weight"):
        PerceptualLoss("vgg16", references["squeezenet1_1"].state_dict())


def test_stays_frozen_inside_a_training_model(references: dict[str, nn.Module]) -> None:
    loss = PerceptualLoss("squeezenet1_1", references["squeezenet1_1"].state_dict())
    assert sum(v.numel() for v in loss.state_dict().values()) == sum(p.numel() for p in loss.parameters())
    before = loss(images(1), images(2))
    loss.train()
    assert torch.equal(loss(images(1), images(2)), before)


@pytest.fixture(scope="module")
def lpips_vgg(references: dict[str, nn.Module]) -> LpipsLoss:
    return LpipsLoss(references["vgg16"].state_dict())


def independent_lpips(network: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """Zhang et al., Eq. 1: squared distances of features of unit length, weighted, averaged over positions."""
    from torchvision.transforms.functional import normalize

    nodes = [f"features.{i}" for i in (3, 8, 15, 22, 29)]
    heads = torch.load(str(files("lpips") / "weights/v0.1/vgg.pth"), map_location="cpu", weights_only=True)
    extract = create_feature_extractor(network, nodes)
    a, b = (extract(normalize((x + 1) / 2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])) for x in (fake, real))
    layers = []
    for i, node in enumerate(nodes):
        difference = nn.functional.normalize(a[node], dim=1) - nn.functional.normalize(b[node], dim=1)
        layers.append((difference.square() * heads[f"lin{i}.model.1.weight"]).sum(1).mean())
    return torch.stack(layers).sum()


def test_lpips_loss_is_its_definition(lpips_vgg: LpipsLoss, references: dict[str, nn.Module]) -> None:
    expected = independent_lpips(references["vgg16"], images(1), images(2))
    assert expected > 0
    # lpips rounds the mean and deviation of pixels to three digits
    torch.testing.assert_close(lpips_vgg(images(1), images(2)), expected, rtol=1e-2, atol=0)


def test_lpips_gradients_reach_the_first_argument_only(lpips_vgg: LpipsLoss) -> None:
    fake, real = images(1, 16).requires_grad_(), images(2, 16).requires_grad_()
    loss = lpips_vgg(fake, real)
    assert loss.shape == ()
    loss.backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0 and fake.grad.isfinite().all()
    assert real.grad is None
    assert not any(p.requires_grad for p in lpips_vgg.parameters())


def test_lpips_has_no_dropout_inside_a_training_model(lpips_vgg: LpipsLoss) -> None:
    before = lpips_vgg(images(1), images(2))
    nn.ModuleList([lpips_vgg]).train()
    assert torch.equal(lpips_vgg(images(1), images(2)), before)


def test_lpips_of_dead_features_has_a_gradient(references: dict[str, nn.Module]) -> None:
    """Where every channel is 0, a unit vector is 0 / 0."""
    state = {k: v.clone() for k, v in references["vgg16"].state_dict().items() if k.startswith("features.")}
    state["features.2.bias"] -= 1e6
    fake = images(1, 16).requires_grad_()
    loss = LpipsLoss(state)(fake, images(2, 16))
    loss.backward()
    assert loss.isfinite() and fake.grad is not None and fake.grad.isfinite().all()


def test_each_loss_is_loaded_with_its_network(
    monkeypatch: pytest.MonkeyPatch, references: dict[str, nn.Module]
) -> None:
    asked: list[str] = []

    def load_state(name: str) -> dict[str, Tensor]:
        asked.append(name)
        return references[name].state_dict()

    monkeypatch.setattr(perceptual.weights, "load_state", load_state)
    assert isinstance(load_perceptual_loss("lpips_vgg"), LpipsLoss)
    squeeze = load_perceptual_loss("squeezenet1_1")
    assert isinstance(squeeze, PerceptualLoss) and squeeze.network == "squeezenet1_1"
    assert asked == ["vgg16", "squeezenet1_1"]
