"""The latent perceptual loss: each variant against one written straight from its source, and what it must not do."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from bricscli.build import build_autoencoder, build_latent_perceptual
from bricscli.losses.latent_perceptual import (
    EPSILON,
    DepthWeight,
    LatentPerceptualLoss,
    Normalisation,
    Variant,
    depth_weights,
    inliers,
    standardised,
)
from bricscli.nn.autoencoder import Autoencoder
from bricscli.recipe.diffusion_specs import LatentPerceptualSpec
from bricscli.recipe.recipes import AutoencoderRecipe

MakeAutoencoder = Callable[..., AutoencoderRecipe]
#: Channels and resolutions of Stable Diffusion's five blocks, for images of 64 pixels.
BLOCKS = [(6, 8), (6, 16), (5, 32), (4, 64), (4, 64)]
SETTINGS = list(itertools.product(get_args(Normalisation), get_args(DepthWeight), (True, False)))


def features(seed: int, spikes: bool = True) -> list[Tensor]:
    """Noise with a patch of 6x6 values far off in one map of each block, and one such value alone in another."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for channels, size in BLOCKS:
        block = torch.randn(2, channels, size, size, dtype=torch.float64, generator=generator) + 0.5
        if spikes:
            block[0, 1, 1:7, 2:8] = 40 + seed
            block[1, 2, 5, 5] = -60 - seed
        maps.append(block)
    return maps


def loss_of(**settings: Any) -> LatentPerceptualLoss:
    return LatentPerceptualLoss(lambda code: iter([code]), resolution=64, threshold=3.0, **settings)


# The mask


def mask_by_hand(plane: np.ndarray, closing: int, opening: int) -> np.ndarray:
    """Algorithm 1 for one map, with scipy's morphology; beyond the border lies neither."""
    values = np.sort(plane.ravel())
    low, high = (values[max(1, int(len(values) * share)) - 1] for share in (0.02, 1 - 0.02))
    margin = 2 * plane.std(ddof=1)
    kept = (low - margin < plane) & (plane < high + margin)
    kept = ndimage.binary_dilation(kept, np.ones((closing, closing)), border_value=0)
    return ndimage.binary_erosion(kept, np.ones((opening, opening)), border_value=1)


@pytest.mark.parametrize(("scale", "closing", "opening"), [(1, 3, 5), (2, 1, 3), (4, 1, 3), (8, 1, 1)])
def test_outliers_are_those_of_the_algorithm(scale: float, closing: int, opening: int) -> None:
    """The kernels of the appendix on coarser maps, too."""
    for block in features(0):
        found = inliers(block, scale)
        for kept, plane in zip(found.flatten(0, 1), block.flatten(0, 1), strict=True):
            assert np.array_equal(kept.numpy(), mask_by_hand(plane.numpy(), closing, opening))


def test_a_patch_is_cut_out_with_a_border_and_a_single_pixel_is_forgiven() -> None:
    plane = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plane[0, 0, 20:26, 30:36] = 50
    plane[0, 1, 20, 30] = 50
    kept = inliers(plane)
    assert not kept[0, 0, 19:27, 29:37].any(), "6 pixels lose one on each side, and win two"
    assert (~kept[0, 0]).sum() == 64
    assert kept[0, 1:].all()


@pytest.mark.parametrize("size", [2, 3, 4, 6, 7])
def test_small_maps_have_quantiles_too(size: int) -> None:
    """Below 50 pixels 2 % are less than one."""
    block = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert inliers(block).all()


# Eq. 2, and diffusers' program, once more in other words


def paper_by_hand(clean: list[Tensor], predicted: list[Tensor], normalisation: str, depth_weight: str,
                  outliers: bool) -> list[float]:
    """Eq. 2 in loops, with numpy and scipy; the norm as a mean over positions."""
    totals = []
    for image in range(len(clean[0])):
        total = 0.0
        for (channels, size), phi, phi_hat in zip(BLOCKS, clean, predicted, strict=True):
            up = size / BLOCKS[0][1]
            omega = {"inverse": 1 / up, "formula": 2 ** -up, "uniform": 1.0}[depth_weight]
            side = {8: (1, 1), 16: (1, 3), 32: (1, 3), 64: (3, 5)}[size]
            for channel in range(channels):
                a, b = phi[image, channel].numpy(), phi_hat[image, channel].numpy()
                rho = mask_by_hand(b, *side) if outliers else np.ones_like(b, dtype=bool)
                mean, std = b[rho].mean(), math.sqrt(b[rho].var() + 1e-6)
                if normalisation == "shared":
                    a, b = (a - mean) / std, (b - mean) / std
                elif normalisation == "separate":
                    a, b = (a - a[rho].mean()) / math.sqrt(a[rho].var() + 1e-6), (b - mean) / std
                total += omega / channels * ((rho * (a - b)) ** 2).sum() / size**2
        totals.append(total)
    return totals


