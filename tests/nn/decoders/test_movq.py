"""MoVQ's decoder: its norm in the order in which MoVQ computes it, and what it is without modulation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.decoders.movq import MoVQDecoder, SpatialNorm


@pytest.mark.parametrize("size", [3, 6, 12])
def test_norm_is_modulated_by_the_resized_features(size: int) -> None:
    """MoVQ resizes before it convolves; every channel, position and parameter."""
    torch.manual_seed(0)
    norm = SpatialNorm(8, inputs=5).double()
    nn.init.normal_(norm.norm.weight)
    nn.init.normal_(norm.norm.bias)
    x, features = torch.randn(2, 8, size, size).double(), torch.randn(2, 5, 3, 3).double()
    resized = features.repeat_interleave(size // 3, 2).repeat_interleave(size // 3, 3)
    y = F.group_norm(x, 8, norm.norm.weight, norm.norm.bias, 1e-6) * norm.conv_y(resized) + norm.conv_b(resized)
    torch.testing.assert_close(norm(x, features), y, rtol=0, atol=1e-12)


def test_without_modulation_it_is_the_conv_decoder() -> None:
    torch.manual_seed(0)
    movq = MoVQDecoder(inputs=5, channels=8, multipliers=[1, 2], blocks=1, attention="code").double()
    conv = ConvDecoder(inputs=5, channels=8, multipliers=[1, 2], blocks=1, attention="code").double()
    features = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    norms = [module for module in movq.modules() if isinstance(module, SpatialNorm)]
    assert len(norms) == 2 * 6 + 3 + 1  # residual blocks, attention, the end
    for norm in norms:
        for parameter in [*norm.conv_y.parameters(), *norm.conv_b.parameters()]:
            nn.init.zeros_(parameter)
        nn.init.ones_(norm.conv_y.get_parameter("bias"))
    shared = [value for name, value in movq.state_dict().items() if "conv_y" not in name and "conv_b" not in name]
    conv.load_state_dict(dict(zip(conv.state_dict(), shared, strict=True)))
    torch.testing.assert_close(movq(features), conv(features), rtol=0, atol=1e-12)


def test_every_norm_listens_to_the_features() -> None:
    torch.manual_seed(0)
    decoder = MoVQDecoder(inputs=5, channels=8, multipliers=[1, 2, 2], blocks=2, attention="middle")
    image = decoder(torch.randn(2, 5, 4, 4))
    assert image.shape == (2, 3, 16, 16)
    image.square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert decoder.last_layer is decoder.out.weight


def test_the_features_are_trained_by_the_norms_as_well() -> None:
    torch.manual_seed(0)
    decoder = MoVQDecoder(inputs=5, channels=8, multipliers=[1, 2], blocks=1, attention="none")
    nn.init.zeros_(decoder.stem.weight)
    features = torch.randn(1, 5, 4, 4, requires_grad=True)
    decoder(features).square().sum().backward()
    assert features.grad is not None and features.grad.abs().min() > 0
