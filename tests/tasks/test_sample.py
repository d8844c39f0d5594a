"""One seed, one image: at any batch size, in any order, beside any others; and folders that hold one kind only."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bricscli.data.images import decode_image
from bricscli.diffusion.denoiser import PredictData, to_key_code
from bricscli.diffusion.samplers import SAMPLERS
from bricscli.diffusion.schedule import log_snr_steps
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.recipe.specs import SamplingSpec
from bricscli.run.checkpoint import list_checkpoints
from bricscli.runtime import PASS_WIDTH, generator_for
from bricscli.tasks.models import LoadedDenoiser, load_denoiser
from bricscli.tasks.sample import (
    RECORD,
    check_range,
    choose_sampling,
    draw_key_codes,
    iter_samples,
    newest_samples,
    sample_to_folder,
)

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py
SAMPLING = SamplingSpec(sampler="dpmpp_2m", steps=3)


@pytest.fixture(scope="module")
def denoiser(trained: Trained) -> LoadedDenoiser:
    """With random weights everywhere, so that what it says depends on every input strongly."""
    loaded = load_denoiser(trained.diffusion, CPU)
    torch.manual_seed(0)
    for parameter in [*loaded.model.parameters(), *loaded.autoencoder.model.retrieval.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    return loaded


def images(denoiser: LoadedDenoiser, seeds: list[int], batch_size: int = 64) -> dict[int, Tensor]:
    drawn: dict[int, Tensor] = {}
    for batch in iter_samples(denoiser, seeds, SAMPLING, CPU, batch_size):
        assert batch.keys == [f"{seed:06d}" for seed in batch.seeds]
        drawn |= dict(zip(batch.seeds, batch.images, strict=True))
    return drawn


def test_a_seed_is_an_image(denoiser: LoadedDenoiser) -> None:
    reference = images(denoiser, list(range(19)))
    assert all(image.shape == (3, 16, 16) and image.dtype == torch.uint8 for image in reference.values())
    assert len({image.numpy().tobytes() for image in reference.values()}) == 19, "all different"
    everyone = list(range(19))
    for seeds, batch_size in ((everyone, 1), (everyone, 8), (everyone[::-1], 5), ([13], 64), ([2, 17, 3], 2)):
        drawn = images(denoiser, seeds, batch_size)
        assert drawn.keys() == set(seeds)
        assert [seed for seed in seeds if not torch.equal(drawn[seed], reference[seed])] == [], (seeds, batch_size)


def test_one_width_is_what_makes_it_so(denoiser: LoadedDenoiser) -> None:
    """Kernels round differently at different widths: every pass has the same one, padded."""
    widths: list[int] = []
    handle = denoiser.model.register_forward_pre_hook(lambda _, arguments: widths.append(len(arguments[0])))
    images(denoiser, [1, 2, 3], 2)
    handle.remove()
    assert set(widths) == {PASS_WIDTH["cpu"]} and len(widths) == 2 * (SAMPLING.steps + 1)


def test_codes_come_from_the_sampler_and_the_seeds_own_noise(denoiser: LoadedDenoiser) -> None:
    shape = denoiser.autoencoder.code_shape
    noise = torch.stack([torch.randn(shape, generator=generator_for(seed, "sample")) for seed in range(8)])
    with torch.no_grad():
        log_snr = log_snr_steps(denoiser.schedule, 3, SAMPLING.start)
        x_0 = SAMPLERS["dpmpp_2m"](PredictData(denoiser.model), noise, log_snr)
    codes = draw_key_codes(denoiser.model, denoiser.schedule, shape, range(8), SAMPLING, CPU)
    torch.testing.assert_close(codes, to_key_code(x_0))
    assert codes.min() >= 0 and codes.max() <= 1 and codes.std() > 0.05


def test_folder_of_samples(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "samples"
    assert sample_to_folder(trained.diffusion, out, count=3, first_seed=999999, device=CPU) == 3
    assert sorted(path.name for path in out.iterdir()) == ["1000000.png", "1000001.png", "999999.png", RECORD]
    assert decode_image((out / "999999.png").read_bytes()).shape == (3, 16, 16)
    record = json.loads((out / RECORD).read_text())
    loaded = load_denoiser(trained.diffusion, CPU)
    assert record == {
        "kind": "samples", "denoiser": {"run": "toy-diffusion", "digest": loaded.digest},
        "autoencoder": loaded.autoencoder.digest, "device": "cpu",
        "sampling": {"sampler": "dpmpp_2m", "steps": 4, "start": 0.97}}


def test_files_are_the_same_at_batch_1_and_8(trained: Trained, tmp_path: Path) -> None:
    for size in (1, 8):
        sample_to_folder(trained.diffusion, tmp_path / str(size), count=11, device=CPU, batch_size=size)
    for seed in range(11):
        one, eight = (tmp_path / size / f"{seed:06d}.png" for size in ("1", "8"))
        assert one.read_bytes() == eight.read_bytes()


def test_what_is_there_already_is_kept(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    assert sample_to_folder(trained.diffusion, out, count=4, device=CPU) == 4
    first = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.png")}
    (out / "000002.png").unlink()
    (out / ".brics-tmp-000003.png-999999999").write_bytes(b"half of one")
    assert sample_to_folder(trained.diffusion, out, count=6, device=CPU) == 3
    assert sorted(path.name for path in out.iterdir()) == [*(f"00000{i}.png" for i in range(6)), RECORD]
    for name, (data, time) in first.items():
        assert (out / name).read_bytes() == data
        assert ((out / name).stat().st_mtime_ns == time) == (name != "000002.png")
    assert sample_to_folder(trained.diffusion, out, count=6, device=CPU) == 0


def test_images_drawn_in_another_way_are_not_mixed(copied: Trained, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    sample_to_folder(copied.diffusion, out, count=1, device=CPU)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match=r"drawn in another way"):
        sample_to_folder(copied.diffusion, out, count=2, device=CPU, steps=5)
    with pytest.raises(DataError, match=r"drawn in another way"):
        sample_to_folder(copied.diffusion, out, count=2, device=CPU, sampler="ddim")
    shutil.rmtree(list_checkpoints(copied.diffusion.checkpoints)[-1])
    with pytest.raises(DataError, match=r"drawn in another way"):
        sample_to_folder(copied.diffusion, out, count=2, device=CPU)
    (out / RECORD).write_text("{")
    with pytest.raises(DataError, match=r"drawn in another way"):
        sample_to_folder(copied.diffusion, out, count=2, device=CPU)
    (out / RECORD).unlink()
    with pytest.raises(DataError, match=r"did not draw"):
        sample_to_folder(copied.diffusion, out, count=2, device=CPU)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {k: v for k, v in before.items() if k != RECORD}


def test_places_that_cannot_be_written(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "samples"):
        with pytest.raises(DataError, match=r"is not a folder"):
            sample_to_folder(trained.diffusion, out, count=1, device=CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_autoencoders_run_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(MismatchError):
        sample_to_folder(trained.autoencoder, tmp_path / "out", count=1, device=CPU)
    assert not (tmp_path / "out").exists()


def test_options_out_of_range_are_all_told() -> None:
    with pytest.raises(RecipeError) as caught:
        check_range(count=0, seed=-1, steps=-2, batch_size=0)
    assert [line.split(":")[0] for line in caught.value.lines] == ["-n", "--seed", "--steps", "--batch-size"]
    with pytest.raises(RecipeError):
        check_range(count=1, seed=0, steps=0, batch_size=1)
    check_range(count=1, seed=0, steps=None, batch_size=1)


def test_the_users_sampling_over_the_recipes() -> None:
    assert choose_sampling(SAMPLING, None, None) == SAMPLING
    assert choose_sampling(SAMPLING, "ddim", 7) == SamplingSpec(sampler="ddim", steps=7)
    with pytest.raises(RecipeError, match=r"`euler` is unknown. There are: ddim, dpmpp_2m"):
        choose_sampling(SAMPLING, "euler", None)


def test_the_newest_samples(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder of samples"):
        newest_samples(tmp_path, tmp_path / "runs")
    for out in (tmp_path / "first", tmp_path / "runs" / "x" / "samples"):
        sample_to_folder(trained.diffusion, out, count=1, device=CPU)
    assert newest_samples(tmp_path, tmp_path / "runs") == tmp_path / "runs" / "x" / "samples"
    sample_to_folder(trained.diffusion, tmp_path / "first", count=2, device=CPU)
    assert newest_samples(tmp_path, tmp_path / "runs") == tmp_path / "first"


def test_the_sampler_is_the_one_asked_for(denoiser: LoadedDenoiser) -> None:
    shape = denoiser.autoencoder.code_shape
    asked = (("ddim", 4, 0.97), ("dpmpp_2m", 4, 0.97), ("dpmpp_2m", 5, 0.97), ("dpmpp_2m", 5, 0.9))
    kinds = [choose_sampling(SAMPLING, *options) for options in asked]
    codes = [draw_key_codes(denoiser.model, denoiser.schedule, shape, range(2), kind, CPU) for kind in kinds]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(codes, 2))
    for start in (0.0, 1.1):
        with pytest.raises(RecipeError, match="--start"):
            choose_sampling(SAMPLING, None, None, start)
