"""Pictures and their masks by the words that name them."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bricscli.data.masks import draw_mask
from bricscli.data.pairs import Pair, find_pairs
from bricscli.errors import BricsError, DataError, RecipeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.jpg", "c.png"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (30, 20), (len(name), 9, 9)).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.txt").write_text("mine")
    (tmp_path / "masks").mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.bmp")):
        mask = np.zeros((20, 30), np.uint8)
        mask[: number + 1] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    return tmp_path


def test_one_of_each(folder: Path) -> None:
    (pair,) = find_pairs(folder / "pictures" / "a.png", str(folder / "masks" / "b.png"), None, 5)
    assert (pair.name, pair.seed) == ("a", 5)
    image, mask = pair.load()
    assert image.size == (30, 20) and mask[:2].all() and not mask[2:].any()
    assert np.array_equal(pair.load(invert=True)[1], ~mask)


def test_a_folder_with_a_folder_of_masks(folder: Path) -> None:
    pairs = find_pairs(folder / "pictures", str(folder / "masks"), None, 0)
    assert [(pair.name, Path(pair.mask).name) for pair in pairs] == [("a", "a.png"), ("b", "b.png"), ("c", "c.bmp")]
    assert [int(pair.load()[1].sum()) for pair in pairs] == [30, 60, 90]


def test_links_out_of_a_folder_are_passed_over(folder: Path) -> None:
    (folder / "pictures" / "d.png").symlink_to(folder / "masks" / "a.png")
    (folder / "pictures" / "e.png").symlink_to(folder / "pictures" / "a.png")
    names = [pair.name for pair in find_pairs(folder / "pictures", "thick:7", None, 0)]
    assert names == ["a", "b", "c", "e"]


def test_drawn_masks_are_of_the_name_alone(folder: Path) -> None:
    """Whatever else the folder holds, and wherever it lies."""
    few = {pair.name: pair.load()[1] for pair in find_pairs(folder / "pictures", "thick:7", None, 0)}
    Image.new("RGB", (30, 20)).save(folder / "pictures" / "aa.png")
    (folder / "pictures").rename(folder / "moved")
    many = {pair.name: pair.load()[1] for pair in find_pairs(folder / "moved", "thick:7", None, 0)}
    assert all(np.array_equal(few[name], many[name]) for name in few)
    assert not np.array_equal(few["a"], few["c"])
    (pair,) = find_pairs(folder / "moved" / "a.png", "thick:8", None, 0)
    assert not np.array_equal(pair.load()[1], few["a"])
    assert np.array_equal(few["a"], draw_mask("thick", 7, zlib.crc32(b"a.png"), 20, 30))


def test_alpha(folder: Path) -> None:
    pixels = np.full((20, 30, 4), 255, np.uint8)
    pixels[5:9, 3:6, 3] = 0
    Image.fromarray(pixels).save(folder / "cut.png")
    (pair,) = find_pairs(folder / "cut.png", "alpha", None, 0)
    image, mask = pair.load()
    assert image.mode == "RGBA" and mask.sum() == 12 and mask[5:9, 3:6].all()
    (plain,) = find_pairs(folder / "pictures" / "a.png", "alpha", None, 0)
    with pytest.raises(DataError, match="has no transparent parts"):
        plain.load()


def test_a_table(folder: Path) -> None:
    (folder / "sub").mkdir()
    table = folder / "sub" / "pairs.csv"
    rows = ["image,mask,seed", "../pictures/a.png,../masks/c.bmp,7", "", '"../pictures/b.jpg",thick:3,']
    table.write_text("\ufeff" + "\n".join(rows), "utf-8")
    pairs = find_pairs(None, None, table, 4)
    assert [(pair.name, pair.seed, pair.where) for pair in pairs] == [
        ("a", 7, f"{table}:2"), ("b", 4, f"{table}:4")]
    assert pairs[0].load()[1].sum() == 90 and pairs[1].mask == "thick:3"


@pytest.mark.parametrize(("text", "says"), [
    ("picture,mask\n", ":1: does not begin with `image,mask`"),
    ("", ":1: does not begin with"),
    ("image,mask\n", ": names no pictures"),
    ("image,mask\npictures/a.png\n", ":2: has 1 values, not 2"),
    ("image,mask\npictures/a.png,masks/a.png,3\n", ":2: has 3 values, not 2"),
    ("image,mask,seed\npictures/a.png,masks/a.png,x\n", ":2: seed `x` is no whole number"),
    ("image,mask,seed\npictures/a.png,masks/a.png,-1\n", ":2: seed `-1` is no whole number"),
    ("image,mask\npictures/a.png,masks/a.png\npictures/z.png,masks/a.png\n", ":3: .*z.png: no such picture"),
    ("image,mask\npictures/a.png,masks/z.png\n", ":2: .*z.png: no such mask"),
    ("image,mask\npictures/a.png,thick\n", ":2: --mask: `thick` is drawn from a seed. Write thick:0"),
    ("image,mask\npictures/a.png,\n", ":2: has no mask"),
    ("image,mask\n,masks/a.png\n", ":2: has no image"),
    ("image,mask\npictures/a.png,thck:1\n", ":2: --mask: `thck` is no kind of mask"),
    ("image,mask\npictures/a.png,masks/a.png\npictures/a.png,masks/b.png\n", ":3: .*a.png: has the name of"),
    ('image,mask\n"pictures/a.png,masks/a.png\n', r":\d: is no CSV"),
    (b"image,mask\n\xff\xfe,x\n", ": is not text"),
])
def test_tables_that_are_wrong(folder: Path, text: str | bytes, says: str) -> None:
    table = folder / "pairs.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BricsError, match=f"pairs.csv{says}") as caught:
        find_pairs(None, None, table, 0)
    assert len(caught.value.lines) == 1


def test_a_table_names_the_line_of_a_mask_that_does_not_fit(folder: Path) -> None:
    Image.new("L", (9, 9), 255).save(folder / "masks" / "small.png")
    pair = Pair(folder / "pictures" / "a.png", str(folder / "masks" / "small.png"), 0, "pairs.csv:2")
    with pytest.raises(DataError, match=r"^pairs.csv:2: .*small.png: is 9x9, the picture is 30x20"):
        pair.load()


@pytest.mark.parametrize(("image", "mask", "error", "says"), [
    (None, "masks", RecipeError, "IMAGE: is missing"),
    ("pictures", None, RecipeError, "--mask: is missing"),
    ("nowhere", "masks", DataError, "nowhere: no such picture or folder"),
    ("pictures", "nowhere", DataError, "nowhere: no such mask"),
    ("pictures", "thick", RecipeError, "`thick` is drawn from a seed. Write thick:0"),
    ("pictures", "blob:1", RecipeError, "`blob` is no kind of mask that is drawn. There are: thin"),
    ("masks", "pictures/empty", DataError, "empty: has no mask of that name for .*a.png"),
    ("pictures/empty", "masks", DataError, "empty: holds no pictures"),
])
def test_words_that_name_nothing(folder: Path, image: str | None, mask: str | None, error: type[Exception], says: str,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pictures" / "empty").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(error, match=says):
        find_pairs(None if image is None else Path(image), mask, None, 0)
    with pytest.raises(RecipeError, match="Leave IMAGE and --mask out"):
        find_pairs(Path("pictures"), None, Path("pairs.csv"), 0)


def test_two_masks_or_two_pictures_of_one_name(folder: Path) -> None:
    Image.new("L", (30, 20)).save(folder / "masks" / "a.bmp")
    with pytest.raises(DataError, match=r"has both a.bmp and a.png for"):
        find_pairs(folder / "pictures", str(folder / "masks"), None, 0)
    Image.new("RGB", (30, 20)).save(folder / "pictures" / "a.jpg")
    with pytest.raises(DataError, match=r"a.png: has the name of .*a.jpg, and both would be filled into a-1.png"):
        find_pairs(folder / "pictures", "box:1", None, 0)
