"""`brics report`: what is on the page of one run and of several, whatever is missing or damaged, and the same bytes."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bricscli import files
from bricscli.build import build_schedule
from bricscli.data.images import encode_png
from bricscli.data.marks import encode_sample
from bricscli.data.samples import SampleFolder
from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.run.directory import RunDirectory
from bricscli.tasks.reporting.report import newest, report
from bricscli.tasks.reporting.run_page import draw_schedule

Parse = Any
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIDE = {"name": "toy", "split": "val", "images": 12, "of": 12, "width": 16, "height": 16, "sha256": "a" * 64}
VERSIONS = {"brics": "0.1.0"}


def reconstruction(run: RunDirectory, mean: float = 20.5, **changes: Any) -> None:
    files.write_json(run.evals / "reconstruction-toy-val.json", {
        "kind": "reconstruction", "protocol": "per image", "images": SIDE, "autoencoder": "c" * 64,
        "keys_moved_by_cells": 0.0, "versions": VERSIONS,
        "metrics": {"psnr": {"label": "PSNR", "unit": "dB", "mean": mean, "std": 1.25}}} | changes)


def usage(run: RunDirectory, groups: int = 2) -> None:
    group = {"hit_of_used": 0.5, "hit_of_reachable": 0.625, "mean": 3.0, "variance": 1.0, "variation": 0.75}
    levels = [{"resolution": r, "entries": 32 * r, "used": 30, "reachable": 27, "groups": [group] * groups}
              for r in (2, 4)]
    files.write_json(run.evals / "usage-toy-train.json", {
        "kind": "usage", "hit_share": 0.6251, "levels": levels, "images": SIDE, "autoencoder": "c",
        "versions": VERSIONS})


def generation(run: RunDirectory, **changes: Any) -> None:
    files.write_json(run.evals / "generation-samples-toy-val.json", {
        "kind": "generation", "protocol": "brics2023", "forced": ["samples: 3 images, fewer than 10,000"],
        "left_out": {"clip_fid": "ViT-B-32.pt is missing"}, "anchors": {}, "extractors": {}, "versions": VERSIONS,
        "metrics": {"fid": {"label": "FID", "value": 23.97, "std": None, "unit": "", "extractor": "inception"}},
        "samples": SIDE | {"name": "samples"}, "reference": SIDE} | changes)
    files.write_json(run.evals / "spectrum-samples-toy-val.json", {
        "kind": "spectrum", "bands": {"low": {"range": [0.0, 0.25], "bias": -1.5, "error": 2.25}},
        "frequencies": [0.0, 0.25, 0.5], "power": {"samples": [1.0, 2.0, 3.0], "reference": [1.0, 3.0, 5.0]},
        "samples": SIDE, "reference": SIDE, "protocol": "luma", "versions": VERSIONS})


def draw_samples(run: RunDirectory, count: int = 3) -> None:
    folder = SampleFolder.create(run.samples, {
        "format": "png", "resolution": 16, "denoiser": {"run": run.name, "digest": "d"}, "sampling": {"steps": 4},
        "class": None}, {"torch": "2.0"})
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    folder.add({seed: encode_sample(image, seed, folder.settings_digest) for seed, image in enumerate(pixels)})


def headings(html: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", html)


def test_an_autoencoder(copied: Any, parse_page: Parse) -> None:
    run = copied.autoencoder
    reconstruction(run)
    usage(run)
    path = report([run.path])
    assert path == run.path / "report.html"
    html = path.read_text()
    page = parse_page(html)
    page.assert_self_contained()
    assert headings(html) == ["Previews", "Training", "The numbers", "Use of the feature grids",
                              "What it is, and where it ran", "How it was made"]
    assert ["PSNR", "20.5 ± 1.2 dB"] in [row[:2] for row in page.rows()]
    for words in ("24 of 24 images of training", "codes of 8x8x2", "12 images of toy, split val", "62.51%", "per image",
                  "level 2, resolution 4", "encoder 0.", "kind: autoencoder", "data, digest"):
        assert words in page.text, words
    assert run.info["data"]["digest"][:12] in page.text and run.info["process"]["torch"] in page.text
    assert len(page.all("img")) == 2  # the first preview and the newest
    assert [image["alt"].split(":")[0] for image in page.all("img")] == [
        f"Preview sheet after {seen} images" for seen in (8, 24)]
    labels = [str(figure.get("aria-label")) for figure in page.all("figure")]
    assert {"Loss", "Likeness", "Validation PSNR", "Gradient norms", "Spread of the code"} <= {
        label.split(" over ")[0] for label in labels}


def test_a_diffusion_model(copied: Any, parse_page: Parse) -> None:
    run = copied.diffusion
    draw_samples(run)
    generation(run)
    html = report([run.path]).read_text()
    page = parse_page(html)
    page.assert_self_contained()
    assert headings(html) == ["Samples", "Previews", "Training", "The numbers", "Noise schedule", "Power spectrum",
                              "What it is, and where it ran", "How it was made"]
    fid = next(row for row in page.rows() if row[0] == "FID")
    assert fid[1] == "23.97forced"
    for words in ("samples: 3 images, fewer than 10,000", "ViT-B-32.pt is missing", "brics2023", "-1.50 dB", "2.25 dB",
                  "chen_cosine: start 0.2", "5 noise levels of sampling, from t = 0.97 on", "Drawn with steps 4",
                  f"toy, digest {run.info['autoencoder']['digest'][:12]}", "parameters"):
        assert words in page.text, words
    assert [image["title"] for image in page.all("img") if "title" in image] == [f"sample seed {i}" for i in range(3)]


def test_the_steps_lie_on_the_schedule(tiny_diffusion: Any) -> None:
    """Of every schedule that the steps of a grid fit, to within the line's resolution."""
    for schedule in ({}, {"kind": "flow"}, {"kind": "scaled_linear"}, {"kind": "nichol_cosine"}):
        recipe = tiny_diffusion(schedule=schedule) if schedule else tiny_diffusion()
        curve = draw_schedule(recipe)
        ((times, levels),) = curve.marks.values()
        exact = build_schedule(recipe.schedule).log_snr(torch.tensor(times, dtype=torch.float64)).tolist()
        assert len(times) == recipe.sampling.steps + 1 and times[0] == pytest.approx(recipe.sampling.start, abs=0.01)
        assert max(abs(a - b) for a, b in zip(exact[:-1], levels[:-1], strict=True)) < 0.3, schedule


