import json
import re
from pathlib import Path

import pytest
import torch

from bricscli.errors import DataError
from bricscli.files import sha256_file
from bricscli.run import checkpoint
from bricscli.run.checkpoint import (
    checkpoint_digest,
    find_checkpoint,
    latest_checkpoint,
    list_averages,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    prune,
    save_checkpoint,
)


def save(folder: Path, step: int, value: float | None = None) -> Path:
    weights = {"b": torch.full((4, 3), step if value is None else value).T, "a": torch.tensor(7)}
    training = {"half": torch.ones(2, dtype=torch.bfloat16), "random": torch.get_rng_state()}
    return save_checkpoint(folder, step, weights, training, {"step": step, "name": "é"}, "kind: x # é\n")


def flip(path: Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path, 1000)
    assert path == tmp_path / "step-0001000"
    checkpoint = load_checkpoint(path, training=True)
    assert (checkpoint.path, checkpoint.step, checkpoint.recipe_text) == (path, 1000, "kind: x # é\n")
    assert checkpoint.digest == sha256_file(path / "weights.safetensors") == checkpoint_digest(path)
    assert checkpoint.state == {"step": 1000, "name": "é"}
    assert torch.equal(checkpoint.weights["b"], torch.full((3, 4), 1000.0))
    assert checkpoint.weights["a"].shape == () and checkpoint.weights["a"] == 7
    assert checkpoint.training is not None
    assert checkpoint.training["half"].dtype == torch.bfloat16
    assert torch.equal(checkpoint.training["random"], torch.get_rng_state())
    assert load_checkpoint(path).training is None


