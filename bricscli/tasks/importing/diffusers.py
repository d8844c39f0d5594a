"""diffusers' AutoencoderKL and VQModel under the names that CompVis gave the same layers."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: A part of a name and what CompVis calls it. Levels of the decoder are turned round: diffusers counts from the code.
_PARTS = (
    (re.compile(r"\.mid_block\.resnets\.0\."), ".mid.block_1."),
    (re.compile(r"\.mid_block\.resnets\.1\."), ".mid.block_2."),
    (re.compile(r"\.mid_block\.attentions\.0\."), ".mid.attn_1."),
    (re.compile(r"\.down_blocks\.(\d+)\.resnets\."), r".down.\1.block."),
    (re.compile(r"\.down_blocks\.(\d+)\.attentions\."), r".down.\1.attn."),
    (re.compile(r"\.down_blocks\.(\d+)\.downsamplers\.0\."), r".down.\1.downsample."),
    (re.compile(r"\.up_blocks\.(\d+)\.resnets\."), r".up.\1.block."),
    (re.compile(r"\.up_blocks\.(\d+)\.attentions\."), r".up.\1.attn."),
    (re.compile(r"\.up_blocks\.(\d+)\.upsamplers\.0\."), r".up.\1.upsample."),
    (re.compile(r"\.conv_shortcut\."), ".nin_shortcut."),
    (re.compile(r"\.conv_norm_out\."), ".norm_out."),
    (re.compile(r"\.group_norm\."), ".norm."),
    (re.compile(r"\.(to_q|query)\."), ".q."),
    (re.compile(r"\.(to_k|key)\."), ".k."),
    (re.compile(r"\.(to_v|value)\."), ".v."),
    (re.compile(r"\.(to_out\.0|proj_attn)\."), ".proj_out."),
)
_UP = re.compile(r"^decoder\.up\.(\d{1,3})\.")
_BLOCKS = {"DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"}
#: Keys of the config of which only these values can be held, and what is taken where they are absent.
_ONLY: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"), "norm_type": ("group",), "in_channels": (3,), "out_channels": (3,),
    "norm_num_groups": (32,), "lookup_from_codebook": (False, None)}


def is_diffusers(names: Iterable[str]) -> bool:
    return any(name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for name in names)


def compvis_names(names: Iterable[str]) -> dict[str, str]:
    """CompVis's name -> diffusers' name."""
    renamed = {}
    for name in names:
        other = name
        for pattern, replacement in _PARTS:
            other = pattern.sub(replacement, other)
        renamed[name] = other
    levels = [int(match[1]) for other in renamed.values() if (match := _UP.match(other))]
    last = max(levels, default=0)
    return {_UP.sub(lambda match: f"decoder.up.{last - int(match[1])}.", other): name
            for name, other in renamed.items()}


def problems_of_config(config: Mapping[str, Any] | None) -> list[str]:
    """What a config says that weights do not tell, and brics' networks do not do."""
    if config is None:
        return ["there is no config.json beside it, which says what weights do not tell"]
    problems = [f"{key} is {config[key]!r}" for key, values in _ONLY.items()
                if config.get(key, values[0]) not in values]
    if config.get("_class_name") not in ("AutoencoderKL", "VQModel"):
        problems.append(f"_class_name is {config.get('_class_name')!r}")
    for key in ("down_block_types", "up_block_types"):
        kinds = config.get(key, [])
        odd = sorted(map(str, {*kinds} - _BLOCKS)) if isinstance(kinds, list) and all(
            isinstance(kind, str) for kind in kinds) else [repr(kinds)]
        problems += [f"{key} has {kind}" for kind in odd]
    return problems
