"""The tables of the paper (BRICS, arXiv:2305.18601v3) as data: every row with the recipe that makes it again.

Values are kept as they are printed, `mean±deviation` where the deviation over images is printed too, so that no digit
is lost or added. A cost in "GFlops" is fvcore's: multiply-accumulates and norms (see `tasks.cost`).
"""

from dataclasses import dataclass
from typing import Literal

from bricscli.errors import RecipeError

#: What stands in a cell where the paper prints nothing.
BLANK = "-"


@dataclass(frozen=True)
class Column:
    """`source`: measured on images by `brics eval`, or counted from a model that nobody needs to train."""

    label: str
    source: Literal["reconstruction", "generation", "cost"]
    digits: int  #: after the point, of our value
    unit: str = ""
    note: str = ""


COLUMNS: dict[str, Column] = {
    "lpips": Column("LPIPS", "reconstruction", 4, note="LPIPS: ours is AlexNet's; the paper names no network."),
    "ssim": Column("SSIM", "reconstruction", 4),
    "psnr": Column("PSNR", "reconstruction", 2, "dB"),
    "fid": Column("FID", "generation", 2),
    "clip_fid": Column("CLIP-FID", "generation", 2),
    "is": Column("IS", "generation", 2),
    "precision": Column("precision", "generation", 3),
    "recall": Column("recall", "generation", 3),
    "f1": Column("F1", "generation", 3),
    "grids": Column("grid parameters", "cost", 2, "M"),
    "decoder": Column("decoder parameters", "cost", 2, "M", "Decoder parameters are the decoder's alone, without the "
                      "MLPs of retrieval: with them the paper's 9.9 M would be 10.0 M or more."),
    "gflops": Column("decoding", "cost", 2, "GFlops", "Decoding is retrieval and decoder. GFlops are fvcore's: "
                     "multiply-accumulates, 5 for every value that a norm reads, 1 for every value that a resizing "
                     "writes."),
    "gmacs": Column("multiply-accumulates", "cost", 2, "G", "Multiply-accumulates are half of what torch's "
                    "FlopCounterMode counts; the paper does not print them."),
}
RECONSTRUCTION, COST = ("lpips", "ssim", "psnr"), ("grids", "decoder", "gflops", "gmacs")
GENERATION = ("fid", "clip_fid", "is", "precision", "recall", "f1")


@dataclass(frozen=True)
class Row:
    """`printed`: the row's cells, in the order of the table's columns; `recipe`: None for what is not made here."""

    method: str
    code: str  #: H_z x W_z x C_z; empty where there is none
    printed: str
    recipe: str | None = None
    data: str = "LSUN-Church"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def cells(self, row: Row) -> dict[str, str]:
        """Column -> what the paper prints there."""
        return dict(zip(self.columns, row.printed.split(), strict=True))


def number(printed: str) -> float | None:
    """The value of a cell, None of a blank one: `0.12±0.07` -> 0.12."""
    return None if printed == BLANK else float(printed.split("±")[0])


def find_table(name: str) -> tuple[str, Table]:
    """The table's own name and the table. Raises RecipeError for one that is not here."""
    if (key := name.upper()) in TABLES:
        return key, TABLES[key]
    raise RecipeError(f"table {name}: the paper has none that could be made again. There are: {', '.join(TABLES)}.")


