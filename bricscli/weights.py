"""Pretrained files of other projects: which they are, where they are looked for, and that they are what they claim.

Nothing is ever downloaded here, and no library is left to download on its own: a file is found, checked against its
SHA-256 and loaded without running code, or the user reads which file is missing and where to get it.
No torch at import.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bricscli.errors import DataError
from bricscli.files import sha256_file
from bricscli.tensor_files import check_header

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WeightFile:
    """One pretrained file. `files` maps each accepted file name to its SHA-256 (None: no fixed bytes).

    `url` is where the file of that name is; `licence` is that of the weights, as their publisher states it; `bytes` is
    the size of the file at `url`.
    """

    name: str
    files: dict[str, str | None]
    url: str
    needed_for: str
    licence: str
    bytes: int | None = None

    @property
    def filename(self) -> str:
        """Of the file at `url`."""
        return self.url.rsplit("/", 1)[1]

    @property
    def sha256(self) -> str:
        """Of the file at `url`."""
        digest = self.files[self.filename]
        assert digest is not None
        return digest


#: Names and addresses: torchvision 0.29 (`models/*.py`) and clean-fid 0.1.35 (`downloads_helper.py`). The digests
#: begin with the eight digits that torchvision puts into its file names. Sizes: each given by at least two projects
#: that pinned the file; torchvision's, rounded to kilobytes, are in its metadata too.
WEIGHTS: dict[str, WeightFile] = {
    file.name: file
    for file in (
        WeightFile(
            "vgg16",
            {"vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"},
            "https://download.pytorch.org/models/vgg16-397923af.pth",
            "the perceptual loss `vgg16`, LPIPS (vgg), precision, recall, density and coverage",
            "BSD-3-Clause (torchvision)",
            553_433_881,
        ),
        WeightFile(
            "alexnet",
            {"alexnet-owt-7be5be79.pth": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"},
            "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            "LPIPS (alex)",
            "BSD-3-Clause (torchvision)",
            244_408_911,
        ),
        WeightFile(
            "squeezenet1_1",
            {
                "squeezenet1_1-b8a52dc0.pth": "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
                # Any conversion with torchvision's names: names and shapes are checked when it is loaded.
                "squeezenet1_1.safetensors": None,
            },
            "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
            "the perceptual loss `squeezenet1_1` and LPIPS (squeeze)",
            "BSD-3-Clause (torchvision)",
            4_958_839,
        ),
        WeightFile(
            "inception",
            {"inception-2015-12-05.pt": "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"},
            "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
            "FID (clean-fid)",
            "Apache-2.0 (TensorFlow's Inception 2015-12-05)",
            95_607_719,
        ),
        WeightFile(
            "inception_fidelity",
            {
                "weights-inception-2015-12-05-6726825d.pth":
                    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
                "pt_inception-2015-12-05-6726825d.pth":
                    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            },
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            "FID, IS and KID (torch-fidelity)",
            "Apache-2.0 (TensorFlow's Inception 2015-12-05)",
            95_628_359,
        ),
        WeightFile(
            "clip_vit_b_32",
            {"ViT-B-32.pt": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"},
            "https://openaipublic.azureedge.net/clip/models/"
            "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
            "CLIP-FID and nearest neighbours by CLIP",
            "MIT (OpenAI)",
            353_976_522,
        ),
        WeightFile(
            "dinov2_vitl14",
            {"dinov2_vitl14_pretrain.pth": "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"},
            "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            "FD-DINOv2",
            "Apache-2.0 (Meta)",
            1_217_586_395,
        ),
    )
}


class MissingWeights(DataError):
    """A pretrained file is not on this machine (exit code 3)."""


def weight_folders() -> list[Path]:
    """Where pretrained files are looked for: `$BRICS_WEIGHTS`, then torch hub's cache, as torch itself names it."""
    folders = []
    if os.environ.get("BRICS_WEIGHTS"):
        folders.append(Path(os.environ["BRICS_WEIGHTS"]).expanduser())
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    folders.append(Path(home).expanduser() / "hub" / "checkpoints")
    return folders


def find_weights(name: str) -> Path:
    """The pretrained file `name` (a key of `WEIGHTS`), its SHA-256 checked.

    Raises MissingWeights where it is nowhere, DataError where a file of that name has other content.
    """
    weights = WEIGHTS[name]
    path = locate_weights(name)
    if path is not None:
        _check_digest(path, weights.files[path.name], weights.url)
        return path
    wanted = " or ".join(weights.files)
    looked = " and ".join(str(folder) for folder in weight_folders())
    hint = "" if os.environ.get("BRICS_WEIGHTS") else " (BRICS_WEIGHTS is not set)"
    raise MissingWeights(
        f"{wanted}: missing, needed for {weights.needed_for}; looked in {looked}{hint}. "
        f"`brics doctor --fetch {name}` downloads it; or copy {weights.url} (SHA-256 {weights.sha256[:16]}…) into a "
        "folder and set BRICS_WEIGHTS to that folder."
    )


def locate_weights(name: str) -> Path | None:
    """Where the pretrained file `name` is on this machine, unchecked; None where it is nowhere."""
    paths = (folder / filename for folder in weight_folders() for filename in WEIGHTS[name].files)
    return next((path for path in paths if path.is_file()), None)


def load_state(name: str) -> dict[str, "Tensor"]:
    """The state dict of pretrained network `name`, on the CPU. Only tensors are read: no pickled code is run."""
    path = find_weights(name)
    if path.suffix == ".pt":
        raise AssertionError(f"{path.name} is a TorchScript program, not a state dict")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            check_header(path)
            return load_file(path)
        import torch

        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # safetensors and torch raise many kinds; all mean the same to the user
        reason = str(error).split("\n")[0]
        raise DataError(f"{path}: cannot be read as weights ({reason}). Download it again.") from error


def _check_digest(path: Path, expected: str | None, url: str) -> None:
    if expected is None:
        return
    try:
        found = sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if found != expected:
        raise DataError(
            f"{path}: SHA-256 begins {found[:8]}, expected {expected[:8]}: damaged, or another file. "
            f"Download {url} again."
        )