def test_the_same_run_has_the_same_bytes_and_nothing_else_changes(copied: Any, tmp_path: Path) -> None:
    reconstruction(copied.autoencoder)
    before = sorted(copied.root.rglob("*"))
    first = report([copied.autoencoder.path], tmp_path / "a.html").read_bytes()
    assert report([copied.autoencoder.path], tmp_path / "b.html").read_bytes() == first
    assert sorted(copied.root.rglob("*")) == before
    assert str(tmp_path).encode() not in first


def test_text_of_others_is_text(copied: Any, parse_page: Parse) -> None:
    nasty = "<script>alert(1)</script>"
    path = copied.root / nasty.replace("/", "")
    shutil.copytree(copied.autoencoder.path, path)
    run = RunDirectory(path)
    reconstruction(run, images=SIDE | {"name": nasty}, protocol=nasty)
    files.write_json(run.info_path, run.info | {"overrides": [nasty], "data": {"name": nasty, "digest": nasty}})
    rows = run.metrics_path.read_text().replace('"gradient"', f'"{nasty}"')
    run.metrics_path.write_text(rows)
    for paths in ([path], [path, copied.autoencoder.path]):
        page = parse_page(report(paths, copied.root / "page.html").read_text())
        page.assert_self_contained()
        assert page.text.count(nasty) >= 4 and run.name in page.text


@pytest.mark.parametrize("kind", ["autoencoder", "diffusion"])
def test_a_run_that_has_nothing_yet(copied: Any, kind: str, parse_page: Parse) -> None:
    run = getattr(copied, kind)
    for path in run.path.iterdir():
        if path.name != "recipe.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    html = report([run.path]).read_text()
    page = parse_page(html)
    assert headings(html)[:2] == ["Nothing here yet", "Left out"] and "no checkpoint yet" in page.text
    assert "run.json: cannot be read" in page.text and not page.all("img")


