"""Frames of videos: any folder of them, and Webvid-Frames200k as Appendix L of arXiv:2305.18601v3 describes it.

Which frame of a video is taken is a pure function of (seed, the video's relative name, the frame's number): the time is
a share of the video's length, drawn evenly, and the frame the first that is shown at that time or after it.

Webvid-Frames200k: "We randomly cropped 200k of images from random video clips of each video in the training split [...]
and 5k images from the validation split."
Differs from the paper: neither the crops nor the chosen videos are published, nor does it say how they were drawn. Here
every video gives one frame, of which the largest square at a random place along the longer side is the image; where
there are more videos than images, those with the smallest SHA-256 of (seed, name) are taken.
"""

import functools
import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from bricscli.data.images import MAX_PIXELS, ImageError, encode_png
from bricscli.data.sources.folder import list_files
from bricscli.data.sources.listing import Item, Listing, labels_by_folder, sha256, show_ignored
from bricscli.errors import DataError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

#: ffmpeg's demuxer for each kind of file; it is told which, and never looks for one that fits the contents: some, such
#: as those of playlists, open other files and addresses.
DEMUXERS = {".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
#: Seconds that one frame may take.
TIME_LIMIT = 60.0
#: Webvid-Frames200k, and how its folders may be called.
WEBVID_COUNTS = {"train": 200_000, "val": 5_000}
_WEBVID_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation")}


@dataclass(frozen=True)
class FrameItem:
    """Frame `number` of a video; `crop`: only a square of it, at a place that is drawn. See `listing.Item`."""

    path: str
    video: str
    number: int
    seed: int
    crop: bool = False
    split: str | None = None
    label: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.video}#{self.number}"

    def digest(self) -> str:
        """Of the video's digest, the seed and the frame's number."""
        return sha256(f"{_digest(self.path)} {self.video} {self.seed} {self.number} {self.crop}".encode())

    def read(self) -> bytes:
        return encode_png(self.load())

    def load(self) -> Image.Image:
        image = read_frame(self.path, frame_share(self.seed, self.video, self.number))
        return _square(image, crop_share(self.seed, self.video, self.number)) if self.crop else image


def open_videos(path: Path, *, seed: int = 0, frames_per_video: int = 1, classes: bool = False) -> Listing:
    """`frames_per_video` whole frames of every video below a folder.

    Raises:
        DataError: there is no such folder, it holds no videos, or its folders make no classes.
    """
    found = list_files(path, DEMUXERS)
    if not found.paths:
        raise DataError(f"{path}: holds no videos{show_ignored(found.ignored)}. Give a folder with .mp4, .webm, .mkv "
                        "or .avi files in it.")
    labels, names = labels_by_folder(path, found.names) if classes else ([None] * len(found.names), None)
    items = [FrameItem(str(file), name, number, seed, label=label, facts=_facts(name, number, frames_per_video))
             for file, name, label in zip(found.paths, found.names, labels, strict=True)
             for number in range(frames_per_video)]
    source = {"name": "videos", "seed": seed, "frames_per_video": frames_per_video}
    return Listing(items, found.ignored, source, names)


def open_webvid(path: Path, *, seed: int = 0, frames_per_video: int = 1, any_count: bool = False) -> Listing:
    """Webvid-Frames200k from a folder with train/ and val/ (or training/ and validation/), which fix the splits.

    Raises:
        DataError: a folder is missing, or gives fewer images than the paper's and `any_count` is not set.
    """
    items: list[Item] = []
    ignored, counts = 0, {}
    for split, expected in WEBVID_COUNTS.items():
        folder = next((path / name for name in _WEBVID_FOLDERS[split] if (path / name).is_dir()), None)
        if folder is None:
            raise DataError(f"{path}: holds no folder {' or '.join(_WEBVID_FOLDERS[split])}. Give the one with "
                            "WebVid's videos in train/ and val/.")
        found = list_files(folder, DEMUXERS)
        ignored += found.ignored
        frames = [FrameItem(str(file), f"{split}/{name}", number, seed, True, split,
                            facts=_webvid_facts(seed, f"{split}/{name}", number, frames_per_video))
                  for file, name in zip(found.paths, found.names, strict=True) for number in range(frames_per_video)]
        by_chance = sorted(range(len(frames)), key=lambda i: sha256(f"{seed}:{frames[i].name}".encode()))
        chosen = sorted(by_chance[:expected])
        counts[split] = len(chosen)
        if not chosen or (len(chosen) < expected and not any_count):
            raise DataError(f"{folder}: its {len(found.paths):,} videos give {len(frames):,} images where "
                            f"Webvid-Frames200k has {expected:,}. Add the others, or pass --any-count.")
        items += [frames[i] for i in chosen]
    source: dict[str, Any] = {"name": "webvid-frames200k", "seed": seed, "frames_per_video": frames_per_video,
                              "expected": dict(WEBVID_COUNTS), "crop": "largest square at a random place"}
    if counts != WEBVID_COUNTS:
        source |= {"any_count": True, "found": counts}
    return Listing(items, ignored, source)


