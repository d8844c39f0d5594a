"""Frames of videos: the same ones every time, none from anywhere else."""

import contextlib
import hashlib
import math
import os
import pickle
import socket
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bricscli.data.images import ImageError
from bricscli.data.sources import Item, open_source, videos
from bricscli.errors import DataError

Write = Callable[..., Path]


def gray(number: int, width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """A picture that says which it is, also after lossy coding; the left half brighter than the right."""
    pixels = np.full((height, width, 3), 20 + 8 * number, np.uint8)
    pixels[:, : width // 2] += 4
    return pixels


def number(image: Image.Image) -> int:
    return round((float(np.asarray(image).mean()) - 22) / 8)


def write(path: Path, frames: int = 24, codec: str = "mpeg4", width: int = 64, height: int = 48) -> Path:
    """`frames` pictures at 8 a second, with a picture that stands alone every 6."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 6
        stream.bit_rate = 4_000_000
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray(i, width, height))))
        container.mux(stream.encode())
    return path


def fails(item: Item) -> str:
    with pytest.raises(ImageError) as raised:
        item.load()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.mp4", "libx264"), ("a.mkv", "mpeg4"),
                                             ("a.webm", "libvpx"), ("a.avi", "mpeg4"), ("a.mov", "mpeg4")])
def test_the_frame_is_the_first_at_its_time_or_after_it(tmp_path: Path, name: str, codec: str) -> None:
    path = str(write(tmp_path / name, codec=codec))
    for share in (0.0, 0.01, 0.2, 0.5, 0.77, 0.94, 0.999):
        assert number(videos.read_frame(path, share)) == min(23, math.ceil(share * 24))


def test_frames_depend_on_seed_name_and_number_alone(tmp_path: Path) -> None:
    for name in ("a/x.mp4", "a/y.MP4", "b/z.avi"):
        write(tmp_path / "here" / name)
    (tmp_path / "here/notes.txt").write_text("x")
    listing = open_source("videos", tmp_path / "here", frames_per_video=3, seed=5)
    assert [item.name for item in listing.items] == [f"{video}#{i}" for video in ("a/x.mp4", "a/y.MP4", "b/z.avi")
                                                     for i in range(3)]
    assert listing.source == {"name": "videos", "seed": 5, "frames_per_video": 3} and listing.ignored == 1
    assert listing.items[1].facts == {"video": "a/x.mp4", "frame": 1, "frames_per_video": 3}
    images = [item.load() for item in listing.items]
    assert all(image.mode == "RGB" and image.size == (64, 48) for image in images)
    assert len({number(image) for image in images}) > 3
    digests = [item.digest() for item in listing.items]
    assert len(set(digests)) == 9
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there/b/z.avi").unlink()
    again = open_source("videos", tmp_path / "there", frames_per_video=1, seed=5).items
    assert [item.load().tobytes() for item in pickle.loads(pickle.dumps(again))] == [
        images[i].tobytes() for i in (0, 3)]
    assert [item.digest() for item in again] == [digests[i] for i in (0, 3)]
    assert again[0].read() == again[0].read()
    other = open_source("videos", tmp_path / "there", seed=6).items
    assert {item.digest() for item in other}.isdisjoint(item.digest() for item in again)


def test_shares_are_even() -> None:
    shares = [videos.frame_share(seed, f"{video}.mp4", 0) for seed in range(20) for video in range(500)]
    counts = Counter(int(10 * share) for share in shares)
    assert all(900 < counts[tenth] < 1100 for tenth in range(10)) and all(0 <= share < 1 for share in shares)
    crops = [videos.crop_share(seed, f"{video}.mp4", 0) for seed in range(20) for video in range(500)]
    assert abs(np.corrcoef(shares, crops)[0, 1]) < 0.03


def test_classes(tmp_path: Path) -> None:
    for name in ("walk/1.mp4", "run/1.mp4", "run/2.mp4"):
        write(tmp_path / name, frames=2)
    listing = open_source("videos", tmp_path, classes=True)
    assert listing.classes == ["run", "walk"] and [item.label for item in listing.items] == ["run", "run", "walk"]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A video outside of the folder that is prepared."""
    return write(tmp_path / "secret.mp4", frames=4)


@pytest.mark.parametrize("ending", sorted(videos.DEMUXERS))
@pytest.mark.parametrize("playlist", [
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile {secret}\n",
])
def test_a_playlist_opens_no_other_file(tmp_path: Path, secret: Path, ending: str, playlist: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        path = tmp_path / f"in/a{ending}"
        path.parent.mkdir()
        path.write_text(playlist.format(secret=secret, port=server.getsockname()[1]))
        os.utime(secret, (0, 0))  # a file that was not read since it changed: reading it shows
        (item,) = open_source("videos", path.parent).items
        fails(item)
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
        assert secret.stat().st_atime_ns == 0


def test_the_attack_works_on_a_player_that_is_not_told_the_format(tmp_path: Path) -> None:
    """A list of files, called a video, beside a file that it names: ffmpeg left to itself reads it, we do not."""
    secret, path = write(tmp_path / "hidden/secret.mp4", frames=4), tmp_path / "hidden/list.mp4"
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    os.utime(secret, (0, 0))
    with pytest.raises(ImageError):
        videos.read_frame(str(path), 0.5)
    assert secret.stat().st_atime_ns == 0
    with av.open(str(path)) as container:
        next(container.decode(video=0))
    assert secret.stat().st_atime_ns > 0


def test_references_to_other_files_within_a_video_are_not_followed(tmp_path: Path, secret: Path) -> None:
    """A QuickTime file whose samples are said to lie in another."""
    path = write(tmp_path / "in/a.mov", frames=4)
    data = path.read_bytes()
    at = data.index(b"dref")
    kind = data.index(b"url ", at)
    path.write_bytes(data[: kind + 7] + b"\0" + data[kind + 8 :])  # the flag "in this file" is taken away
    (item,) = open_source("videos", path.parent).items
    os.utime(secret, (0, 0))
    with contextlib.suppress(ImageError):
        assert number(item.load()) in range(4)
    assert secret.stat().st_atime_ns == 0


def test_broken_and_empty_videos_have_a_reason(tmp_path: Path) -> None:
    whole = write(tmp_path / "v/whole.mp4").read_bytes()
    for name, data in (("empty.mp4", b""), ("cut.mp4", whole[: len(whole) // 2]), ("text.webm", b"hello " * 999),
                       ("noise.avi", np.random.default_rng(0).bytes(9999)), ("kind.mkv", whole)):
        (tmp_path / "v" / name).write_bytes(data)
    with av.open(str(tmp_path / "v/sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = {item.name: fails(item) for item in open_source("videos", tmp_path / "v").items
             if item.name != "whole.mp4#0"}
    assert len(found) == 6
    assert found["empty.mp4#0"] == "an empty file" and found["sound.mp4#0"] == "holds no pictures"
    (tmp_path / "v/cut.mp4").unlink()
    gone = open_source("videos", tmp_path / "v").items[0]
    (tmp_path / "v/empty.mp4").unlink()
    assert fails(gone) == "cannot be read as a video: No such file or directory"


def test_damage_is_a_frame_or_a_reason(tmp_path: Path) -> None:
    dice = np.random.default_rng(3)
    for name in ("a.mp4", "a.mkv", "a.avi"):
        whole = write(tmp_path / name, frames=6).read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[dice.integers(len(whole))] = dice.integers(256)
            (tmp_path / name).write_bytes(damaged)
            try:
                videos.read_frame(str(tmp_path / name), 0.6)
            except ImageError as error:
                assert "\n" not in str(error)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write(tmp_path / "a.mp4"))
    monkeypatch.setattr(videos, "TIME_LIMIT", -1.0)
    with pytest.raises(ImageError, match="took more than -1 s"):
        videos.read_frame(path, 0.9)
    monkeypatch.undo()
    monkeypatch.setattr(videos, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(ImageError, match="megapixels"):
        videos.read_frame(path, 0.0)


def test_videos_are_turned_upright(tmp_path: Path) -> None:
    """The matrix of a telephone held upright: a quarter turn clockwise. What was left is up."""
    path = write(tmp_path / "a.mp4", frames=2)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
    struct.pack_into(">9i", data, matrix, 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    image = videos.read_frame(str(path), 0.0)
    pixels = np.asarray(image).astype(int)
    assert image.size == (48, 64) and pixels[:32].mean() > pixels[32:].mean() + 2


@pytest.fixture
def webvid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(videos, "WEBVID_COUNTS", {"train": 3, "val": 1})
    for name in ("train/p1/1.mp4", "train/p1/2.mp4", "train/p2/3.mp4", "validation/4.mp4"):
        write(tmp_path / "webvid" / name, frames=4, width=96, height=32)
    return tmp_path / "webvid"


def test_webvid_gives_squares_and_its_folders_are_the_splits(webvid: Path) -> None:
    listing = open_source("webvid-frames200k", webvid, seed=1)
    assert [(item.name, item.split) for item in listing.items] == [
        ("train/p1/1.mp4#0", "train"), ("train/p1/2.mp4#0", "train"), ("train/p2/3.mp4#0", "train"),
        ("val/4.mp4#0", "val")]
    assert listing.source == {"name": "webvid-frames200k", "seed": 1, "frames_per_video": 1,
                              "expected": {"train": 3, "val": 1}, "crop": "largest square at a random place"}
    for item in listing.items:
        share = videos.crop_share(1, item.name[:-2], 0)
        whole = videos.read_frame(str(webvid / item.name[:-2].replace("val/", "validation/")),
                                  videos.frame_share(1, item.name[:-2], 0))
        left = round(share * 64)
        assert item.load().tobytes() == whole.crop((left, 0, left + 32, 32)).tobytes()
        assert item.facts["crop_share"] == share


def test_webvid_counts(webvid: Path) -> None:
    first = {item.name for item in open_source("webvid-frames200k", webvid).items}
    write(webvid / "train/5.mp4", frames=2)
    more = [item.name for item in open_source("webvid-frames200k", webvid).items if item.split == "train"]
    assert len(more) == 3 and len(set(more) | first) in (4, 5)
    kept = sorted((hashlib.sha256(f"0:{name}".encode()).hexdigest(), name)
                  for name in {"train/5.mp4#0", *(name for name in first if name.startswith("train"))})
    assert sorted(more) == sorted(name for _, name in kept[:3])
    (webvid / "train/5.mp4").unlink()
    (webvid / "train/p2/3.mp4").unlink()
    with pytest.raises(DataError, match="its 2 videos give 2 images where Webvid-Frames200k has 3"):
        open_source("webvid-frames200k", webvid)
    listing = open_source("webvid-frames200k", webvid, any_count=True)
    assert listing.source["found"] == {"train": 2, "val": 1} and listing.source["any_count"] is True
    assert len(open_source("webvid-frames200k", webvid, frames_per_video=2).items) == 4
    (webvid / "validation").rename(webvid / "other")
    with pytest.raises(DataError, match="holds no folder val or validation"):
        open_source("webvid-frames200k", webvid, any_count=True)


def test_no_videos(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="holds no videos, only 1 other file"):
        open_source("videos", tmp_path)
