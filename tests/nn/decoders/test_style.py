"""The style decoder: modulation against weights made per image, and the sizes that Table 3 prints."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bricscli.nn.decoders.style import ModulatedConv, StyleDecoder, StyledLayer, ToRGB

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)


def convolve_by_image(layer: ModulatedConv, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    """StyleGAN2 as it is written: every image has its own modulated, normalised weights; times sqrt(2)."""
    outputs = []
    for image, style in zip(x, layer.style(w), strict=True):
        weight = layer.weight / math.sqrt(layer.weight[0].numel()) * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up:
            y = F.conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)
            blur = torch.outer(TAPS, TAPS) / 64 * 4  # gain 4: the zeros between the pixels took three quarters
            padded = F.pad(y[0], (1, 1, 1, 1))
            outputs.append(torch.stack([F.conv2d(plane[None, None], blur[None, None])[0, 0] for plane in padded]))
        else:
            outputs.append(F.conv2d(image[None], weight, padding=1)[0])
    return torch.stack(outputs) * math.sqrt(2) + bias


@pytest.mark.parametrize("up", [False, True])
def test_modulated_convolution(up: bool) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(5, 4, 7, up=up).double()
    x, w, bias = (torch.randn(shape, dtype=torch.float64) for shape in [(3, 5, 6, 6), (3, 7), (4, 1, 1)])
    for found in (layer(x, w, bias), layer.reference(x, w, bias)):
        assert found.shape == ((3, 4, 12, 12) if up else (3, 4, 6, 6))
        torch.testing.assert_close(found, convolve_by_image(layer, x, w, bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("up", [False, True])
def test_scaled_activations_agree_with_modulated_weights(up: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Values and every gradient, each relative to its own largest number."""
    torch.manual_seed(0)
    layer = ModulatedConv(24, 16, 8, up=up).to(dtype)
    x, w, bias = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in [(3, 24, 8, 8), (3, 8), (16, 1, 1)])
    leaves = [x, w, bias, *layer.parameters()]
    found, wanted = layer(x, w, bias), layer.reference(x, w, bias)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((y * weight).sum(), leaves) for y in (found, wanted)]
    for a, b in [(found, wanted), *zip(*gradients, strict=True)]:
        torch.testing.assert_close(a / b.abs().max(), b / b.abs().max(), rtol=0, atol=tolerance)


def test_demodulated_output_has_the_variance_that_the_activation_halves() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(64, 64, 8)
    y = layer(torch.randn(4, 64, 32, 32), 3 * torch.randn(4, 8), torch.zeros(64, 1, 1))
    assert y[..., 1:-1, 1:-1].var().item() == pytest.approx(2, rel=0.1)


def test_styled_layer_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = StyledLayer(5, 4, 7).double()
    torch.nn.init.normal_(layer.bias)
    x, w = torch.randn(3, 5, 6, 6, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    y = convolve_by_image(layer.conv, x, w, torch.zeros(())) / math.sqrt(2) + layer.bias
    torch.testing.assert_close(layer(x, w), math.sqrt(2) * torch.where(y > 0, y, 0.2 * y))


def test_to_rgb_is_a_modulated_1x1_convolution() -> None:
    torch.manual_seed(0)
    layer = ToRGB(5, 7).double()
    torch.nn.init.normal_(layer.bias)
    x, w = torch.randn(3, 5, 6, 4, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    scaled = x * layer.style(w)[:, :, None, None]
    wanted = F.conv2d(scaled, layer.weight[:, :, None, None] / math.sqrt(5), layer.bias[:, 0])
    torch.testing.assert_close(layer(x, w), wanted)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last), w), wanted)


