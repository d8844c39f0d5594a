"""The search as a whole: planted copies, restarts, memory, what is written."""

import dataclasses
import io
import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from bricscli.data.collection import ImageCollection, find_images
from bricscli.data.images import Pixels, decode_image, encode_png
from bricscli.data.loader import order
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.metrics.embeddings import DISTANCES, Embedding, feature_embedding, lpips_embedding, pixel_embedding
from bricscli.run.lock import lock_folder
from bricscli.tasks import nn_search as search_task
from bricscli.tasks import reference_stream
from bricscli.tasks.neighbour_sheets import neighbour_sheet
from bricscli.tasks.nn_search import OWN_SEED, describe_result, load_embedding, nn_search
from bricscli.tasks.prepare import prepare_toy
from bricscli.tasks.reference_stream import plan_memory

CPU = torch.device("cpu")
WRITTEN = {"neighbours.json", "sheet.png", "closest.png", "run.lock"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training images and 40 others, of 32 pixels."""
    path = tmp_path_factory.mktemp("neighbours") / "toy"
    prepare_toy(path, resolution=32, count=160, val_fraction=0.25, workers=1)
    return path


@pytest.fixture(scope="module")
def train(data: Path) -> ImageCollection:
    return find_images(data, "train")


@pytest.fixture(scope="module")
def val(data: Path) -> ImageCollection:
    return find_images(data, "val")


@pytest.fixture(scope="module")
def alex() -> Embedding:
    torch.manual_seed(0)
    return lpips_embedding("lpips-alex", None, CPU)


def picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels.transpose(1, 2, 0))


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


CHANGES = {"0-same": lambda x: x, "1-flipped": ImageOps.mirror, "3-compressed": jpeg,
           "2-cropped": lambda x: x.crop((2, 2, 30, 30)).resize((32, 32), Image.Resampling.LANCZOS)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, train: ImageCollection, val: ImageCollection) -> ImageCollection:
    """Changed training images 10, 20, 30, 40, then 12 of the others."""
    folder = tmp_path_factory.mktemp("planted")
    for i, name in enumerate(sorted(CHANGES), start=1):
        CHANGES[name](picture(train.read(10 * i))).save(folder / f"{name}.png")
    for i in range(12):
        picture(val.read(i)).save(folder / f"other-{i:02}.png")
    return find_images(folder)


def without_source(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("distance", "source", "name")}


@pytest.mark.parametrize("metric", ["pixel", "alex"])
def test_planted_copies_come_out_first(metric: str, alex: Embedding, planted: ImageCollection, train: ImageCollection,
                                       tmp_path: Path) -> None:
    """Few pixels stay where they were in the cropped one: it is found by LPIPS, and by `pixel` only just."""
    embedding = alex if metric == "alex" else pixel_embedding(CPU)
    result = nn_search(planted, train, embedding, tmp_path / "out", k=3, mirror=True, quantile=0.05)
    first = {entry["name"]: entry["neighbours"][0] for entry in result["queries"]}
    for i, name in enumerate(sorted(CHANGES), start=1):
        expected = {"index": 10 * i, "mirrored": name == "1-flipped"}
        assert without_source(first[f"{name}.png"]) == expected, "its own training image"
    assert first["0-same.png"]["distance"] == first["1-flipped.png"]["distance"] == 0
    called = {entry["name"] for entry in result["queries"] if entry["copy"] or entry["alone"]}
    changed = {f"{name}.png" for name in CHANGES} - ({"2-cropped.png"} if metric == "pixel" else set())
    assert called >= changed
    assert len(called - changed) <= 3, "ordinary images are not called copies, but for chance: 1.2 expected"
    assert result["copies"]["zero"] == 2 and result["copies"]["own"] == 120
    said = "\n".join(describe_result(result))
    assert re.search(r"copies: \d+ of 16 samples are nearer .* expected by chance, as many or more with prob", said)
    assert "120 images of toy, split train and their mirror images" in said


def test_further_images_are_copies_as_often_as_chance_says(val: ImageCollection, train: ImageCollection,
                                                           tmp_path: Path) -> None:
    result = nn_search(val, train, pixel_embedding(CPU), tmp_path / "out", quantile=0.2)
    assert result["copies"]["expected"] == pytest.approx(40 * 24 / 121)
    assert result["copies"]["probability"] > 0.001 and result["alone"]["probability"] > 0.001
    assert 0.7 < result["copies"]["ratio_of_medians"] < 1.4


def test_neighbours_by_definition(
    alex: Embedding, val: ImageCollection, train: ImageCollection, tmp_path: Path
) -> None:
    """Against the distance of every pair; the scale against that of all pairs of training images."""
    result = nn_search(val, train, alex, tmp_path / "out", k=4, limit=6, own=9)
    queries, reference = (torch.from_numpy(np.stack([c.read(i) for i in range(c.count)])) for c in (val, train))
    q, r = alex(queries).double(), alex(reference).double()
    for entry in result["queries"]:
        distances = (q[entry["index"]] - r).square().sum(1)
        nearest = distances.topk(4, largest=False)
        assert [n["index"] for n in entry["neighbours"]] == nearest.indices.tolist()
        assert [n["distance"] for n in entry["neighbours"]] == pytest.approx(nearest.values.tolist(), abs=1e-6)
        assert entry["name"] == val.about(entry["index"])["name"]
        assert entry["neighbours"][0]["source"] == train.about(entry["neighbours"][0]["index"])["source"]
    apart = (r[:, None] - r[None]).square().sum(2).fill_diagonal_(torch.inf).amin(1)
    chosen = order(OWN_SEED, 120, 0)[:9]
    assert result["copies"]["own"] == 9 and len(set(chosen)) == 9
    assert result["copies"]["own_smallest"] == pytest.approx(float(apart[chosen].min()), abs=1e-6)
    assert result["copies"]["own_median"] == pytest.approx(float(apart[chosen].median()), abs=1e-6)


def test_twins_are_counted_apart(tmp_path: Path) -> None:
    """The same pixels twice, and once mirrored: neither is anybody's neighbour for the scale."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (3, 12, 12), np.uint8) for _ in range(8)]
    for number, image in enumerate([*images, images[2], images[5][:, :, ::-1]]):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(image))
    reference = find_images(tmp_path / "images")
    for mirror, twins in ((False, 2), (True, 4)):
        result = nn_search(reference, reference, pixel_embedding(CPU), tmp_path / f"out-{mirror}", k=2, mirror=mirror)
        assert result["own_with_a_twin"] == twins
        assert result["copies"]["own_smallest"] > 0.05
        assert f"{twins} of 10 training images have a twin" in "\n".join(describe_result(result))
        assert all(entry["neighbours"][0]["distance"] == 0 for entry in result["queries"]), "each found itself"


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_memory_changes_nothing(alex: Embedding, planted: ImageCollection, train: ImageCollection, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    """One pass, or several with small chunks: the same bytes."""
    nn_search(planted, train, alex, tmp_path / "one", k=3, mirror=True, own=20)
    assert "is read" not in capsys.readouterr().out
    nn_search(planted, train, alex, tmp_path / "several", k=3, mirror=True, own=20, memory=0.0008)
    assert re.search(r"36 queries, of which \d+ fit into the memory: toy is read \d+ times", capsys.readouterr().out)
    one, several = read_all(tmp_path / "one"), read_all(tmp_path / "several")
    assert one == several and one.keys() == WRITTEN


def test_the_plan_fits_into_the_memory() -> None:
    for gigabytes in (0.01, 0.1, 4.0):
        for dimension in (512, 31872, 640128):
            for mirror in (False, True):
                image = 4 * dimension * (2 if mirror else 1)
                try:
                    plan = plan_memory(gigabytes, dimension, mirror, 10**6)
                except RecipeError:
                    assert gigabytes * 1e9 < 10 * image
                    continue
                assert 1 <= plan.chunk <= 256 and plan.rows >= 1
                assert 4 * dimension * plan.rows + image * plan.chunk <= gigabytes * 1e9
                assert plan.rows * 4 * dimension > 0.3 * gigabytes * 1e9 or dimension == 512
    with pytest.raises(RecipeError, match=r"--memory 0\.001: too small for vectors of 2\.6 MB"):
        plan_memory(0.001, 640128, False, 10)


def search_and_die(data: Path, out: Path, images: int) -> None:
    """In a process of its own: killed, as by a power cut, once so many images were read."""
    torch.set_num_threads(1)
    train, val = find_images(data, "train"), find_images(data, "val")
    read, seen = train.read, [0]

    def dying(i: int) -> Pixels:
        seen[0] += 1
        if seen[0] > images:
            time.sleep(0.3)  # what was read before is compared and saved meanwhile
            os.kill(os.getpid(), signal.SIGKILL)
        return read(i)

    train.read = dying
    nn_search(val, train, pixel_embedding(CPU), out, k=120, memory=0.0008, save_every=0)


@pytest.mark.parametrize(("images", "memory"), [(80, 0.0008), (80, 0.0004), (330, 4.0)],
                         ids=["as before", "less memory", "in the third pass, more memory"])
def test_killed_and_started_again(images: int, memory: float, data: Path, val: ImageCollection, train: ImageCollection,
                                  tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many neighbours as images: one that was passed over, or compared twice, would be seen."""
    process = multiprocessing.get_context("fork").Process(target=search_and_die, args=(data, tmp_path / "out", images))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "out" / "progress.npz").exists() and not (tmp_path / "out" / "neighbours.json").exists()
    monkeypatch.setattr(search_task, "write_sheets", lambda *arguments: None)
    read, seen = train.read, [0]

    def counting(i: int) -> Pixels:
        seen[0] += 1
        return read(i)

    nn_search(val, dataclasses.replace(train, read=counting), pixel_embedding(CPU), tmp_path / "out", k=120,
              memory=memory)
    assert "goes on after" in capsys.readouterr().out
    assert memory == 0.0004 or seen[0] < 1 + 4 * 120 + 120 - 20, "some were not read again"
    nn_search(val, train, pixel_embedding(CPU), tmp_path / "whole", k=120)
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


def test_damaged_progress_starts_again(val: ImageCollection, train: ImageCollection, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    for content in (b"", b"PK\3\4 nothing", b"\x93NUMPY"):
        (tmp_path / "out" / "progress.npz").write_bytes(content)
        nn_search(val, train, pixel_embedding(CPU), tmp_path / "out")
        assert "is damaged; the search starts again" in capsys.readouterr().err
        (tmp_path / "out" / "neighbours.json").unlink()


def test_another_search_in_the_same_folder(val: ImageCollection, train: ImageCollection, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with what differs, finished or not; the same one is not made twice."""
    out, pixel = tmp_path / "out", pixel_embedding(CPU)
    first = nn_search(val, train, pixel, out)
    before = read_all(out)
    assert nn_search(val, train, pixel, out) == first and "is done already" in capsys.readouterr().out
    for change, says in (({"k": 3}, "another k"), ({"mirror": True}, "another mirrored_too"),
                         ({"weights_digest": "0" * 64}, "another metric"), ({"own": 5}, "another own_distances"),
                         ({"limit": 3}, "another queries"), ({"quantile": 0.1}, "another quantile")):
        with pytest.raises(DataError, match=f"holds another search, with {says}"):
            nn_search(val, train, pixel, out, **change)
    assert read_all(out) == before
    monkeypatch.setattr(reference_stream.ReferenceStream, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        nn_search(val, train, pixel, tmp_path / "half")
    monkeypatch.undo()
    with pytest.raises(DataError, match="half: holds another search, with another k"):
        nn_search(val, train, pixel, tmp_path / "half", k=3)
    (out / "neighbours.json").write_text("{}")
    with pytest.raises(DataError, match=r"neighbours\.json: is no result of this command"):
        nn_search(val, train, pixel, out)


def stopped(stream: reference_stream.ReferenceStream, plan: reference_stream.Plan) -> reference_stream.Found:
    stream._save(stream._load(plan))
    raise KeyboardInterrupt


def test_a_folder_in_use(val: ImageCollection, train: ImageCollection, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with lock_folder(tmp_path / "out"), pytest.raises(BricsError, match=rf"out: is in use by process {os.getpid()} on"):
        nn_search(val, train, pixel_embedding(CPU), tmp_path / "out")


def test_an_extractor_put_in(val: ImageCollection, train: ImageCollection, tmp_path: Path) -> None:
    """CLIP's place, without CLIP: 1 - cosine of mean colours over a 4x4 grid."""

    def extract(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)}

    result = nn_search(val, train, feature_embedding("clip", extract, CPU), tmp_path / "out", k=1,
                       weights_digest="c" * 64)
    a, b = (extract(torch.from_numpy(np.stack([c.read(i) for i in range(c.count)])))["features"].double()
            for c in (val, train))
    cosine = 1 - torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    found = [entry["neighbours"][0]["distance"] for entry in result["queries"]]
    assert found == pytest.approx(cosine.amin(1).tolist(), abs=1e-6)
    assert result["protocol"]["metric"]["weights_sha256"] == "c" * 64


def test_sheets(planted: ImageCollection, train: ImageCollection, tmp_path: Path) -> None:
    """Samples in their order, the mirrored neighbour as it was compared; then the closest ones."""
    nn_search(planted, train, pixel_embedding(CPU), tmp_path / "out", k=2, mirror=True)
    rows = decode_image((tmp_path / "out" / "sheet.png").read_bytes())
    assert rows.shape == (3, 2 + 16 * 34, 2 + 32 + 8 + 2 * 34)
    for i in (0, 1):  # the same, and flipped
        row = rows[:, 2 + 34 * i : 34 + 34 * i]
        assert (row[:, :, 2:34] == planted.read(i)).all() and (row[:, :, 42:74] == planted.read(i)).all()
    assert (rows[:, :, 34:42] == 255).all()
    closest = decode_image((tmp_path / "out" / "closest.png").read_bytes())
    assert closest.shape == rows.shape and (closest[:, 2:34, 2:34] == planted.read(0)).all()
    ragged = neighbour_sheet([(np.zeros((3, 4, 6), np.uint8), [np.ones((3, 4, 6), np.uint8)] * n) for n in (1, 3)])
    assert ragged.shape == (3, 2 + 2 * 6, 2 + 6 + 8 + 3 * 8) and (ragged[:, :8, 24:] == 255).all()


def test_what_is_refused_and_what_is_warned_of(val: ImageCollection, train: ImageCollection, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    pixel, out = pixel_embedding(CPU), tmp_path / "out"
    small = ImageCollection("small", 2, lambda i: np.zeros((3, 16, 16), np.uint8), (16, 16), "d")
    for change, error, says in (
        ({"k": 0}, RecipeError, "-k: 0 is too small"), ({"own": -1}, RecipeError, "--own: -1 is too small"),
        ({"quantile": 0.0}, RecipeError, "--quantile: 0 is not above 0"),
        ({"memory": 1e-6}, RecipeError, "--memory 1e-06: too small"),
    ):
        with pytest.raises(error, match=says):
            nn_search(val, train, pixel, out, **change)
    with pytest.raises(DataError, match="toy: images are 32x32, those of small 16x16"):
        nn_search(val, small, pixel, out)
    with pytest.raises(DataError, match="small: 16x16 is too small for lpips-alex, which needs sides of at least 31"):
        nn_search(small, small, Embedding("lpips-alex", lambda x: x, CPU), out)
    assert not out.exists()
    one = nn_search(small, small, pixel, tmp_path / "one", k=1, own=1)
    assert one["copies"] is None and one["alone"] is None and "copy" not in one["queries"][0]
    assert "the distances of 1 training images to others are no scale" in "\n".join(describe_result(one))
    capsys.readouterr()
    result = nn_search(small, small, pixel, out, k=3, own=0)
    said = capsys.readouterr().err
    assert "has 2 images, so that no sample has 3 neighbours" in said and "is the reference itself" in said
    assert result["copies"] is None and [len(entry["neighbours"]) for entry in result["queries"]] == [2, 2]
    assert "copies: not judged" in "\n".join(describe_result(result))


def test_every_distance_says_which_file_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BRICS_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("lpips-vgg", "lpips-alex", "lpips-squeeze"):
        with pytest.raises(DataError, match="missing"):
            load_embedding(name, CPU)
    assert load_embedding("pixel", CPU)[0].name == "pixel"
    with pytest.raises(RecipeError, match=r"`lpips-ale` is unknown. Did you mean `lpips-alex`"):
        load_embedding("lpips-ale", CPU)
    assert len(DISTANCES) == 5


def test_the_result_holds_no_paths(planted: ImageCollection, train: ImageCollection, tmp_path: Path) -> None:
    nn_search(planted, train, pixel_embedding(CPU), tmp_path / "out")
    text = (tmp_path / "out" / "neighbours.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["kind"] == "neighbours"
    assert json.loads(text)["queries"][0]["neighbours"][0]["name"] == train.about(10)["name"]
