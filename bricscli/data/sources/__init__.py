"""Where images come from: the words that `brics prepare` accepts, and what each of them opens.

A new source is an entry in SOURCES and a case in `open_source`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bricscli.data.sources.listing import Item, Listing
from bricscli.data.sources.lsun import OBJECTS, SCENES, expected_counts
from bricscli.errors import RecipeError

__all__ = ["SOURCES", "Item", "Listing", "Source", "default_place", "find_source", "how_to_get", "open_source"]

#: Where data that somebody else made is looked for, unless told otherwise.
SOURCE_ROOT = Path("data/sources")


@dataclass(frozen=True)
class Source:
    """A source of images. Unless told otherwise, `count` images of `resolution` pixels; None: there is no default.

    `expected`: images of each split, checked. `page` and `get`: where the data are, and what of it to put into `place`.
    `download`: address, SHA-256 and bytes, where a public address is stable and its digest published.
    """

    description: str
    count: int | None = None
    resolution: int | None = None
    needs_path: bool = True
    options: frozenset[str] = frozenset()
    expected: Mapping[str, int] = field(default_factory=dict)
    licence: str = "that of the images"
    page: str | None = None
    get: str | None = None
    place: Path | None = None
    download: tuple[str, str, int] | None = None


def _lsun(word: str, category: str) -> Source:
    scene = category in SCENES
    packed = f"{category}_train_lmdb.zip and {category}_val_lmdb.zip" if scene else f"{category}.zip"
    return Source(f"LSUN's {category.replace('_', ' ')}, an LMDB database", resolution=256,
                  options=frozenset({"any_count"}), expected=expected_counts(category),
                  licence="none given; pictures from the web, for research", page="https://github.com/fyu/lsun",
                  get=f"{packed}, and unpack what you get", place=SOURCE_ROOT / word)


#: Word of the source -> LSUN's category. LDM and others say "church" for church_outdoor.
LSUN = {f"lsun-{'church' if category == 'church_outdoor' else category}": category for category in (*SCENES, *OBJECTS)}
_ALIASES = {"lsun-church_outdoor": "lsun-church", "lsun-tv_monitor": "lsun-tv-monitor"}
_CLASSES = frozenset({"classes"})

SOURCES: dict[str, Source] = {
    "toy": Source("churches drawn by the program", count=4096, resolution=32, needs_path=False, licence="MIT"),
    "folder": Source("your own images, see --from", options=_CLASSES),
    "imagefolder": Source("a folder with a metadata.jsonl", options=_CLASSES),
    "zip": Source("a zip archive of images", options=_CLASSES),
    "tar": Source("a tar archive of images, not compressed", options=_CLASSES),
    "videos": Source("frames of your own videos", options=_CLASSES | {"frames_per_video", "seed"}),
    "ffhq": Source("FFHQ's faces, a folder or a zip archive", resolution=256,
                   options=frozenset({"any_count", "ffhq_split"}), expected={"train": 60_000, "val": 10_000},
                   licence="CC BY-NC-SA 4.0, each picture its own", page="https://github.com/NVlabs/ffhq-dataset",
                   get="the folder images1024x1024", place=SOURCE_ROOT / "ffhq"),
    "webvid-frames200k": Source("one square of a frame of each of WebVid's videos", resolution=256,
                                options=frozenset({"any_count", "frames_per_video", "seed"}),
                                expected={"train": 200_000, "val": 5_000},
                                licence="none; the videos are their owners', who may withdraw them",
                                page="https://github.com/m-bain/webvid", get="the videos, in folders train and val",
                                place=SOURCE_ROOT / "webvid-frames200k"),
    **{word: _lsun(word, category) for word, category in LSUN.items()},
}


def find_source(name: str) -> str:
    """The word of SOURCES that `name` stands for. Raises RecipeError where there is none."""
    word = _ALIASES.get(name, name)
    if word in SOURCES:
        return word
    if name.startswith("lsun-"):
        raise RecipeError(f"SOURCE: `{name}` is none of LSUN's categories. There are: {', '.join(LSUN)}.")
    known = ", ".join(f"{word} ({source.description})" for word, source in SOURCES.items() if word not in LSUN)
    raise RecipeError(f"SOURCE: `{name}` is unknown. There are: {known}, and lsun-CATEGORY, such as lsun-church.")


def default_place(name: str) -> Path | None:
    """Where a source is looked for without --from: the place that `how_to_get` names; None: it has to be said."""
    return SOURCES[find_source(name)].place


def how_to_get(name: str) -> str:
    """One line for a source that is not there: the page to get it from and the place to put it."""
    word = find_source(name)
    source = SOURCES[word]
    if not source.place:
        return f"--from: is missing. Write `brics prepare {word} --from PATH`."
    return (f"{source.place}: there is no such folder. Get {source.get}, from {source.page} (licence: "
            f"{source.licence}) and put it there, or give its place by --from.")


def open_source(
    name: str,
    path: Path,
    *,
    classes: bool = False,
    any_count: bool = False,
    ffhq_split: str | None = None,
    frames_per_video: int | None = None,
    seed: int | None = None,
) -> Listing:
    """What a source holds, at `path`. Nothing is decoded yet.

    `classes`: folders (or labels) name classes. `any_count`: other numbers of images than the published are taken.
    `ffhq_split`: a word of `ffhq.SPLITS`. `frames_per_video`, `seed`: how many frames, and which.

    Raises:
        RecipeError: there is no such source, or an option does not go with it or is out of range.
        DataError: what is at `path` is not that, or not all of it.
    """
    word = find_source(name)
    asked = {"classes": classes or None, "any_count": any_count or None, "ffhq_split": ffhq_split,
             "frames_per_video": frames_per_video, "seed": seed}
    options: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    _check_options(word, options)
    from bricscli.data.sources import archives, ffhq, folder, lsun, metadata, videos

    if word in LSUN:
        return lsun.open_lsun(path, word, LSUN[word], **options)
    if word == "ffhq":
        return ffhq.open_ffhq(path, **{key.removeprefix("ffhq_"): value for key, value in options.items()})
    openers: dict[str, Any] = {"folder": folder.open_folder, "imagefolder": metadata.open_imagefolder,
                               "zip": archives.open_zip, "tar": archives.open_tar, "videos": videos.open_videos,
                               "webvid-frames200k": videos.open_webvid}
    listing: Listing = openers[word](path, **options)
    return listing


def _check_options(word: str, options: Mapping[str, Any]) -> None:
    problems = []
    if not SOURCES[word].needs_path:
        problems.append(f"--from: goes with other sources; `{word}` is drawn by the program.")
    for key in options:
        if key not in SOURCES[word].options:
            others = [other for other, source in SOURCES.items() if key in source.options and other not in LSUN]
            others += ["lsun-CATEGORY"] * (key == "any_count")
            option = key.removeprefix("ffhq_").replace("_", "-")
            problems.append(f"--{option}: goes with {', '.join(others)}, not with `{word}`.")
    frames = options.get("frames_per_video", 1)
    if not 1 <= frames <= 1000:
        problems.append(f"--frames-per-video: {frames} is out of range. Choose 1 to 1000.")
    if problems:
        raise RecipeError(*problems)
