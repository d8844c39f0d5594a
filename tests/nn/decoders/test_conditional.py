"""What a decoder is told is kept comes out as it went in, what is not told changes nothing, and the rest sees it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.decoders.conditional import Conditional, Kept
from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.decoders.movq import MoVQDecoder
from bricscli.nn.decoders.style import StyleDecoder

Decoder = StyleDecoder | ConvDecoder
CONDITION = {"channels": 8, "blocks": 1, "blend": "addition"}
CONV = {"inputs": 6, "channels": 8, "multipliers": [1, 2, 2], "blocks": 1, "attention": "middle"}
DECODERS: dict[str, tuple[type[Decoder], dict[str, Any]]] = {
    "style": (StyleDecoder, {"inputs": 6, "channels": [12, 8, 6], "style_width": 16, "mapping_layers": 2}),
    "deep": (StyleDecoder, {"inputs": 6, "channels": [12, 8, 6], "style_width": 16, "mapping_layers": 2,
                            "extra_layers": 2}),
    "conv": (ConvDecoder, CONV), "movq": (MoVQDecoder, CONV)}


@pytest.fixture(params=DECODERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["addition", "concatenation"])
def blend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(kind: str, blend: str | None) -> Decoder:
    """Two of a kind have the same weights but for the condition, which comes last."""
    torch.manual_seed(0)
    decoder, arguments = DECODERS[kind]
    made = decoder(**arguments, conditional=None if blend is None else CONDITION | {"blend": blend})
    plain = decoder(**arguments)
    torch.manual_seed(1)
    for module in (plain, made):
        torch.manual_seed(1)
        for name, parameter in module.named_parameters():
            if not name.startswith("condition"):
                nn.init.normal_(parameter, std=0.5)
    return made


def learn(decoder: Decoder) -> None:
    """What begins without a say in the image gets one."""
    for name, parameter in decoder.named_parameters():
        if name.startswith(("condition.mix", "condition.heads", "condition.reach")) and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.3)


def block() -> Tensor:
    return torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(2))


def known(image_seed: int = 3, full: bool = False) -> Kept:
    generator = torch.Generator().manual_seed(image_seed)
    mask = torch.ones(2, 1, 16, 16)
    if not full:
        mask[0, :, :, :7] = 0
        mask[1, :, 5:] = 0
    return Kept(torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1, mask)


def test_kept_pixels_come_out_as_they_went_in(kind: str, blend: str) -> None:
    kept = known()
    image = make(kind, blend)(block(), kept)
    stays = (kept.mask == 0).expand_as(image)
    assert torch.equal(image[stays], kept.image[stays])
    assert not torch.isclose(image[~stays], kept.image[~stays]).any()


def test_what_is_replaced_is_not_seen(kind: str, blend: str) -> None:
    """Any picture under the mask, even NaN: the same bits."""
    decoder, kept = make(kind, blend), known()
    for other in (known(9).image, torch.full((2, 3, 16, 16), torch.nan)):
        changed = Kept(torch.where(kept.mask > 0, other, kept.image), kept.mask)
        assert torch.equal(decoder(block(), kept), decoder(block(), changed))


def test_what_is_kept_is_seen_across_the_edge(kind: str, blend: str) -> None:
    """Also by what lies a few pixels inside, through the coarser features."""
    decoder, kept = make(kind, blend), known()
    learn(decoder)
    other = Kept(known(9).image, kept.mask)
    change = (decoder(block(), kept) - decoder(block(), other)).abs().amax(1)
    assert (change[0, :, 7] > 0).all() and (change[0, 4:-4, 9] > 1e-6).any()
    assert (change[1, 4] > 0).all() and (change[1, 2, 4:-4] > 1e-6).any()


def test_with_nothing_kept_it_is_the_plain_decoder(kind: str, blend: str) -> None:
    """Bit for bit by addition, whatever it has learned, and by concatenation as it begins; told so, or told nothing."""
    plain, decoder = make(kind, None), make(kind, blend)
    if blend == "addition":
        learn(decoder)
    wanted = plain(block())
    assert torch.equal(decoder(block()), wanted) and torch.equal(decoder(block(), known(full=True)), wanted)
    for ours, theirs in zip(decoder.iter_features(block()), plain.iter_features(block()), strict=True):
        assert torch.equal(ours, theirs)
    learn(decoder)
    torch.testing.assert_close(decoder(block(), known(full=True)), decoder(block()), rtol=1e-5, atol=1e-5)


def test_training_begins_with_the_plain_decoder(kind: str, blend: str) -> None:
    """With the kept pixels over its image."""
    kept = known()
    assert torch.equal(make(kind, blend)(block(), kept), kept.over(make(kind, None)(block())))


def test_errors_in_kept_pixels_are_continued() -> None:
    """By convolutions without biases, which begin without a say."""
    condition = Conditional(places=[(0, 3)], channels=4, blocks=1, blend="addition")
    kept, image = known(), torch.randn(2, 3, 16, 16)
    assert torch.equal(condition.finish(image, kept), kept.over(image))
    for conv in condition.reach:
        nn.init.normal_(conv.get_parameter("weight"))
    away = condition.finish(image, kept)[0, :, :, 7:] - image[0, :, :, 7:]
    assert away[:, :, 0].abs().min() > 0 and away[:, :, 8:].abs().max() == 0, "8 pixels far and no more"


def test_features_with_nothing_kept(kind: str, blend: str) -> None:
    """What the latent perceptual loss asks for is what the image is made of."""
    decoder = make(kind, blend)
    learn(decoder)
    *_, last = decoder.iter_features(block())
    if isinstance(decoder, ConvDecoder):
        image = decoder.out(F.silu(decoder.norm(last, *decoder.norm_inputs(block()))))
        torch.testing.assert_close(image, decoder(block()))
    assert last.shape[2:] == (16, 16)


def test_equation_4() -> None:
    """f_dec m + f_E (1 - m), f_E on f_dec, the mask nearest-resized, at each resolution."""
    torch.manual_seed(0)
    condition = Conditional(places=[(2, 5), (1, 4), (0, 3)], channels=4, blocks=2, blend="addition")
    for head in condition.heads:
        nn.init.normal_(head.get_parameter("weight"))
    kept = known()
    told = condition(kept)
    for place, (halvings, width) in enumerate([(2, 5), (1, 4), (0, 3)]):
        size = 16 >> halvings
        x = torch.randn(2, width, size, size)
        m = kept.mask[:, :, ::1 << halvings, ::1 << halvings]
        f_e = told[place][0]
        assert (f_e * m).abs().max() == 0 and f_e.abs().max() > 0
        torch.testing.assert_close(condition.blend(place, x, told), x * m + (x + f_e) * (1 - m))
        assert condition.blend(place, x, None) is x


def test_every_parameter_learns(kind: str, blend: str) -> None:
    decoder = make(kind, blend)
    learn(decoder)
    decoder(block(), known()).square().mean().backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []
    assert decoder.condition is not None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in decoder.condition.parameters())


def test_a_plain_decoder_cannot_be_told(kind: str) -> None:
    with pytest.raises(ValueError, match="without `conditional` cannot be told"):
        make(kind, None)(block(), known())


@pytest.mark.parametrize(("image", "mask"), [((2, 3, 8, 8), (2, 3, 8, 8)), ((2, 3, 8, 8), (1, 1, 8, 8)),
                                            ((3, 8, 8), (1, 8, 8)), ((2, 3, 8, 8), (2, 1, 8, 4))])
def test_masks_have_the_shape_of_their_images(image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="are not"):
        Kept(torch.zeros(image), torch.zeros(mask))


def test_a_wider_and_deeper_decoder_begins_as_the_narrow_one() -> None:
    """And then everything in it learns."""
    narrow = make("style", None)
    arguments = DECODERS["style"][1] | {"channels": [15, 16, 9], "extra_layers": 1}
    wide = StyleDecoder(**arguments, conditional=CONDITION)
    start = copy.deepcopy(wide.state_dict())
    assert isinstance(narrow, StyleDecoder)
    wide.widen(narrow.state_dict())
    image = wide(block())
    torch.testing.assert_close(image, narrow(block()), rtol=1e-4, atol=1e-4)
    weight = wide.get_parameter("second.1.conv.weight")
    assert torch.equal(weight[8:], start["second.1.conv.weight"][8:]), "the rest stays random"
    image.square().mean().backward()
    assert all(p.grad is not None for name, p in wide.named_parameters() if not name.startswith("condition"))
    assert weight.grad is not None and weight.grad[:8, 8:].abs().max() > 0
