"""Of the hostile corpus: tars, zips, and LSUN's databases, written field by field."""

import struct
import zlib
from pathlib import Path

from bricscli.selftest.hostile import Fill, Row, Trap, together, written

_TAR = "prepare tar --from hostile.tar --resolution 32 --out out --workers 1"
_ZIP = "prepare zip --from hostile.zip --resolution 32 --out out --workers 1"
_LSUN = "prepare lsun-church --from lsun --resolution 32 --out out --workers 1 --any-count"
_CONTROL = "\x1b]0;owned\x07.png"


def header(name: str, size: int, kind: bytes = b"0", link: str = "", number: bytes | None = None) -> bytes:
    """A tar member's 512 bytes; `number`: what stands in place of the size."""
    fields = [name.encode()[:100].ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0",
              number or b"%011o\0" % size, b"00000000000\0", b" " * 8, kind, link.encode().ljust(100, b"\0"),
              b"ustar\x0000", bytes(32), bytes(32), b"0000000\0", b"0000000\0", bytes(155), bytes(12)]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def member(name: str, data: bytes, kind: bytes = b"0", link: str = "") -> bytes:
    return header(name, len(data), kind, link) + data + bytes(-len(data) % 512)


def _tar(*parts: bytes) -> Fill:
    return written("hostile.tar", b"".join(parts) + bytes(1024))


def _through_link(place: Path, trap: Trap) -> None:
    _tar(member("a", b"", b"2", str(trap.marker.parent)), member("a/secret.png", b"x"))(place, trap)


def _link_to_secret(place: Path, trap: Trap) -> None:
    _tar(member("a.png", b"", b"2", str(trap.secret)), member("b.png", b"", b"1", str(trap.secret)))(place, trap)


def _script(trap: Trap) -> bytes:
    """PostScript that Ghostscript would run."""
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%{trap.command}) (w) file\n".encode()


def _eps(place: Path, trap: Trap) -> None:
    _tar(member("a.jpg", _script(trap)))(place, trap)


TARS: list[Row] = [
    ("outside", _TAR, "leads out of the archive", _tar(member("../../../../evil.png", b"x"))),
    ("absolute", _TAR, "leads out of the archive", _tar(member("/etc/cron.d/evil.png", b"x"))),
    ("file-through-a-link", _TAR, "not an image", _through_link),
    ("links", _TAR, "holds no images", _link_to_secret),
    ("devices", _TAR, "holds no images", _tar(member("a.png", b"", b"3"), member("b.png", b"", b"6"))),
    ("sparse", _TAR, "holds no images", _tar(header("a.png", 0, b"S", number=b"%011o\0" % 0))),
    ("gzip", _TAR, "is compressed with gzip", written("hostile.tar", b"\x1f\x8b\x08" + bytes(600))),
    ("a-terabyte", _TAR, "ends in the middle", written("hostile.tar", header("a.png", 0, number=b"77777777777\0"))),
    ("a-name-without-end", _TAR, "a name of", _tar(header("x", 1 << 30, b"L"))),
    ("10^28-bytes", _TAR, "ends in the middle", _tar(header("a.png", 0, number=b"\x80" + b"\xff" * 11))),
    ("minus-one-byte", _TAR, "a size that is no number", _tar(header("a.png", 0, number=b"\xff" * 12))),
    ("archive-in-it", _TAR, "an archive in the archive", _tar(member("a.tar", member("b.png", b"x") + bytes(1024)))),
    ("postscript", _TAR, "not an image", _eps),
    ("escapes", _TAR, "not an image", _tar(member(_CONTROL, b"x"))),
    ("long-size-record", _TAR, "a size that is no number",
     _tar(member("x", b"5017 size=" + b"9" * 5006 + b"\n", b"x"), member("a.png", b"x"))),
    ("no-tar", _TAR, "is no tar archive", written("hostile.tar", b"\xff" * 4096)),
]


def zip_entry(name: str, data: bytes, *, method: int = 0, size: int | None = None, attributes: int = 0,
              flags: int = 0, crc: int | None = None) -> tuple[bytes, bytes]:
    """A local part, and the index's, whose offset is filled in by `zip_archive`."""
    checked = zlib.crc32(data) if crc is None else crc
    facts = struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 33, checked, len(data),
                        len(data) if size is None else size, len(name.encode()), 0)
    index = struct.pack("<4sH", b"PK\1\2", 20) + facts + struct.pack("<HHHI", 0, 0, 0, attributes)
    return b"PK\3\4" + facts + name.encode() + data, index


def zip_archive(*entries: tuple[bytes, bytes], names: list[str]) -> bytes:
    data = index = b""
    for (local, central), name in zip(entries, names, strict=True):
        index += central + struct.pack("<I", len(data)) + name.encode()
        data += local
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(entries), len(entries), len(index), len(data), 0)
    return data + index + end


def _zip(name: str, data: bytes, method: int = 0, size: int | None = None, attributes: int = 0, flags: int = 0,
         crc: int | None = None) -> Fill:
    entry = zip_entry(name, data, method=method, size=size, attributes=attributes, flags=flags, crc=crc)
    return written("hostile.zip", zip_archive(entry, names=[name]))