def diffusers_by_hand(clean: list[Tensor], predicted: list[Tensor], normalisation: str, depth_weight: str,
                      outliers: bool) -> list[float]:
    """What the research project does, with einsum; `depth_weight` is its `pow_law`, or off."""
    losses = []
    for index, (y, x) in enumerate(zip(clean, predicted, strict=True)):
        mask = torch.ones_like(y)
        if outliers and index >= 2:
            sides = (1, 3) if index == 2 else (3, 5)  # down_f is 2, then 1
            mask = torch.tensor(np.stack([[mask_by_hand(plane.numpy(), *sides) for plane in image] for image in y]))
            mask = mask.to(y)
        y = y * mask
        along = {name: torch.einsum("bchw,bchw->bhw", z, z).sqrt()[:, None] for name, z in (("y", y), ("x", x))}
        if normalisation == "separate":
            x, y = x / (along["x"] + 1e-10), y / (along["y"] + 1e-10)
        elif normalisation == "shared":
            x, y = x / (along["y"] + 1e-6), y / (along["y"] + 1e-6)
        factor = {"inverse": 2.0 ** -min(index, 3), "uniform": 1.0}[depth_weight]
        error = torch.einsum("bchw,bchw->bc", (x - y) ** 2, mask) * factor / mask.sum((2, 3))
        losses.append(error.mean(1))
    return (torch.stack(losses).sum(0) / len(losses)).tolist()


@pytest.mark.parametrize(("normalisation", "depth_weight", "outliers"), SETTINGS)
def test_the_paper(normalisation: Normalisation, depth_weight: DepthWeight, outliers: bool) -> None:
    settings: dict[str, Any] = {"normalisation": normalisation, "depth_weight": depth_weight, "outliers": outliers}
    found = loss_of(**settings).distance(features(0), features(1))
    assert found.tolist() == pytest.approx(paper_by_hand(features(0), features(1), **settings), rel=1e-9)


@pytest.mark.parametrize(("normalisation", "depth_weight", "outliers"),
                         [case for case in SETTINGS if case[1] != "formula"])
def test_diffusers(normalisation: Normalisation, depth_weight: DepthWeight, outliers: bool) -> None:
    settings: dict[str, Any] = {"normalisation": normalisation, "depth_weight": depth_weight, "outliers": outliers}
    found = loss_of(variant="diffusers", **settings).distance(features(0), features(1))
    assert found.tolist() == pytest.approx(diffusers_by_hand(features(0), features(1), **settings), rel=1e-9)


def test_what_the_two_differ_in() -> None:
    """Outliers are looked for in the predicted features, or in the clean ones: those of the others count in full."""
    for variant, ours in (("paper", 1), ("diffusers", 0)):
        pair = [features(0, spikes=False), features(1, spikes=False)]
        before = loss_of(variant=variant, normalisation="none").distance(*pair)
        pair[ours][3][0, 1, 20:26, 20:26] = 90  # an outlier where the variant looks for it: masked
        masked = loss_of(variant=variant, normalisation="none").distance(*pair)
        assert masked[0] < 1.01 * before[0] and masked[1] == before[1]
        pair[ours][3][0, 1, 20:26, 20:26] = 0
        pair[1 - ours][3][0, 1, 20:26, 20:26] = 900
        assert loss_of(variant=variant, normalisation="none").distance(*pair)[0] > 10 * before[0]


def test_depth_weights() -> None:
    assert depth_weights([16, 32, 64], "formula") == [0.5, 0.25, 0.0625]
    assert depth_weights([16, 32, 64], "inverse") == [1, 0.5, 0.25]
    assert depth_weights([16, 32, 64], "uniform") == [1, 1, 1]
    assert depth_weights([size for _, size in BLOCKS], "inverse") == [2.0 ** -min(i, 3) for i in range(5)], "diffusers'"


