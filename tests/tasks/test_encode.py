"""Key codes: those of the images, in their order, with the digest of what made them."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bricscli.data.images import decode_image, to_float
from bricscli.data.shards import ShardSet
from bricscli.errors import BricsError, DataError, MismatchError
from bricscli.nn.autoencoder import Autoencoder
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.run.checkpoint import checkpoint_digest, list_checkpoints
from bricscli.tasks import encode as task
from bricscli.tasks.encode import CODE, FLIP, decode_code, encode, open_codes
from bricscli.tasks.models import load_autoencoder
from bricscli.tasks.prepare import prepare_toy
from bricscli.tasks.train_ae import train_autoencoder

CPU = torch.device("cpu")
Trained = Any  # tests/tasks/conftest.py
SHAPE = (2, 8, 8)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_codes_are_those_of_the_images(trained: Trained) -> None:
    autoencoder, images = load_autoencoder(trained.autoencoder, CPU), ShardSet.open(trained.data)
    codes = open_codes(trained.autoencoder, autoencoder)
    assert codes.splits == images.splits == {"train": 28, "val": 12}
    for name in codes.splits:
        pictures, split = images.split(name), codes.split(name)
        assert split.keys == pictures.keys and split.extensions == [CODE, FLIP]
        for i in range(len(split)):
            image = to_float(torch.from_numpy(decode_image(pictures.read(i)))[None])
            for extension, shown in ((CODE, image), (FLIP, image.flip(-1))):
                code = decode_code(split.read(i, extension), SHAPE)
                wanted = autoencoder.model.encode(shown)[0].numpy()
                assert np.abs(code.astype(np.float32) - wanted).max() < 3e-4, "rounding to float16 and no more"


def test_the_header_says_what_made_them(trained: Trained) -> None:
    header = ShardSet.open(trained.autoencoder.codes).header
    digest = checkpoint_digest(list_checkpoints(trained.autoencoder.checkpoints)[-1])
    assert header["kind"] == "key_codes" and header["autoencoder"] == {"run": "toy", "digest": digest}
    data = ShardSet.open(trained.data)
    assert header["images"] == {"name": "data", "digest": data.digest, "preparation": data.preparation}
    assert (header["shape"], header["dtype"]) == ([2, 8, 8], "float16")


def test_the_same_again_does_nothing_and_the_batch_changes_nothing(
    copied: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, run = folder_bytes(copied.autoencoder.codes), copied.autoencoder
    times = {path.name: path.stat().st_mtime_ns for path in run.codes.iterdir()}
    encode(run, copied.data, device=CPU)
    assert {path.name: path.stat().st_mtime_ns for path in run.codes.iterdir()} == times
    shutil.rmtree(run.codes)
    encode(run, copied.data, device=CPU)
    assert folder_bytes(run.codes) == before, "same input, same bytes"
    shutil.rmtree(run.codes)
    monkeypatch.setattr(task, "IMAGES_AT_A_TIME", 5)
    encode(run, copied.data, device=CPU)
    assert folder_bytes(run.codes) == before, "how many are held at a time changes no bit"


def test_codes_of_another_checkpoint_replace_the_old_ones_whole(
    copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so."""
    run = copied.autoencoder
    older = list_checkpoints(run.checkpoints)[-2]
    (run.path / ".brics-part-codes" / "0123" / "data").mkdir(parents=True)  # what a killed process may leave behind
    encode(run, copied.data, device=CPU, checkpoint=older.name)
    data, first = ShardSet.open(copied.data).digest[:8], checkpoint_digest(list_checkpoints(run.checkpoints)[-1]) or ""
    assert (f"codes: codes of data ({data}) by autoencoder {first[:8]} were there and are replaced by codes of data "
            f"({data}) by autoencoder {(checkpoint_digest(older) or '')[:8]}") in capsys.readouterr().err
    assert ShardSet.open(run.codes).header["autoencoder"]["digest"] == checkpoint_digest(older)
    assert sorted(path.name for path in run.path.iterdir() if path.is_dir()) == ["checkpoints", "codes", "sheets"]
    with pytest.raises(MismatchError) as caught:
        open_codes(run, load_autoencoder(run, CPU))
    newest = checkpoint_digest(list_checkpoints(run.checkpoints)[-1])
    assert newest is not None and newest[:8] in str(caught.value)
    assert f"--checkpoint {(checkpoint_digest(older) or '')[:8]}" in str(caught.value)


