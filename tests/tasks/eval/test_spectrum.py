"""Spectra of collections: blur is missing power where it should be, files are the same every time, limits are told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bricscli.data.collection import ImageCollection
from bricscli.errors import DataError, MismatchError
from bricscli.tasks.eval.spectrum import describe_spectrum, evaluate_spectrum, save_spectrum

CPU = torch.device("cpu")


def collection(name: str, pixels: np.ndarray, split: str | None = None, lossy: bool = False) -> ImageCollection:
    return ImageCollection(name, len(pixels), lambda i: pixels[i], pixels.shape[2:], "digest", split, lossy)


def pixels(count: int = 30, size: int = 32, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(128, 30, (count, 1, size, size)).clip(0, 255).repeat(3, 1).astype(np.uint8)


def blurred(images: np.ndarray) -> np.ndarray:
    """Each pixel the mean of 3x3: nearly nothing is left at a third of a cycle per pixel and beyond."""
    shifted = [np.roll(images.astype(float), (i, j), (2, 3)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.mean(shifted, axis=0).round().astype(np.uint8)


def test_blur_takes_the_high_frequencies() -> None:
    result = evaluate_spectrum(collection("a", blurred(pixels())), collection("b", pixels(seed=1)), device=CPU)
    bias = {name: band["bias"] for name, band in result["bands"].items()}
    assert -2.5 < bias["low"] < 0 and bias["high"] < bias["middle"] - 3 < bias["low"] - 4
    equal = evaluate_spectrum(collection("a", pixels()), collection("b", pixels()), device=CPU, batch_size=7)
    assert all(band["error"] < 1e-9 for band in equal["bands"].values())


def test_another_preparation_is_another_spectrum() -> None:
    def of(resize: str) -> ImageCollection:
        images = collection(resize, pixels(4))
        images.preparation = {"crop": "center", "resize": resize}
        return images

    with pytest.raises(MismatchError, match="resized by `lanczos`"):
        evaluate_spectrum(of("lanczos"), of("adm"), device=CPU)
    forced = evaluate_spectrum(of("lanczos"), of("adm"), device=CPU, force=True)
    assert len(forced["forced"]) == 1 and "FORCED" in describe_spectrum(forced)[-1]


def test_what_is_written_and_told(tmp_path: Path) -> None:
    samples, reference = collection("$samples_1", pixels(5)), collection("faces", pixels(8, seed=1), "val")
    result = evaluate_spectrum(samples, reference, device=CPU, limit=4)
    first, second = (save_spectrum(result, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == ["spectrum-$samples_1-faces-val-limit4.json",
                                                 "spectrum-$samples_1-faces-val-limit4.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second], "same input, same bytes"
    assert json.loads(first[0].read_text()) == json.loads(json.dumps(result))
    assert result["samples"]["images"] == 4 and result["reference"]["images"] == 8, "the limit is that of the samples"
    result["bands"] = {"low": {"range": (0, 75 / 512), "bias": -1.234, "error": 10.5}}
    assert describe_spectrum(result) == [
        "band      cycles per pixel  samples - real  mean |difference|",
        "low         0.000 to 0.146        -1.23 dB           10.50 dB",
        "power spectra of 4 images of $samples_1 against 8 images of faces; +3 dB is twice the power"]


def test_refused_and_warned(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"^a: images are 16x16, those of b 32x32\. Compare "):
        evaluate_spectrum(collection("a", pixels(size=16)), collection("b", pixels()), device=CPU)
    evaluate_spectrum(collection("a", pixels(2), lossy=True), collection("b", pixels(2)), device=CPU)
    assert "a: holds JPEG files, whose compression changes the spectrum" in capsys.readouterr().err
