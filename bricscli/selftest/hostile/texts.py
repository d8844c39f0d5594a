"""Of the hostile corpus: recipes, manifests, metadata, what runs hold, statistics."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

from bricscli.selftest.hostile import Fill, Row, Trap, together, written

_TRAIN = "train-ae --recipe hostile.yaml --data data --dry-run"
_OPEN = "train-ae --recipe tiny/toy.yaml --data data --dry-run"
_FOLDER = "prepare imagefolder --from pictures --resolution 32 --out out --workers 1"
_STATISTICS = "eval fid --ref {} --samples samples --features random --force"
#: Deeper than any reader goes.
_DEEP = b"[" * 100_000
_CONTROL = "\x1b]0;owned\x07\x1b[31m"


def _recipe(text: str | bytes) -> Fill:
    return written("hostile.yaml", text.encode() if isinstance(text, str) else text)


def _tag(place: Path, trap: Trap) -> None:
    (place / "hostile.yaml").write_text(f"kind: autoencoder\ndescription: !!python/object/apply:os.system\n"
                                        f"  - {json.dumps(trap.command)}\n")


def _bomb() -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(["kind: autoencoder", *lines])


def _circle(place: Path, trap: Trap) -> None:
    (place / "hostile.yaml").write_text("extends: other.yaml\n")
    (place / "other.yaml").write_text("extends: hostile.yaml\n")


RECIPES: list[Row] = [
    ("python-object", _TRAIN, "tags are not read", _tag),
    ("alias-bomb", _TRAIN, "aliases are not read", _recipe(_bomb())),
    ("brackets", _TRAIN, "nested too deeply", _recipe(_DEEP)),
    ("a-million-values", _TRAIN, "too much for a recipe", _recipe(f"a: [{'1,' * 500_000}]")),
    ("a-thousand-aliases", _TRAIN, "too much for a recipe", _recipe(f"a: [{'*a,' * 100_000}]")),
    ("a-thousand-unknown-keys", _TRAIN, "more that is wrong",
     _recipe("kind: autoencoder\n" + "".join(f"k{i}: 1\n" for i in range(900)))),
    ("too-long", _TRAIN, "at most 1048576 are read", _recipe(b"#" * (1 << 24))),
    ("a-number-without-end", _TRAIN, "the number is too long", _recipe("kind: autoencoder\na: " + "9" * 500_000)),
    ("control-characters", _TRAIN, "unknown key", _recipe('kind: autoencoder\n"\\e]0;owned\\a": 1\n')),
    ("binary", _TRAIN, "is not YAML", _recipe(bytes(range(256)) * 40)),
    ("extends-itself", _TRAIN, "extends itself", _circle),
    ("data-elsewhere", _TRAIN, "data.name", _recipe("extends: tiny/toy.yaml\ndata: {name: ../../../etc}\n")),
    ("url", "train-ae --recipe http://{address}/a.yaml --dry-run", "no such recipe", written("a", b"")),
    ("pipe", "train-ae --recipe pipe:touch --dry-run", "no such recipe", written("a", b"")),
]


def _shard(**changes: Any) -> dict[str, Any]:
    shard = {"name": "train-00000.tar", "split": "train", "samples": 1, "bytes": 10240, "sha256": "0" * 64,
             "members": [["a.png", 512, 100, 0]]}
    return shard | changes


def _manifest(*shards: dict[str, Any], **changes: Any) -> Fill:
    head = {"schema": 1, "kind": "images", "resolution": 32, "splits": {"train": len(shards)}, "shards": [*shards]}
    return together(written("data/manifest.json", json.dumps(head | changes).encode()),
                    written("data/train-00000.tar", bytes(10240)))


def _named(name: str) -> Fill:
    def fill(place: Path, trap: Trap) -> None:
        _manifest(_shard(name=name.format(address=trap.address, command=trap.command, secret=trap.secret)))(place, trap)

    return fill


def _outside_index(place: Path, trap: Trap) -> None:
    index = {"name": "../../../secret.png", "bytes": trap.secret.stat().st_size, "sha256": "0" * 64,
             "extensions": ["png"], "key_bytes": 8}
    shard = _shard()
    del shard["members"]
    _manifest(shard, schema=2, index=index, checksum="0" * 64)(place, trap)


_BAD = "manifest"
MANIFESTS: list[Row] = [
    ("shard-outside", _OPEN, _BAD, _named("../../../secret.png")),
    ("shard-absolute", _OPEN, _BAD, _named("{secret}")),
    ("shard-of-a-shell", _OPEN, _BAD, _named("pipe:{command}.tar")),
    ("shard-of-an-address", _OPEN, _BAD, _named("http://{address}/train.tar")),
    ("shard-with-escapes", _OPEN, _BAD, _named(_CONTROL + ".tar")),
    ("index-outside", _OPEN, _BAD, _outside_index),
    ("brackets", _OPEN, _BAD, written("data/manifest.json", b'{"schema": 1, "shards": ' + _DEEP)),
    ("digits", _OPEN, _BAD, written("data/manifest.json", b'{"schema": ' + b"1" * 500_000 + b"}")),
    ("not-a-number", _OPEN, _BAD, _manifest(_shard(bytes=float("nan")))),
    ("member-beyond-the-end", _OPEN, _BAD, _manifest(_shard(members=[["a.png", 1 << 62, 1 << 62, 0]]))),
    ("negative-offset", _OPEN, _BAD, _manifest(_shard(members=[["a.png", -512, 100, 0]]))),
    ("member-outside", _OPEN, _BAD, _manifest(_shard(members=[["../a.png", 512, 100, 0]]))),
    ("twice", _OPEN, _BAD, _manifest(_shard(), _shard())),
    ("no-object", _OPEN, _BAD, written("data/manifest.json", b"[1, 2, 3]")),
]


def _lines(*lines: object, link: str | None = None) -> Fill:
    def fill(place: Path, trap: Trap) -> None:
        folder = place / "pictures"
        folder.mkdir()
        if link:
            (folder / link).symlink_to(trap.secret)
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / "metadata.jsonl").write_text(text.replace("SECRET", str(trap.secret)) + "\n")

    return fill


METADATA: list[Row] = [
    ("outside", _FOLDER, "leads out of the folder", _lines({"file_name": "../../../secret.png"})),
    ("absolute", _FOLDER, "leads out of the folder", _lines('{"file_name": "SECRET"}')),
    ("link", _FOLDER, "leads out of the folder", _lines({"file_name": "a.png"}, link="a.png")),
    ("zero-byte", _FOLDER, "has no file_name", _lines({"file_name": "a\0.png"})),
    ("escapes", _FOLDER, "there is no such file", _lines({"file_name": f"{_CONTROL}.png"})),
    ("brackets", _FOLDER, "is no JSON", _lines("[" * 60_000)),
    ("digits", _FOLDER, "is no JSON", _lines('{"file_name": "a.png", "label": ' + "9" * 60_000 + "}")),
    ("infinity", _FOLDER, "is no JSON", _lines('{"file_name": "a.png", "label": 1e999}')),
    ("a-line-without-end", _FOLDER, "more than 65,536 bytes", _lines('{"file_name": "' + "a" * 5_000_000)),
]

_RUN_RECIPE = ("kind: autoencoder\ndata: {name: toy, resolution: 32}\nencoder: {channels: 8}\n"
               "decoder: {channels: [16, 8]}\nretrieval: {size: 16}\ntraining: {images: 1}\n")


def _run(info: bytes, manifest: bytes = b"") -> Fill:
    fills = [written("run/recipe.yaml", _RUN_RECIPE.encode()), written("run/run.json", info)]
    if manifest:
        fills.append(written("run/checkpoints/step-0000001/manifest.json", manifest))
    return together(*fills)


def _weights(header: bytes, length: int | None = None) -> Fill:
    """A checkpoint whose manifest is right and whose weights are not."""
    from hashlib import sha256

    data = struct.pack("<Q", len(header) if length is None else length) + header
    entry = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    state = {"bytes": 2, "sha256": sha256(b"{}").hexdigest()}
    manifest = {"schema": 1, "step": 1, "files": {"weights.safetensors": entry, "state.json": state}}
    place = "run/checkpoints/step-0000001"
    return together(_run(b"{}", json.dumps(manifest).encode()), written(f"{place}/weights.safetensors", data),
                    written(f"{place}/state.json", b"{}"))


_ENCODE = "encode --run run"
_FROM_STEP = "encode --run run --data data --checkpoint step-0000001"
RUNS: list[Row] = [
    ("brackets", _ENCODE, "run.json", _run(b'{"data": ' + _DEEP)),
    ("digits", _ENCODE, "run.json", _run(b'{"data": ' + b"1" * 500_000 + b"}")),
    ("not-a-number", _ENCODE, "run.json", _run(b'{"data": NaN}')),
    ("manifest-brackets", "encode --run run --data data", "none of its 1 checkpoints is intact", _run(b"{}", _DEEP)),
    ("header-without-end", _FROM_STEP, "no weights file of brics", _weights(b"{}", 1 << 62)),
    ("deep-header", _FROM_STEP, "no weights file of brics",
     _weights(json.dumps({"__metadata__": {"brics": "[" * 100_000}}).encode())),
    ("recipe-in-weights", _FROM_STEP, "tags are not read", _weights(json.dumps({"__metadata__": {"brics": json.dumps(
        {"schema": 1, "recipe": "kind: !!python/name:os.system\n"})}}).encode())),
]


def npy(shape: str, descr: str = "'<f8'", data: bytes = b"") -> bytes:
    """An .npy file whose header is what it is told."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _npz(mu: bytes, sigma: bytes = b"") -> Fill:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", mu)
        archive.writestr("sigma.npy", sigma)
    return together(written("hostile.npz", buffer.getvalue()), written("samples/0.png", b""))


