"""What was measured, as tables: read with care, and never two numbers in a column that were made in different ways."""

import copy
from typing import Any

import pytest

from bricscli.report.content import Block, Folded, Notes, Table
from bricscli.report.evaluations import Evaluation, compare, evaluation_blocks, read_evaluation, show_side

SIDE = {"name": "toy", "split": "val", "images": 205, "of": 205, "width": 32, "height": 32, "sha256": "a" * 64}
RECONSTRUCTION: dict[str, Any] = {
    "kind": "reconstruction", "protocol": "per image", "images": SIDE, "autoencoder": "c" * 64,
    "keys_moved_by_cells": 0.0, "versions": {"brics": "0.1.0"},
    "metrics": {"psnr": {"label": "PSNR", "unit": "dB", "mean": 24.318, "std": 2.149}, "rfid": {"label": "rFID",
                                                                                               "value": 3.5}}}
GENERATION: dict[str, Any] = {
    "kind": "generation", "protocol": "brics2023", "forced": [], "left_out": {},
    "metrics": {"fid": {"label": "FID", "value": 3.9712, "std": None, "unit": "", "extractor": "inception",
                        "settings": {}}},
    "anchors": {"shuffled key codes": {"value": 9.0, "images": 64}},
    "samples": SIDE | {"name": "samples", "split": None, "images": 50000, "of": 50000, "sha256": "b" * 64,
                       "preparation": None},
    "reference": SIDE | {"preparation": {"source": "toy", "crop": None, "resize": "lanczos"}},
    "extractors": {"inception": {"sha256": "d" * 64, "resize": "bilinear"}}, "versions": {}}


def evaluation(result: dict[str, Any], **changes: Any) -> Evaluation:
    """`evaluation(GENERATION, **{"metrics.fid.value": 2.0})`."""
    result = copy.deepcopy(result)
    for key, value in changes.items():
        inner = result
        *path, last = key.split(".")
        for part in path:
            inner = inner[part]
        inner[last] = value
    return read_evaluation("a.json", result)


def tables(blocks: list[Block]) -> list[list[list[str]]]:
    """Rows of texts, with the columns first."""
    return [[list(block.columns), *([name, *(cell.text for cell in cells)] for name, cells in block.rows)]
            for block in blocks if isinstance(block, Table)]


def test_numbers_with_what_they_stand_on() -> None:
    blocks = evaluation_blocks(evaluation(RECONSTRUCTION))
    (table,) = tables(blocks)
    assert [row[:2] for row in table[1:]] == [["PSNR", "24.32 ± 2.1 dB"], ["rFID", "3.5"]]
    assert "higher is better" in table[1][2]
    assert "205 images of toy, split val" in next(block.caption for block in blocks if isinstance(block, Table))


def test_samples_with_protocol_and_anchors() -> None:
    blocks = evaluation_blocks(evaluation(GENERATION))
    assert tables(blocks)[0][1:] == [
        ["FID", "3.971", tables(blocks)[0][1][2]], ["for comparison, shuffled key codes", "9", "64 images"]]
    facts = dict(next(inner for block in blocks if isinstance(block, Folded) for inner in block.blocks).pairs)  # type: ignore[union-attr]
    assert facts["protocol"] == "brics2023" and facts["extractor inception"] == "sha256 dddddddd, resize bilinear"
    assert facts["reference, prepared"] == "source toy, crop none, resize lanczos"
    assert facts["samples"].startswith("50,000 images of samples, 32x32 pixels")
    assert not any(isinstance(block, Notes) for block in blocks)


def test_forced_and_left_out_are_said() -> None:
    forced = evaluation(GENERATION, forced=["samples: 64 images"], left_out={"clip_fid": "ViT-B-32.pt is missing"})
    blocks = evaluation_blocks(forced)
    notes = [block for block in blocks if isinstance(block, Notes)]
    assert (notes[0].tone, list(notes[0].lines)) == ("fail", ["samples: 64 images"])
    assert "ViT-B-32.pt is missing" in notes[1].lines[0]
    table = next(block for block in blocks if isinstance(block, Table))
    assert (table.rows[0][1][0].tone, table.rows[0][1][0].note) == ("fail", "forced")


