"""Zip and tar archives: read where they lie, as the standard library reads them, whatever somebody wrote into them."""

import hashlib
import io
import os
import pickle
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bricscli.data.images import ImageError
from bricscli.data.sources import Listing, open_source
from bricscli.data.sources.listing import MAX_MEMBER_BYTES
from bricscli.data.sources.tar import read_tar
from bricscli.errors import DataError

Picture = Callable[..., bytes]


def reasons(listing: Listing) -> dict[str, str]:
    """Name -> why it cannot be read, of those that cannot."""
    found = {}
    for item in listing.items:
        try:
            item.load()
        except ImageError as error:
            found[item.name] = str(error)
    return found


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture(params=["zip", "zip deflated", "tar pax", "tar gnu", "tar ustar"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes]], Listing]:
    """Opens an archive of some members."""
    kind, _, how = request.param.partition(" ")

    def opened(members: dict[str, bytes], classes: bool = False) -> Listing:
        path = tmp_path / f"some.{kind}"
        if kind == "zip":
            write_zip(path, members, zipfile.ZIP_DEFLATED if how else zipfile.ZIP_STORED)
        else:
            write_tar(path, members, {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT,
                                      "ustar": tarfile.USTAR_FORMAT}[how])
        return open_source(kind, path, classes=classes)

    return opened


def test_every_image_is_there_once_in_order(archive: Callable[..., Listing], picture: Picture) -> None:
    long = "/".join(["a-folder-with-a-long-name"] * 5) + "/f.webp"
    members = {"z.png": picture(1), "a/b.jpg": picture(2, "JPEG"), "a/a.json": b"{}", "a/b.cls": b"3",
               long: picture(3, "WEBP"), "notes.txt": b"x", ".hidden.png": b"x", "__MACOSX/a/._b.jpg": b"x"}
    listing = archive(members)
    assert [item.name for item in listing.items] == sorted(["z.png", "a/b.jpg", long])
    assert (listing.ignored, listing.classes) == (3, None)
    for item in pickle.loads(pickle.dumps(listing.items)):
        assert item.read() == members[item.name] and item.load().size == (24, 18)
        assert item.digest() == hashlib.sha256(members[item.name]).hexdigest()
        assert (item.split, item.label, item.facts) == (None, None, {})


def test_folders_name_the_classes(archive: Callable[..., Listing], picture: Picture) -> None:
    flat = {"cat/1.png": picture(1), "dog/1.png": picture(2), "dog/deep/2.png": picture(3)}
    for members in (flat, {f"animals/{name}": data for name, data in flat.items()}):
        listing = archive(members, classes=True)
        assert listing.classes == ["cat", "dog"]
        assert [item.label for item in listing.items] == ["cat", "dog", "dog"]
    with pytest.raises(DataError, match="a single class tells nothing"):
        archive({"cat/1.png": picture(1)}, classes=True)


def test_names_that_lead_elsewhere_are_refused(archive: Callable[..., Listing], picture: Picture) -> None:
    bad = ["../up.png", "a/../../up.png", "/etc/absolute.png", "C:\\windows.png"]
    listing = archive({"good.png": picture(0)} | {name: picture(1) for name in bad})
    found = reasons(listing)
    assert len(listing.items) == 5 and set(found.values()) == {"its name leads out of the archive"}
    assert "good.png" not in found


def test_archives_within_archives_are_not_passed_over(archive: Callable[..., Listing], picture: Picture) -> None:
    found = reasons(archive({"good.png": picture(0), "more.zip": b"PK\3\4", "more.tar.gz": b"\x1f\x8b"}))
    assert found == {"more.zip": "an archive in the archive", "more.tar.gz": "an archive in the archive"}


def test_an_archive_that_holds_no_images(archive: Callable[..., Listing]) -> None:
    with pytest.raises(DataError, match="holds no images, only 1 other file"):
        archive({"notes.txt": b"x"})


def test_every_truncated_archive_is_one_error(tmp_path: Path, picture: Picture) -> None:
    members = {f"{i}.png": picture(i) for i in range(4)}
    zipped, tarred = write_zip(tmp_path / "a.zip", members), write_tar(tmp_path / "a.tar", members)
    for kind, path in (("zip", zipped), ("tar", tarred)):
        whole = path.read_bytes()
        ends = whole.rstrip(b"\0")  # only the padding after a tar's end may be lost
        for size in [0, 1, 100, 511, 512, 700, *range(1024, len(ends), 1111), len(ends) - 1]:
            path.write_bytes(whole[:size])
            with pytest.raises(DataError) as raised:
                open_source(kind, path)
            assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_damage_is_a_dataerror_or_a_reason(tmp_path: Path, picture: Picture) -> None:
    dice = random.Random(1)
    members = {f"{i}.png": picture(i) for i in range(3)}
    for kind, path in (("zip", write_zip(tmp_path / "a.zip", members, zipfile.ZIP_DEFLATED)),
                       ("tar", write_tar(tmp_path / "a.tar", members | {"x" * 150 + ".png": picture(9)}))):
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(dice.randint(1, 3)):
                damaged[dice.randrange(len(whole))] = dice.randrange(256)
            path.write_bytes(damaged)
            try:
                reasons(open_source(kind, path))
            except DataError as error:
                assert "\n" not in str(error)