TABLES: dict[str, Table] = {
    "2": Table("Reconstruction", RECONSTRUCTION, (
        Row("VQGAN", "16x16", "0.1175 0.6641 22.24", "ffhq-vqgan-f16.yaml", "FFHQ"),
        Row("RQ-VAE", "16x16x4", "0.0895 0.7602 24.53", "ffhq-rqvae.yaml", "FFHQ"),
        Row("BRICS", "16x16x8", "0.0885 0.7178 25.72", "ffhq16x8.yaml", "FFHQ"),
        Row("BRICS", "16x16x16", "0.0522 0.7651 26.99", "ffhq16x16.yaml", "FFHQ"),
        Row("VQGAN", "32x32", "0.14±0.07 0.53±0.23 19.81±4.92", "church-vqgan-f8.yaml"),
        Row("BRICS", "32x32x4", "0.12±0.07 0.67±0.20 22.32±5.93", "church32x4.yaml"),
        Row("BRICS", "32x32x8", "0.07±0.05 0.76±0.17 24.23±6.62", "church32x8.yaml"),
        Row("BRICS", "64x64x4", "0.04±0.03 0.84±0.13 26.34±7.14", "church64x4.yaml"),
    )),
    "3": Table("Parameters and cost of decoders", COST, (
        Row("VQGAN", "16x16", "- 42.5 126.79 -", "ffhq-vqgan-f16.yaml", "FFHQ"),
        Row("VQGAN", "32x32", "- 13.6 119.77 -", "church-vqgan-f8.yaml"),
        Row("RQ-VAE", "16x16x4", "- 42.5 126.79 -", "ffhq-rqvae.yaml", "FFHQ"),
        Row("BRICS", "16x16x8", "21.2 9.9 63.54 -", "ffhq16x8.yaml", "FFHQ"),
        Row("BRICS", "16x16x16", "42.9 9.9 63.80 -", "ffhq16x16.yaml", "FFHQ", (
            "no natural r_min and r_max give 42.9 M; 4 to 64, as the rows beside it have, give 42.4 M",)),
        Row("BRICS", "32x32x4", "11.4 9.9 63.40 -", "church32x4.yaml", notes=(
            "no natural r_min and r_max give 11.4 M; 4 to 64, as 32x32x8 has, give 10.6 M",)),
        Row("BRICS", "64x64x4", "18.6 9.9 63.41 -", "church64x4.yaml"),
    )),
    "4": Table("Generation, LSUN-Church", GENERATION, (
        Row("DDPM", "", "7.89 - - - - -"),
        Row("Projected GAN", "", "3.39 9.04 2.94 0.60 0.52 0.561"),
        Row("StyleGAN2", "", "3.86 7.46 2.76 0.63 0.43 0.511"),
        Row("LDM", "32x32x4", "4.02 7.15 2.72 0.64 0.52 0.573", "church-kl-f8-diffusion.yaml"),
        Row("BRICS a+c", "64x64x4", "7.84 8.68 2.55 0.70 0.36 0.475", "church64x4-diffusion-ac.yaml"),
        Row("BRICS a+d", "64x64x4", "4.66 8.52 2.56 0.78 0.41 0.537", "church64x4-diffusion-ad.yaml"),
        Row("BRICS b+c", "64x64x4", "4.50 6.54 2.56 0.75 0.44 0.555", "church64x4-diffusion-bc.yaml"),
        Row("BRICS b+d", "64x64x4", "3.97 5.10 2.59 0.76 0.46 0.573", "church64x4-diffusion.yaml"),
    ), ("a: Nichol's cosine schedule and min-SNR; b: Chen's cosine schedule; c: KL-regularised key codes; "
        "d: relaxed precision.",)),
    "5": Table("Generation, FFHQ", GENERATION, (
        Row("ImageBART", "", "10.81 - 4.49 - - -", data="FFHQ"),
        Row("StyleGAN2", "", "4.16 2.76 - 0.71 0.46 0.558", data="FFHQ"),
        Row("LDM", "64x64x3", "4.98 - 4.50 0.73 0.50 0.593", data="FFHQ"),
        Row("LDM, measured again", "64x64x3", "9.47 3.21 4.47 0.64 0.54 0.585", "ffhq-vq-f4-diffusion.yaml", "FFHQ"),
        Row("BRICS", "64x64x4", "6.91 2.66 4.56 0.80 0.45 0.574", "ffhq64x4-diffusion.yaml", "FFHQ"),
    )),
    "6": Table("Noise of relaxed precision, after 800 K images", RECONSTRUCTION, (
        Row("BRICS without noise", "32x32x4", "0.12±0.07 0.67±0.21 22.29±6.14", "church32x4-no-noise.yaml"),
        Row("BRICS with noise", "32x32x4", "0.11±0.07 0.68±0.20 22.45±5.98", "church32x4-noise.yaml"),
    )),
    "7": Table("Length C_key of a key", (*RECONSTRUCTION, *COST), (
        Row("BRICS, C_key 1", "64x64x4", "0.0383±0.0312 0.8438±0.1295 26.34±7.136 18.3 9.9 63.41 -", "church64x4.yaml",
            notes=("Table 3 prints 18.6 M, App. C 18.64 MB per group and App. I.1 11.4 M for this model",)),
        Row("BRICS, C_key 2", "64x64x4", "0.0365±0.0297 0.8480±0.1282 26.47±7.289 30.5 9.9 63.41 -",
            "church64x4-key2.yaml"),
    )),
    "8": Table("Size H_d = W_d of the feature block", (*RECONSTRUCTION, *COST), (
        Row("BRICS, H_d 64", "32x32x8", "0.0697±0.0516 0.7576±0.1735 24.23±6.622 21.2 9.9 63.54 -", "church32x8.yaml"),
        Row("BRICS, H_d 32", "32x32x8", "0.0690±0.0505 0.7466±0.1799 24.06±6.713 21.2 35.1 85.14 -",
            "church32x8-hd32.yaml", notes=(
                "no width of the block at 32x32 gives both counts; 1280 comes nearest to both together",)),
    )),
    "9": Table("Decoders", (*RECONSTRUCTION, *COST), (
        Row("BRICS", "64x64x4", "0.0383±0.0312 0.8438±0.1295 26.34±7.136 - - - -", "church64x4.yaml"),
        Row("VQGAN's decoder", "64x64x4", "0.0535±0.0400 0.8126±0.1457 25.27±6.581 - - - -",
            "church64x4-vqgan-decoder.yaml"),
        Row("MoVQ's decoder", "64x64x4", "0.0396±0.0327 0.8519±0.1240 26.30±7.102 - - 100.40 -",
            "church64x4-movq-decoder.yaml", notes=(
                "App. J prints the cost, of the decoder alone: ours alone takes 100.39. Widths are chosen by it",)),
    )),
    "10": Table("Reconstruction, Webvid-Frames200k", RECONSTRUCTION, (
        Row("BRICS", "32x32x4", "0.0769±0.1109 0.8325±0.2709 30.34±10.73", "webvid32x4.yaml", "Webvid-Frames200k"),
        Row("BRICS", "64x64x4", "0.0278±0.0519 0.9242±0.1321 34.61±10.64", "webvid64x4.yaml", "Webvid-Frames200k"),
    )),
    "K": Table("Hash tables (Fig. 14)", ("psnr", "grids"), tuple(
        Row(f"BRICS, T = 2^{power}", "64x64x4", "- -", f"church64x4-hash{power}.yaml") for power in range(18, 13, -1)
    ), ("Fig. 14 is a plot and prints no values; its text says that the parameters shrink by one magnitude while PSNR "
        "is maintained.",)),
}