def frame_share(seed: int, video: str, number: int) -> float:
    """Where in the video the frame is, 0 <= share < 1 of its length."""
    return _drawn(f"frame:{seed}:{number}:{video}")


def crop_share(seed: int, video: str, number: int) -> float:
    """Where along the longer side the square lies: 0 at the left or top, 1 at the right or bottom."""
    return _drawn(f"crop:{seed}:{number}:{video}")


def read_frame(path: str, share: float) -> Image.Image:
    """The first frame at `share` of the length of a video or after it, upright, RGB.

    Raises:
        ImageError: the file is no video of its kind, is damaged, holds no frame, has frames of more than MAX_PIXELS, or
            takes longer than TIME_LIMIT.
    """
    try:
        with open(path, "rb") as file:
            frame = _decode(file, DEMUXERS[Path(path).suffix.lower()], share)
            image = frame.to_image()
            rotation = int(frame.rotation)
    except ImageError:
        raise
    except Exception as error:  # as with images, decoders raise nearly everything on damaged input
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0] or type(error).__name__
        raise ImageError(f"cannot be read as a video: {reason}") from error
    return image.rotate(rotation, expand=True) if rotation else image


def _decode(file: BinaryIO, demuxer: str, share: float) -> "VideoFrame":
    import av

    #: No protocol has this name, so that nothing that the video refers to is opened, wherever it is.
    options = {"protocol_whitelist": "none"}
    if not file.read(1):
        raise ImageError("an empty file")
    file.seek(0)
    with av.open(file, "r", demuxer, container_options=options, metadata_errors="replace") as container:
        if not container.streams.video:
            raise ImageError("holds no pictures")
        return _frame_at(container, share)


def _frame_at(container: "InputContainer", share: float) -> "VideoFrame":
    import av

    stream = container.streams.video[0]
    context = stream.codec_context
    _check_size(context.width, context.height)
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_count = 1
    begin = stream.start_time or 0
    length = stream.duration
    if not length and container.duration and stream.time_base:
        length = int(container.duration / av.time_base / stream.time_base)
    wanted = begin + math.ceil(share * (length or 0))
    if wanted > begin:
        container.seek(wanted, stream=stream)
    last = None
    for frame in _frames(container):
        if frame.pts is None or frame.pts >= wanted:
            return frame
        last = frame
    if last is None:
        raise ImageError("holds no frame at that time")
    return last


def _frames(container: "InputContainer") -> Iterator["VideoFrame"]:
    deadline = time.monotonic() + TIME_LIMIT
    for packet in container.demux(container.streams.video[0]):
        for frame in packet.decode():
            _check_size(frame.width, frame.height)
            yield frame
        if time.monotonic() > deadline:
            raise ImageError(f"took more than {TIME_LIMIT:g} s")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"more than {MAX_PIXELS / 1e6:g} megapixels")


def _square(image: Image.Image, share: float) -> Image.Image:
    side = min(image.size)
    left, top = (round(share * (length - side)) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _facts(video: str, number: int, of: int) -> dict[str, Any]:
    return {"video": video, "frame": number, "frames_per_video": of}


def _webvid_facts(seed: int, video: str, number: int, of: int) -> dict[str, Any]:
    return _facts(video, number, of) | {"crop": "square", "crop_share": crop_share(seed, video, number)}


def _drawn(text: str) -> float:
    """0 <= value < 1, evenly, the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / (1 << 48)


def _digest(path: str) -> str:
    try:
        status = os.stat(path)
        return _digest_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


@functools.lru_cache(maxsize=64)
def _digest_of(path: str, size: int, modified: int) -> str:
    """Of a file in one state, once for all frames of a video."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