def test_autocast_keeps_features_in_bfloat16_and_the_image_in_float32() -> None:
    torch.manual_seed(0)
    decoder = StyleDecoder(inputs=16, channels=[16, 8], style_width=8, mapping_layers=2)
    features = torch.randn(2, 16, 8, 8)
    wanted = decoder(features)
    seen: list[torch.dtype] = []
    for layer in decoder.modules():
        if isinstance(layer, StyledLayer):
            layer.register_forward_hook(lambda _, __, y: seen.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        image = decoder(features)
    assert seen == [torch.bfloat16] * 4 and image.dtype == torch.float32
    assert (image - wanted).abs().max() < 0.05 * wanted.abs().max()  # bfloat16 has 8 bits, and four layers


def test_the_style_is_a_mapping_of_the_spatial_average() -> None:
    """Features with the same average have the same style; what they differ in reaches the image by the features."""
    torch.manual_seed(0)
    decoder = StyleDecoder(inputs=4, channels=[6, 5], style_width=8, mapping_layers=2).double()
    seen: list[Tensor] = []
    for layer in decoder.modules():
        if isinstance(layer, StyledLayer):
            layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    features = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    image = decoder(features)
    assert image.shape == (2, 3, 16, 16)
    mean = features.mean((2, 3))
    style = decoder.mapping(mean / (mean.square().mean(1, keepdim=True) + 1e-8).sqrt())
    assert len(seen) == 4
    for found in seen:
        torch.testing.assert_close(found, style)
    seen.clear()
    assert not torch.allclose(decoder(features.flip(-1)), image)
    torch.testing.assert_close(seen[0], style)


def test_every_resolution_adds_to_the_image() -> None:
    torch.manual_seed(0)
    decoder = StyleDecoder(inputs=4, channels=[6, 5, 4], style_width=8, mapping_layers=1).double()
    features = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    layers = [module for module in decoder.modules() if isinstance(module, ToRGB)]
    for to_rgb in layers:
        torch.nn.init.zeros_(to_rgb.weight)
    assert decoder(features).abs().max() == 0
    for to_rgb, share in zip(layers, (0.5, 0.25, 0.125), strict=True):
        torch.nn.init.constant_(to_rgb.bias, share)
    image = decoder(features)
    assert image.shape == (1, 3, 16, 16)
    assert image[0, 0, 8, 8].item() == pytest.approx(0.875)


@pytest.mark.parametrize(("size", "channels"), [(64, (8, 6, 4)), (32, (12, 8, 6, 4)), (16, (12, 12, 8, 6, 4))])
def test_every_feature_block_of_the_paper_becomes_256_pixels(size: int, channels: tuple[int, ...]) -> None:
    """H_d = 64, and 32 in Table 8: `an additional convolution block`."""
    with torch.device("meta"):
        decoder = StyleDecoder(inputs=16, channels=channels, style_width=8, mapping_layers=2)
        assert decoder(torch.empty(2, 16, size, size)).shape == (2, 3, 256, 256)


def test_the_last_layer_is_what_the_image_comes_from() -> None:
    decoder = StyleDecoder(inputs=4, channels=[6, 5], style_width=8, mapping_layers=1)
    assert decoder.last_layer.shape == (3, 5)
    torch.nn.init.zeros_(decoder.last_layer)
    torch.nn.init.zeros_(decoder.to_rgb[0].get_parameter("weight"))
    assert decoder(torch.randn(1, 4, 4, 4)).abs().max() == 0


def test_parameters_and_operations_of_table_3() -> None:
    """9.9 M and, with the retrieval's 0.27, 63.41 of the table's 64x64x4; its widths are not printed."""
    with torch.device("meta"), torch.no_grad():
        decoder = StyleDecoder(inputs=512, channels=(512, 256, 192), style_width=512, mapping_layers=4)
        with FlopCounterMode(display=False) as counter:
            image = decoder(torch.empty(1, 512, 64, 64))
    assert image.shape == (1, 3, 256, 256)
    assert sum(p.numel() for p in decoder.parameters()) == 9_959_241
    assert round(counter.get_total_flops() / 2e9, 2) == 63.14


def test_features_of_every_level() -> None:
    """Those from which the image is made, and none of them before it is asked for."""
    torch.manual_seed(0)
    decoder = StyleDecoder(inputs=6, channels=(8, 5, 4), style_width=16, mapping_layers=2)
    block, seen = torch.randn(2, 6, 4, 4), list[Tensor]()
    for to_rgb in decoder.to_rgb:
        to_rgb.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    decoder(block)
    found = list(decoder.iter_features(block))
    assert [tuple(x.shape) for x in found] == [(2, 8, 4, 4), (2, 5, 8, 8), (2, 4, 16, 16)]
    assert all(torch.equal(a, b) for a, b in zip(found, seen, strict=True))
    calls: list[int] = []
    decoder.second[1].register_forward_hook(lambda *_: calls.append(1))
    first = next(iter(decoder.iter_features(block)))
    assert torch.equal(first, found[0]) and not calls