def test_damaged_files_are_left_out_and_told(copied: Any, capsys: pytest.CaptureFixture[str],
                                             parse_page: Parse) -> None:
    run = copied.diffusion
    draw_samples(run)
    generation(run, metrics={"fid": 3})
    usage(run)
    (run.evals / "broken.json").write_text("{")
    (run.evals / "list.json").write_text("[1]")
    (run.evals / "other.json").write_text('{"kind": ["?"]}')
    (run.evals / "usage-toy-train.json").write_text('{"kind": "usage", "levels": []}')
    (run.evals / "spectrum-samples-toy-val.json").write_text('{"kind": "spectrum", "power": 3, "frequencies": [1]}')
    (run.samples / "000001.png").write_bytes(b"no image")
    sheets = sorted(run.sheets.iterdir())
    sheets[-1].write_bytes(sheets[-1].read_bytes()[:100])
    (run.sheets / "notes.png").write_bytes(b"")
    run.metrics_path.write_text("no metrics\n")
    run.info_path.write_text("[]")
    page = parse_page(report([run.path]).read_text())
    said = capsys.readouterr().err
    for name in ("broken.json", "list.json", "other.json", "usage-toy-train.json", "generation-samples-toy-val.json",
                 "spectrum-samples-toy-val.json", "seed 1: ", sheets[-1].name, "metrics.jsonl"):
        assert name in page.text and name in said, name
    assert str(copied.root) not in page.text
    assert [image["title"] for image in page.all("img") if "title" in image] == ["sample seed 0", "sample seed 2"]
    assert sum("Preview" in str(image["alt"]) for image in page.all("img")) == 2


@pytest.mark.parametrize("text", ["{}", '{"process": 3, "data": [], "overrides": 7, "autoencoder": null}', "null", "7"])
def test_odd_records_of_a_run(copied: Any, text: str, parse_page: Parse) -> None:
    for run in (copied.autoencoder, copied.diffusion):
        run.info_path.write_text(text)
        assert "How it was made" in parse_page(report([run.path]).read_text()).text


def test_values_that_are_no_numbers(copied: Any, parse_page: Parse) -> None:
    run = copied.autoencoder
    run.metrics_path.write_text('{"images_seen": 8, "loss": null, "l2": "x", "note": true}\n'
                                '{"images_seen": 16, "loss": 1}\n')
    page = parse_page(report([run.path]).read_text())
    assert any("weighted sum: 1 at 16" in str(figure.get("aria-label")) for figure in page.all("figure"))


def test_several_runs(copied: Any, parse_page: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied.root)
    other = copied.root / "longer"
    shutil.copytree(copied.autoencoder.path, other)
    text = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(text.replace("images: 24", "images: 48"))
    reconstruction(copied.autoencoder, 20.5)
    reconstruction(RunDirectory(other), 21.5)
    generation(copied.diffusion)
    path = report([Path("toy"), Path("longer"), Path("toy-diffusion"), Path("./toy")])
    assert path == Path("report.html")
    html = path.read_text()
    page = parse_page(html)
    page.assert_self_contained()
    assert headings(html) == ["The runs", "The numbers", "How the recipes differ", "Training", "Newest previews",
                              "Run by run"]
    assert "<h1>3 runs compared</h1>" in html
    assert [row for row in page.rows() if row[0] in ("toy", "longer") and "dB" in row[1]] == [
        ["toy", "20.5 ± 1.2 dB"], ["longer", "21.5 ± 1.2 dB"]]
    assert "training.images: 24 -> 48" in page.text
    assert "24 of 48 images of training" in page.text
    assert any(re.match(r"Loss over images seen\. toy: .*; longer: ", str(figure.get("aria-label")))
               for figure in page.all("figure"))
    assert len([summary for summary in re.findall(r"<summary>(.*?)</summary>", html)
                if summary in ("toy", "longer", "toy-diffusion")]) == 3


def test_numbers_on_other_images_stand_apart(copied: Any, parse_page: Parse) -> None:
    other = copied.root / "other"
    shutil.copytree(copied.autoencoder.path, other)
    reconstruction(copied.autoencoder)
    reconstruction(RunDirectory(other), 21.5, images=SIDE | {"sha256": "b" * 64})
    html = report([copied.autoencoder.path, other], copied.root / "page.html").read_text()
    numbers = html[html.index("<h2>The numbers"):html.index("<h2>How the recipes differ")]
    assert numbers.count("<table") == 2 and numbers.count("nothing to compare it with") == 2


def test_runs_of_one_name_are_told_apart(copied: Any, parse_page: Parse) -> None:
    for place in ("a", "b"):
        shutil.copytree(copied.autoencoder.path, copied.root / place / "toy")
    paths = [copied.root / place / "toy" for place in ("a", "b")]
    page = parse_page(report(paths, copied.root / "p.html").read_text())
    assert [row[0] for row in page.rows()[1:3]] == ["a/toy", "b/toy"]


