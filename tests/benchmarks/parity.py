"""Every metric beside the program that papers name for it: the same images, the same random weights, two numbers.

    python tests/benchmarks/parity.py --json tests/benchmarks/results/metrics-parity-cpu.json

The images are the toy's, and the same a little blurred; pairs of them for PSNR, SSIM and LPIPS. What agrees with random
weights agrees with the published ones, since both sides load one file. FID and its kin are of all features; where there
are fewer images than features, both sides' covariances are singular, and what they print is rounding's to decide from
the sixth digit on.
"""

import argparse
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_versions, device_name
from PIL import Image
from random_networks import clip_state, inception_state, save_clean_inception, save_clip, vgg16_state
from torch import Tensor
from torch.nn import functional

from bricscli.data.toy import draw
from bricscli.files import write_json
from bricscli.metrics.features.clip import ClipFeatures
from bricscli.metrics.features.inception import CleanInceptionFeatures, InceptionFeatures
from bricscli.metrics.features.vgg16 import Vgg16Features
from bricscli.metrics.frechet import Statistics, frechet_distance
from bricscli.metrics.inception_score import inception_score
from bricscli.metrics.kernel_distance import kernel_distance
from bricscli.metrics.neighbourhoods import f1, precision_recall
from bricscli.metrics.reconstruction import Lpips, psnr, ssim

#: Metric, whose the other number is, ours, theirs.
Row = tuple[str, str, float, float]
TOLERANCE = 1e-4


class Pictures(torch.utils.data.Dataset[Tensor]):
    """What torch-fidelity reads."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def pictures(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Toys, and other toys with a little blur: (count,3,side,side) uint8 each."""
    drawn = [np.asarray(draw(5, i, side)).transpose(2, 0, 1) for i in range(2 * count)]
    a, b = torch.from_numpy(np.stack(drawn)).chunk(2)
    return a, functional.avg_pool2d(b.float(), 3, 1, 1, count_include_pad=False).round().byte()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    sides = [Statistics(a.shape[1]), Statistics(a.shape[1])]
    for side, features in zip(sides, (a, b), strict=True):
        side.update(features)
    return frechet_distance(*sides)


def of_torch_fidelity(images: tuple[Tensor, Tensor], folder: Path) -> Iterator[Row]:
    import torch_fidelity

    count = len(images[0])
    path, state = folder / "inception.pth", inception_state()
    torch.save(state, path)
    settings: dict[str, Any] = {"input1": Pictures(images[0]), "input2": Pictures(images[1]), "cuda": False,
                                "cache": False, "verbose": False, "batch_size": 25, "save_cpu_ram": True}
    theirs = torch_fidelity.calculate_metrics(fid=True, isc=True, kid=True, kid_subset_size=count // 2,
                                              feature_extractor_weights_path=str(path), **settings)
    extract = InceptionFeatures(state)
    a, b = (extract(x) for x in images)
    found = distance(a["features"].numpy(), b["features"].numpy())
    yield "FID", "torch-fidelity", found, theirs["frechet_inception_distance"]
    score = inception_score(a["logits"].numpy())[0]
    yield "IS", "torch-fidelity", score, theirs["inception_score_mean"]
    kid = kernel_distance(a["features"].numpy(), b["features"].numpy(), size=count // 2)[0]
    yield "KID", "torch-fidelity", kid, theirs["kernel_inception_distance_mean"]


def of_vgg16(images: tuple[Tensor, Tensor], folder: Path) -> Iterator[Row]:
    """At 224x224, where its resize, which is TensorFlow's, changes nothing."""
    import torch_fidelity

    images = tuple(functional.interpolate(x.float(), size=(224, 224), mode="bilinear").byte()  # type: ignore[assignment]
                   for x in images)
    state, path = vgg16_state(), folder / "vgg16.pth"
    torch.save(state, path)
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(images[0]), input2=Pictures(images[1]), cuda=False, cache=False, verbose=False, batch_size=20,
        save_cpu_ram=True, prc=True, feature_layer_prc="fc2", feature_extractor_weights_path=str(path))
    path.unlink()
    extract = Vgg16Features(state)
    fake, real = (extract(x)["features"] for x in images)
    precision, recall = precision_recall(fake, real)
    yield "precision", "torch-fidelity", precision, theirs["precision"]
    yield "recall", "torch-fidelity", recall, theirs["recall"]
    yield "F1", "torch-fidelity", f1(precision, recall), theirs["f_score"]


