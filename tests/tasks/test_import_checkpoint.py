"""First stages of other programs: what is imported computes what they computed, and what cannot be is named.

`Reference` is CompVis's first stage once more, in other words: functions on a state dict with their names, written from
the architecture (taming-transformers' model.py, latent-diffusion's autoencoder.py). Nothing of ours is used in it.
"""

import json
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from bricscli.data.shards import ShardSet
from bricscli.errors import DataError, RecipeError
from bricscli.nn.autoencoder import Autoencoder
from bricscli.recipe.load import dump_recipe
from bricscli.run.checkpoint import list_checkpoints
from bricscli.run.directory import RunDirectory
from bricscli.tasks import import_checkpoint as importing
from bricscli.tasks.datasets import trained_data
from bricscli.tasks.encode import encode
from bricscli.tasks.import_checkpoint import import_checkpoint
from bricscli.tasks.importing.process import Tensors
from bricscli.tasks.models import load_autoencoder
from bricscli.tasks.prepare import prepare_toy

State = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """Of a network; `attends`: at the last level and in the middle, else only there, or ("") nowhere."""

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attends: str = "code"
    z: int = 4
    embed: int = 3
    entries: int = 0  #: of a codebook; 0: KL

    @property
    def moments(self) -> int:
        return 1 if self.entries else 2


def random_state(size: Size, seed: int = 0) -> State:
    """Weights under CompVis's names."""
    draw = torch.Generator().manual_seed(seed)
    state: State = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        scale = (inputs * kernel * kernel) ** -0.5
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=draw) * scale
        state[f"{name}.bias"] = torch.randn(outputs, generator=draw) * 0.3

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(channels, generator=draw)
        state[f"{name}.bias"] = 0.3 * torch.randn(channels, generator=draw)

    def block(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs, 3)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attention(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", channels, channels, 1)

    def middle(name: str, channels: int) -> None:
        block(f"{name}.mid.block_1", channels, channels)
        if size.attends:
            attention(f"{name}.mid.attn_1", channels)
        block(f"{name}.mid.block_2", channels, channels)

    widths, last = [size.channels * m for m in size.multipliers], len(size.multipliers) - 1
    conv("encoder.conv_in", 3, size.channels, 3)
    width = size.channels
    for level, next_width in enumerate(widths):
        for number in range(size.blocks):
            block(f"encoder.down.{level}.block.{number}", width, next_width)
            width = next_width
            if level == last and size.attends == "code":
                attention(f"encoder.down.{level}.attn.{number}", width)
        if level != last:
            conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
    middle("encoder", width)
    norm("encoder.norm_out", width)
    conv("encoder.conv_out", width, size.moments * size.z, 3)
    conv("quant_conv", size.moments * size.z, size.moments * size.embed, 1)
    if size.entries:
        state["quantize.embedding.weight"] = torch.randn(size.entries, size.embed, generator=draw)
    conv("post_quant_conv", size.embed, size.z, 1)
    conv("decoder.conv_in", size.z, width, 3)
    middle("decoder", width)
    for level in reversed(range(last + 1)):
        for number in range(size.blocks + 1):
            block(f"decoder.up.{level}.block.{number}", width, widths[level])
            width = widths[level]
            if level == last and size.attends == "code":
                attention(f"decoder.up.{level}.attn.{number}", width)
        if level:
            conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
    norm("decoder.norm_out", width)
    conv("decoder.conv_out", width, 3, 3)
    return state


class Reference:
    """Computes with a state dict."""

    def __init__(self, size: Size, state: State) -> None:
        self.size, self.state = size, state

    def code(self, image: Tensor) -> Tensor:
        """The mean of a KL stage, the nearest vectors of a VQ stage."""
        x = self._conv("encoder.conv_in", image)
        last = len(self.size.multipliers) - 1
        for level in range(last + 1):
            for number in range(self.size.blocks):
                x = self._block(f"encoder.down.{level}.block.{number}", x)
                if f"encoder.down.{level}.attn.{number}.q.weight" in self.state:
                    x = self._attention(f"encoder.down.{level}.attn.{number}", x)
            if level != last:
                x = self._conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
        x = self._conv("encoder.conv_out", F.silu(self._norm("encoder.norm_out", self._middle("encoder", x))))
        moments = self._conv("quant_conv", x)
        if not self.size.entries:
            return moments[:, : self.size.embed]
        book = self.state["quantize.embedding.weight"]
        flat = moments.permute(0, 2, 3, 1).reshape(-1, self.size.embed)
        nearest = book[((flat[:, None] - book[None]) ** 2).sum(2).argmin(1)]
        return nearest.reshape(moments.shape[0], *moments.shape[2:], -1).permute(0, 3, 1, 2)

    def image(self, code: Tensor) -> Tensor:
        x = self._middle("decoder", self._conv("decoder.conv_in", self._conv("post_quant_conv", code)))
        for level in reversed(range(len(self.size.multipliers))):
            for number in range(self.size.blocks + 1):
                x = self._block(f"decoder.up.{level}.block.{number}", x)
                if f"decoder.up.{level}.attn.{number}.q.weight" in self.state:
                    x = self._attention(f"decoder.up.{level}.attn.{number}", x)
            if level:
                twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self._conv(f"decoder.up.{level}.upsample.conv", twice)
        return self._conv("decoder.conv_out", F.silu(self._norm("decoder.norm_out", x)))

    def _conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        weight = self.state[f"{name}.weight"]
        pad = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, self.state[f"{name}.bias"], stride, pad)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def _block(self, name: str, x: Tensor) -> Tensor:
        y = self._conv(f"{name}.conv1", F.silu(self._norm(f"{name}.norm1", x)))
        y = self._conv(f"{name}.conv2", F.silu(self._norm(f"{name}.norm2", y)))
        return y + (self._conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = (self._conv(f"{name}.{part}", self._norm(f"{name}.norm", x)).reshape(b, c, h * w) for part in "qkv")
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * c**-0.5, dim=2)
        return x + self._conv(f"{name}.proj_out", torch.bmm(v, weights.transpose(1, 2)).reshape(b, c, h, w))

    def _middle(self, name: str, x: Tensor) -> Tensor:
        x = self._block(f"{name}.mid.block_1", x)
        if self.size.attends:
            x = self._attention(f"{name}.mid.attn_1", x)
        return self._block(f"{name}.mid.block_2", x)


