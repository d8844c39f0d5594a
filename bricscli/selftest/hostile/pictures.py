"""Of the hostile corpus: pictures, masks, videos."""

import struct
import zlib
from pathlib import Path

from bricscli.selftest.hostile import Fill, Row, Trap, together, written

_FOLDER = "prepare folder --from pictures --resolution 32 --out out --workers 1"
_VIDEOS = "prepare videos --from films --resolution 32 --out out --workers 1"
_INPAINT = "inpaint picture.png --mask {} --run {{run}} --out filled --device cpu"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 0, before: bytes = b"") -> bytes:
    """`rows` as they come out of zlib; `colour` 0 is gray, 2 RGB."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + _chunk(b"IDAT", zlib.compress(rows, 1)) + _chunk(b"IEND", b"")


def picture(size: int = 40) -> bytes:
    """A good one."""
    return png(size, size, b"".join(b"\0" + bytes((x * 5 + y * 3) % 256 for x in range(size)) for y in range(size)))


def scans(count: int, side: int = 2048) -> bytes:
    """A progressive JPEG of as many scans, all empty: each goes over the whole picture."""
    table = b"\xff\xdb\0\x43\0" + b"\1" * 64
    frame = b"\xff\xc2\0\x0b\x08" + struct.pack(">HH", side, side) + b"\1\1\x11\0"
    codes = b"\xff\xc4\0\x14\0" + b"\1" + bytes(15) + b"\0"
    scan = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(16)
    return b"\xff\xd8" + table + frame + codes + scan * count + b"\xff\xd9"


def _one(name: str, data: bytes) -> Fill:
    return written(f"pictures/{name}", data)


def _script(place: Path, trap: Trap) -> None:
    text = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%{trap.command}) (w) file\n"
    _one("a.jpg", text.encode())(place, trap)


def _svg(place: Path, trap: Trap) -> None:
    text = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://{trap.address}/a.png"/></svg>'
    _one("a.png", text.encode())(place, trap)


def _link(place: Path, trap: Trap) -> None:
    (place / "pictures").mkdir()
    (place / "pictures" / "a.png").symlink_to(trap.secret)


def _linked_folder(place: Path, trap: Trap) -> None:
    (place / "pictures").mkdir()
    (place / "pictures" / "a").symlink_to(trap.secret.parent)


def _webp() -> bytes:
    frame = b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(40)
    body = b"WEBPVP8L" + struct.pack("<I", len(frame)) + frame + bytes(len(frame) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height),
            (279, 4, 0xFFFFFFF0)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4)


def _gif() -> bytes:
    return (b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b","
            + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\2\2\x4c\1\0;")


_NONE = "none of its 1 image files can be read"
IMAGES: list[Row] = [
    ("400-megapixels", _FOLDER, "more than 50 megapixels", _one("a.png", png(20_000, 20_000, b""))),
    ("60-megapixels-of-zeros", _FOLDER, "more than 50 megapixels", _one("a.png", png(10_000, 6_000, b"", depth=1))),
    ("webp-of-268-megapixels", _FOLDER, _NONE, _one("a.webp", _webp())),
    ("gif-of-4-gigapixels", _FOLDER, "more than 50 megapixels", _one("a.gif", _gif())),
    ("tiff-of-4-gigapixels", _FOLDER, _NONE, _one("a.tiff", _tiff(65535, 65535))),
    ("tiff-beyond-its-end", _FOLDER, _NONE, _one("a.tiff", _tiff(64, 64))),
    ("2000-scans", _FOLDER, "more scans than a picture has", _one("a.jpg", scans(2000))),
    ("postscript", _FOLDER, "not an image", _script),
    ("svg", _FOLDER, "not an image", _svg),
    ("no-pixels", _FOLDER, _NONE, _one("a.png", png(0, 0, b""))),
    ("cut-off", _FOLDER, _NONE, _one("a.png", picture()[:-60])),
    ("text-bomb", _FOLDER, _NONE, _one("a.png", png(8, 8, bytes(72), before=_chunk(
        b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26), 9))))),
    ("profile-bomb", _FOLDER, _NONE, _one("a.png", png(8, 8, b"", before=_chunk(
        b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26), 9))))),
    ("link", _FOLDER, "holds no images", _link),
    ("linked-folder", _FOLDER, "holds no images", _linked_folder),
    ("escapes", _FOLDER, "not an image", _one("\x1b]0;owned\x07.png", b"x")),
]


def _mask(name: str, data: bytes) -> Fill:
    return together(written("picture.png", picture(64)), written(name, data))


def _mask_script(place: Path, trap: Trap) -> None:
    _mask("mask.png", f"%!PS-Adobe-3.0\n(%pipe%{trap.command}) (w) file\n".encode())(place, trap)


def _float_mask(place: Path, trap: Trap) -> None:
    values = struct.pack("<f", float("nan")) * 64 * 64
    tags = [(256, 4, 64), (257, 4, 64), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 122), (278, 4, 64),
            (279, 4, len(values)), (339, 3, 3)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    _mask("mask.tiff", b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4) + values)(place, trap)


MASKS: list[Row] = [
    ("400-megapixels", _INPAINT.format("mask.png"), "more than 50 megapixels",
     _mask("mask.png", png(20_000, 20_000, b""))),
    ("postscript", _INPAINT.format("mask.png"), "not an image", _mask_script),
    ("not-a-number", _INPAINT.format("mask.tiff"), "gray values outside", _float_mask),
    ("of-another-size", _INPAINT.format("mask.png"), "mask", _mask("mask.png", picture(40))),
    ("nothing", _INPAINT.format("mask.png"), "nothing white", _mask("mask.png", png(64, 64, bytes(65 * 64)))),
    ("everything", _INPAINT.format("mask.png"), "white all over",
     _mask("mask.png", png(64, 64, (b"\0" + b"\xff" * 64) * 64))),
    ("16-bits-that-lie", _INPAINT.format("mask.png"), "cannot be decoded",
     _mask("mask.png", png(64, 64, bytes(100), depth=16))),
    ("picture-bomb", "inpaint picture.png --mask mask.png --run {run} --out filled --device cpu",
     "more than 50 megapixels",
     together(written("picture.png", png(20_000, 20_000, b"")), written("mask.png", picture(64)))),
]


def _film(name: str, text: str) -> Fill:
    def fill(place: Path, trap: Trap) -> None:
        written(f"films/{name}", text.format(address=trap.address, secret=trap.secret, command=trap.command).encode()
                )(place, trap)

    return fill


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


def _many_samples() -> bytes:
    """A film whose table is said to have four thousand million entries."""
    table = _box(b"stbl", _box(b"stsz", struct.pack(">III", 0, 0, 0xFFFFFFF0)) + _box(
        b"stco", struct.pack(">II", 0, 0xFFFFFFF0)))
    track = _box(b"trak", _box(b"mdia", _box(b"minf", table)))
    return _box(b"ftyp", b"isom\0\0\0\0isom") + _box(b"moov", track)


def _nested() -> bytes:
    data = b""
    for _ in range(20_000):
        data = struct.pack(">I", len(data) + 8) + b"moov" + data if len(data) < 1 << 18 else data
    return _box(b"ftyp", b"isom\0\0\0\0isom") + data


_HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
_DASH = ('<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>http://{address}/</BaseURL>'
         "</Representation></AdaptationSet></Period></MPD>")
VIDEOS: list[Row] = [
    ("playlist-of-an-address", _VIDEOS, _NONE, _film("a.mp4", _HLS.format("http://{address}/a.ts"))),
    ("playlist-of-a-file", _VIDEOS, _NONE, _film("a.mkv", _HLS.format("{secret}"))),
    ("concat", _VIDEOS, _NONE, _film("a.avi", "ffconcat version 1.0\nfile {secret}\n")),
    # A player that looks for the format itself shows the picture.
    ("concat-of-what-is-beside-it", _VIDEOS, _NONE,
     together(_film("a.mp4", "ffconcat version 1.0\nfile beside.png\n"), written("films/beside.png", picture()))),
    ("concat-of-a-protocol", _VIDEOS, _NONE,
     _film("a.mp4", "ffconcat version 1.0\nfile subfile,,start,0,end,9,,:{secret}\n")),
    ("dash", _VIDEOS, _NONE, _film("a.mp4", _DASH)),
    ("a-name-like-an-option", _VIDEOS, _NONE, _film("-i.mp4", "-f lavfi")),
    ("table-without-end", _VIDEOS, _NONE, written("films/a.mp4", _many_samples())),
    ("boxes-in-boxes", _VIDEOS, _NONE, written("films/a.mp4", _nested())),
    ("escapes", _VIDEOS, _NONE, _film("\x1b]0;owned\x07.mp4", "x")),
    ("an-address-for-a-folder", "prepare videos --from http://{address}/a --resolution 32 --out out",
     "there is no such folder", written("a", b"")),
]
