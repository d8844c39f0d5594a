"""What a decoder costs at 256x256: parameters, multiply-accumulates and time, beside the decoders that others use.

    python tests/benchmarks/decoders.py --batches 1 --repeats 5 --json tests/benchmarks/results/decoders-cpu.json

Weights and inputs are random: only costs are measured, not images. The rows take turns, so that a busy machine slows
all of them alike. One CPU thread is measured in the process's CPU time, everything else by the clock on the wall.
A GMAC is half of what torch's counter calls a GFlop; norms and activations are not counted.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from machine import clock, describe_versions, device_name
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bricscli.files import write_json
from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.decoders.style import StyleDecoder
from bricscli.nn.retrieval.feature_grid import FeatureGrid

RESOLUTION = 256
OURS, BASELINE = "BRICS 64x64x4", "VQGAN f16"
#: At most this share of the time of the decoder named.
GOALS = {BASELINE: 0.55, "Stable Diffusion f8": 0.33}


@dataclass
class Row:
    """One decoder and its costs; times in milliseconds for a batch."""

    name: str
    parameters: int
    gmac: float  #: for one image
    batch: int
    times: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def images_per_second(self) -> float:
        return 1000 * self.batch / self.median


class Brics(nn.Module):
    """Key code `(B, 4, 64, 64)` -> image, as church64x4; the retrieval is in float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.retrieval = FeatureGrid(groups=4, key_length=1, size=64, levels=16, r_min=16, r_max=64, index="modulo",
                                     entry_channels=4, max_entries=2**18, mlp_width=64, mlp_layers=3, channels=512)
        self.decoder = StyleDecoder(inputs=512, channels=(512, 256, 192), style_width=512, mapping_layers=4).to(dtype)
        self.dtype = dtype

    def forward(self, code: Tensor) -> Tensor:
        features = self.retrieval(self.retrieval.tile(code.float()))
        return self.decoder(features.to(self.dtype))


def vqgan(factor: int) -> ConvDecoder:
    """taming's decoders of f = 16 and 8 (BRICS's Table 3)."""
    if factor == 16:
        return ConvDecoder(inputs=256, channels=128, multipliers=(1, 1, 2, 2, 4), blocks=2, attention="code")
    return ConvDecoder(inputs=256, channels=128, multipliers=(1, 1, 2, 2), blocks=2, attention="middle")


def diffusers_decoder(kind: str, **settings: object) -> nn.Module:
    """The decoder of a diffusers autoencoder, without its 1x1 convolution in front."""
    return getattr(importlib.import_module("diffusers"), kind)(**settings).decoder


def iter_decoders(dtype: torch.dtype) -> Iterator[tuple[str, nn.Module, tuple[int, int], torch.memory_format]]:
    """Name, decoder, channels and size of its input, layout in memory."""
    plain, last = torch.contiguous_format, torch.channels_last
    yield OURS, Brics(dtype), (4, 64), plain
    yield f"{OURS}, channels last", Brics(dtype), (4, 64), last
    yield BASELINE, vqgan(16).to(dtype), (256, 16), plain
    yield f"{BASELINE}, channels last", vqgan(16).to(dtype), (256, 16), last
    yield "VQGAN f8", vqgan(8).to(dtype), (256, 32), plain
    if importlib.util.find_spec("diffusers") is None:
        print("diffusers is not installed: Stable Diffusion, latent-diffusion, Asymmetric VQGAN and TAESD are left out")
        return
    up = "UpDecoderBlock2D"
    down = "DownEncoderBlock2D"
    kl = diffusers_decoder("AutoencoderKL", latent_channels=4, block_out_channels=(128, 256, 512, 512),
                           layers_per_block=2, up_block_types=(up,) * 4, down_block_types=(down,) * 4)
    yield "Stable Diffusion f8", kl.to(dtype), (4, 32), plain
    kl = diffusers_decoder("AutoencoderKL", latent_channels=3, block_out_channels=(128, 256, 512),
                           layers_per_block=2, up_block_types=(up,) * 3, down_block_types=(down,) * 3)
    yield "latent-diffusion f4", kl.to(dtype), (3, 64), plain
    asymmetric = diffusers_decoder(  # cross-attention/asymmetric-autoencoder-kl-x-1-5; without a mask
        "AsymmetricAutoencoderKL", latent_channels=4, down_block_types=(down,) * 4, up_block_types=(up,) * 4,
        down_block_out_channels=(128, 256, 512, 512), layers_per_down_block=2,
        up_block_out_channels=(192, 384, 768, 768), layers_per_up_block=3)
    yield "Asymmetric VQGAN x1.5", asymmetric.to(dtype), (4, 32), plain
    yield "TAESD", diffusers_decoder("AutoencoderTiny").to(dtype), (4, 32), plain


@torch.no_grad()
def measure(batch: int, repeats: int, device: torch.device, dtype: torch.dtype, now: Callable[[], float]) -> list[Row]:
    """Times of all decoders in turn; the call that counts the operations is also the one that warms up."""
    runs: list[tuple[Row, nn.Module, Tensor]] = []
    for name, model, (channels, size), layout in iter_decoders(dtype):
        model = model.to(device).to(memory_format=layout).eval()
        code = torch.rand(batch, channels, size, size, device=device, dtype=dtype).to(memory_format=layout)
        with FlopCounterMode(display=False) as counter:
            image = model(code)
        assert image.shape == (batch, 3, RESOLUTION, RESOLUTION), name
        parameters = sum(p.numel() for p in model.parameters())
        runs.append((Row(name, parameters, counter.get_total_flops() / 2e9 / batch, batch, []), model, code))
    for _ in range(repeats):
        for row, model, code in runs:
            start = now()
            model(code)
            row.times.append(1000 * (now() - start))
    return [row for row, _, _ in runs]


def print_table(rows: list[Row]) -> None:
    by_name = {row.name: row for row in rows}
    print(f"\nbatch {rows[0].batch}\n{'decoder':30}{'M param':>9}{'GMAC':>9}{'ms':>10}{'images/s':>10}{'ratio':>8}")
    for row in rows:
        print(f"{row.name:30}{row.parameters / 1e6:9.2f}{row.gmac:9.2f}{row.median:10.1f}"
              f"{row.images_per_second:10.2f}{row.median / by_name[BASELINE].median:8.3f}")
    for layout in ("", ", channels last"):  # the second is how the program decodes on a CPU
        for name, goal in GOALS.items():
            other = by_name.get(name + layout) or by_name.get(name)
            if other is not None:
                ratio = by_name[OURS + layout].median / other.median
                verdict = "reached" if ratio <= goal else "not reached"
                print(f"{OURS}{layout} takes {ratio:.3f} of the time of {other.name}; goal {goal}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    rows: list[Row] = []
    for batch in options.batches:
        rows += (found := measure(batch, options.repeats, device, dtype, clock(device, options.threads)))
        print_table(found)
    if options.json:
        write_json(options.json, {
            "what": "decoding to 256x256, times in ms per batch", "versions": describe_versions(),
            "device": device_name(device), "threads": options.threads, "dtype": options.dtype,
            "time": "CPU time" if device.type == "cpu" and options.threads == 1 else "wall",
            "command": "python " + shlex.join(sys.argv), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": [asdict(row) | {"median": row.median, "images_per_second": row.images_per_second}
                     for row in rows]})


if __name__ == "__main__":
    main()
