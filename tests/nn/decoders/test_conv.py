"""VQGAN's decoder: the sizes and costs that Table 3 prints, and the order of its layers."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.decoders.movq import MoVQDecoder
from bricscli.nn.layers import Attention, ResidualBlock, SelfAttention, Upsample


@pytest.mark.parametrize(("multipliers", "attention", "size", "parameters", "operations", "printed"), [
    ((1, 1, 2, 2, 4), "code", 16, 42_449_795, 126.36, (42.45, 126.79)),  # taming's f = 16
    ((1, 1, 2, 2), "middle", 32, 13_589_379, 119.34, (13.59, 119.77)),  # f = 8: its attention at 16 is not reached
])
def test_parameters_and_operations_of_table_3(multipliers: tuple[int, ...], attention: Attention, size: int,
                                              parameters: int, operations: float,
                                              printed: tuple[float, float]) -> None:
    """The paper's GFlops are fvcore's: besides products, 5 for a number in a norm and 1 for one that is resized."""
    elementwise = 0

    def count(module: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        nonlocal elementwise
        elementwise += arguments[0].numel() * (5 if isinstance(module, nn.GroupNorm) else 4)

    with torch.device("meta"), torch.no_grad():
        decoder = ConvDecoder(inputs=256, channels=128, multipliers=multipliers, blocks=2, attention=attention)
        for module in decoder.modules():
            if isinstance(module, nn.GroupNorm | Upsample):
                module.register_forward_pre_hook(count)
        with FlopCounterMode(display=False) as counter:
            image = decoder(torch.empty(1, 256, size, size))
    assert image.shape == (1, 3, 256, 256)
    assert sum(p.numel() for p in decoder.parameters()) == parameters
    products = counter.get_total_flops() / 2
    assert round(products / 1e9, 2) == operations
    assert (round(parameters / 1e6, 2), round((products + elementwise) / 1e9, 2)) == printed


@pytest.mark.parametrize("attention", ["code", "middle", "none"])
def test_order_of_the_layers(attention: Attention) -> None:
    """Widths and sizes as they are passed through: `multipliers[0]` belongs to the image."""
    with torch.device("meta"):
        decoder = ConvDecoder(inputs=5, channels=32, multipliers=[1, 2, 3], blocks=1, attention=attention)
        seen: list[tuple[str, int, int]] = []
        for module in decoder.modules():
            if isinstance(module, ResidualBlock | SelfAttention | Upsample):
                module.register_forward_hook(
                    lambda layer, _, y: seen.append((type(layer).__name__[0], y.shape[1], y.shape[2])))
        assert decoder(torch.empty(2, 5, 4, 4)).shape == (2, 3, 16, 16)
    middle = [("R", 96, 4), ("S", 96, 4), ("R", 96, 4)]
    code = [("R", 96, 4), ("S", 96, 4)] * 2
    above = [("U", 96, 8), ("R", 64, 8), ("R", 64, 8), ("U", 64, 16), ("R", 32, 16), ("R", 32, 16)]
    wanted = {"code": middle + code + above,
              "middle": middle + [layer for layer in code if layer[0] == "R"] + above,
              "none": [layer for layer in middle + code if layer[0] == "R"] + above}
    assert seen == wanted[attention]


def test_the_last_layer_is_what_the_image_comes_from() -> None:
    torch.manual_seed(0)
    decoder = ConvDecoder(inputs=2, channels=8, multipliers=[1, 2], blocks=1, attention="none")
    assert decoder.last_layer.shape == (3, 8, 3, 3)
    nn.init.zeros_(decoder.last_layer)
    image = decoder(torch.randn(1, 2, 4, 4))
    torch.testing.assert_close(image, decoder.out.get_parameter("bias")[:, None, None].expand_as(image))


@pytest.mark.parametrize("attention", ["code", "middle", "none"])
@pytest.mark.parametrize("kind", [ConvDecoder, MoVQDecoder])
def test_features_of_every_resolution(kind: type[ConvDecoder], attention: Attention) -> None:
    """As Stable Diffusion's blocks: the middle, then each resolution with the upsampling behind it; then the image."""
    torch.manual_seed(0)
    decoder = kind(inputs=4, channels=8, multipliers=(1, 1, 2), blocks=1, attention=attention)
    block = torch.randn(2, 4, 4, 4)
    found = list(decoder.iter_features(block))
    assert [tuple(x.shape) for x in found] == [(2, 16, 4, 4), (2, 16, 8, 8), (2, 8, 16, 16), (2, 8, 16, 16)]
    inputs: list[torch.Tensor] = []
    decoder.norm.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    decoder(block)
    assert torch.equal(found[-1], inputs[0])
    outputs = [torch.empty(0)]
    for layer in decoder.body:
        layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    middle = 3 if attention != "none" else 2
    first = next(iter(decoder.iter_features(block)))
    assert torch.equal(first, found[0]) and len(outputs) == 1 + middle, "and no layer more"


def test_a_projection_stands_in_front() -> None:
    decoder = ConvDecoder(inputs=2, channels=8, multipliers=(1, 1), blocks=1, attention="none", projection=3)
    plain = ConvDecoder(inputs=3, channels=8, multipliers=(1, 1), blocks=1, attention="none")
    plain.load_state_dict({name: tensor for name, tensor in decoder.state_dict().items() if "project" not in name})
    features = torch.randn(1, 2, 4, 4)
    assert isinstance(decoder.project, nn.Conv2d) and decoder.project.kernel_size == (1, 1)
    with torch.no_grad():
        assert torch.equal(decoder(features), plain(decoder.project(features)))
