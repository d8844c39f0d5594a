"""Use of the grids by a data set: counted again by hand, written twice, told in a few lines."""

import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bricscli.build import build_autoencoder
from bricscli.data.collection import ImageCollection
from bricscli.errors import MismatchError
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.tasks.eval.usage import describe_usage, evaluate_usage, save_usage
from bricscli.tasks.models import LoadedAutoencoder

CPU = torch.device("cpu")
SIZE, RESOLUTIONS, MAX_ENTRIES = 8, (4, 8, 16), 1000


def loaded(recipe: AutoencoderRecipe) -> LoadedAutoencoder:
    torch.manual_seed(0)
    model = build_autoencoder(recipe).eval().requires_grad_(False)
    model.encoder.out.weight *= 5  # keys of all sizes
    return LoadedAutoencoder("toy", recipe, model, "abc", Path("weights"))


@pytest.fixture
def autoencoder(tiny_autoencoder: Callable[..., AutoencoderRecipe]) -> LoadedAutoencoder:
    """Two groups; 8x8 pixels lie on the nodes of the finest level, whose 17^3 nodes share 1000 entries."""
    return loaded(tiny_autoencoder(retrieval={"size": SIZE, "levels": 3, "r_min": RESOLUTIONS[0],
                                              "r_max": RESOLUTIONS[-1], "max_entries": MAX_ENTRIES}))


def pictures(count: int, split: str | None = "train") -> ImageCollection:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    return ImageCollection("pictures", count, lambda i: pixels[i], (16, 16), "digest", split)


def corners(coordinate: float, resolution: int) -> Iterator[int]:
    """The nodes that interpolation along one axis gives a weight."""
    position = coordinate * resolution
    yield math.floor(position)
    if position != math.floor(position):
        yield math.floor(position) + 1


def entry(key: int, x: int, y: int, resolution: int) -> int:
    """Eq. 6."""
    n = resolution + 1
    return (key + n * x + n**2 * y) % MAX_ENTRIES if n**3 > MAX_ENTRIES else key + n * x + n**2 * y


def reachable(resolution: int) -> set[int]:
    columns = {node for i in range(SIZE) for node in corners((i + 0.5) / SIZE, resolution)}
    return {entry(key, x, y, resolution) for key in range(resolution + 1) for x in columns for y in columns}


def count_hits(code: np.ndarray, resolution: int) -> Counter[int]:
    """Of one group: keys `(8, 8)`."""
    return Counter(entry(*corner, resolution) for row, column in itertools.product(range(SIZE), repeat=2)
                   for corner in itertools.product(corners(float(code[row, column]), resolution),
                                                   corners((column + 0.5) / SIZE, resolution),
                                                   corners((row + 0.5) / SIZE, resolution)))


def test_hits_are_those_counted_by_hand(autoencoder: LoadedAutoencoder) -> None:
    images = pictures(3)
    result = evaluate_usage(autoencoder, images, device=CPU)
    pixels = torch.from_numpy(np.stack([images.read(i) for i in range(3)]))
    codes = autoencoder.model.encode(pixels / 127.5 - 1).numpy()
    shares = []
    for level, resolution in zip(result["levels"], RESOLUTIONS, strict=True):
        places = reachable(resolution)
        assert (level["resolution"], level["reachable"]) == (resolution, len(places))
        for number, group in enumerate(level["groups"]):
            hits = sum((count_hits(code[number], resolution) for code in codes), Counter[int]())
            assert hits.keys() <= places
            counts = [hits[place] for place in places]
            shares.append((sum(count > 0 for count in counts), len(places)))
            assert group["hit_of_reachable"] == pytest.approx(len(hits) / len(places))
            assert group["mean"] == pytest.approx(statistics.fmean(counts))
            assert group["variance"] == pytest.approx(statistics.pvariance(counts))
            assert group["variation"] == pytest.approx(statistics.pstdev(counts) / statistics.fmean(counts))
    assert result["hit_share"] == pytest.approx(sum(hit for hit, _ in shares) / sum(of for _, of in shares))
    assert 0.05 < result["hit_share"] < 0.95


def test_the_batch_changes_nothing_and_the_limit_is_recorded(autoencoder: LoadedAutoencoder) -> None:
    images = pictures(5)
    result = evaluate_usage(autoencoder, images, device=CPU)
    assert evaluate_usage(autoencoder, images, device=CPU, batch_size=2) == result
    few = evaluate_usage(autoencoder, images, device=CPU, limit=1)
    assert few["images"] == images.describe(1) and few["images"]["images"] == 1
    assert 0 < few["hit_share"] < result["hit_share"]
    assert result["images"] == images.describe(None) and result["autoencoder"] == "abc"
    for level in few["levels"]:  # 64 pixels have 4 corners each, or 1 where they lie on nodes, and 2 along the key
        columns = 64 if level["resolution"] == 16 else 256
        assert [group["mean"] * level["reachable"] for group in level["groups"]] == pytest.approx([2 * columns] * 2)


def test_what_is_written(autoencoder: LoadedAutoencoder, tmp_path: Path) -> None:
    result = evaluate_usage(autoencoder, pictures(2), device=CPU)
    first, second = (save_usage(result, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == ["usage-pictures-train.json", "usage-pictures-train.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second], "same input, same bytes"
    assert json.loads(first[0].read_text()) == result
    assert str(tmp_path) not in first[0].read_text()
    folder = evaluate_usage(autoencoder, pictures(2, None), device=CPU)
    assert save_usage(folder, tmp_path)[0].name == "usage-pictures-folder.json"


def group(hit: float, variation: float) -> dict[str, Any]:
    return {"hit_of_used": 0.0, "hit_of_reachable": hit, "mean": 0.0, "variance": 0.0, "variation": variation}


def test_what_is_told() -> None:
    levels = [{"resolution": 4, "entries": 128, "used": 125, "reachable": 125, "groups": [group(1, 0.25)] * 2},
              {"resolution": 128, "entries": 2**18, "used": 2**18, "reachable": 99999,
               "groups": [group(0.5, 10), group(0.25, 30.5)]}]
    result = {"levels": levels, "hit_share": 0.98765, "images": {"name": "lsun-church", "images": 7, "of": 9}}
    assert describe_usage(result) == [
        "resolution  entries  reachable  hit, mean    least  hits: deviation / mean    most",
        "         4      128        125    100.00%  100.00%                    0.25    0.25",
        "       128   262144      99999     37.50%   25.00%                   20.25   30.50",
        "mean, least and most are those of the groups; shares are of the entries that a key can reach",
        "98.77% of those of all levels were hit by 7 images of lsun-church"]


def test_without_grids_nothing_is_counted(tiny_autoencoder: Callable[..., AutoencoderRecipe]) -> None:
    recipe = tiny_autoencoder(bottleneck={"kind": "kl", "channels": 2}, retrieval={"kind": "none"})
    with pytest.raises(MismatchError, match=r"^toy: has no feature grids .*Choose a run of BRICS\.$"):
        evaluate_usage(loaded(recipe), pictures(1), device=CPU)
