"""Each extractor against another way to the same features: its library's own, or plain arithmetic from its weights."""

import dataclasses
import io
import socket
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bricscli import weights
from bricscli.errors import DataError
from bricscli.files import sha256_file
from bricscli.metrics import features
from bricscli.metrics.features import EXTRACTORS, load_extractor, pixels
from bricscli.metrics.features.clip import ClipFeatures
from bricscli.metrics.features.dinov2 import Dinov2Features, interpolate_positions, prepare
from bricscli.metrics.features.inception import InceptionFeatures
from bricscli.metrics.features.vgg16 import Vgg16Features

Photos = tuple[Tensor, Tensor]


def as_pil(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Relative to the largest; and the images must differ by far more than that."""
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (expected[0] - expected[1]).abs().max() > 100 * tolerance * expected.abs().max() / 10
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture
def folder(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random files are the true ones, and there is no network."""
    monkeypatch.setenv("BRICS_WEIGHTS", str(weights_folder))
    for name in ("inception", "inception_fidelity", "clip_vit_b_32"):
        known = weights.WEIGHTS[name]
        file = next(file for file in known.files if (weights_folder / file).exists())
        digest = sha256_file(weights_folder / file)
        monkeypatch.setitem(weights.WEIGHTS, name, dataclasses.replace(known, files={file: digest}))

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return weights_folder


@pytest.mark.parametrize("name", ["inception", "inception_clean", "clip", "random"])
def test_extractors_are_what_the_table_says(name: str, folder: Path, photos: Photos) -> None:
    extractor, info = load_extractor(name), EXTRACTORS[name]
    assert (extractor.name, extractor.outputs) == (name, info.outputs)
    if info.weights is None:
        assert extractor.digest is None
    else:
        assert extractor.digest in weights.WEIGHTS[info.weights].files.values()
    together = extractor(photos[0][:3])
    alone = [extractor(image[None]) for image in photos[0][:3]]
    for output, dimension in info.outputs.items():
        assert together[output].shape == (3, dimension)
        close(together[output], torch.cat([one[output] for one in alone]), 1e-5)
    with pytest.raises(ValueError, match="uint8"):
        extractor(photos[0][:1].float())


@pytest.mark.parametrize("name", ["vgg16", "dinov2"])
def test_large_files_reach_their_extractors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = EXTRACTORS[name].weights
    assert key is not None
    monkeypatch.setattr(features, "find_weights", lambda name: Path(next(iter(weights.WEIGHTS[name].files))))
    monkeypatch.setattr(features, "load_state", lambda name: {"nothing": torch.zeros(1)})
    with pytest.raises(DataError, match=rf"weights of {name}: do not fit. Use .*'s file"):
        load_extractor(name)


@pytest.mark.parametrize("name", [name for name, info in EXTRACTORS.items() if info.weights])
def test_without_its_file_an_extractor_says_which(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("BRICS_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(weights.MissingWeights, match="missing, needed for"):
        load_extractor(name)


def test_files_that_do_not_fit_are_one_line(tmp_path: Path, networks: ModuleType) -> None:
    (tmp_path / "text.pt").write_text("not TorchScript")
    networks.save_clip(tmp_path / "other.pt", networks.clip_state() | {"visual.proj": torch.zeros(64, 256),
                                                                       "text_projection": torch.zeros(64, 256)})
    torch.jit.save(torch.jit.script(torch.nn.Identity()), tmp_path / "empty.pt")
    for file in ("text", "other", "empty"):
        with pytest.raises(DataError, match=f"{file}.pt: ") as caught:
            ClipFeatures(tmp_path / f"{file}.pt")
        assert len(caught.value.lines) == 1
    with pytest.raises(DataError, match="weights of Inception: do not fit") as caught:
        InceptionFeatures({"fc.weight": torch.zeros(1)})
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("name", ["inception_clean", "clip"])
def test_threads_change_no_pixel(name: str, folder: Path, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = load_extractor(name)
    alone = extractor(photos[0])["features"]
    monkeypatch.setattr(pixels.torch, "get_num_threads", lambda: 4)
    assert torch.equal(extractor(photos[0])["features"], alone)
    monkeypatch.setattr(pixels, "PASS_WIDTH", 5)
    close(extractor(photos[0])["features"], alone, 1e-5)


def test_settings_of_the_process_come_back(folder: Path, photos: Photos) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        load_extractor("clip")(photos[0][:1])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def vgg16(networks: ModuleType) -> tuple[Vgg16Features, dict[str, Tensor]]:
    state = networks.vgg16_state()
    return Vgg16Features(state), state


def test_vgg16_is_torch_fidelitys_where_nothing_is_resized(
    vgg16: tuple[Vgg16Features, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity import feature_extractor_vgg16
    from torchvision import models

    extractor, state = vgg16
    with torch.device("meta"):
        network = models.vgg16()
    network.load_state_dict(state, assign=True)
    monkeypatch.setattr(feature_extractor_vgg16, "torchvision_load_pretrained_vgg16", lambda: network)
    theirs = feature_extractor_vgg16.FeatureExtractorVGG16("vgg16", ["fc2"])
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[1] //= 3
    close(extractor(images)["features"], theirs(images)[0])


def test_vgg16_sees_what_youngjungs_transforms_show_it() -> None:
    from torchvision import transforms

    from bricscli.metrics.features.pixels import IMAGENET_MEAN, IMAGENET_STD, iter_resized, normalised
    from bricscli.metrics.features.vgg16 import resize

    images = torch.randint(0, 256, (2, 3, 40, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = transforms.Compose([
        transforms.Resize([224, 224]), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    (seen,) = iter_resized(images, resize, torch.device("cpu"))
    expected = torch.stack([shown(image) for image in as_pil(images)])
    torch.testing.assert_close(normalised(seen, IMAGENET_MEAN, IMAGENET_STD), expected, rtol=1e-6, atol=1e-6)


def attention(x: Tensor, heads: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention (B,T,D) before its last projection."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (x @ weight.T + bias).chunk(3, dim=-1))
    mixed = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def plain_clip(state: dict[str, Tensor], x: Tensor, quick: bool) -> Tensor:
    """CLIP's image encoder written from its paper and the names in its file."""
    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"visual.{name}.weight"], state[f"visual.{name}.bias"])

    patches = functional.conv2d(x, state["visual.conv1.weight"], stride=32).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), patches], dim=1)
    x = norm(x + state["visual.positional_embedding"], "ln_pre")
    for i in range(sum(key.endswith("attn.in_proj_weight") and key.startswith("visual") for key in state)):
        at = f"transformer.resblocks.{i}."
        block = {key.removeprefix(f"visual.{at}"): value for key, value in state.items() if key.startswith("visual.")}
        mixed = attention(norm(x, at + "ln_1"), x.shape[-1] // 64, block["attn.in_proj_weight"],
                          block["attn.in_proj_bias"])
        x = x + mixed @ block["attn.out_proj.weight"].T + block["attn.out_proj.bias"]
        h = norm(x, at + "ln_2") @ block["mlp.c_fc.weight"].T + block["mlp.c_fc.bias"]
        h = h * torch.sigmoid(1.702 * h) if quick else functional.gelu(h)
        x = x + h @ block["mlp.c_proj.weight"].T + block["mlp.c_proj.bias"]
    return norm(x[:, 0], "ln_post") @ state["visual.proj"]


def test_clip_is_openais_with_quickgelu(folder: Path, networks: ModuleType, photos: Photos) -> None:
    """Images as clean-fid and open_clip's own transforms show them; wide, so that the middle is cut out."""
    import open_clip

    shown = open_clip.image_transform(224, is_train=False)
    inputs = torch.stack([shown(image) for image in as_pil(photos[0][:4])])
    found, state = load_extractor("clip")(photos[0][:4])["features"], networks.clip_state()
    close(found, plain_clip(state, inputs, quick=True), 1e-5)
    other = plain_clip(state, inputs, quick=False)
    assert (found - other).abs().max() > 1e-3 * other.abs().max()  # GELU would be seen
    assert found.norm(dim=1).std() > 0  # not normalised


@pytest.mark.parametrize("size", [(224, 224), (40, 56), (301, 225), (97, 300)])
def test_clip_resizes_as_clean_fid_does(size: tuple[int, int]) -> None:
    """The transforms of clean-fid's `clip_features.py`, which needs a package that is on no registry."""
    from torchvision import transforms

    from bricscli.metrics.features.clip import resize

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = transforms.Compose([transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
                                 transforms.CenterCrop(224)])
    np.testing.assert_array_equal(resize(image), np.asarray(theirs(Image.fromarray(image))))


def plain_dinov2(state: dict[str, Tensor], x: Tensor, heads: int, positions: Tensor) -> Tensor:
    """DINOv2's class token written from its paper and the names in Meta's file."""
    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    patches = functional.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = torch.cat([state["cls_token"].expand(len(x), 1, -1), patches.flatten(2).transpose(1, 2)], dim=1) + positions
    for block in (f"blocks.{i}" for i in range(12)):
        mixed = attention(norm(x, f"{block}.norm1"), heads, state[f"{block}.attn.qkv.weight"],
                          state[f"{block}.attn.qkv.bias"])
        x = x + state[f"{block}.ls1.gamma"] * linear(mixed, f"{block}.attn.proj")
        h = functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + state[f"{block}.ls2.gamma"] * linear(h, f"{block}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def bicubic_matrix(size: int, target: int, scale: float) -> np.ndarray:
    """(target, size): Keys' kernel with a = -0.75, centres of pixels, borders repeated; no antialiasing."""
    def kernel(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.25 * t**3 - 2.25 * t**2 + 1
        return -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3 if t < 2 else 0.0

    matrix = np.zeros((target, size))
    for row in range(target):
        at = (row + 0.5) / scale - 0.5
        for column in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            matrix[row, min(max(column, 0), size - 1)] += kernel(at - column)
    return matrix


def plain_positions(embeddings: Tensor, offset: float = 0.1) -> Tensor:
    grid, matrix = embeddings[0, 1:].view(37, 37, -1).double(), bicubic_matrix(37, 16, (16 + offset) / 37)
    rows = torch.from_numpy(matrix)
    small = torch.einsum("ai,bj,ijd->abd", rows, rows, grid).flatten(0, 1)
    return torch.cat([embeddings[0, :1].double(), small])[None].float()


def test_dinov2_positions_are_interpolated_as_metas_code_does(networks: ModuleType) -> None:
    embeddings = networks.noise((1, 1 + 37 * 37, 8))
    found = interpolate_positions(embeddings, 16)
    torch.testing.assert_close(found, plain_positions(embeddings), rtol=1e-4, atol=1e-4)
    assert (found - plain_positions(embeddings, offset=0)).abs().max() > 0.05
    assert interpolate_positions(embeddings, 37) is embeddings


def test_dinov2_is_the_class_token_behind_the_last_norm(networks: ModuleType, photos: Photos) -> None:
    """ViT-S, which differs from ViT-L in its sizes alone."""
    state = networks.dinov2_state()
    extractor = Dinov2Features(state, architecture="vit_small_patch14_dinov2")
    assert extractor.outputs == {"features": 384}
    inputs = prepare(photos[0][:2])
    close(extractor(photos[0][:2])["features"], plain_dinov2(state, inputs, 6, plain_positions(state["pos_embed"])))


def test_dinov2_sees_what_pillow_would_show_it_but_unrounded() -> None:
    """EDM2's fast way, within rounding of its slow one; overshoots stay outside of 0..255."""
    def seen(images: Tensor) -> Tensor:
        mean, std = (torch.tensor(numbers).view(3, 1, 1) * 255 for numbers in ((0.485, 0.456, 0.406),
                                                                             (0.229, 0.224, 0.225)))
        return prepare(images) * std + mean

    images = torch.randint(0, 2, (2, 3, 300, 260), generator=torch.Generator().manual_seed(0)).byte()
    shown = [np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) for image in as_pil(images * 60 + 100)]
    pillow = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
    difference = seen(images * 60 + 100) - pillow
    assert 0.4 < difference.abs().max() < 1.5  # Pillow rounds twice
    assert seen(images * 255).min() < -1 and seen(images * 255).max() > 256


def test_inception_reads_its_state_without_unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity unpickles a file: it only ever gets bytes that were written here."""
    asked = []

    def load(source: object, **options: object) -> dict[str, Tensor]:
        asked.append(source)
        return {}

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(DataError):
        InceptionFeatures({"fc.weight": torch.zeros(1)})
    assert [type(source) for source in asked] == [io.BytesIO]