def test_encrypted_bombs_and_large_members(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(30_000_000))
        archive.writestr("good.png", picture(0))
        archive.writestr("lzma.png", picture(1), zipfile.ZIP_LZMA)
        archive.writestr("locked.png", picture(2))
        archive.writestr("liar.png", picture(3))
        archive.writestr("large.png", picture(4), zipfile.ZIP_STORED)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    data = bytearray(path.read_bytes())
    index = data.index(b"PK\1\2")

    def entry(name: bytes) -> int:
        return data.index(name, index) - 46

    data[entry(b"locked.png") + 8] |= 1
    struct.pack_into("<I", data, entry(b"liar.png") + 24, 1000)  # a bomb whose index says that it is small
    for field in (20, 24):
        struct.pack_into("<I", data, entry(b"large.png") + field, MAX_MEMBER_BYTES + 1)
    path.write_bytes(data)
    listing = open_source("zip", path)
    found = reasons(listing)
    assert listing.ignored == 1 and "good.png" not in found and len(found) == 5
    for name, words in {"bomb.png": "1/200", "lzma.png": "compressed in a way", "locked.png": "encrypted",
                        "liar.png": "CRC-32", "large.png": "more than 67"}.items():
        assert words in found[name]


def test_a_bomb_whose_index_lies_is_not_inflated(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"bomb.png": bytes(30_000_000)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 60_000)
    path.write_bytes(data)
    (item,) = open_source("zip", path).items
    tracemalloc.start()
    with pytest.raises(ImageError, match="CRC-32"):
        item.read()
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_links_devices_and_sparse_files_are_ignored(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("null.png", tarfile.CHRTYPE),
                           ("disk.png", tarfile.BLKTYPE), ("pipe.png", tarfile.FIFOTYPE), ("dir.png", tarfile.DIRTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            header.size = 5000 * (kind == tarfile.LNKTYPE)  # that of the file it stands for; nothing follows
            archive.addfile(header)
        header = tarfile.TarInfo("sparse.png")
        header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        archive.addfile(header)
        header = tarfile.TarInfo("good.png")
        header.size = len(picture(0))
        archive.addfile(header, io.BytesIO(picture(0)))
    listing = open_source("tar", path)
    assert [item.name for item in listing.items] == ["good.png"] and listing.ignored == 6
    assert listing.items[0].read() == picture(0)


def test_places_are_those_of_the_standard_library(tmp_path: Path) -> None:
    """GNU's long names and sparse maps, pax names in other scripts and its large numbers."""
    dice = random.Random(2)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / "a.tar", {name: dice.randbytes(dice.randrange(2000)) for name in (
            "a.png", "ä/ö/ü.png", "x" * 99, "x" * 100, "y" * 101, "z/" * 130 + "f.png", "日本/語.png", "empty")}, form)
        with tarfile.open(path) as archive:
            wanted = [(member.name, member.offset_data, member.size) for member in archive]
        assert [(member.name, member.offset, member.size) for member in read_tar(path)] == wanted


def test_other_tars_are_refused(tmp_path: Path, picture: Picture) -> None:
    good = write_tar(tmp_path / "good.tar", {"a.png": picture(0)}).read_bytes()
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    header = bytearray(good[:512])
    header[156:157] = b"x"
    header[124:136] = b"77777777777\0"  # a pax header of 8 GB
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    for name, data, words in (("text.tar", b"hello" * 500, "is no tar archive"),
                              ("twice.tar", good * 2, "were archives joined"),
                              ("name.tar", bytes(header) + good, "a name of 8,589,934,591 bytes"),
                              ("zeros.tar", bytes(10240), "holds no images")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=words):
            open_source("tar", tmp_path / name)
    for name, words in (("packed.tar.gz", "compressed with gzip"), ("none.tar", "there is no such file")):
        with pytest.raises(DataError, match=words):
            open_source("tar", tmp_path / name)
    with pytest.raises(DataError, match="is a folder, not a file"):
        open_source("zip", tmp_path)
    with pytest.raises(DataError, match="cannot be read as a zip archive"):
        open_source("zip", tmp_path / "text.tar")


def test_of_one_name_the_last_counts(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for seed, name in ((0, "a.png"), (1, "./a.png")):
            header = tarfile.TarInfo(name)
            header.size = len(picture(seed))
            archive.addfile(header, io.BytesIO(picture(seed)))
    listing = open_source("tar", path)
    assert [item.read() for item in listing.items] == [picture(1)] and listing.ignored == 1


def test_a_name_that_is_not_text(tmp_path: Path, picture: Picture) -> None:
    data = picture(0)
    path = write_tar(tmp_path / "a.tar", {os.fsdecode(b"\xff.png"): data}, tarfile.GNU_FORMAT)
    (item,) = open_source("tar", path).items
    assert (item.name, item.read()) == ("\\xff.png", data)