def test_shared_statistics_give_no_gradient_where_nothing_is_wrong() -> None:
    """Why the paper shares them; a single wrong value elsewhere must not move the right ones but through the mean."""
    clean = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = torch.ones_like(clean, dtype=torch.bool)
    predicted = clean.clone()
    predicted[0, 0, 0, 0] += 3
    shared, separate = ((a - b)[0, 0, 1:].abs().max().item() for a, b in (
        standardised(clean, predicted, kept, "shared"), standardised(clean, predicted, kept, "separate")))
    assert shared == 0 and separate > 0.01


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize("normalisation", get_args(Normalisation))
def test_finite_where_a_map_is_flat(variant: Variant, normalisation: Normalisation) -> None:
    """As of a channel whose ReLU never fires, on either side."""
    for zero in (0, 1):
        pair = [[block.clone() for block in features(seed)] for seed in (0, 1)]
        for block in pair[zero]:
            block[0] = 0
        for block in pair[1]:
            block.requires_grad_()
        total = loss_of(variant=variant, normalisation=normalisation).distance(*pair).sum()
        total.backward()
        assert total.isfinite() and all(block.grad is not None and block.grad.isfinite().all() for block in pair[1])


# On an autoencoder


@pytest.fixture
def autoencoder(tiny_autoencoder: MakeAutoencoder) -> Autoencoder:
    return frozen(tiny_autoencoder())


def frozen(recipe: AutoencoderRecipe) -> Autoencoder:
    torch.manual_seed(0)
    model = build_autoencoder(recipe).double().eval().requires_grad_(False)
    for name, value in model.retrieval.named_parameters():
        if name == "table":
            value.normal_()  # as it starts, the key says next to nothing
    return model


def codes(seed: int, count: int = 4, channels: int = 2) -> Tensor:
    return torch.rand(count, channels, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_gate(autoencoder: Autoencoder) -> None:
    """Beyond the threshold nothing is decoded, and counts as 0; of none the loss is 0 and has no gradient."""
    decoded: list[int] = []

    def iter_features(code: Tensor) -> Iterator[Tensor]:
        decoded.append(len(code))
        return autoencoder.iter_features(code)

    loss = LatentPerceptualLoss(iter_features, resolution=16, threshold=3.0)
    sigma = torch.tensor([0.5, 3.0, 3.01, 100.0])
    predicted = codes(1).requires_grad_()
    found = loss(codes(0), predicted, sigma)
    assert decoded == [2, 2]
    alone = [float(loss(codes(0)[[i]], codes(1)[[i]], sigma[[i]])) for i in range(4)]
    assert alone[2:] == [0, 0] and min(alone[:2]) > 0
    assert float(found.detach()) == pytest.approx(sum(alone) / 4, rel=1e-12)
    (gradient,) = torch.autograd.grad(found, predicted)
    assert gradient[:2].abs().amax((1, 2, 3)).min() > 0 and gradient[2:].abs().max() == 0
    decoded.clear()
    none = loss(codes(0), predicted, sigma + 3)
    assert float(none) == 0 and decoded == [] and none.dtype == torch.float64


def test_only_the_blocks_that_are_asked_for(autoencoder: Autoencoder) -> None:
    made: list[int] = []

    def iter_features(code: Tensor) -> Iterator[Tensor]:
        for number, block in enumerate(autoencoder.iter_features(code)):
            made.append(number)
            yield block

    for blocks, wanted in ((1, [0]), (2, [0, 1]), (None, [0, 1])):
        made.clear()
        LatentPerceptualLoss(iter_features, 16, 3.0, blocks=blocks)(codes(0), codes(1), torch.ones(4))
        assert made == wanted * 2


METHODS_WITH_DECODERS: dict[str, dict[str, Any]] = {
    "style": {}, "key_length_2": {"bottleneck": {"channels": 4}, "retrieval": {"key_length": 2}},
    "hash": {"retrieval": {"index": "hash", "max_entries": 64}},
    "conv": {"decoder": {"kind": "conv", "channels": 8, "multipliers": [1, 2], "blocks": 1}},
    "movq": {"decoder": {"kind": "movq", "channels": 8, "multipliers": [1, 2], "blocks": 1}},
    "no retrieval": {"bottleneck": {"kind": "kl", "channels": 2}, "retrieval": {"kind": "none"},
                     "decoder": {"kind": "conv", "channels": 8, "multipliers": [1, 2], "blocks": 1}},
}


@pytest.mark.parametrize("name", METHODS_WITH_DECODERS)
@pytest.mark.parametrize("variant", get_args(Variant))
def test_gradients_of_the_code(tiny_autoencoder: MakeAutoencoder, name: str, variant: Variant) -> None:
    """Through the frozen decoder and grids, against differences: keys lie inside their cells, so all is smooth.

    Statistics of the prediction that are constants to the gradient would move with a difference.
    """
    recipe = tiny_autoencoder(**METHODS_WITH_DECODERS[name])
    model, channels = frozen(recipe), recipe.bottleneck.channels
    normalisation: Normalisation = "separate" if variant == "paper" else "shared"
    loss = build_latent_perceptual(LatentPerceptualSpec(variant=variant, normalisation=normalisation), model, 16)
    clean, sigma = codes(0, 2, channels), torch.ones(2)
    predicted = codes(1, 2, channels).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(clean, predicted, sigma), predicted)
    assert all(p.grad is None for p in model.parameters())
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        towards = torch.randn(predicted.shape, dtype=torch.float64, generator=generator)
        towards *= 1e-7 / towards.norm()
        ahead, behind = (float(loss(clean, predicted.detach() + sign * towards, sigma)) for sign in (1, -1))
        assert float((gradient * towards).sum()) == pytest.approx((ahead - behind) / 2, rel=1e-3, abs=1e-13)


