"""The paper's tables: their cells hold together, and every row that has a recipe has the model that the row names."""

import pytest
import torch

from bricscli.build import build_autoencoder, build_discriminator
from bricscli.errors import RecipeError
from bricscli.paper.tables import BLANK, COLUMNS, TABLES, Row, find_table, number
from bricscli.recipe.load import differing_keys, list_recipes, load_recipe
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe
from bricscli.recipe.specs import KeyCodeSpec, KLKeyCodeSpec, KLSpec, RQSpec, VQSpec

ROWS = [pytest.param(row, id=f"{name}-{row.recipe}")
        for name, table in TABLES.items() for row in table.rows if row.recipe]
DATA = {"LSUN-Church": "lsun-church", "FFHQ": "ffhq", "Webvid-Frames200k": "webvid-frames200k"}


def autoencoder_of(row: Row) -> AutoencoderRecipe:
    assert row.recipe is not None
    recipe = load_recipe(row.recipe)
    recipe = load_recipe(recipe.autoencoder) if isinstance(recipe, DiffusionRecipe) else recipe
    assert isinstance(recipe, AutoencoderRecipe)
    return recipe


@pytest.mark.parametrize("name", TABLES)
def test_cells(name: str) -> None:
    table = TABLES[name]
    for row in table.rows:
        cells = table.cells(row)  # as many as there are columns
        assert set(cells) <= COLUMNS.keys()
        assert any(number(cell) for cell in cells.values()) or name == "K"
        for column, printed in cells.items():
            value = number(printed)
            assert value is None or (0 < value < 1 if column in ("lpips", "ssim", "precision", "recall") else value > 1
                                     or column == "f1")


def test_numbers() -> None:
    assert [number(cell) for cell in ("0.12±0.07", "42.5", BLANK)] == [0.12, 42.5, None]


def test_f1_follows_from_precision_and_recall() -> None:
    """Checks the copying: the paper prints all three."""
    checked = 0
    for name in ("4", "5"):
        for row in TABLES[name].rows:
            precision, recall, f1 = map(number, list(TABLES[name].cells(row).values())[-3:])
            if precision and recall and f1:
                assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=0.007)  # of rounded ones
                checked += 1
    assert checked == 11


def test_values_that_are_printed_twice_agree() -> None:
    """Tables 7, 8 and 9 print more digits of what Table 2 has."""
    coarse = {row.recipe: TABLES["2"].cells(row) for row in TABLES["2"].rows}
    for name in ("7", "8", "9"):
        for row in TABLES[name].rows:
            if row.recipe in coarse:
                for column in ("lpips", "ssim", "psnr"):
                    fine = number(TABLES[name].cells(row)[column])
                    assert fine is not None and round(fine, 2) == number(coarse[row.recipe][column])


def test_finding() -> None:
    assert find_table("k") == ("K", TABLES["K"])
    with pytest.raises(RecipeError, match=r"^table 11: .*There are: 2, 3, .*10, K\.$") as error:
        find_table("11")
    assert len(error.value.lines) == 1


@pytest.mark.parametrize("row", ROWS)
def test_recipe_of_a_row(row: Row) -> None:
    recipe = autoencoder_of(row)
    assert (recipe.data.name, recipe.data.resolution) == (DATA[row.data], 256)
    sides = [int(side) for side in row.code.split("x")]
    assert [recipe.code_size] * 2 == sides[:2]
    if row.method == "RQ-VAE":
        assert isinstance(recipe.bottleneck, RQSpec) and recipe.bottleneck.depth == sides[2]
    elif row.method == "VQGAN":
        assert isinstance(recipe.bottleneck, VQSpec) and len(sides) == 2
    else:
        kinds = (KLSpec, VQSpec) if row.method.startswith("LDM") else (KeyCodeSpec, KLKeyCodeSpec)
        assert isinstance(recipe.bottleneck, kinds)
        assert recipe.code_shape == (sides[2], *sides[:2])


@pytest.mark.parametrize("row", [row for row in TABLES["4"].rows if row.method.startswith("BRICS")],
                         ids=lambda row: row.method)
def test_configs_of_table_4(row: Row) -> None:
    """a, b: schedule and weight; c, d: key codes. Nothing else differs."""
    default, recipe = load_recipe("church64x4-diffusion.yaml"), load_recipe(row.recipe or "")
    assert isinstance(recipe, DiffusionRecipe) and recipe.denoising.predicts == "eps"
    (noising, codes) = row.method.removeprefix("BRICS ").split("+")
    a = (recipe.schedule.kind, recipe.denoising.weight, recipe.denoising.gamma) == ("nichol_cosine", "min_snr", 5)
    b = (recipe.schedule.kind, recipe.denoising.weight) == ("chen_cosine", "eps")
    assert (a, b) == (noising == "a", noising == "b")
    assert autoencoder_of(row).bottleneck.kind == {"c": "kl_key_code", "d": "key_code"}[codes]
    assert {line.split(":")[0].split(".")[0] for line in differing_keys(default, recipe)} <= {
        "schedule", "denoising", "autoencoder"}


def test_every_shipped_diffusion_model_of_the_paper_has_a_row() -> None:
    """But the schedule of App. D.2, which no table has, and second stages and inpainting, which BRICS has not."""
    shipped = {name for name in list_recipes() if name.startswith(("church", "ffhq"))
               and load_recipe(name).kind == "diffusion" and "-lpl" not in name and "-inpaint" not in name}
    rows = {row.recipe for name in ("4", "5") for row in TABLES[name].rows if row.recipe}
    assert shipped - rows == {"church64x4-diffusion-linear.yaml", "church64x4-diffusion-linear-c.yaml"}
    for name, autoencoder in zip(sorted(shipped - rows), ("church64x4-kl", "church64x4"), strict=True):
        recipe = load_recipe(name)
        assert isinstance(recipe, DiffusionRecipe)
        assert (recipe.schedule.kind, recipe.autoencoder) == ("linear", autoencoder)


#: Those beside the rows: config c of Table 4, and what LDM's rows stand on.
AUTOENCODERS = sorted({str(row.recipe) for table in TABLES.values() for row in table.rows if row.recipe
                       and load_recipe(row.recipe).kind == "autoencoder"} | {"church64x4-kl.yaml", "church-kl-f8.yaml",
                                                                            "ffhq-vq-f4.yaml"})


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_recipe_builds(name: str) -> None:
    """All of it, on the meta device: code and image have the shapes that the recipe says."""
    recipe = load_recipe(name)
    assert isinstance(recipe, AutoencoderRecipe)
    with torch.device("meta"), torch.no_grad():
        model, critic = build_autoencoder(recipe), build_discriminator(recipe)
        image = torch.empty(1, 3, 256, 256)
        encoded = model.encoder(image)
        assert encoded.shape == (1, model.bottleneck.inputs, recipe.code_size, recipe.code_size)
        assert model.decode(torch.empty(1, *recipe.code_shape)).shape == image.shape
        assert critic(image).shape[0] == 1


def test_every_shipped_autoencoder_of_the_paper_has_a_row() -> None:
    """But those whose codes a diffusion model draws, decoders for inpainting, and the small ones."""
    shipped = {name for name in list_recipes() if name.startswith(("church", "ffhq", "webvid"))
               and "-inpaint" not in name}
    others = {name for name in shipped if load_recipe(name).kind == "diffusion"} | {"ffhq64x4.yaml"}
    assert shipped - others == set(AUTOENCODERS)
