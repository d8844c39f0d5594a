"""What a folder of images holds: found in one order, nothing from outside, nothing lost in silence."""

import os
from pathlib import Path

import pytest

from bricscli.data.sources import SOURCES
from bricscli.data.sources.folder import list_images
from bricscli.errors import DataError


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_images_are_found_in_sub_folders_sorted_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "b.PNG", "a/z.jpeg", "a/b/c.webp", "a.png", "a0.tiff", "Z.bmp")
    listing = list_images(tmp_path)
    assert listing.names == ["Z.bmp", "a.png", "a/b/c.webp", "a/z.jpeg", "a0.tiff", "b.PNG"]
    assert [path.relative_to(tmp_path.resolve()).as_posix() for path in listing.paths] == listing.names


def test_other_files_are_counted_and_hidden_ones_are_not(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "notes.txt", "shard.tar", "deep/README", "no_ending", ".hidden.png", ".git/a.png", "a.eps")
    listing = list_images(tmp_path)
    assert (listing.names, listing.ignored) == (["a.png"], 5)


def test_links_are_followed_within_the_folder_only(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "out/secret.png")
    inside = tmp_path / "in"
    (inside / "again.png").symlink_to(inside / "a.png")
    (inside / "secret.png").symlink_to(tmp_path / "out" / "secret.png")
    (inside / "broken.png").symlink_to(tmp_path / "none.png")
    (inside / "folder").symlink_to(tmp_path / "out")
    (inside / "loop").symlink_to(inside)
    listing = list_images(inside)
    assert (listing.names, listing.ignored) == (["a.png", "again.png"], 2)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert list_images(tmp_path).names == ["a.png"]


def test_names_that_are_not_text(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.png", os.O_CREAT))
    listing = list_images(tmp_path)
    assert listing.names == ["a.png", "\\xff.png"]
    assert all(path.is_file() for path in listing.paths)


def test_what_is_no_folder_of_images(tmp_path: Path) -> None:
    fill(tmp_path, "empty/.keep", "texts/a.txt", "file.png")
    for name, words in {
        "none": "none: there is no such folder. Give",
        "file.png": "is a file, not a folder. Give",
        "empty": "empty: holds no images. Give",
        "texts": "holds no images, only 1 other file. Give",
    }.items():
        with pytest.raises(DataError, match=words):
            list_images(tmp_path / name)


def test_every_source_describes_itself() -> None:
    assert {"toy", "folder"} <= set(SOURCES)
    assert all(source.description for source in SOURCES.values())
