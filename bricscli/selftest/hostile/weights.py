"""Of the hostile corpus: checkpoints that want to be more than tensors."""

import json
import struct
from pathlib import Path

from bricscli.selftest.hostile import Fill, Row, Trap, together, written
from bricscli.selftest.hostile.archives import zeros, zip_archive, zip_entry

_IMPORT = "import-checkpoint {} --out run"
_PT = _IMPORT.format("model.pt")
_CKPT = _IMPORT.format("model.ckpt")
_SAFE = _IMPORT.format("model.safetensors")
#: The number, the protocol and the machine that stood before the object in files of torch.save before 1.6.
_LEGACY = (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
           b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03X\r\x00\x00\x00little_endianq\x02\x88u.")


def torch_zip(pickle: bytes, storage: tuple[bytes, bytes] | None = None) -> bytes:
    """What torch.save writes: a zip archive with a pickle, and a storage `archive/data/0`."""
    entries = {name: zip_entry(name, data) for name, data in {
        "archive/data.pkl": pickle, "archive/byteorder": b"little", "archive/version": b"3\n"}.items()}
    if storage:
        entries["archive/data/0"] = storage
    return zip_archive(*entries.values(), names=[*entries])


def tensor(numbers: int, shape: str = "K\x10\x85", strides: str = "K\x01\x85") -> bytes:
    """A pickle of a state dict: a float32 tensor, of the storage 0 of so many numbers."""
    name, kind, key, place = (b"X" + struct.pack("<I", len(word)) + word
                              for word in (b"encoder.conv_in.weight", b"storage", b"0", b"cpu"))
    storage = b"(" + kind + b"ctorch\nFloatStorage\n" + key + place + b"\x8a\x08" + struct.pack("<q", numbers) + b"tQ"
    rest = b"K\x00" + shape.encode("latin-1") + strides.encode("latin-1") + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}" + name + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tRs."


def _stretched() -> bytes:
    """Of one number, with strides of 0, a tensor of 2^40."""
    shape = "\x8a\x06" + struct.pack("<Q", 1 << 40)[:6].decode("latin-1") + "\x85"
    return torch_zip(tensor(1, shape, "K\x00\x85"), zip_entry("archive/data/0", bytes(4)))


def _inflated(place: Path, trap: Trap) -> None:
    """A storage of 1.5 GB that was deflated to as many kilobytes."""
    data, crc = zeros(1536)
    storage = zip_entry("archive/data/0", data, method=8, size=1536 << 20, crc=crc)
    (place / "model.pt").write_bytes(torch_zip(tensor(384 << 20, "\x8a\x04\x00\x00\x00\x18\x85"), storage))


def _pickled(name: str, wrap: str = "plain") -> Fill:
    def fill(place: Path, trap: Trap) -> None:
        data = {"plain": trap.pickle, "zip": torch_zip(trap.pickle), "legacy": _LEGACY + trap.pickle}[wrap]
        path = place / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    return fill


def _script(trap: Trap) -> bytes:
    """TorchScript keeps code beside its constants."""
    names = ["model/data.pkl", "model/constants.pkl", "model/code/__torch__.py"]
    return zip_archive(*(zip_entry(name, trap.pickle) for name in names), names=names)


def safetensors(*names: str, metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    header |= {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


_CODE = "is a pickle that wants code to be run"
CHECKPOINTS: list[Row] = [
    ("zip-pickle", _PT, f"{_CODE} (`posix.system`)", _pickled("model.pt", "zip")),
    ("legacy-pickle", _CKPT, _CODE, _pickled("model.ckpt", "legacy")),
    ("plain-pickle", _CKPT, "is no checkpoint", _pickled("model.ckpt")),
    ("a-storage-that-was-deflated", _PT, "more memory", _inflated),
    ("one-number-stretched", _PT, "more memory", written("model.pt", _stretched())),
    ("torchscript", _PT, "is a TorchScript program", written("model.pt", _script)),
    ("distributed", _IMPORT.format("model"), "is a distributed checkpoint", _pickled("model/.metadata")),
    ("diffusers-config", _IMPORT.format("vae"), "cannot be read", together(
        written("vae/config.json", b"[" * 100_000), written("vae/diffusion_pytorch_model.safetensors", safetensors(
            "encoder.down_blocks.0.resnets.0.conv1.weight")))),
    ("web-page", _CKPT, "is a web page", written("model.ckpt", b"\n<!DOCTYPE html><html><p>Not found</p></html>")),
    ("git-lfs", _CKPT, "is a pointer of Git LFS", written(
        "model.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n")),
    ("empty", _PT, "is empty", written("model.pt", b"")),
    ("random", _PT, "is no checkpoint", written("model.pt", bytes(i * 97 % 251 for i in range(5000)))),
    ("header-without-end", _SAFE, "was cut off", written("model.safetensors", struct.pack("<Q", 1 << 60) + b"{" * 99)),
    ("safetensors-of-a-dit", _SAFE, "is a DiT", written("model.safetensors", safetensors(
        "x_embedder.proj.weight", "blocks.0.adaLN_modulation.1.weight"))),
    ("zip-of-something", _PT, "is a zip archive, and no checkpoint", written(
        "model.pt", zip_archive(zip_entry("../../evil", b"x"), names=["../../evil"]))),
    ("gzip", _PT, "is compressed", written("model.pt", b"\x1f\x8b\x08" + bytes(600))),
    ("as-a-run", "encode --run model.ckpt", "brics import-checkpoint", _pickled("model.ckpt")),
    ("as-a-run-to-sample", "sample -n 1 --run model.pt --out out", "brics import-checkpoint",
     _pickled("model.pt", "zip")),
    ("a-folder-of-nothing", _IMPORT.format("model"), "holds no config.json", written("model/a", b"")),
    ("an-address", "import-checkpoint http://{address}/m.ckpt --out run", "there is no such file", written("a", b"")),
]
