"""One seed, one image: at any batch size, in any order, beside any others."""

import itertools
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from bricscli.diffusion.denoiser import KEY_CODES, PredictData
from bricscli.diffusion.samplers import run_sampler
from bricscli.recipe.diffusion_specs import Sampler, SamplingSpec
from bricscli.runtime import PASS_WIDTH, generator_for
from bricscli.tasks.draw import draw_latents, iter_samples, step_levels
from bricscli.tasks.models import LoadedDenoiser, load_denoiser

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py
SAMPLING = SamplingSpec(sampler="dpmpp_2m", steps=3)
#: With noise at every step, and a grid of other length.
NOISY = SamplingSpec(sampler="ddim", steps=5, grid="trailing", eta=1.0)


@pytest.fixture(scope="module")
def denoiser(trained: Trained) -> LoadedDenoiser:
    """With random weights everywhere, so that what it says depends on every input strongly."""
    loaded = load_denoiser(trained.diffusion, CPU)
    torch.manual_seed(0)
    for parameter in [*loaded.prior.denoiser.parameters(), *loaded.autoencoder.model.retrieval.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    return loaded


def images(denoiser: LoadedDenoiser, seeds: list[int], batch_size: int = 64,
           sampling: SamplingSpec = SAMPLING) -> dict[int, Tensor]:
    drawn: dict[int, Tensor] = {}
    for batch in iter_samples(denoiser, seeds, sampling, CPU, batch_size):
        assert batch.keys == [f"{seed:06d}" for seed in batch.seeds]
        drawn |= dict(zip(batch.seeds, batch.images, strict=True))
    return drawn


@pytest.mark.parametrize("sampling", [SAMPLING, NOISY], ids=["ode", "noise"])
def test_a_seed_is_an_image(denoiser: LoadedDenoiser, sampling: SamplingSpec) -> None:
    reference = images(denoiser, list(range(19)), sampling=sampling)
    assert all(image.shape == (3, 16, 16) and image.dtype == torch.uint8 for image in reference.values())
    assert len({image.numpy().tobytes() for image in reference.values()}) == 19, "all different"
    everyone = list(range(19))
    for seeds, batch_size in ((everyone, 1), (everyone, 8), (everyone[::-1], 5), ([13], 64), ([2, 17, 3], 2)):
        drawn = images(denoiser, seeds, batch_size, sampling)
        assert drawn.keys() == set(seeds)
        assert [seed for seed in seeds if not torch.equal(drawn[seed], reference[seed])] == [], (seeds, batch_size)


def test_one_width_is_what_makes_it_so(denoiser: LoadedDenoiser) -> None:
    """Kernels round differently at different widths: every pass has the same one, padded."""
    widths: list[int] = []
    handle = denoiser.prior.denoiser.register_forward_pre_hook(lambda _, arguments: widths.append(len(arguments[0])))
    images(denoiser, [1, 2, 3], 2)
    handle.remove()
    assert set(widths) == {PASS_WIDTH["cpu"]} and len(widths) == 2 * (SAMPLING.steps + 1)


def test_codes_come_from_the_sampler_and_the_seeds_own_noise(denoiser: LoadedDenoiser) -> None:
    shape = denoiser.autoencoder.code_shape

    def noise(*step: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=generator_for(seed, "sample", *step)) for seed in range(8)])

    for sampling in (SAMPLING, NOISY):
        log_snr = step_levels(sampling, denoiser.prior.schedule)
        with torch.no_grad():
            predict = PredictData(denoiser.prior.denoiser, KEY_CODES)
            x_0 = run_sampler(sampling.sampler, predict, noise(), log_snr, noise, sampling.eta)
        codes = draw_latents(denoiser.prior, range(8), sampling, CPU)
        torch.testing.assert_close(codes, KEY_CODES.to_latent(x_0))
        assert codes.min() >= 0 and codes.max() <= 1 and codes.std() > 0.05


def test_the_sampler_is_the_one_asked_for(denoiser: LoadedDenoiser) -> None:
    kinds = [SamplingSpec(sampler=name, steps=4) for name in get_args(Sampler) if name != "flow_euler"]
    kinds += [SamplingSpec(sampler="ddim", steps=4, eta=0.7), SamplingSpec(steps=5), SamplingSpec(steps=5, start=0.9),
              SamplingSpec(steps=5, start=0.9, grid="trailing")]
    codes = [draw_latents(denoiser.prior, range(2), kind, CPU) for kind in kinds]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(codes, 2))
