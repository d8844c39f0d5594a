"""The decoder: modulation against weights made per image, and the sizes that Table 3 prints."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bricscli.build import build_autoencoder, count_parameters
from bricscli.nn.decoder import ModulatedConv, StyleDecoder, StyledLayer, ToRGB
from bricscli.nn.layers import ScaledLinear, fir_kernel, fir_upsample
from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)


def convolve_by_image(layer: ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
    """StyleGAN2 as it is written: every image has its own modulated, normalised weights."""
    outputs = []
    for image, style in zip(x, layer.style(w), strict=True):
        weight = layer.weight / math.sqrt(layer.weight[0].numel()) * style[None, :, None, None]
        if layer.demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up:
            y = F.conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)
            blur = torch.outer(TAPS, TAPS) / 64 * 4  # gain 4: the zeros between the pixels took three quarters
            padded = F.pad(y[0], (1, 1, 1, 1))
            outputs.append(torch.stack([F.conv2d(plane[None, None], blur[None, None])[0, 0] for plane in padded]))
        else:
            outputs.append(F.conv2d(image[None], weight, padding=weight.shape[-1] // 2)[0])
    return torch.stack(outputs) * layer.output_gain


@pytest.mark.parametrize(("demodulate", "gain"), [(True, 1.0), (True, 1.4), (False, 1.0)])
@pytest.mark.parametrize(("kernel", "up"), [(1, False), (3, False), (3, True)])
def test_modulated_convolution(kernel: int, up: bool, demodulate: bool, gain: float) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(5, 4, kernel, 7, up=up, demodulate=demodulate, output_gain=gain).double()
    x, w = torch.randn(3, 5, 6, 6, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    found = layer(x, w)
    assert found.shape == ((3, 4, 12, 12) if up else (3, 4, 6, 6))
    torch.testing.assert_close(found, convolve_by_image(layer, x, w), rtol=0, atol=1e-12)


def test_demodulated_output_has_unit_variance() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(64, 64, 3, 8)
    y = layer(torch.randn(4, 64, 32, 32), 3 * torch.randn(4, 8))
    assert y[..., 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.05)


def test_upsampling_keeps_what_is_constant_and_where_it_is() -> None:
    kernel = fir_kernel().double()
    assert torch.allclose(kernel, torch.outer(TAPS, TAPS) / 64)
    flat = fir_upsample(torch.full((1, 2, 8, 8), 0.7, dtype=torch.float64), kernel)
    assert flat.shape == (1, 2, 16, 16)
    torch.testing.assert_close(flat[..., 2:-2, 2:-2], torch.full((1, 2, 12, 12), 0.7, dtype=torch.float64))
    ramp = fir_upsample(torch.arange(8, dtype=torch.float64).expand(1, 1, 8, 8), kernel)[0, 0, 8]
    torch.testing.assert_close(ramp[2:-2], torch.arange(0.75, 6.5, 0.5, dtype=torch.float64))


def test_scaled_linear_starts_as_its_formula() -> None:
    torch.manual_seed(0)
    layer = ScaledLinear(256, 512, bias=1.0, activate=True, learning_rate_scale=0.01)
    x = torch.randn(64, 256)
    y = F.linear(x, layer.weight * 0.01 / 16, torch.ones(512))
    torch.testing.assert_close(layer(x), math.sqrt(2) * torch.where(y > 0, y, 0.2 * y))
    assert layer.weight.std().item() == pytest.approx(100, rel=0.01)


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
        torch.nn.init.zeros_(to_rgb.conv.weight)
    assert decoder(features).abs().max() == 0
    for to_rgb, share in zip(layers, (0.5, 0.25, 0.125), strict=True):
        torch.nn.init.constant_(to_rgb.bias, share)
    image = decoder(features)
    assert image.shape == (1, 3, 16, 16)
    assert image[0, 0, 8, 8].item() == pytest.approx(0.875)


def test_parameters_and_operations_of_table_3() -> None:
    recipe = load_recipe("church64x4.yaml")
    assert isinstance(recipe, AutoencoderRecipe)
    with torch.device("meta"):
        model = build_autoencoder(recipe)
        code = torch.empty(1, *(recipe.bottleneck.channels, recipe.code_size, recipe.code_size))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            image = model.decode(code)
    assert image.shape == (1, 3, 256, 256)
    assert count_parameters(model.decoder) / 1e6 == pytest.approx(9.96, abs=0.005)
    assert counter.get_total_flops() / 2e9 == pytest.approx(63.40, abs=0.05)
