"""PNG, lossless WebP, the original files: the same pixels for whoever reads them, all the way to key codes."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bricscli.data.collection import find_images
from bricscli.data.images import decode_image, encode_png, encode_webp
from bricscli.data.resize import RESIZES
from bricscli.data.shards import ShardSet, write_shards
from bricscli.errors import DataError
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.tasks.encode import encode
from bricscli.tasks.prepare import prepare_folder, prepare_toy
from bricscli.tasks.train_ae import train_autoencoder

CPU = torch.device("cpu")


def noise(seed: int, size: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def originals(folder: Path, ending: str, count: int = 6, **options: Any) -> dict[str, bytes]:
    """Files of 16x16, by their names."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        noise(i).save(folder / f"{i}.{ending}", **options)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored(dataset: ShardSet, extension: str) -> dict[str, bytes]:
    return {json.loads(split.read(i, "json"))["source"]: split.read(i, extension)
            for split in map(dataset.split, dataset.splits) for i in range(len(split))}


def test_webp_trains_and_encodes_as_png_does(
    tmp_path: Path, tiny_autoencoder: Callable[..., AutoencoderRecipe]
) -> None:
    recipe = tiny_autoencoder(losses={"adversarial": 0}, training={"images": 8})
    metrics, codes, pixels = [], [], []
    for format in ("png", "webp"):
        data = prepare_toy(tmp_path / format / "data", resolution=16, count=24, val_fraction=0.3, format=format,
                           workers=1).dataset
        assert (data.image_extension, data.header["format"]) == (format, format)
        run = train_autoencoder(recipe, data.path, tmp_path / format / "run", device=CPU, save_every=0)
        split = encode(run, data.path, device=CPU).split("train")
        metrics.append(run.metrics_path.read_bytes())
        codes.append([split.read(i, split.extensions[-1]) for i in range(len(split))])
        pixels.append(np.stack([*find_images(data.path).batches(24)]))
    assert metrics[0] == metrics[1] and codes[0] == codes[1] and (pixels[0] == pixels[1]).all()
    assert pixels[0].shape == (1, 24, 3, 16, 16)


def test_webp_keeps_every_pixel_and_nothing_else() -> None:
    image = noise(3)
    image.info["icc_profile"] = image.info["exif"] = b"x" * 500
    data = encode_webp(image)
    assert data == encode_webp(np.asarray(image).transpose(2, 0, 1).copy()) and b"x" * 100 not in data
    assert (decode_image(data, 16) == np.asarray(image).transpose(2, 0, 1)).all()
    white = np.full((3, 8, 8), 255, np.uint8)
    assert (decode_image(encode_webp(white)) == white).all()


@pytest.mark.parametrize("format", ["png", "webp"])
def test_any_number_of_workers_and_both_formats(tmp_path: Path, format: str) -> None:
    originals(tmp_path / "photos", "bmp", 40)
    made = [prepare_folder(tmp_path / f"{workers}", folder=tmp_path / "photos", resolution=8, format=format,
                           workers=workers, resize="adm").dataset for workers in (1, 2)]
    assert made[0].digest == made[1].digest and made[0].header["resize"] == "adm"
    for name, data in stored(made[0], format).items():
        wanted = RESIZES["adm"](Image.open(tmp_path / "photos" / name), 8)
        assert (decode_image(data, 8) == np.asarray(wanted).transpose(2, 0, 1)).all()


@pytest.mark.parametrize(("ending", "extension", "options"), [
    ("png", "png", {}), ("jpeg", "jpg", {"quality": 90}), ("webp", "webp", {"quality": 80}),
])
def test_original_files_are_kept_to_the_byte(
    tmp_path: Path, ending: str, extension: str, options: dict[str, Any]
) -> None:
    files = originals(tmp_path / "photos", ending, **options)
    dataset = prepare_folder(tmp_path / "set", folder=tmp_path / "photos", resolution=16, format="original").dataset
    assert dataset.image_extension == extension
    assert stored(dataset, extension) == files
    header = dataset.header
    assert (header["format"], header["crop"], header["resize"]) == ("original", None, None)
    images = find_images(dataset.path)
    assert images.count == 6 and images.lossy == (extension == "jpg")
    wanted = {np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes() for data in files.values()}
    assert {images.read(i).transpose(1, 2, 0).tobytes() for i in range(6)} == wanted
    assert prepare_folder(dataset.path, folder=tmp_path / "photos", resolution=16, format="original").already