def test_nothing_changes_when_encoding_fails(copied: Trained) -> None:
    run = copied.autoencoder
    shard = ShardSet.open(copied.data).shards[0]
    data = bytearray((copied.data / shard.name).read_bytes())
    data[next(member.offset for member in shard.members if member.name.endswith(".png")) + 40] ^= 255
    (copied.data / shard.name).write_bytes(data)
    before = folder_bytes(run.codes)
    names = sorted(path.name for path in run.path.iterdir())
    with pytest.raises(DataError, match=r"CRC-32"):
        encode(run, copied.data, device=CPU, checkpoint=list_checkpoints(run.checkpoints)[-2].name)
    assert folder_bytes(run.codes) == before
    assert sorted(path.name for path in run.path.iterdir()) == names


def test_what_is_refused(copied: Trained, tmp_path: Path) -> None:
    run = copied.autoencoder
    with pytest.raises(MismatchError):
        encode(copied.diffusion, copied.data, device=CPU)
    with pytest.raises(DataError, match=r"no prepared data set"):
        encode(run, tmp_path / "nowhere", device=CPU)
    with pytest.raises(DataError, match=r"holds key_codes"):
        encode(run, run.codes, device=CPU)
    large = prepare_toy(tmp_path / "large", resolution=32, count=4, val_fraction=0.5, workers=1).dataset.path
    with pytest.raises(DataError, match=r"images of 32 pixels.*--resolution 16"):
        encode(run, large, device=CPU)
    with run.lock(), pytest.raises(BricsError, match=r"is in use by"):
        encode(run, copied.data, device=CPU)
    shutil.rmtree(run.codes)
    with pytest.raises(DataError, match=r"no codes yet.*brics encode --run"):
        open_codes(run, load_autoencoder(run, CPU))


def test_of_every_method(
    trained: Trained, tiny_autoencoder: Callable[..., AutoencoderRecipe], tmp_path: Path, method: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key codes are in [0, 1]; of other latents the manifest says how far the train split spreads."""
    recipe = tiny_autoencoder(**method | {"training": {"images": 4}, "losses": {"adversarial": 0}})
    run = train_autoencoder(recipe, trained.data, tmp_path / "run", device=CPU)
    codes = encode(run, trained.data, device=CPU)
    assert tuple(codes.header["shape"]) == recipe.code_shape
    split = codes.split("train")
    arrays = np.stack([decode_code(split.read(i, kind), recipe.code_shape) for i in range(len(split))
                       for kind in (CODE, FLIP)]).astype(np.float64)
    if recipe.has_key_codes:
        assert codes.header["kind"] == "key_codes" and "latents" not in codes.header
        assert arrays.min() >= 0 and arrays.max() <= 1
        return
    assert codes.header["kind"] == "latents"
    assert codes.header["latents"] == pytest.approx({"std": arrays.std(), "largest": np.abs(arrays).max()}, rel=1e-9)
    before = folder_bytes(run.codes)
    shutil.rmtree(run.codes)
    monkeypatch.setattr(task, "IMAGES_AT_A_TIME", 5)
    encode(run, trained.data, device=CPU)
    assert folder_bytes(run.codes) == before


def test_a_latent_that_float16_cannot_hold(copied: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied.autoencoder
    shutil.rmtree(run.codes)
    monkeypatch.setattr(Autoencoder, "latent", lambda self, image: torch.full((len(image), *SHAPE), 1e5))
    with pytest.raises(DataError, match=r"\.png: its latent is too large for float16.*smaller learning rate"):
        encode(run, copied.data, device=CPU)
    assert not run.codes.exists()


@pytest.mark.parametrize("array", [np.zeros((2, 8, 4), np.float16), np.zeros(SHAPE, np.float32)])
def test_a_member_that_is_no_key_code(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a float16 code"):
        decode_code(to_npy(array), SHAPE)


def test_no_pickle_is_read() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"an array of object"):
        decode_code(buffer.getvalue(), SHAPE)
