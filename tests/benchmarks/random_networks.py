"""Pretrained files' shapes with random numbers in them: what agrees with these agrees with the published ones.

Nobody needs to download gigabytes to compare two ways to a number. Every layer keeps the size of what passes through
it (He et al. 2015), so that different images have different features.
"""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

#: A prime number of random numbers, repeated: rows of large layers start at different places in it.
PERIOD = 1_048_583


def noise(shape: torch.Size | tuple[int, ...], seed: int = 0, scale: float = 1) -> Tensor:
    """Normal numbers, cheaply also where they are a hundred million."""
    count = torch.Size(shape).numel()
    numbers = torch.randn(min(count, PERIOD), generator=torch.Generator().manual_seed(seed)) * scale
    return numbers.repeat(-(-count // PERIOD))[:count].view(shape)


def filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the same shapes. Norms and biases become a little uneven, so that each of them is seen."""
    random = {}
    for seed, (key, value) in enumerate(state.items()):
        if not value.is_floating_point():
            random[key] = value.new_zeros(value.shape, device="cpu")
        elif value.ndim > 1:
            random[key] = noise(value.shape, seed, (2 / value[0].numel()) ** 0.5)
        elif key.endswith(("bias", "mean")):
            random[key] = noise(value.shape, seed, 0.1)
        else:
            random[key] = 1 + 0.1 * noise(value.shape, seed).clamp(-3, 3)
    return random


def inception_state() -> dict[str, Tensor]:
    """As torch-fidelity's file; sure of its classes, so that the Inception Score is well above 1."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments: object, **options: object) -> None:
            pass

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    state = filled(Unloaded("inception", ["2048"], empty).state_dict())
    return state | {"fc.weight": 30 * state["fc.weight"]}


def vgg16_state() -> dict[str, Tensor]:
    """As torchvision's file, 0.55 GB."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        network = vgg16(weights=None)
    return filled(network.state_dict())


class _Inception(nn.Module):
    """clean-fid asks TorchScript's file for `layers`, which it gives pixels from -1 to 1."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _SmallLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 9, 8), nn.ReLU(), nn.Conv2d(16, 64, 3, 2), nn.ReLU(),
                                  nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 2048, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def save_clean_inception(path: Path, whole: bool = False) -> None:
    """As `inception-2015-12-05.pt`: a few convolutions or, `whole`, torchvision's Inception v3 (same cost)."""
    layers: nn.Module = _SmallLayers()
    if whole:
        from torchvision.models import inception_v3

        layers = inception_v3(weights=None, aux_logits=False, init_weights=False)
        layers.fc = nn.Identity()
    layers.load_state_dict(filled(layers.state_dict()))
    model = _Inception(layers.eval())
    with torch.no_grad():
        program = torch.jit.trace(model, torch.zeros(1, 3, 299, 299), check_trace=False)
    torch.jit.save(program, path)


def clip_state(width: int = 64, layers: int = 2) -> dict[str, Tensor]:
    """As OpenAI's ViT-B/32 (width 768, 12 layers), the half that reads kept as small as can be."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (width,), "visual.positional_embedding": (50, width), "visual.proj": (width, 512),
        "visual.conv1.weight": (width, 3, 32, 32), "text_projection": (64, 512), "logit_scale": (),
        "positional_embedding": (8, 64), "token_embedding.weight": (8, 64)}
    for norm, size in (("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", 64)):
        shapes |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    blocks = [(f"visual.transformer.resblocks.{i}", width) for i in range(layers)]
    for block, size in [*blocks, ("transformer.resblocks.0", 64)]:
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{norm}.weight": (size,), f"{block}.{norm}.bias": (size,)}
        for layer, rows, columns in (("attn.in_proj_", 3, 1), ("attn.out_proj.", 1, 1), ("mlp.c_fc.", 4, 1),
                                     ("mlp.c_proj.", 1, 4)):
            shapes |= {f"{block}.{layer}weight": (rows * size, columns * size),
                       f"{block}.{layer}bias": (rows * size,)}
    state = filled({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    # open_clip keeps these in float16, as OpenAI's file has them
    return {key: value.half().float() for key, value in state.items()}


def save_clip(path: Path, state: dict[str, Tensor]) -> None:
    """As `ViT-B-32.pt`: a TorchScript program that holds the state."""
    root = nn.Module()
    for key, value in state.items():
        *folders, name = key.split(".")
        place = root
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, nn.Module())
            place = place.get_submodule(folder)
        place.register_parameter(name, nn.Parameter(value, requires_grad=False))
    torch.jit.save(torch.jit.script(root), path)


def dinov2_state(width: int = 384, layers: int = 12) -> dict[str, Tensor]:
    """As Meta's ViT/14 without registers, trained at 518x518: 37x37 patches (ViT-L: width 1024, 24 layers)."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 1 + 37 * 37, width), "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,),
        "norm.weight": (width,), "norm.bias": (width,)}
    for block in (f"blocks.{i}" for i in range(layers)):
        shapes |= {f"{block}.{part}": (width,) for part in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
                                                            "ls1.gamma", "ls2.gamma")}
        for layer, rows, columns in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes |= {f"{block}.{layer}.weight": (rows * width, columns * width),
                       f"{block}.{layer}.bias": (rows * width,)}
    state = filled({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    return state | {"pos_embed": noise(shapes["pos_embed"], 1), "cls_token": noise(shapes["cls_token"], 2)}
