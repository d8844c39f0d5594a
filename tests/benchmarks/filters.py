"""How far apart the same photographs are, prepared by five programs: Fréchet distances between the five data sets.

    python tests/benchmarks/filters.py --from PHOTOGRAPHS [--resolution 64] [--json FILE]

Everything but the filter is equal, so each number is what a reference prepared by another program adds to a distance
by itself. Measured on random features, which need no pretrained file, and on pooled features of SqueezeNet where
BRICS_WEIGHTS has it; neither is FID. For scale: the distance between the two halves of one data set.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path

import torch
from machine import describe_versions
from torch import Tensor

from bricscli.data.collection import ImageCollection, open_prepared
from bricscli.data.resize import RESIZES
from bricscli.files import write_json
from bricscli.metrics.features import load_extractor
from bricscli.metrics.frechet import Statistics, frechet_distance
from bricscli.weights import MissingWeights, load_state

PROGRAMS = ("lanczos", "ldm", "adm", "rqvae", "taming")
Extract = Callable[[Tensor], Tensor]


def squeezenet() -> Extract:
    """The averages of SqueezeNet 1.1's last features, (B,512). Raises MissingWeights."""
    from torchvision.models import squeezenet1_1

    network = squeezenet1_1()
    network.load_state_dict(load_state("squeezenet1_1"))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def extract(images: Tensor) -> Tensor:
        with torch.no_grad():
            return network.features.eval()((images.float() / 255 - mean) / std).mean((2, 3))

    return extract


def spread(images: ImageCollection, extract: Extract, part: slice = slice(None)) -> Statistics:
    """Of the features of every image, or of a part."""
    features = torch.cat([extract(torch.from_numpy(batch)) for batch in images.batches(64)])[part]
    statistics = Statistics(features.shape[1])
    statistics.update(features.numpy())
    return statistics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    assert set(PROGRAMS) <= set(RESIZES)
    random = load_extractor("random")
    extractors: dict[str, Extract] = {"random": lambda images: random(images)["features"]}
    try:
        extractors["squeezenet"] = squeezenet()
    except MissingWeights as error:
        print(error, file=sys.stderr)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for program in PROGRAMS:
            out = Path(folder) / program
            subprocess.run([sys.executable, "-m", "bricscli", "prepare", "folder", "--from", str(arguments.source),
                            "--resolution", str(arguments.resolution), "--resize", program, "--out", str(out)],
                           check=True, stdout=subprocess.DEVNULL)
            sets[program] = open_prepared(out)
        for name, extract in extractors.items():
            spreads = {program: spread(images, extract) for program, images in sets.items()}
            found[name] = {f"{a} {b}": frechet_distance(spreads[a], spreads[b])
                           for a, b in combinations_with_replacement(PROGRAMS, 2) if a != b}
            halves = [spread(sets["lanczos"], extract, slice(half, None, 2)) for half in range(2)]
            found[name]["halves of lanczos"] = frechet_distance(*halves)
            count = sets["lanczos"].count
            print(f"\n{name} features, {count} photographs at {arguments.resolution} pixels")
            print(" " * 10 + "".join(f"{program:>10}" for program in PROGRAMS))
            for a in PROGRAMS:
                row = [found[name].get(f"{a} {b}", found[name].get(f"{b} {a}", 0.0)) for b in PROGRAMS]
                print(f"{a:10}" + "".join(f"{value:10.4g}" for value in row))
            print(f"for scale, the two halves of one set: {found[name]['halves of lanczos']:.4g}")
    if arguments.json:
        command = f"python tests/benchmarks/filters.py --from FOLDER --resolution {arguments.resolution}"
        write_json(arguments.json, {"what": "Fréchet distances between data sets of the same photographs", "command":
                                    command, "photographs": count, "resolution": arguments.resolution,
                                    "distances": found, "versions": describe_versions()})


if __name__ == "__main__":
    main()