def test_a_key_beyond_its_range_is_read_at_the_end_and_not_moved(autoencoder: Autoencoder) -> None:
    loss = build_latent_perceptual(LatentPerceptualSpec(), autoencoder, 16)
    predicted = codes(1)
    predicted[0, 0, :4] = 1.5
    predicted[0, 0, 4:] = -0.5
    predicted.requires_grad_()
    found = loss(codes(0), predicted, torch.ones(4))
    assert float(found.detach()) == float(loss(codes(0), predicted.detach().clamp(0, 1), torch.ones(4)))
    (gradient,) = torch.autograd.grad(found, predicted)
    assert gradient[0, 0].abs().max() == 0 and gradient[0, 1].abs().min() > 0


def test_more_contrast_is_no_way_to_be_nearer() -> None:
    """Shared statistics are constants: the gradient is that of a squared difference, weighted."""
    clean, predicted = features(0), [block.clone().requires_grad_() for block in features(1)]
    loss = loss_of(outliers=False)
    found = torch.autograd.grad(loss.distance(clean, predicted).sum(), predicted)
    weights = depth_weights([block.shape[-1] for block in clean], "inverse")
    for weight, gradient, phi, own in zip(weights, found, clean, predicted, strict=True):
        variance = own.detach().var((2, 3), keepdim=True, correction=0) + EPSILON
        torch.testing.assert_close(gradient, weight * 2 * (own - phi).detach() / variance / phi[0].numel())


@pytest.mark.parametrize("bottleneck", [{"kind": "vq", "channels": 2, "entries": 16},
                                        {"kind": "rq", "channels": 2, "entries": 16, "depth": 2}])
def test_a_codebook_decodes_what_it_snaps_to(tiny_autoencoder: MakeAutoencoder, bottleneck: dict[str, Any]) -> None:
    """Latents of one image have no loss; gradients pass straight through."""
    model = frozen(tiny_autoencoder(bottleneck=bottleneck, **{key: METHODS_WITH_DECODERS["no retrieval"][key]
                                                              for key in ("retrieval", "decoder")})).float()
    loss = build_latent_perceptual(LatentPerceptualSpec(), model, 16)
    latent = codes(0).float() * 3
    snapped = model.bottleneck.snap(latent)
    assert (snapped - latent).abs().max() > 0.1
    for ours, wanted in zip(model.iter_features(latent), model.decoder.iter_features(snapped), strict=True):
        assert torch.equal(ours, wanted)
    predicted = codes(1).float().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latent, predicted, torch.ones(4)), predicted)
    assert gradient.abs().min() > 0


def test_the_same_code_has_no_loss(autoencoder: Autoencoder) -> None:
    """Though the clean one is retrieved from inference's table and the predicted one is not."""
    loss = build_latent_perceptual(LatentPerceptualSpec(), autoencoder, 16)
    assert loss(codes(0), codes(0).requires_grad_(), torch.ones(4)) < 1e-20


def test_autocast_changes_nothing(autoencoder: Autoencoder) -> None:
    loss = build_latent_perceptual(LatentPerceptualSpec(), autoencoder.float(), 16)
    arguments = codes(0).float(), codes(1).float(), torch.ones(4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(*arguments)
    assert inside.dtype == torch.float32 and torch.equal(inside, loss(*arguments))
