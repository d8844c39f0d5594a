"""Bottlenecks: right numbers, gradients where the theory has them, and nothing random but what the generator gives."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bricscli.nn.bottleneck import KL, RQ, VQ, Bottleneck, Coded, KeyCode, KLKeyCode
from bricscli.nn.noise import Noise

BUILD: dict[str, Callable[[], Bottleneck]] = {
    "key_code": lambda: KeyCode(channels=3),
    "kl_key_code": lambda: KLKeyCode(channels=3, weight=0.1, reduction="sum"),
    "kl": lambda: KL(channels=3, weight=0.1, reduction="mean"),
    "vq": lambda: VQ(channels=3, entries=16, commitment=0.25, weight=0.5),
    "rq": lambda: RQ(channels=3, entries=16, depth=3, decay=0.9, weight=0.5),
}
QUANTISED = ("vq", "rq")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int) -> Noise:
    return Noise(seeded(seed))


def build(name: str) -> Bottleneck:
    torch.manual_seed(0)
    bottleneck = BUILD[name]()
    if isinstance(bottleneck, VQ):
        nn.init.normal_(bottleneck.quantiser.codebook)  # spread, so that more than one entry is chosen
    return bottleneck


def encoded(bottleneck: Bottleneck, seed: int = 1) -> Tensor:
    return torch.randn(2, bottleneck.inputs, 4, 5, generator=seeded(seed))


def same(a: Coded, b: Coded) -> bool:
    return torch.equal(a.code, b.code) and torch.equal(a.loss, b.loss) and a.log == b.log


@pytest.mark.parametrize("name", BUILD)
def test_a_code_is_its_latent_snapped(name: str) -> None:
    """Only codebooks move a latent, and none moves what it made itself."""
    bottleneck = build(name)
    x = encoded(bottleneck)
    latent, code = bottleneck.latent(x), bottleneck(x)
    assert torch.equal(bottleneck.snap(latent), code)
    assert torch.equal(latent, code) == (name not in QUANTISED)
    if name == "vq":
        assert torch.equal(latent, x), "what the encoder says, as latent-diffusion diffuses it"
        torch.testing.assert_close(bottleneck.snap(code), code)


@pytest.mark.parametrize("name", BUILD)
def test_only_the_generator_decides(name: str) -> None:
    """Not torch's global generator, which stays as it was; `forward` changes nothing, `draw` only RQ's codebook."""
    bottleneck = build(name)
    x = encoded(bottleneck)
    before = copy.deepcopy(bottleneck.state_dict())
    code = bottleneck(x)
    assert code.shape == (2, 3, 4, 5)
    assert torch.equal(bottleneck(x), code) and torch.equal(bottleneck.eval()(x), code)
    bottleneck.train()
    draws: list[Coded] = []
    for seed in (7, 7, 8):
        bottleneck.load_state_dict(before)
        torch.manual_seed(len(draws))
        state = torch.get_rng_state()
        draws.append(bottleneck.draw(x, noise(seed)))
        assert torch.equal(torch.get_rng_state(), state)
    assert same(draws[0], draws[1])
    assert same(draws[0], draws[2]) == (name in ("key_code", "vq"))
    changed = [key for key, value in bottleneck.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(changed) == (name == "rq")


@pytest.mark.parametrize("name", BUILD)
def test_half_precision_and_autocast_change_nothing_but_the_input(name: str) -> None:
    """The codes of a rounded input, computed in float32."""
    bottleneck = build(name)
    x = encoded(bottleneck).bfloat16()
    before = copy.deepcopy(bottleneck.state_dict())
    expected, expected_draw = bottleneck(x.float()), bottleneck.draw(x.float(), noise(0))
    bottleneck.load_state_dict(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code, draw = bottleneck(x), bottleneck.draw(x, noise(0))
    assert code.dtype == draw.code.dtype == draw.loss.dtype == torch.float32
    assert torch.equal(code, expected) and same(draw, expected_draw)


def test_a_key_code_is_a_sigmoid() -> None:
    bottleneck = KeyCode(channels=1)
    x = torch.tensor([-math.log(3), 0.0, math.log(3)]).view(1, 1, 1, 3)
    draw = bottleneck.draw(x, noise(0))
    assert bottleneck(x).flatten().tolist() == pytest.approx([0.25, 0.5, 0.75])
    assert torch.equal(draw.code, bottleneck(x)) and draw.loss == 0
    assert draw.log == {"code_std": pytest.approx(0.25)}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_divergence_is_torchs(reduction: str) -> None:
    bottleneck = KL(channels=3, weight=0.1, reduction=reduction)  # type: ignore[arg-type]
    x = encoded(bottleneck).requires_grad_()
    draw = bottleneck.draw(x, noise(0))
    mean, sigma = x[:, :3], (x[:, 3:] / 2).exp()
    each = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, sigma), torch.distributions.Normal(0.0, 1.0)
    )
    expected = each.sum() / 2 if reduction == "sum" else each.mean()
    torch.testing.assert_close(draw.loss, 0.1 * expected)
    assert draw.log["kl"] == pytest.approx(expected.item(), rel=1e-5)
    assert draw.log["sigma"] == pytest.approx(sigma.mean().item(), rel=1e-5)
    draw.loss.backward()
    assert x.grad is not None and (x.grad != 0).all()


@pytest.mark.parametrize(("kind", "bounded"), [(KL, lambda z: z), (KLKeyCode, torch.sigmoid)])
def test_noise_has_the_deviation_that_was_asked_for(kind: type[KL], bounded: Callable[[Tensor], Tensor]) -> None:
    bottleneck = kind(channels=1, weight=1.0, reduction="sum")
    x = torch.stack([torch.full((64, 64), 0.4), torch.full((64, 64), 2 * math.log(0.05))])[None]
    assert torch.equal(bottleneck(x), bounded(x[:, :1]))
    code = bottleneck.draw(x, noise(0)).code
    z = code if kind is KL else torch.logit(code)
    assert z.mean().item() == pytest.approx(0.4, abs=0.003)  # four standard errors
    assert z.std().item() == pytest.approx(0.05, rel=0.04)  # likewise


def test_extreme_variances_stay_finite() -> None:
    bottleneck = KLKeyCode(channels=1, weight=1.0, reduction="mean")
    x = torch.tensor([[[[0.0, 0.0]], [[-1e4, 1e4]]]], requires_grad=True)
    draw = bottleneck.draw(x, noise(0))
    draw.loss.backward()
    sigmas = [math.exp(-15), math.exp(10)]
    expected = [(s * s - 1 - 2 * math.log(s)) / 2 for s in sigmas]
    assert draw.loss.item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    assert draw.log["sigma"] == pytest.approx(sum(sigmas) / 2, rel=1e-6)
    assert x.grad is not None and x.grad.isfinite().all()


def nearest(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """By comparing everything with everything: indices and vectors for x `(B,C,H,W)`."""
    distances = (x[:, None] - codebook[None, :, :, None, None]).double().square().sum(2)
    indices = distances.argmin(1)
    return indices, codebook[indices].movedim(-1, 1)


def test_vq_is_equation_9() -> None:
    """Value, both stopped gradients, and the gradient of what comes after passed straight through."""
    bottleneck = build("vq")
    assert isinstance(bottleneck, VQ)
    codebook = bottleneck.quantiser.codebook.detach().clone().requires_grad_()
    x = encoded(bottleneck).requires_grad_()
    draw = bottleneck.draw(x, noise(0))
    indices, e = nearest(x.detach(), codebook)
    assert len(indices.unique()) > 4
    torch.testing.assert_close(draw.code, e)
    assert torch.equal(bottleneck(x), e)

    after = torch.randn(e.shape, generator=seeded(2))
    (draw.loss + (draw.code * after).sum()).backward()
    y = x.detach().clone().requires_grad_()
    loss = 0.5 * ((y.detach() - e).square().mean() + 0.25 * (y - e.detach()).square().mean())
    (loss + (y * after).sum()).backward()
    torch.testing.assert_close(draw.loss, loss)
    torch.testing.assert_close(x.grad, y.grad)
    ours = bottleneck.quantiser._codebook.embed.grad[0]
    torch.testing.assert_close(ours, codebook.grad)
    assert draw.log["codebook"] == pytest.approx(2 * loss.item(), rel=1e-5)


def test_usage_of_the_codebook() -> None:
    """Two entries, chosen three to one."""
    bottleneck = VQ(channels=1, entries=8, commitment=0.25, weight=1.0)
    with torch.no_grad():
        bottleneck.quantiser.codebook.copy_(torch.arange(8.0)[:, None])
    draw = bottleneck.draw(torch.tensor([1.1, 0.9, 1.3, 5.2]).view(1, 1, 2, 2), noise(0))
    assert draw.log["entries_used"] == pytest.approx(2 / 8)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert draw.log["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-5)


def test_rq_quantises_what_is_left_over() -> None:
    """Against the sum of nearest entries, depth by depth; in eval mode: in training the codebook moves between."""
    bottleneck = build("rq").eval()
    assert isinstance(bottleneck, RQ)
    codebook = bottleneck.quantiser.codebook
    x = encoded(bottleneck).requires_grad_()
    sums = [torch.zeros_like(x)]
    for _ in range(3):
        sums.append(sums[-1] + nearest(x.detach() - sums[-1], codebook)[1])
    assert torch.equal(bottleneck(x), sums[-1])
    draw = bottleneck.draw(x, noise(0))
    torch.testing.assert_close(draw.code, sums[-1])
    commitment = torch.stack([(x - s).square().mean() for s in sums[1:]]).mean()
    torch.testing.assert_close(draw.loss, 0.5 * commitment)
    assert draw.log["commitment"] == pytest.approx(commitment.item(), rel=1e-5)
    after = torch.randn(x.shape, generator=seeded(2))
    gradient, expected = (torch.autograd.grad(loss, x)[0] for loss in (
        draw.loss + (draw.code * after).sum(), 0.5 * commitment + (x * after).sum()))
    torch.testing.assert_close(gradient, expected)


def test_rq_moves_entries_to_the_mean_of_what_chose_them() -> None:
    """With decay and the same input again and again, a used entry ends at its cluster's mean."""
    bottleneck = RQ(channels=1, entries=2, depth=1, decay=0.5, weight=1.0)
    codebook = bottleneck.quantiser._codebook
    for buffer in (codebook.embed, codebook.embed_avg):
        buffer.copy_(torch.tensor([[[-1.0], [1.0]]]))
    x = torch.tensor([-3.0, -2.0, 2.0, 5.0]).view(1, 1, 2, 2)
    bottleneck.draw(x, noise(0))
    # sizes 0.5 + 0.5 * 2, sums 0.5 * (-1, 1) + 0.5 * (-5, 7)
    torch.testing.assert_close(codebook.embed.flatten(), torch.tensor([-3 / 1.5, 4 / 1.5]), rtol=1e-4, atol=0)
    for step in range(30):
        bottleneck.draw(x, noise(step))
    torch.testing.assert_close(codebook.embed.flatten(), torch.tensor([-2.5, 3.5]), rtol=1e-4, atol=0)


