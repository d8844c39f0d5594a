"""Pretrained files: found where promised, refused when they are not what they claim, never run as code."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bricscli import weights
from bricscli.errors import DataError
from bricscli.files import sha256_file
from bricscli.weights import WEIGHTS, MissingWeights, find_weights, load_state


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(BRICS_WEIGHTS, torch hub's cache), both empty."""
    own, hub = tmp_path / "own", tmp_path / "torch" / "hub" / "checkpoints"
    own.mkdir()
    hub.mkdir(parents=True)
    monkeypatch.setenv("BRICS_WEIGHTS", str(own))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return own, hub


def accept(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    """Makes the file at `path` the true one."""
    file = dataclasses.replace(WEIGHTS[name], files={path.name: sha256_file(path)})
    monkeypatch.setitem(weights.WEIGHTS, name, file)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_file_is_one_line_that_says_everything(name: str, folders: tuple[Path, Path]) -> None:
    with pytest.raises(MissingWeights) as caught:
        find_weights(name)
    assert caught.value.exit_code == 3
    (line,) = caught.value.lines
    digest = WEIGHTS[name].files[WEIGHTS[name].url.rsplit("/", 1)[1]]
    assert digest
    for part in (*WEIGHTS[name].files, WEIGHTS[name].url, digest[:16], *map(str, folders), "BRICS_WEIGHTS"):
        assert part in line
    assert "\n" not in line


@pytest.mark.parametrize("file", WEIGHTS.values(), ids=WEIGHTS)
def test_digests_agree_with_the_digits_in_torchvisions_file_names(file: weights.WeightFile) -> None:
    assert file.url.startswith("https://")
    assert file.url.rsplit("/", 1)[1] in file.files
    for filename, digest in file.files.items():
        if digest is not None:
            assert len(digest) == 64
        stem, _, digits = Path(filename).stem.rpartition("-")
        if filename.endswith(".pth") and stem:  # DINOv2's name has no digits
            assert digest is not None
            assert digest.startswith(digits)


def test_torchvision_names_the_same_files() -> None:
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

    for name, enum in (
        ("vgg16", VGG16_Weights),
        ("alexnet", AlexNet_Weights),
        ("squeezenet1_1", SqueezeNet1_1_Weights),
    ):
        assert WEIGHTS[name].url == enum.IMAGENET1K_V1.url


def test_clean_fid_names_the_same_file() -> None:
    from cleanfid.downloads_helper import inception_url

    assert WEIGHTS["inception"].url == inception_url


def test_own_folder_comes_before_torch_hub(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    own, hub = folders
    save_file({"x": torch.zeros(1)}, hub / "squeezenet1_1.safetensors")
    assert find_weights("squeezenet1_1") == hub / "squeezenet1_1.safetensors"
    save_file({"x": torch.ones(1)}, own / "squeezenet1_1.safetensors")
    assert find_weights("squeezenet1_1") == own / "squeezenet1_1.safetensors"
    assert load_state("squeezenet1_1")["x"].item() == 1


def test_torch_agrees_about_the_cache(folders: tuple[Path, Path]) -> None:
    assert weights.weight_folders()[-1] == Path(torch.hub.get_dir()) / "checkpoints"


def test_without_torch_home_the_cache_is_below_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "BRICS_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    assert weights.weight_folders() == [Path.home() / ".cache/torch/hub/checkpoints"]


def test_a_file_with_other_bytes_is_refused(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "vgg16-397923af.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"SHA-256 begins [0-9a-f]{8}, expected 397923af"):
        find_weights("vgg16")


def test_tensors_come_back(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folders[0] / "vgg16-397923af.pth"
    torch.save({"a": torch.arange(3)}, path)
    accept(monkeypatch, "vgg16", path)
    assert load_state("vgg16")["a"].tolist() == [0, 1, 2]


class Payload:
    """Pickles into a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.mark,))


def test_pickled_code_is_not_run(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mark = folders[0] / "vgg16-397923af.pth", tmp_path / "mark"
    torch.save({"a": Payload(mark)}, path)
    accept(monkeypatch, "vgg16", path)
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_state("vgg16")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))  # and the mark works
    assert mark.exists()


def test_a_truncated_file_is_one_line(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "squeezenet1_1.safetensors"
    save_file({"x": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read as weights") as caught:
        load_state("squeezenet1_1")
    assert len(caught.value.lines) == 1