def test_other_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of their own, each with the recipe and a digest; one that is damaged spoils the checkpoint for training."""
    good = save(tmp_path, 1)
    averages = {0.99975: {"a": torch.tensor(8.0)}, 1e-5: {"a": torch.tensor(9.0)}}
    path = save_checkpoint(tmp_path, 2, {"a": torch.tensor(7.0)}, {}, {}, "kind: x", averages)
    assert list_averages(path) == [0.99975, 1e-5] and list_averages(good) == []
    loaded = load_checkpoint(path, training=True)
    assert loaded.averages == averages and loaded.weights["a"] == 7
    chosen, file = load_checkpoint(path, decay=0.99975), path / "weights-0.99975.safetensors"
    assert chosen.weights["a"] == 8 and chosen.averages == {} and load_checkpoint(path).weights["a"] == 7
    assert chosen.digest == sha256_file(file) != loaded.digest == checkpoint_digest(path)
    assert load_weights(file).recipe_text == chosen.recipe_text == "kind: x"
    flip(file)
    assert load_checkpoint(path).weights["a"] == 7 and load_checkpoint(path, decay=1e-5).weights["a"] == 9
    for job in (lambda: load_checkpoint(path, decay=0.99975), lambda: load_checkpoint(path, training=True)):
        with pytest.raises(DataError, match=r"weights-0\.99975\.safetensors is damaged"):
            job()
    assert latest_checkpoint(tmp_path) == good and "weights-0.99975" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"is damaged"):
        load_checkpoint(good, decay=0.5)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", 5), save(tmp_path / "b", 5)
    names = sorted(file.name for file in a.iterdir())
    assert names == ["manifest.json", "state.json", "training.safetensors", "weights.safetensors"]
    assert [(a / name).read_bytes() for name in names] == [(b / name).read_bytes() for name in names]


def test_tensors_that_share_memory_and_parameters(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    path = save_checkpoint(tmp_path, 1, {"a": parameter, "b": parameter, "c": parameter[1]}, {}, {}, "")
    weights = load_checkpoint(path).weights
    assert torch.equal(weights["a"], parameter) and torch.equal(weights["b"], parameter)
    assert torch.equal(weights["c"], torch.tensor([3.0, 4.0, 5.0]))


@pytest.mark.parametrize("name", ["weights.safetensors", "training.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "empty"])
def test_damaged_newest_falls_back_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    file = bad / name
    if damage == "flip":
        flip(file, 0 if name == "manifest.json" else -1)
    elif damage == "delete":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if damage == "truncate" and name != "manifest.json" else b"")
    assert latest_checkpoint(tmp_path) == good
    warning = capsys.readouterr().err
    assert warning.endswith(". step-0000001 is used instead.\n")
    assert warning.count("\n") == 1 and warning.startswith(f"brics: warning: {bad}: {name} is ")
    assert damage not in ("truncate", "empty") or "bytes instead of" in warning or name == "manifest.json"
    with pytest.raises(DataError, match=f"step-0000002: {name} is "):
        load_checkpoint(bad, training=True)


def test_a_swapped_file_is_damage(tmp_path: Path) -> None:
    a, b = save(tmp_path, 1, value=1), save(tmp_path, 2, value=2)
    (b / "weights.safetensors").write_bytes((a / "weights.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"weights\.safetensors is damaged"):
        load_checkpoint(b)


def test_none_intact_is_an_error_and_none_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert latest_checkpoint(tmp_path / "nowhere") is None
    assert latest_checkpoint(tmp_path) is None
    flip(save(tmp_path, 1) / "state.json")
    with pytest.raises(DataError, match=r"none of its 1 checkpoints is intact \(step-0000001: state.json is damaged"):
        latest_checkpoint(tmp_path)
    assert capsys.readouterr().err == "", "nothing is used instead"


def test_missing_and_foreign(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "step-0000001")
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"schema": 2}))
    with pytest.raises(DataError, match="has schema 2, this version of brics reads 1"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "training.safetensors", "state.json"])
def test_what_vanishes_after_the_check_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, load = save(tmp_path, 1), checkpoint.load_weights

    def late(file: Path) -> checkpoint.Weights:
        (path / name).unlink()
        return load(file)

    monkeypatch.setattr(checkpoint, "load_weights", late)
    with pytest.raises(DataError, match=rf"step-0000001: {re.escape(name)} is missing\. Choose another"):
        load_checkpoint(path, training=True)


def test_steps_are_numbers_not_text(tmp_path: Path) -> None:
    for step in (9_999_999, 10_000_000, 3):
        save(tmp_path, step)
    (tmp_path / ".brics-tmp-step-0000099-1").mkdir()
    (tmp_path / "step-7").mkdir()
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [3, 9_999_999, 10_000_000]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-10000000"


def test_saving_again_keeps_the_intact_and_replaces_the_damaged(tmp_path: Path) -> None:
    path = save(tmp_path, 1, value=1)
    save(tmp_path, 1, value=2)
    assert load_checkpoint(path).weights["b"][0, 0] == 1
    flip(path / "weights.safetensors")
    save(tmp_path, 1, value=3)
    assert load_checkpoint(path).weights["b"][0, 0] == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-0000001"]


def test_prune(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in range(1, 7)]
    prune(tmp_path, keep=2, protect=[paths[1]])
    assert list_checkpoints(tmp_path) == [paths[1], paths[4], paths[5]]
    with pytest.raises(ValueError, match="keep"):
        prune(tmp_path, keep=0)


def test_prune_never_deletes_the_last_intact_one(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (1, 2, 3)]
    flip(paths[1] / "weights.safetensors")
    flip(paths[2] / "training.safetensors")
    prune(tmp_path, keep=2)
    assert list_checkpoints(tmp_path) == paths
    prune(tmp_path, keep=3)
    assert load_checkpoint(paths[0]).step == 1


def test_find_by_digest_or_name(tmp_path: Path) -> None:
    one, two = save(tmp_path, 1), save(tmp_path, 2)
    first, digest = load_checkpoint(one).digest, load_checkpoint(two).digest
    assert find_checkpoint(tmp_path, digest) == find_checkpoint(tmp_path, digest[:8]) == two
    assert find_checkpoint(tmp_path, one.name) == one
    for name in ("nothing", ""):
        known = rf"no checkpoint .*There are: step-0000001 \({first[:8]}\)"
        with pytest.raises(DataError, match=known):
            find_checkpoint(tmp_path, name)
    with pytest.raises(DataError, match="There are: none"):
        find_checkpoint(tmp_path / "nowhere", "3f9a")


def test_weights_alone(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    weights = load_weights(path / "weights.safetensors")
    assert (weights.digest, weights.recipe_text) == (checkpoint_digest(path), "kind: x # é\n")
    assert weights.tensors["a"] == 7
    with pytest.raises(DataError, match=r"none\.safetensors: cannot be read"):
        load_weights(tmp_path / "none.safetensors")
    for name in ("training.safetensors", "state.json"):
        with pytest.raises(DataError, match="is no weights file of brics"):
            load_weights(path / name)


def test_a_pickle_named_like_weights_is_not_opened(tmp_path: Path) -> None:
    """Even with a manifest that fits, nothing but safetensors is read."""
    path = save(tmp_path, 1)
    torch.save({"a": torch.ones(1)}, path / "weights.safetensors")
    manifest = json.loads((path / "manifest.json").read_text())
    file = path / "weights.safetensors"
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        load_checkpoint(path)