def test_rq_restarts_unused_entries_in_the_batch() -> None:
    bottleneck = RQ(channels=2, entries=4, depth=1, decay=0.9, weight=1.0)
    codebook = bottleneck.quantiser._codebook
    codebook.embed[0, 1:] = 1e3  # nothing is near
    x = torch.randn(1, 2, 5, 5, generator=seeded(3))
    bottleneck.draw(x, noise(0))
    vectors = x[0].flatten(1).T
    distance = torch.cdist(codebook.embed[0, 1:], vectors).min(1).values
    torch.testing.assert_close(distance, torch.zeros(3))
    assert len(codebook.embed[0, 1:].unique(dim=0)) == 3


class Trained(nn.Module):
    """A layer before a bottleneck and one behind it, in a few steps of Adam whose randomness is seeded by the step."""

    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.before, self.bottleneck = nn.Conv2d(3, bottleneck.inputs, 1), bottleneck
        self.behind = nn.Conv2d(3, 3, 1)

    def steps(self, adam: torch.optim.Adam, first: int, last: int) -> list[float]:
        losses = []
        for step in range(first, last):
            image = torch.randn(4, 3, 4, 4, generator=seeded(100 + step))
            coded = self.bottleneck.draw(self.before(image), noise(step))
            loss = F.mse_loss(self.behind(coded.code), image) + coded.loss
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        return losses


@pytest.mark.parametrize("name", QUANTISED)
def test_a_resumed_run_is_the_uninterrupted_one(name: str) -> None:
    def fresh(seed: int) -> tuple[Trained, torch.optim.Adam]:
        torch.manual_seed(seed)
        model = Trained(BUILD[name]())
        return model, torch.optim.Adam(model.parameters(), lr=1e-2)

    whole, adam = fresh(0)
    expected = whole.steps(adam, 0, 10)
    first, adam = fresh(0)
    losses = first.steps(adam, 0, 5)
    second, other = fresh(1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(copy.deepcopy(adam.state_dict()))
    torch.manual_seed(99)
    losses += second.steps(other, 5, 10)
    assert losses == expected
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in whole.state_dict().items())
    start, _ = fresh(0)
    key = "bottleneck.quantiser._codebook.embed"
    assert not torch.equal(start.state_dict()[key], whole.state_dict()[key]), "the codebook learns"


@pytest.mark.parametrize("name", QUANTISED)
def test_the_state_is_plain_tensors_that_share_no_memory(name: str) -> None:
    """safetensors refuses the rest: one codebook for all depths must be stored once."""
    from safetensors.torch import load, save

    state = build(name).state_dict()
    loaded = load(save(state))
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
