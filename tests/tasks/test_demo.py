"""`brics demo`, with a hundredth of its training."""

import re
from pathlib import Path

import pytest
import torch

from bricscli.recipe.load import load_recipe
from bricscli.recipe.recipes import Recipe
from bricscli.tasks import demo


def shorter(name: str, kind: str) -> Recipe:
    return load_recipe(name, ["training.images=64", "training.batch_size=16"], kind)  # type: ignore[arg-type]


def test_demo_ends_in_a_report_that_shows_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "load_recipe", shorter)
    monkeypatch.setattr(demo, "IMAGES", 200)
    monkeypatch.setattr(demo, "SAMPLES", 16)
    monkeypatch.setattr(demo, "SHOWN", 16)
    report = demo.demo(tmp_path / "demo", device=torch.device("cpu"))
    page = report.read_text()
    for expected in ("Originals and reconstructions", "Samples", "nearest training image", "shuffled key codes", "PSNR",
                     "brics train-diffusion --recipe tiny/toy-diffusion.yaml"):
        assert expected in page
    assert not re.search(r"(src|href)=.?http|url\(.?http|@import", page)  # it asks the network for nothing
    before = report.read_bytes(), sorted(tmp_path.rglob("*"))
    demo.demo(tmp_path / "demo", device=torch.device("cpu"))  # everything is there already
    assert sorted(tmp_path.rglob("*")) == before[1]