SIZES = {
    "KL, attention at the code": Size(),
    "KL-f4, attention in the middle": Size(attends="middle", multipliers=(1, 2, 2), blocks=2),
    "no attention": Size(attends="", multipliers=(1, 1)),
    "VQ": Size(entries=16),
    "VQGAN, z and code of one width": Size(entries=16, embed=4, multipliers=(1, 1, 2)),
}
CPU = torch.device("cpu")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Tensor]], None]:
    """Lets the other process have read these tensors: it costs two seconds."""

    def pretend(state: dict[str, Tensor]) -> None:
        stage = {name: tensor for name, tensor in state.items() if not name.startswith(("loss.", "model."))}
        monkeypatch.setattr(importing, "read_tensors",
                            lambda path: Tensors({name: tuple(t.shape) for name, t in state.items()}, stage))

    return pretend


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One that the first look takes for a checkpoint."""
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    return tmp_path / "model.ckpt"


def loaded(run: Path) -> Autoencoder:
    return load_autoencoder(RunDirectory.open(run), CPU).model.double()


def compare(run: Path, size: Size, state: State) -> None:
    """In float64, where nothing but what is stored in float32 differs."""
    ours, theirs = loaded(run), Reference(size, {name: tensor.double() for name, tensor in state.items()})
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        code = theirs.code(image)
        assert code.abs().max() > 0.5
        torch.testing.assert_close(ours.encode(image).double(), code, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.decode(code), theirs.image(code), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_what_is_imported_computes_what_it_computed(name: str, in_process: Callable[..., None], file: Path) -> None:
    size, state = SIZES[name], random_state(SIZES[name])
    in_process(state)
    imported = import_checkpoint(file, file.parent / "run", resolution=32)
    assert imported.left_out == {} and imported.recipe.encoder.attention == (size.attends or "none")
    compare(file.parent / "run", size, state)


def test_a_run_of_a_whole_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """latent-diffusion's, in half precision, with what Lightning writes beside it; by the other process."""
    lightning = "pytorch_lightning.callbacks.model_checkpoint"
    module, callback = types.ModuleType(lightning), type("ModelCheckpoint", (), {"__module__": lightning})
    vars(module)["ModelCheckpoint"] = callback
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", lightning):
        monkeypatch.setitem(sys.modules, name, module)
    size, state = Size(), {name: tensor.half() for name, tensor in random_state(Size()).items()}
    others = {"model.diffusion_model.out.weight": torch.zeros(2), "model_ema.decay": torch.zeros(()),
              "loss.logvar": torch.zeros(()), "betas": torch.zeros(9), "cond_stage_model.x": torch.zeros(1)}
    torch.save({"state_dict": {f"first_stage_model.{name}": tensor for name, tensor in state.items()} | others,
                "epoch": 3, "callbacks": {callback: {"best": torch.zeros(())}},
                "optimizer_states": [{"state": {0: {"step": 1}}}]}, tmp_path / "model.ckpt")
    imported = import_checkpoint(tmp_path / "model.ckpt", tmp_path / "run", resolution=32)
    assert {name: count for name, (count, _) in imported.left_out.items()} == {
        "model.diffusion_model.": 1, "model_ema.": 1, "loss.": 1, "": 1, "cond_stage_model.": 1}
    compare(tmp_path / "run", size, {name: tensor.float() for name, tensor in state.items()})
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["imported"]["left_out"] == sorted(others) and info["imported"]["file"] == "model.ckpt"
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert (tmp_path / "run" / "recipe.yaml").read_text() == dump_recipe(imported.recipe)
    assert {path.name for path in tmp_path.iterdir()} == {"model.ckpt", "run"} and checkpoint.name == "step-0000000"


