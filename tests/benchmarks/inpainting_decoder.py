"""What a decoder that is told the kept pixels does to them and beside them: Asymmetric VQGAN's Table 2 in our form.

python tests/benchmarks/inpainting_decoder.py --data DATA --base RUN [NAME=RUN ...] [--sheet FILE.png] [--json FILE]

Codes are those of the whole pictures, so that every difference is the decoder's; masks are LaMa's (kinds below, seed 0,
one for each picture of the validation split). In [0, 1], means over pictures:
* PSNR, full: of the reconstruction, nothing kept; PSNR, masked: with the kept pixels told.
* Pre_error: mean squared error of the kept pixels.
* seam: of all pairs of neighbours of which one is kept and the other replaced, the mean absolute error of their
  difference; seam ring: mean squared error of the pixels at most 2 away from the mask's edge.
* hole: mean squared error of the replaced pixels.
`paste` is the base's reconstruction with the kept pixels over it.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bricscli.data.images import decode_image, encode_png, sheet
from bricscli.data.loader import in_order
from bricscli.data.masks import draw_mask
from bricscli.data.shards import ShardSet
from bricscli.files import write_json
from bricscli.metrics.inpainting import hole_errors
from bricscli.metrics.reconstruction import psnr
from bricscli.run.checkpoint import load_checkpoint
from bricscli.run.directory import RunDirectory
from bricscli.run.provenance import describe_process
from bricscli.tasks.models import LoadedAutoencoder, load_autoencoder
from bricscli.tasks.train_ae import reconstruct_uint8

CPU = torch.device("cpu")
BATCH = 40


@dataclass
class Sums:
    """Numbers of each picture, by name."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, real: Tensor, fake: Tensor, mask: Tensor, told: bool) -> None:
        """uint8 `(3, H, W)` twice, bool `(H, W)`."""
        errors = hole_errors(real[None], fake[None], mask[None])
        numbers = {"pre_error": errors["pre_error"], "seam": errors["seam"], "seam_ring": errors["ring"],
                   "hole": errors["hole"], "psnr_masked" if told else "psnr_full": psnr(real[None], fake[None])}
        for name, value in numbers.items():
            self.values.setdefault(name, []).append(float(value))

    def means(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self.values.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--kind", default="thick")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("runs", nargs="*", help="NAME=RUN")
    arguments = parser.parse_args()
    models = {name: load_autoencoder(RunDirectory.open(Path(path)), CPU)
              for name, path in [("base", str(arguments.base)), *(pair.split("=", 1) for pair in arguments.runs)]}
    table = measure(models, ShardSet.open(arguments.data), arguments.kind, arguments.images, arguments.sheet)
    names = ("psnr_full", "psnr_masked", "pre_error", "seam", "seam_ring", "hole")
    print(f"{'':26}" + "".join(f"{name:>13}" for name in names))
    for row, numbers in table.items():
        print(f"{row:26}" + "".join(f"{numbers[name]:13.6f}" if name in numbers else f"{'-':>13}" for name in names))
    if arguments.json:
        versions = describe_process()
        del versions["argv"]
        write_json(arguments.json, {
            "what": "reconstructions with and without a mask; errors in [0, 1], squared but for the seam; PSNR in dB",
            "versions": versions, "device": "cpu", "kind": arguments.kind, "images": arguments.images,
            "trained": {name: RunDirectory.open(loaded.weights_path.parents[1]).info["overrides"]
                        for name, loaded in models.items()},
            "images_seen": {name: load_checkpoint(loaded.weights_path).state["images_seen"]
                            for name, loaded in models.items()},
            "command": "python " + shlex.join(sys.argv), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": table})


def measure(models: dict[str, LoadedAutoencoder], data: ShardSet, kind: str, count: int,
            file: Path | None) -> dict[str, dict[str, float]]:
    """Row -> name -> mean; writes a sheet of the first pictures."""
    rows: dict[str, Sums] = {}
    for start, real in batches(data, models["base"].recipe.data.resolution, count):
        masks = torch.from_numpy(np.stack([draw_mask(kind, 0, start + i, *real.shape[2:]) for i in range(len(real))]))
        fakes: dict[str, Tensor] = {}
        for name, loaded in models.items():
            fakes[f"{name}, no mask"] = reconstruct_uint8(loaded.model, real, CPU)
            if loaded.recipe.decoder.conditional:
                fakes[f"{name}, mask"] = reconstruct_uint8(loaded.model, real, CPU, masks[:, None])
        plain = fakes["base, no mask"]
        fakes["paste"] = torch.where(masks[:, None], plain, real)
        for row, fake in fakes.items():
            for i, mask in enumerate(masks):
                rows.setdefault(row, Sums()).add(real[i], fake[i], mask, not row.endswith("no mask"))
        if file is not None and start == 0:
            shown = [real, torch.where(masks[:, None], 128, real), *fakes.values()]
            pictures = torch.cat([one[:12] for one in shown]).repeat_interleave(2, 2).repeat_interleave(2, 3)
            file.write_bytes(encode_png(sheet(pictures.numpy(), min(12, len(real)))))
    return {row: sums.means() for row, sums in rows.items()}


def batches(data: ShardSet, resolution: int, count: int) -> Iterator[tuple[int, Tensor]]:
    """The first `count` pictures of the validation split: number of the first, uint8 `(B, 3, H, W)`."""
    seen = 0
    decode = partial(decode_image, resolution=resolution)
    for batch in in_order(data.split("val"), decode, data.image_extension, BATCH):
        if seen < count:
            yield seen, torch.from_numpy(batch[:count - seen])
        seen += len(batch)


if __name__ == "__main__":
    main()