def of_clean_fid(images: tuple[Tensor, Tensor], folder: Path) -> Iterator[Row]:
    """CLIP is open_clip's, with its own transforms: clean-fid's needs a package that is on no registry."""
    import open_clip
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    for side, some in zip("ab", images, strict=True):
        (folder / side).mkdir()
        for i, image in enumerate(some):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / side / f"{i:04}.png")
    save_clean_inception(folder / "inception-2015-12-05.pt")
    network = InceptionV3W(str(folder), download=False).eval()
    theirs = [fid.get_folder_features(str(folder / side), network, num_workers=0, device=torch.device("cpu"),
                                      mode="clean", verbose=False) for side in "ab"]
    extract = CleanInceptionFeatures(folder / "inception-2015-12-05.pt")
    a, b = (extract(some)["features"].numpy() for some in images)
    yield "FID (clean)", "clean-fid", distance(a, b), float(fid.fid_from_feats(*theirs))
    kid = kernel_distance(a, b, 1, len(a))[0]  # subsets of everything are the same, whatever is drawn
    wide = [x.astype(np.float64) for x in theirs]  # in float32 it loses digits where it is near 0
    yield "KID (clean)", "clean-fid", kid, fid.kernel_distance(*wide, num_subsets=1)

    save_clip(folder / "ViT-B-32.pt", clip_state())
    tower = open_clip.load_openai_model(str(folder / "ViT-B-32.pt"), precision="fp32", device="cpu")
    shown = open_clip.image_transform(224, is_train=False)
    with torch.no_grad():
        inputs = [torch.stack([shown(Image.open(path)) for path in sorted((folder / side).iterdir())]) for side in "ab"]
        theirs = [tower.encode_image(side).numpy() for side in inputs]
    clip = ClipFeatures(folder / "ViT-B-32.pt")
    a, b = (clip(some)["features"].numpy() for some in images)
    yield "CLIP-FID", "open_clip, clean-fid", distance(a, b), float(fid.fid_from_feats(*theirs))


def of_pairs(a: Tensor, b: Tensor) -> Iterator[Row]:
    import lpips
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
    from torchmetrics.functional.image import structural_similarity_index_measure

    pairs = list(zip(a.numpy(), b.numpy(), strict=True))
    yield ("PSNR", "scikit-image", float(psnr(a, b).mean()),
           float(np.mean([peak_signal_noise_ratio(x, y, data_range=255) for x, y in pairs])))
    theirs = [float(torchmetrics_psnr(y / 255, x / 255, data_range=1.0)) for x, y in zip(a, b, strict=True)]
    yield "PSNR", "torchmetrics", float(psnr(a, b).mean()), float(np.mean(theirs))
    yield ("SSIM", "scikit-image", float(ssim(a, b).mean()),
           float(np.mean([structural_similarity(x, y, data_range=255, channel_axis=0, gaussian_weights=True, sigma=1.5,
                                                use_sample_covariance=False) for x, y in pairs])))
    _, whole = structural_similarity_index_measure(b.double() / 255, a.double() / 255, data_range=1.0,
                                                   return_full_image=True)
    yield "SSIM", "torchmetrics, border cut", float(ssim(a, b).mean()), float(whole[..., 5:-5, 5:-5].mean())
    for net in ("alex", "squeeze"):
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        state = {"features." + key.split(".", 1)[1]: value for key, value in network.net.state_dict().items()}
        with torch.no_grad():
            expected = network(a.float() / 127.5 - 1, b.float() / 127.5 - 1).mean()
        yield f"LPIPS ({net})", "lpips", float(Lpips(net, state)(a, b).mean()), float(expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="in each of two sets")
    parser.add_argument("--neighbours", type=int, default=30, help="the same of the sets that VGG16 sees")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    images = pictures(options.images, options.side)
    rows: list[Row] = []
    print(f"{'metric':16}{'beside':26}{'ours':>14}{'theirs':>14}{'difference':>12}")
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = images[0][: options.neighbours], images[1][: options.neighbours]
        soft = functional.avg_pool2d(images[0].float(), 3, 1, 1, count_include_pad=False).round().byte()
        for part in (of_pairs(images[0], soft), of_clean_fid(images, Path(name)), of_torch_fidelity(images, Path(name)),
                     of_vgg16(few, Path(name))):
            for row in part:
                rows.append(row)
                metric, beside, ours, theirs = row
                print(f"{metric:16}{beside:26}{ours:14.7g}{theirs:14.7g}{relative(ours, theirs):12.1e}", flush=True)
    worst = max(relative(ours, theirs) for _, _, ours, theirs in rows)
    print(f"largest relative difference {worst:.1e}; goal {TOLERANCE:.0e}:"
          f" {'reached' if worst <= TOLERANCE else 'not reached'}")
    if options.json:
        write_json(options.json, {
            "what": "metrics beside other programs', the same images and weights", "versions": describe_versions(),
            "device": device_name(torch.device("cpu")), "command": "python " + shlex.join(sys.argv),
            "date": datetime.now(UTC).isoformat(timespec="seconds"), "images": options.images, "side": options.side,
            "images for precision and recall": options.neighbours, "goal": TOLERANCE,
            "rows": [{"metric": metric, "beside": beside, "ours": ours, "theirs": theirs,
                      "relative difference": relative(ours, theirs)} for metric, beside, ours, theirs in rows]})


def relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


if __name__ == "__main__":
    main()