def test_the_run_encodes(in_process: Callable[..., None], file: Path) -> None:
    in_process(random_state(Size()))
    run = import_checkpoint(file, file.parent / "run", resolution=32).run
    prepare_toy(file.parent / "data", count=6, resolution=32)
    assert encode(run, file.parent / "data", device=CPU).header["shape"] == [3, 16, 16]
    with pytest.raises(DataError, match=r"^.*run: was imported, not trained here, .* --ref or --data;"):
        trained_data(run, file.parent)
    assert ShardSet.open(run.codes).header["autoencoder"]["digest"] == load_autoencoder(run, CPU).digest


#: What diffusers calls the layers, and CompVis.
DIFFUSERS = [
    ("encoder.down.(.).block.", r"encoder.down_blocks.\1.resnets."),
    ("encoder.down.(.).attn.", r"encoder.down_blocks.\1.attentions."),
    ("encoder.down.(.).downsample.", r"encoder.down_blocks.\1.downsamplers.0."),
    ("decoder.up.1.block.", "decoder.up_blocks.0.resnets."), ("decoder.up.0.block.", "decoder.up_blocks.1.resnets."),
    ("decoder.up.1.attn.", "decoder.up_blocks.0.attentions."),
    ("decoder.up.1.upsample.", "decoder.up_blocks.0.upsamplers.0."),
    ("mid.block_1.", "mid_block.resnets.0."), ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.", "mid_block.attentions.0."), ("nin_shortcut", "conv_shortcut"), ("norm_out", "conv_norm_out"),
    (r"(attentions.\d.)norm", r"\1group_norm"), (r"(attentions.\d.)proj_out", r"\1to_out.0"),
    (r"(attentions.\d.)(q|k|v)\.", r"\1to_\2."),
]
CONFIG = {"_class_name": "AutoencoderKL", "down_block_types": ["DownEncoderBlock2D"] * 2, "norm_num_groups": 32}


def diffusers_state(size: Size) -> State:
    state = {}
    for name, tensor in random_state(size).items():
        for theirs, other in DIFFUSERS:
            name = re.sub(theirs, other, name)
        state[name] = tensor[:, :, 0, 0].clone() if ".to_" in name and tensor.ndim == 4 else tensor
    return state


def write_diffusers(folder: Path, config: dict[str, Any] = CONFIG, size: Size = Size()) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(diffusers_state(size), folder / "diffusion_pytorch_model.safetensors")
    return folder


def test_a_folder_of_diffusers(tmp_path: Path) -> None:
    folder = write_diffusers(tmp_path / "vae")
    import_checkpoint(folder, tmp_path / "run", resolution=32)
    compare(tmp_path / "run", Size(), random_state(Size()))


