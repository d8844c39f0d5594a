"""Published statistics: their names lead to the files that clean-fid would ask for, and no file can do harm."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bricscli.data import published
from bricscli.data.published import (
    MODES,
    is_published,
    known_statistics,
    load_statistics_npz,
    published_statistics,
    statistics_folders,
)
from bricscli.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$BRICS_WEIGHTS, empty; and no other place."""
    monkeypatch.setenv("BRICS_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def statistics(dimension: int, seed: int = 0) -> dict[str, Any]:
    features = np.random.default_rng(seed).normal(size=(3 * dimension + 2, dimension))
    return {"mu": features.mean(0), "sigma": np.atleast_2d(np.cov(features, rowvar=False))}


@pytest.mark.parametrize("wanted", list(known_statistics()), ids=lambda wanted: wanted.name)
def test_clean_fid_asks_for_the_same_file(wanted: published.PublishedStatistics,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """The independent implementation: its own function, stopped before it downloads."""
    from cleanfid import features

    class Asked(Exception):
        pass

    def stop(local_folder: str, url: str) -> str:
        raise Asked(url)

    monkeypatch.setattr(features, "check_download_url", stop)
    model = {"model_name": "clip_vit_b_32", "mode": "clean"} if wanted.mode == "clip_vit_b_32" else {
        "mode": wanted.mode}
    with pytest.raises(Asked) as caught:
        features.get_reference_statistics(wanted.dataset, wanted.resolution, split=wanted.split, **model)
    assert str(caught.value).replace("stats//", "stats/") == wanted.url
    assert wanted.url.endswith("/" + wanted.file) and wanted.url.startswith("https://")
    assert published_statistics(wanted.name) == wanted and is_published(wanted.name)


def test_clean_fids_table_is_ours() -> None:
    """Its README travels with the package: data set, resolutions, split, count and modes of every row."""
    from importlib.metadata import metadata

    text = str(metadata("clean-fid"))
    rows = re.findall(r"^\| [^|]+\| \[?`(\w+)`[^|]*\| ([\d, ]+)\| `(\w+)` *\| *([\d,]+) *\|([^|]+)\|", text, re.M)
    theirs = {(name, int(size), split, int(count.replace(",", "")), mode) for name, sizes, split, count, modes in rows
              for size in sizes.split(",") for mode in re.findall(r"\w+", modes)}
    ours = {(one.dataset, one.resolution, one.split, one.images, one.mode) for one in known_statistics() if one.listed}
    assert len(rows) == 17 and ours == theirs


def test_names() -> None:
    church = published_statistics("cleanfid:lsun_church:trainfull:256")
    assert (church.file, church.images, church.extractor) == (
        "lsun_church_clean_trainfull_256.npz", 126_227, "inception_clean")
    assert published_statistics("cleanfid:lsun_church:trainfull:256:clean") == church
    legacy = published_statistics("cleanfid:ffhq:trainval70k:256:legacy_tensorflow")
    assert legacy.extractor != church.extractor and "TensorFlow" in legacy.resize
    clip = published_statistics("cleanfid:ffhq:trainval70k:1024:clip_vit_b_32")
    assert (clip.extractor, clip.dimension, clip.listed) == ("clip", 512, False)
    names = [one.name for one in known_statistics()]
    assert len(names) == len(set(names)) == len({one.file for one in known_statistics()})
    assert {one.mode for one in known_statistics()} == MODES.keys()


@pytest.mark.parametrize(("name", "says"), [
    ("cleanfid:lsun_church:trainful:256", "Did you mean `cleanfid:lsun_church:trainfull:256`?"),
    ("cleanfid:lsun_church:trainfull:256:legacy_pytorch", "Did you mean `cleanfid:lsun_church:train"),
    ("cleanfid:ffhq:trainval70k:512", "Did you mean `cleanfid:ffhq:trainval70k:"),
    ("cleanfid:", "Write cleanfid:DATASET:SPLIT:RESOLUTION, such as .* Data sets are: cifar10, ffhq, lsun_church"),
    ("cleanfid:a:b:c:d:e:f", "no such published statistics")])
def test_unknown_names(name: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        published_statistics(name)
    assert len(caught.value.lines) == 1


def test_a_missing_file_says_what_to_copy_where(folder: Path) -> None:
    church = published_statistics("cleanfid:lsun_church:trainfull:256")
    assert church.find() is None
    with pytest.raises(DataError, match=re.escape(f"Copy {church.url} to {folder / church.file}")):
        church.load()


def test_found_and_loaded(folder: Path) -> None:
    clip = published_statistics("cleanfid:cifar10:test:32:clip_vit_b_32")
    arrays = statistics(512)
    np.savez_compressed(folder / clip.file, **arrays)
    mean, covariance = clip.load()
    assert clip.find() == folder / clip.file
    np.testing.assert_array_equal(mean, arrays["mu"])
    np.testing.assert_array_equal(covariance, arrays["sigma"])
    np.savez(folder / clip.file, **statistics(8))
    with pytest.raises(DataError, match=r"is of 8 features, but .* has 512"):
        clip.load()


def test_clean_fids_own_folder_is_looked_in() -> None:
    import cleanfid

    assert statistics_folders()[-1] == Path(cleanfid.__file__).parent / "stats"


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_kinds_of_numbers(dtype: str, tmp_path: Path) -> None:
    arrays = statistics(5)
    np.savez(tmp_path / "s.npz", mu=arrays["mu"].astype(dtype), sigma=np.asfortranarray(arrays["sigma"].astype(dtype)))
    mean, covariance = load_statistics_npz(tmp_path / "s.npz")
    assert mean.dtype == covariance.dtype == np.dtype(np.float64) and covariance.dtype.isnative
    np.testing.assert_array_equal(mean, arrays["mu"].astype(dtype))
    np.testing.assert_array_equal(covariance, arrays["sigma"].astype(dtype))


def test_a_reference_batch_of_adm(tmp_path: Path) -> None:
    """Its images and the spatial statistics are not read: the arrays beside mu and sigma may be anything."""
    arrays = statistics(4)
    np.savez(tmp_path / "s.npz", arr_0=np.array([print], dtype=object), mu_s=np.zeros(3), sigma_s=np.zeros((3, 3)),
             **arrays)
    mean, covariance = load_statistics_npz(tmp_path / "s.npz")
    np.testing.assert_array_equal(mean, arrays["mu"])
    np.testing.assert_array_equal(covariance, arrays["sigma"])


GOOD = statistics(6)
LOPSIDED = GOOD["sigma"] + np.triu(np.full((6, 6), 1e-3), 1)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mu": GOOD["mu"]}, r"it has no array sigma, but mu\.npy"),
    ({"sigma": GOOD["sigma"]}, "it has no array mu"),
    ({}, "it has no array mu, but nothing"),
    ({**GOOD, "mu": GOOD["mu"][:, None]}, r"mu has the shape \(6, 1\), not one dimension"),
    ({**GOOD, "mu": GOOD["mu"][:5]}, r"sigma has the shape \(6, 6\), not the shape \(5, 5\)"),
    ({**GOOD, "sigma": GOOD["sigma"][None]}, "sigma has the shape"),
    ({**GOOD, "mu": np.float64(1)}, r"mu has the shape \(\)"),
    ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "mu is of 0 features"),
    ({**GOOD, "mu": np.arange(6)}, "mu is of int64, not of floating-point numbers"),
    ({**GOOD, "sigma": GOOD["sigma"] + 0j}, "sigma is of complex128"),
    ({**GOOD, "mu": np.array(["a"] * 6)}, "mu is of <U1"),
    ({**GOOD, "mu": np.array([print] * 6, dtype=object)}, "mu is of object"),
    ({**GOOD, "sigma": np.zeros((6, 6), dtype=[("a", "f8")])}, "sigma is of "),
    ({**GOOD, "mu": np.full(6, np.nan)}, "not finite"),
    ({**GOOD, "sigma": np.where(np.eye(6) > 0, np.inf, 0)}, "not finite"),
    ({**GOOD, "sigma": LOPSIDED}, "sigma is not symmetric"),
    ({**GOOD, "sigma": -GOOD["sigma"]}, "negative variances"),
]


@pytest.mark.parametrize(("arrays", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_other_files_are_refused_in_one_line(arrays: dict[str, Any], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError, match=says) as caught:
        load_statistics_npz(tmp_path / "s.npz")
    assert len(caught.value.lines) == 1 and caught.value.exit_code == 3


def test_what_rounding_leaves_is_no_asymmetry(tmp_path: Path) -> None:
    sigma = GOOD["sigma"] * (1 + 1e-9 * np.triu(np.ones((6, 6)), 1))
    np.savez(tmp_path / "s.npz", mu=GOOD["mu"], sigma=sigma)
    np.testing.assert_array_equal(load_statistics_npz(tmp_path / "s.npz")[1], sigma)


def npy(header: bytes, data: bytes = b"") -> bytes:
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def npz(path: Path, mu: bytes, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("mu.npy", mu)
        archive.writestr("sigma.npy", saved(GOOD["sigma"]))
    return path


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("count", [4097, 10**15, -1, "x" * 3, "()"])
def test_a_header_cannot_ask_for_more_memory(count: object, tmp_path: Path) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({count},), }}".encode()
    with pytest.raises(DataError, match="cannot be read as statistics"):
        load_statistics_npz(npz(tmp_path / "s.npz", npy(header)))


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB of zeros in 20 kB: as an array too large, behind a small array, and before any."""
    read = 0

    class Counted(zipfile.ZipExtFile):
        def read(self, n: int | None = -1) -> bytes:
            nonlocal read
            data = super().read(n)
            read += len(data)
            return data

    monkeypatch.setattr(zipfile, "ZipExtFile", Counted)
    zeros, header = bytes(20_000_000), b"{'descr': '<f8', 'fortran_order': False, 'shape': (2500000,), }"
    for name, mu, fine in (("large", npy(header, zeros), 0), ("longer", saved(GOOD["mu"]) + zeros, 1),
                           ("raw", zeros, 0)):
        path = npz(tmp_path / f"{name}.npz", mu)
        assert path.stat().st_size < 50_000
        if fine:
            load_statistics_npz(path)
        else:
            with pytest.raises(DataError, match="cannot be read as statistics"):
                load_statistics_npz(path)
    assert read < 200_000


def test_damaged_files(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    np.savez_compressed(good, **statistics(40))
    data = good.read_bytes()
    path = tmp_path / "s.npz"
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match="cannot be read as statistics"):
            load_statistics_npz(path)
    at = data.index(b"mu.npy") + 200
    path.write_bytes(data[:at] + bytes(8) + data[at + 8:])
    with pytest.raises(DataError, match="cannot be read as statistics"):
        load_statistics_npz(path)
    for mu in (saved(GOOD["mu"])[:-8], b"", b"\x93NUMPY\x09\x00", b"<html>"):
        with pytest.raises(DataError, match="cannot be read as statistics"):
            load_statistics_npz(npz(path, mu))
    for other in (tmp_path, tmp_path / "nowhere.npz", tmp_path / ("x" * 300)):
        with pytest.raises(DataError) as caught:
            load_statistics_npz(other)
        assert len(caught.value.lines) == 1


def test_an_array_in_a_file_of_its_own_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", GOOD["mu"])
    with pytest.raises(DataError, match="cannot be read as statistics"):
        load_statistics_npz(tmp_path / "s.npy")
