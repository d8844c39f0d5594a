"""Names of tensors tell what a file is, where it is no first stage."""

import json
from pathlib import Path

import pytest

from bricscli.errors import DataError
from bricscli.tasks.importing.kinds import find_weights_file, name_layout


@pytest.mark.parametrize(("names", "said"), [
    ([], "holds no tensors"), (["model_ema.decay", "model_ema.a"], "holds averaged weights alone"),
    (["blocks.0.adaLN_modulation.1.weight", "x"], "is a DiT"), (["model.diffusion_model.out.weight"], "is a UNet"),
    (["down_blocks.0.resnets.0.conv1.weight"], "is a UNet"), (["text_model.embeddings.weight"], "is a text encoder"),
    (["synthesis.b4.const"], "is a StyleGAN"), (["b", "a", "c"], "but `a` and 2 others"),
    (["fc.weight"], "holds none of an autoencoder's tensors, but `fc.weight`"),
])
def test_layouts(names: list[str], said: str) -> None:
    assert said in name_layout(names)


def test_folders(tmp_path: Path) -> None:
    def said() -> str:
        with pytest.raises(DataError) as raised:
            find_weights_file(tmp_path)
        return str(raised.value)

    assert "holds no config.json with diffusion_pytorch_model.safetensors beside it" in said()
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    assert f"is a whole pipeline of diffusers. Give its autoencoder, {tmp_path / 'vae'}." in said()
    (tmp_path / "recipe.yaml").touch()
    assert "is a run of brics already" in said()
    (tmp_path / "__0_0.distcp").touch()
    assert "is a distributed checkpoint" in said()


def test_a_weights_file_of_brics_is_known(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"brics": "{}"}}, separators=(",", ":")).encode()
    (tmp_path / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DataError, match="is a weights file of brics already"):
        find_weights_file(tmp_path / "weights.safetensors")