@pytest.mark.parametrize(("changes", "said"), [
    ({"norm_num_groups": 16}, "norm_num_groups is 16"), ({"act_fn": "relu"}, "act_fn is 'relu'"),
    ({"_class_name": "AutoencoderTiny"}, "_class_name is 'AutoencoderTiny'"),
    ({"down_block_types": ["DownBlock3D"]}, "down_block_types has DownBlock3D"),
    ({"up_block_types": 3}, "up_block_types has 3"), ({"norm_type": "spatial"}, "norm_type is 'spatial'"),
])
def test_what_diffusers_config_says_and_weights_do_not(changes: dict[str, Any], said: str, tmp_path: Path,
                                                      in_process: Callable[..., None]) -> None:
    folder = write_diffusers(tmp_path / "vae", CONFIG | changes)
    in_process(diffusers_state(Size()))
    with pytest.raises(DataError, match=f"^.*vae: has what brics' networks do not: .*{said}"):
        import_checkpoint(folder, tmp_path / "run", resolution=32)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_agreement_with_diffusers(kind: str, tmp_path: Path) -> None:
    diffusers: Any = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    attends = kind == "VQModel"
    model = getattr(diffusers, kind)(
        block_out_channels=(32, 64), latent_channels=4, layers_per_block=2,
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D" if attends else "DownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D" if attends else "UpDecoderBlock2D", "UpDecoderBlock2D"),
        **({"num_vq_embeddings": 16, "vq_embed_dim": 3} if attends else {}))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases as well, which begin at ones and zeros
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "theirs")
    import_checkpoint(tmp_path / "theirs", tmp_path / "run", resolution=32)
    ours, image = loaded(tmp_path / "run"), torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    theirs = model.double().eval()
    with torch.no_grad():
        if attends:
            code = theirs.quantize(theirs.encode(image).latents)[0]
            decoded = theirs.decode(theirs.encode(image).latents).sample
        else:
            code = theirs.encode(image).latent_dist.mode()
            decoded = theirs.decode(code).sample
        torch.testing.assert_close(ours.encode(image).double(), code, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.decode(code), decoded, rtol=0, atol=1e-5)


def without(name: str) -> Callable[[State], None]:
    return lambda state: [state.pop(key) for key in list(state) if key.startswith(name)].clear()


def put(name: str, *shape: int) -> Callable[[State], None]:
    return lambda state: state.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(("change", "said"), [
    (put("decoder.strange.weight", 3), r"decoder\.strange\.weight"),
    (put("quantize.embed.weight", 8, 3), r"a quantiser of another kind"),
    (put("quantize.embedding.weight", 8, 7), r"a codebook of vectors of 7 between 6 and 3 channels"),
    (put("encoder.down.0.attn.0.q.weight", 32, 32, 1, 1), r"attention in encoder\.down\.0\.attn, encoder\.down\.1"),
    (put("encoder.conv_in.weight", 32, 4, 3, 3), r"encoder\.body\.0\.weight would have the shape \[32, 4, 3, 3\]"),
    (put("encoder.conv_out.weight", 0, 64, 3, 3), r"quant_conv has the shape"),
    (put("encoder.down.0.block.0.conv1.weight", 48, 32, 3, 3), r"no multiples of its first, 32"),
    (put("encoder.down.7.block.0.conv1.weight", 64, 64, 3, 3), r"encoder\.down has the levels \[0, 1, 7\]"),
    (put("encoder.down.1.block.1.conv1.weight", 64, 64, 3, 3), r"levels of \[1, 2\] blocks"),
    (without("decoder.mid.attn_1"), r"and none in the middle"),
    (without("quant_conv"), r"neither KL nor VQ: 8 channels before the code, and 3 after it"),
    (without("encoder.down.0.downsample"), r"encoder\.down\.0\.downsample\.conv\.weight is missing"),
    (without("decoder."), r"decoder\.up has the levels \[\]"),
])
def test_what_cannot_be_held_is_named(change: Callable[[State], None], said: str, in_process: Callable[..., None],
                                      file: Path) -> None:
    state = random_state(Size(embed=3, z=4))
    change(state)
    in_process(state)
    with pytest.raises(DataError, match=rf"^.*model\.ckpt: has what brics' networks do not: .*({said})") as raised:
        import_checkpoint(file, file.parent / "run", resolution=32)
    assert len(raised.value.lines) == 1 and not (file.parent / "run").exists()


def test_places_and_sizes(in_process: Callable[..., None], file: Path) -> None:
    in_process(random_state(Size()))
    for wrong in (31, 4, 2048):
        with pytest.raises(RecipeError, match=rf"^--resolution: {wrong} is no multiple of 2 from 8 to 1024"):
            import_checkpoint(file, file.parent / "run", resolution=wrong)
    (file.parent / "run").mkdir()
    with pytest.raises(DataError, match=r"run: is there already\. Choose another --out\.$"):
        import_checkpoint(file, file.parent / "run")


def test_a_file_given_as_a_run_is_told_what_to_do_with(file: Path) -> None:
    with pytest.raises(DataError, match=r"is a file of weights, not a run\. `brics import-checkpoint .*model\.ckpt "
                                        r"--out runs/model`"):
        RunDirectory.open(file)