@pytest.mark.parametrize(("key", "value"), [
    ("kind", "usage"), ("metrics", None), ("metrics.psnr", 3), ("metrics.psnr.mean", "high"), ("images", {}),
    ("metrics.psnr.mean", float("nan")), ("images.images", None), ("versions", 7), ("keys_moved_by_cells", "some")])
def test_what_is_damaged_is_not_read(key: str, value: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        evaluation(RECONSTRUCTION, **{key: value})


def test_statistics_that_do_not_say_of_how_many_images() -> None:
    side = {"name": "fid.npz", "images": None, "of": None, "width": None, "height": None, "statistics": "f" * 64,
            "preparation": None}
    blocks = evaluation_blocks(evaluation(GENERATION, reference=side))
    assert any("against the statistics fid.npz" in str(block) for block in blocks)
    assert tables(blocks)[0][1][:2] == ["FID", "3.971"]


def test_same_ground_same_table() -> None:
    two = compare({"a": [evaluation(RECONSTRUCTION)], "b": [evaluation(RECONSTRUCTION, autoencoder="e" * 64)], "c": []})
    assert tables(two) == [[["run", "PSNR", "rFID"], ["a", "24.32 ± 2.1 dB", "3.5"], ["b", "24.32 ± 2.1 dB", "3.5"],
                            ["c", "not measured", "not measured"]]]


@pytest.mark.parametrize(("result", "key", "value"), [
    (RECONSTRUCTION, "images.sha256", "e" * 64), (RECONSTRUCTION, "images.split", "train"),
    (RECONSTRUCTION, "images.images", 40), (RECONSTRUCTION, "protocol", "other"),
    (RECONSTRUCTION, "keys_moved_by_cells", 0.5),
    (GENERATION, "protocol", "cleanfid"), (GENERATION, "reference.sha256", "e" * 64),
    (GENERATION, "reference.images", 100), (GENERATION, "samples.images", 5000)])
def test_other_ground_other_table(result: dict[str, Any], key: str, value: Any) -> None:
    apart = compare({"a": [evaluation(result)], "b": [evaluation(result, **{key: value})]})
    assert [[row[0] for row in table] for table in tables(apart)] == [["run", "a"], ["run", "b"]]
    assert all("nothing to compare it with" in block.caption for block in apart if isinstance(block, Table))


@pytest.mark.parametrize(("key", "value"), [
    ("metrics.fid.extractor", "inception_clean"), ("metrics.fid.settings", {"subsets": 3}),
    ("extractors.inception.sha256", "e" * 64)])
def test_the_same_metric_made_in_another_way_has_another_column(key: str, value: Any) -> None:
    (table,) = tables(compare({"a": [evaluation(GENERATION)], "b": [evaluation(GENERATION, **{key: value})]}))
    assert table[0][1] != table[0][2] and all(label.startswith("FID (") for label in table[0][1:])
    assert table[1:] == [["a", "3.971", "not measured"], ["b", "not measured", "3.971"]]


def test_forced_numbers_stay_marked_in_a_comparison() -> None:
    blocks = compare({"a": [evaluation(GENERATION)], "b": [evaluation(GENERATION, forced=["few"])]})
    table = next(block for block in blocks if isinstance(block, Table))
    assert [(cells[0].tone, cells[0].note) for _, cells in table.rows] == [("value", ""), ("fail", "forced")]
    assert [block.lines for block in blocks if isinstance(block, Notes)] == [["b: few"]]


def test_sides_in_words() -> None:
    assert show_side(SIDE) == "205 images of toy, split val"
    assert show_side(SIDE | {"images": 40, "split": None}) == "40 of 205 images of toy"
