"""Two anchors for a Fréchet distance: what the autoencoder alone makes of real images, and what key codes make whose
values go together no more. A generator is expected between them: at the first it does all that its decoder can show, at
the second it learnt nothing but the values that each position takes.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bricscli.data.collection import ImageCollection
from bricscli.data.loader import order, read_sample
from bricscli.errors import DataError
from bricscli.run.directory import RunDirectory
from bricscli.runtime import generator_for
from bricscli.tasks.draw import decode_latents
from bricscli.tasks.encode import CODE, decode_code, open_codes
from bricscli.tasks.models import load_autoencoder

RECONSTRUCTED, SHUFFLED = "reconstructions of train images", "shuffled key codes"


def decode_anchors(path: Path, count: int, device: torch.device) -> dict[str, ImageCollection]:
    """`count` images each, decoded from train codes chosen once and for all, as they are and shuffled.

    Raises DataError where the run has fewer codes, or none.
    """
    run = RunDirectory.open(path)
    autoencoder = load_autoencoder(run, device)
    split = open_codes(run, autoencoder).split("train")
    if len(split) < count:
        raise DataError(f"{run.codes}: has {len(split)} train codes, {count} are needed. Pass --limit {len(split)}.")
    decode = partial(decode_code, shape=autoencoder.code_shape)
    chosen = order(0, len(split), 0)[:count].tolist()
    codes = torch.from_numpy(np.stack([read_sample(split, i, decode, CODE) for i in chosen]))
    kinds = {RECONSTRUCTED: codes, SHUFFLED: shuffle_positions(codes)}
    return {name: _collection(name, decode_latents(autoencoder.model, kind, device)) for name, kind in kinds.items()}


def shuffle_positions(codes: Tensor, seed: int = 0) -> Tensor:
    """Key codes `(B, C_z, H_z, W_z)` whose values were exchanged between the images, at each position and channel.

    The distribution of every single value stays, how values go together is lost.
    """
    flat = codes.flatten(1)
    orders = torch.rand(flat.shape, generator=generator_for(seed, "shuffle")).argsort(0)
    return flat.gather(0, orders).reshape(codes.shape)


def _collection(name: str, images: Tensor) -> ImageCollection:
    height, width = images.shape[-2:]
    return ImageCollection(name, len(images), lambda i: images[i].numpy(), (height, width), digest="")