def zeros(megabytes: int) -> tuple[bytes, int]:
    """So many zeros as a raw deflate stream, a thousandth as long, and their CRC-32."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(megabytes):
        crc = zlib.crc32(bytes(1 << 20), crc)
    return block * megabytes + packer.flush(), crc


def _bomb(place: Path, trap: Trap) -> None:
    data, crc = zeros(64)
    _zip("a.png", data, 8, 64 << 20, crc=crc)(place, trap)


def _lying_bomb(place: Path, trap: Trap) -> None:
    data, crc = zeros(256)
    _zip("a.png", data, 8, 20 * len(data), crc=crc)(place, trap)


def _link(place: Path, trap: Trap) -> None:
    _zip("a.png", str(trap.secret).encode(), attributes=0o120777 << 16)(place, trap)


def _huge_index() -> bytes:
    return struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFE, 0xFFFE, 0xFFFFFFF0, 0, 0)


ZIPS: list[Row] = [
    ("outside", _ZIP, "leads out of the archive", _zip("../../../../evil.png", b"x")),
    ("absolute", _ZIP, "leads out of the archive", _zip("/etc/cron.d/evil.png", b"x")),
    ("backslashes", _ZIP, "leads out of the archive", _zip("a\\..\\..\\evil.png", b"x")),
    ("link", _ZIP, "holds no images", _link),
    ("bomb", _ZIP, "compressed to less than", _bomb),
    ("bomb-whose-index-lies", _ZIP, "CRC-32", _lying_bomb),
    ("archive-in-it", _ZIP, "an archive in the archive", _zip("a.zip", zip_archive(names=[]))),
    ("encrypted", _ZIP, "encrypted", _zip("a.png", b"x" * 40, flags=1)),
    ("four-gigabytes", _ZIP, "more than", _zip("a.png", b"x" * 0x1500000, 8, 0xFFFFFFF0)),
    ("index-of-four-gigabytes", _ZIP, "its index", written("hostile.zip", _huge_index())),
    ("escapes", _ZIP, "not an image", _zip(_CONTROL, b"x")),
]

_PAGE = 4096
_BRANCH, _LEAF = 1, 2


def meta(root: int, depth: int, entries: int, last: int) -> bytes:
    """LMDB's first page."""
    page = struct.pack("<QHHHH", 0, 0, 8, 0, 0)
    page += struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 1 << 20)
    page += struct.pack("<IHHQQQQQ", _PAGE, 0, 0, 0, 0, 0, 0, (1 << 64) - 1)
    page += struct.pack("<IHHQQQQQ", 0, 0, depth, 0, 0, 0, entries, root) + struct.pack("<QQ", last, 1)
    return page.ljust(_PAGE, b"\0")


def page(number: int, kind: int, offsets: list[int], nodes: bytes) -> bytes:
    """`nodes` stand at the end of the page."""
    lower = 16 + 2 * len(offsets)
    start = struct.pack("<QHHHH", number, 0, kind, lower, _PAGE - len(nodes))
    start += struct.pack(f"<{len(offsets)}H", *offsets)
    return start.ljust(_PAGE - len(nodes), b"\0") + nodes


def _database(*pages: bytes) -> Fill:
    return written("lsun/church_outdoor_train_lmdb/data.mdb", pages[0] + bytes(_PAGE) + b"".join(pages[1:]))


def _node(size: int, key: bytes, data: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("<HHHH", size & 0xFFFF, size >> 16, flags, len(key)) + key + data


_KEY = _node(1, b"k" * 1000, b"v")
_CHILD = _node(2, b"")
_DAMAGED = "is damaged"
DATABASES: list[Row] = [
    ("page-below-itself", _LSUN, _DAMAGED,
     _database(meta(2, 3, 1, 2), page(2, _BRANCH, [_PAGE - len(_CHILD)], _CHILD))),
    ("deeper-than-any", _LSUN, _DAMAGED, _database(meta(2, 60_000, 1, 2), page(2, _LEAF, [], b""))),
    ("nodes-over-one-another", _LSUN, _DAMAGED,
     _database(meta(2, 1, 1000, 2), page(2, _LEAF, [_PAGE - len(_KEY)] * 1000, _KEY))),
    ("key-beyond-the-page", _LSUN, _DAMAGED,
     _database(meta(2, 1, 1, 2), page(2, _LEAF, [_PAGE - 8], struct.pack("<HHHH", 1, 0, 0, 0xFFFF)))),
    ("value-of-four-gigabytes", _LSUN, "a value of",
     _database(meta(2, 1, 1, 3), page(2, _LEAF, [_PAGE - 17], _node(0xFFFFFFFF, b"k", struct.pack("<Q", 3), 1)),
               bytes(_PAGE))),
    ("root-elsewhere", _LSUN, _DAMAGED, _database(meta(1 << 40, 1, 1, 2), page(2, _LEAF, [], b""))),
    ("entries-without-end", _LSUN, "holds 0 entries",
     _database(meta(2, 1, 1 << 60, 2), page(2, _LEAF, [], b""))),
    ("pages-without-end", _LSUN, "where its head speaks of", _database(meta(2, 1, 1, 1 << 50))),
    ("no-database", _LSUN, "is no LMDB database", together(_database(bytes(_PAGE)))),
]
