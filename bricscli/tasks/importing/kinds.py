"""What a file is, by its first bytes, before anything reads it: one line that says what it is and what to run."""

import os
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path

from bricscli.data.sources.archives import check_index
from bricscli.errors import DataError
from bricscli.strict_json import read_json

#: Of a folder that diffusers' `save_pretrained` wrote.
CONFIG = "config.json"
_DIFFUSERS_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_MOST_MEMBERS = 200_000
_FETCH_IT = "Download it again."


def find_weights_file(source: Path) -> Path:
    """The file of weights that `source` is, or holds. Raises DataError that says what else it is."""
    if source.is_dir():
        return _inside_folder(source)
    if not source.exists():
        raise DataError(f"{source}: there is no such file. Give a checkpoint, or the folder that diffusers saved.")
    if not source.is_file():
        raise DataError(f"{source}: is neither a file nor a folder. Give a checkpoint.")
    try:
        with open(source, "rb") as file:
            start, size = file.read(512), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}). Give yourself access.") from None
    problem = _by_first_bytes(start, size) or (_by_members(source) if start.startswith(b"PK\3\4") else None)
    if problem:
        raise DataError(f"{source}: {problem}")
    return source


def name_layout(names: Collection[str]) -> str:
    """What tensors of these names are, where they are no first stage: words for `this is ...`."""
    def some(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in names)

    if not names:
        return "holds no tensors"
    if all(name.startswith(("model_ema.", "ema.", "ema_model.")) for name in names):
        return "holds averaged weights alone, of which nothing says what they average"
    if any("adaLN_modulation" in name for name in names):
        return "is a DiT, a diffusion model of other latents"
    if some("model.diffusion_model.", "diffusion_model.", "down_blocks.", "input_blocks."):
        return "is a UNet without a first stage"
    if some("conditional_", "text_model.", "cond_stage_model.", "transformer.resblocks."):
        return "is a text encoder or another transformer"
    if some("synthesis.", "mapping.", "G."):
        return "is a StyleGAN"
    return f"holds none of an autoencoder's tensors, but `{min(names)}`" + (
        f" and {len(names) - 1} others" if len(names) > 1 else "")


def _inside_folder(folder: Path) -> Path:
    if (folder / ".metadata").exists() or any(folder.glob("*.distcp")):
        raise DataError(f"{folder}: is a distributed checkpoint (DCP), whose index is a pickle and is not opened. Save "
                        "its state dict as safetensors with the program that made it.")
    if (folder / "recipe.yaml").is_file():
        raise DataError(f"{folder}: is a run of brics already. Use it with --run.")
    for name in _DIFFUSERS_FILES:
        if (folder / name).is_file() and (folder / CONFIG).is_file():
            return find_weights_file(folder / name)
    if (folder / "model_index.json").is_file() and (folder / "vae").is_dir():
        raise DataError(f"{folder}: is a whole pipeline of diffusers. Give its autoencoder, {folder / 'vae'}.")
    raise DataError(f"{folder}: holds no {CONFIG} with {_DIFFUSERS_FILES[0]} beside it. Give the folder of an "
                    "autoencoder that diffusers saved, or a file.")


def _by_first_bytes(start: bytes, size: int) -> str | None:
    """Why such a file is not read; None where it may be a checkpoint."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return f"is empty. {_FETCH_IT}"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself. Fetch it with `git lfs pull`."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, such as servers send instead of a file. Download it from the page's own link."
    if start.startswith((b"PK\3\4", b"\x80")):  # what torch.save writes, and wrote before 1.6; or any other pickle
        return None
    if len(start) > 8 and start[8:9] == b"{":
        (length,) = struct.unpack("<Q", start[:8])
        if not 2 <= length <= size - 8:
            return f"is a safetensors file that was cut off. {_FETCH_IT}"
        return "is a weights file of brics already. Use the run that it belongs to, with --run." if (
            b'"__metadata__":{"brics":' in start) else None
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "is compressed. Decompress it first."
    return "is no checkpoint: neither safetensors nor what torch.save writes. Give a .safetensors, .ckpt or .pt file."


def _by_members(path: Path) -> str | None:
    """Of a zip archive: what torch.save writes, a TorchScript program, or something else."""
    try:
        check_index(path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises many kinds on damaged input
        return f"is a damaged archive, perhaps of half a download. {_FETCH_IT}"
    if len(names) > _MOST_MEMBERS:
        return f"is an archive of {len(names):,} files, and no checkpoint."
    tops = {name.split("/")[0] for name in names}
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return ("is a TorchScript program, which is code, not weights. Save its state dict as safetensors where you "
                "trust it.")
    if len(tops) != 1 or "data.pkl" not in inside:
        return "is a zip archive, and no checkpoint. If one is in there, unpack it."
    return None


def read_config(weights: Path) -> dict[str, object] | None:
    """What diffusers' config beside a file of weights says; None where there is none. Raises DataError."""
    path = weights.parent / CONFIG
    if not path.is_file():
        return None
    try:
        config = read_json(path, 1 << 20)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Copy it again from where the weights are from.") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: is no object. Copy it again from where the weights are from.")
    return config
