"""The words of the sources, what each needs, and the options that go with it."""

from pathlib import Path
from typing import Any

import pytest

from bricscli.data.sources import SOURCES, default_place, find_source, how_to_get, open_source
from bricscli.errors import DataError, RecipeError


def test_every_source_describes_itself() -> None:
    assert len(SOURCES) == 38
    for name, source in SOURCES.items():
        assert source.description and source.licence and find_source(name) == name
        assert (source.place is None) == (source.page is None) == (source.get is None) == (not source.expected)
        assert source.download is None or len(source.download[1]) == 64


def test_names_of_lsun() -> None:
    assert find_source("lsun-church_outdoor") == "lsun-church" and find_source("lsun-tv_monitor") == "lsun-tv-monitor"
    assert SOURCES["lsun-church"].expected == {"train": 126_227, "val": 300}
    assert SOURCES["lsun-bedroom"].expected == {"train": 3_033_042, "val": 300}
    with pytest.raises(RecipeError, match=r"`lsun-garage` is none of LSUN's categories\. There are: lsun-bedroom, "):
        find_source("lsun-garage")
    with pytest.raises(RecipeError, match=r"`imagenet` is unknown\. There are: toy .*, and lsun-CATEGORY"):
        find_source("imagenet")


@pytest.mark.parametrize("name", SOURCES)
def test_how_to_get_it_is_one_line_with_page_and_place(name: str) -> None:
    said, place = how_to_get(name), default_place(name)
    assert "\n" not in said and "--from" in said
    if place is not None:
        assert str(place) in said and str(SOURCES[name].page) in said and "licence" in said
        assert place.parts[:2] == ("data", "sources")


OPTIONS: dict[str, Any] = {"classes": True, "any_count": True, "ffhq_split": "all", "frames_per_video": 2, "seed": 1}


@pytest.mark.parametrize("name", ["toy", "folder", "imagefolder", "zip", "tar", "videos", "ffhq", "webvid-frames200k",
                                  "lsun-church", "lsun-cat"])
def test_options_that_do_not_belong_are_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    for option, value in OPTIONS.items():
        fits = option in SOURCES[name].options
        with pytest.raises(DataError if fits else RecipeError) as raised:
            open_source(name, tmp_path / "none", **{option: value})
        if not fits:
            word = option.removeprefix("ffhq_").replace("_", "-")  # as the command has it
            assert any(line.startswith(f"--{word}: goes with ") for line in raised.value.lines)
        assert str(tmp_path) in str(raised.value) or not fits
    with pytest.raises(RecipeError if name == "toy" else DataError):
        open_source(name, tmp_path / "none")


def test_several_problems_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        open_source("videos", tmp_path, any_count=True, frames_per_video=0)
    assert [line.split(":")[0] for line in raised.value.lines] == ["--any-count", "--frames-per-video"]
    assert "ffhq, webvid-frames200k, lsun-CATEGORY" in raised.value.lines[0]