def turned() -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3
    noise(9).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def moving() -> bytes:
    buffer = io.BytesIO()
    noise(9).save(buffer, "PNG", save_all=True, append_images=[noise(8)])
    return buffer.getvalue()


def gray() -> bytes:
    buffer = io.BytesIO()
    noise(9).convert("L").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("data", "words"), [
    (encode_png(noise(9, 17)), r"x\.png: is RGB of 17x17 pixels\. --format original needs RGB images .* all 16x16"),
    (encode_webp(noise(9)), r"x\.png: is WebP, and others are PNG\. --format original"),
    (turned(), r"x\.png: is to be turned"), (moving(), r"x\.png: has several frames"),
    (gray(), r"x\.png: is L of 16x16"), (b"BM", r"x\.png: is something else, and others are PNG"),
], ids=["size", "kind", "turned", "moving", "gray", "none"])
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_files_that_cannot_be_kept(tmp_path: Path, data: bytes, words: str, workers: int) -> None:
    originals(tmp_path / "photos", "png")
    (tmp_path / "photos" / "x.png").write_bytes(data)
    with pytest.raises(DataError, match=words) as refused:
        prepare_folder(tmp_path / "set", folder=tmp_path / "photos", resolution=16, format="original", workers=workers)
    assert len(refused.value.lines) == 1 and [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_damaged_original_is_rejected_as_others_are(tmp_path: Path) -> None:
    files = originals(tmp_path / "photos", "png", 120)
    (tmp_path / "photos" / "5.png").write_bytes(files["5.png"][:-30])
    done = prepare_folder(tmp_path / "set", folder=tmp_path / "photos", resolution=16, format="original",
                          on_bad="skip")
    assert [entry.path for entry in done.rejected] == ["5.png"] and sum(done.dataset.splits.values()) == 119


def test_originals_that_are_none_of_the_three(tmp_path: Path) -> None:
    originals(tmp_path / "photos", "bmp")
    with pytest.raises(DataError, match=r"0\.bmp: is neither PNG nor WebP nor JPEG, which --format original needs"):
        prepare_folder(tmp_path / "set", folder=tmp_path / "photos", resolution=16, format="original")


def test_a_data_set_without_images_has_no_ending(tmp_path: Path) -> None:
    dataset = write_shards(tmp_path / "codes", {"kind": "key_codes"}, [("train", "0", {"npy": b"x"})])
    with pytest.raises(DataError, match="codes: holds no images"):
        _ = dataset.image_extension


@pytest.mark.parametrize("data", [
    b"RIFF\x10\x00\x00\x00WEBPVP8X", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"", b"GIF89a" + b"\0" * 40,
    encode_webp(noise(1))[:-40], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"])
def test_hostile_members_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(cannot|neither|expected)"):
        decode_image(data, 16)


def test_the_size_is_checked_before_anything_is_decoded() -> None:
    """A WebP and a JPEG that claim to be huge; nothing is allocated for them."""
    webp, jpeg = encode_webp(np.zeros((3, 8, 8), np.uint8)), io.BytesIO()
    huge = bytearray(webp)
    huge[21:25] = ((16383) | (16383 << 14)).to_bytes(4, "little")  # VP8L: 14 bits each of width - 1, height - 1
    noise(1).save(jpeg, "JPEG")
    data = bytearray(jpeg.getvalue())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    for bomb in (bytes(huge), bytes(data)):
        with pytest.raises(ValueError, match=r"megapixels|cannot"):
            decode_image(bomb)
        with pytest.raises(ValueError, match=r"megapixels|cannot|expected"):
            decode_image(bomb, 16)
