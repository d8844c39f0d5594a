"""Parameters and operations, against the paper's tables and formulas and against fvcore."""

import re
import warnings
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bricscli.nn.decoders.conv import ConvDecoder
from bricscli.nn.decoders.movq import MoVQDecoder
from bricscli.nn.decoders.style import StyleDecoder
from bricscli.paper.tables import TABLES, number
from bricscli.recipe.load import find_recipe, list_recipes, load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe
from bricscli.tasks.cost import DecodingCost, count_decoding, count_operations

#: Printed values that no natural setting gives: what is counted instead, in millions.
UNMATCHED = {"church32x4.yaml": 10.608, "ffhq16x16.yaml": 42.431}


def cost_of(name: str) -> DecodingCost:
    recipe = load_recipe(name)
    assert isinstance(recipe, AutoencoderRecipe)
    return count_decoding(recipe)


@pytest.mark.parametrize("row", TABLES["3"].rows, ids=lambda row: row.recipe)
def test_table_3(row: Any) -> None:
    cost, cells = cost_of(row.recipe), TABLES["3"].cells(row)
    counted = {"grids": cost.grid_parameters / 1e6, "decoder": cost.decoder_parameters / 1e6,
               "gflops": (cost.retrieval + cost.decoder).gflops}
    for column, ours in counted.items():
        paper = number(cells[column])
        if column == "grids" and row.recipe in UNMATCHED:
            assert ours == pytest.approx(UNMATCHED[row.recipe], abs=5e-4)
        elif paper is None:
            assert ours == 0
        else:
            assert ours == pytest.approx(paper, rel=0.02)
    if row.method != "BRICS":  # to every printed digit, and parameters to one digit more, counted of taming's own
        assert f"{counted['decoder']:.2f}" == ("13.59" if row.code == "32x32" else "42.45")
        assert f"{counted['gflops']:.2f}" == cells["gflops"]


def test_brics_decodes_at_half_of_vqgans_cost() -> None:
    vqgan = cost_of("ffhq-vqgan-f16.yaml").decoder.gflops
    for name in ("ffhq16x8.yaml", "ffhq16x16.yaml", "church32x4.yaml", "church64x4.yaml"):
        cost = cost_of(name)
        assert (cost.retrieval + cost.decoder).gflops < 0.51 * vqgan


def test_retrieval_is_what_appendix_b_says() -> None:
    """H_d W_d (2 (C_v N_r)^2 + C_v N_r C_d C_key / C_z) C_z / C_key; printed as 0.27 for 64x64x4."""
    for name, groups in (("church64x4.yaml", 4), ("church64x4-key2.yaml", 2), ("church32x8.yaml", 8)):
        mlp = 64 * 64 * (2 * 64**2 + 64 * 512 / groups) * groups
        assert cost_of(name).retrieval.gmacs == pytest.approx(mlp / 1e9, rel=1e-9)
    assert f"{cost_of('church64x4.yaml').retrieval.gflops:.2f}" == "0.27"


def test_tables_7_and_8() -> None:
    assert cost_of("church64x4-key2.yaml").grid_parameters / 1e6 == pytest.approx(30.5, rel=0.002)
    assert cost_of("church32x8.yaml").grid_parameters == cost_of("church32x8-hd32.yaml").grid_parameters
    wide = cost_of("church32x8-hd32.yaml")
    assert wide.decoder_parameters / 1e6 == pytest.approx(35.1, rel=0.03)
    assert (wide.retrieval + wide.decoder).gflops == pytest.approx(85.14, rel=0.06)


def test_hash_tables_shrink_with_their_entries() -> None:
    counts = [cost_of(f"church64x4-hash{power}.yaml").grid_parameters for power in range(14, 19)]
    assert counts == sorted(set(counts)) and counts[-1] == cost_of("church64x4.yaml").grid_parameters


def test_movqs_decoder_alone_takes_what_appendix_j_says() -> None:
    assert cost_of("church64x4-movq-decoder.yaml").decoder.gflops == pytest.approx(100.40, abs=0.01)


@pytest.mark.parametrize("name", [name for name in list_recipes() if name.startswith(("church", "ffhq"))])
def test_headers_say_what_is_counted(name: str) -> None:
    """`# Ours:     18.63 M + 9.96 M parameters, 63.41 GFlops`."""
    said = re.search(r"# Ours: +(?:([\d.]+) M \+ )?([\d.]+) M parameters(?:, ([\d.]+) GFlops)?",
                     find_recipe(name).read_text("utf-8"))
    if said is None:
        return
    cost = cost_of(name)
    grids, decoder, gflops = said.groups()
    assert grids is None or grids == f"{cost.grid_parameters / 1e6:.2f}"
    assert decoder == f"{cost.decoder_parameters / 1e6:.2f}"
    assert gflops is None or gflops == f"{(cost.retrieval + cost.decoder).gflops:.2f}"


def fvcore_gflops(module: nn.Module, x: Tensor) -> float:
    """fvcore, told of two operations that it does not know: attention, two products, and baddbmm, one."""
    def sizes(inputs: list[Any]) -> list[list[int]]:
        return [value.type().sizes() for value in inputs[:3]]

    def attention(inputs: list[Any], outputs: list[Any]) -> int:
        query, key, _ = sizes(inputs)
        return 2 * prod(query) * key[-2]

    def baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
        _, left, right = sizes(inputs)
        return prod(left) * right[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(module, x).unsupported_ops_warnings(False).set_op_handle(
            **{"aten::scaled_dot_product_attention": attention, "aten::baddbmm": baddbmm})
        return analysis.total() / 1e9


@pytest.mark.parametrize("decoder", [
    ConvDecoder(inputs=6, channels=32, multipliers=(1, 2, 3), blocks=1, attention="code"),
    MoVQDecoder(inputs=6, channels=32, multipliers=(1, 2), blocks=1, attention="middle"),
    StyleDecoder(inputs=6, channels=(16, 8, 4), style_width=12, mapping_layers=2),
], ids=lambda decoder: type(decoder).__name__)
def test_fvcore_counts_the_same(decoder: nn.Module) -> None:
    x = torch.randn(1, 6, 8, 8)
    image, operations = count_operations(decoder, x)
    assert image.shape[1] == 3
    assert operations.gflops == pytest.approx(fvcore_gflops(decoder, x), rel=1e-9)
    if isinstance(decoder, ConvDecoder):
        assert operations.gmacs < operations.gflops