def _pickled(place: Path, trap: Trap) -> None:
    _npz(npy("(1,)", "'|O'", trap.pickle))(place, trap)


def _long_header() -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 28) + bytes(1 << 24)


_NPZ = _STATISTICS.format("hostile.npz")
STATISTICS: list[Row] = [
    ("pickled-array", _NPZ, "mu is of object", _pickled),
    ("four-terabytes", _NPZ, "features, not of 1 to 4096", _npz(npy(f"({1 << 39},)"))),
    ("four-terabytes-squared", _NPZ, "has the shape",
     _npz(npy("(2,)", data=bytes(16)), npy(f"({1 << 20}, {1 << 20})"))),
    ("long-header", _NPZ, "cannot be read as statistics", _npz(_long_header())),
    ("brackets", _NPZ, "cannot be read as statistics", _npz(npy("(" * 5000))),
    ("not-a-number", _NPZ, "not finite", _npz(npy("(1,)", data=struct.pack("<d", float("nan"))),
                                              npy("(1, 1)", data=bytes(8)))),
    ("no-zip", _NPZ, "cannot be read as statistics", together(written("hostile.npz", bytes(5000)),
                                                              written("samples/0.png", b""))),
    ("deep-metadata", _STATISTICS.format("hostile.safetensors"), "not a statistics file",
     together(written("samples/0.png", b""), written("hostile.safetensors", struct.pack("<Q", 200_060) + json.dumps(
         {"__metadata__": {"brics": "[" * 200_000}}).encode().ljust(200_060)))),
]