def test_verdicts_are_words(copied: Any, parse_page: Parse) -> None:
    run = copied.autoencoder
    text = run.recipe_path.read_text().replace(
        "expected: {}", "expected:\n  psnr: {value: 20, tolerance: 1, source: me}\n"
                        "  ssim: {value: 0.5, tolerance: 0.1, source: you}")
    run.recipe_path.write_text(text)
    reconstruction(run)
    page = parse_page(report([run.path]).read_text())
    found = {row[0]: row[1:] for row in page.rows() if len(row) == 4}
    assert found["PSNR"][0].startswith("not comparablemeasured of weights that the run has no more")
    assert found["PSNR"][1:] == ["20.5 ± 1.2 dB", "20, tolerance 1me"]
    assert found["SSIM"] == ["not measured", "-", "0.5, tolerance 0.1you"]
    assert "0 of 2" in page.text


def test_a_damaged_sheet_is_told_once(copied: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is both the first and the newest."""
    run = copied.autoencoder
    first, *others = sorted(run.sheets.iterdir())
    for sheet in others:
        sheet.unlink()
    first.write_bytes(first.read_bytes()[:100])
    report([run.path])
    assert capsys.readouterr().err.count(first.name) == 1


def test_large_sheets_become_smaller(copied: Any, parse_page: Parse) -> None:
    run = copied.autoencoder
    (run.sheets / "000000099.png").write_bytes(encode_png(np.zeros((3, 1000, 4000), np.uint8)))
    page = parse_page(report([run.path]).read_text())
    assert [(image["width"], image["height"]) for image in page.all("img")][-1] == ("1600", "400")


def test_the_newest(copied: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newest(copied.root).name == "toy-diffusion"
    assert report([], root=copied.root) == copied.root / "toy-diffusion" / "report.html"
    (copied.root / "toy-diffusion" / "recipe.yaml").write_text("kind: nothing")
    assert newest(copied.root).name == "toy"
    assert "toy-diffusion: is left out" in capsys.readouterr().err
    with pytest.raises(DataError, match="has no run"):
        newest(tmp_path / "nowhere")


def test_what_cannot_be_a_page(copied: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run"):
        report([copied.autoencoder.path, copied.root / "data"], tmp_path / "a.html")
    with pytest.raises(DataError, match="is a folder"):
        report([copied.autoencoder.path], tmp_path)
    with pytest.raises(BricsError, match="cannot be written"):
        report([copied.autoencoder.path], copied.autoencoder.info_path / "a.html")
    copied.autoencoder.recipe_path.write_text("kind: autoencoder\ndata: 3\n")
    with pytest.raises(RecipeError, match="data: expected a mapping"):
        report([copied.root / "toy"], tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to lay the page out")
def test_a_phone_scrolls_in_one_direction(copied: Any, tmp_path: Path) -> None:
    """Laid out at 320 and 390 pixels by a real browser, everything unfolded: nothing is wider than the screen."""
    run = copied.root / ("a-name-that-is-as-long-as-names-of-runs-become" * 3)
    shutil.copytree(copied.autoencoder.path, run)
    reconstruction(RunDirectory(run), 21.5)
    usage(RunDirectory(run), groups=12)
    reconstruction(copied.autoencoder)
    html = report([run, copied.autoencoder.path, copied.diffusion.path], tmp_path / "page.html").read_text()
    html = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", html).replace("<details>", "<details open>")
    measure = ("<script>const root = document.documentElement;"
               "parent.postMessage(root.clientWidth + '/' + root.scrollWidth, '*')</script></body>")
    (tmp_path / "page.html").write_text(html.replace("</body>", measure))
    frames = "".join(f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
                     for width in (320, 390))
    (tmp_path / "frames.html").write_text(
        f"<title>W</title><script>addEventListener('message', e => document.title += ' ' + e.data)</script>{frames}")
    done = subprocess.run([str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                           "--no-first-run", "--disable-background-networking", "--disable-component-update",
                           "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000",
                           "--dump-dom", f"file://{tmp_path / 'frames.html'}"],
                          capture_output=True, text=True, timeout=60)
    found = re.search(r"<title>W (.*?)</title>", done.stdout)
    assert found, done.stderr
    sizes = [tuple(map(int, pair.split("/"))) for pair in found[1].split()]
    assert len(sizes) == 2 and all(300 <= client <= 390 and scrolled <= client for client, scrolled in sizes), sizes
