"""What several test files train on: recipes and pictures so small that a step takes milliseconds."""

import copy
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from bricscli.recipe.load import recipe_from_dict
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe

TINY_AUTOENCODER: dict[str, Any] = {
    "kind": "autoencoder",
    "data": {"name": "toy", "resolution": 16, "flip": True},
    "encoder": {"channels": 8, "multipliers": [1, 2], "blocks": 1},
    "bottleneck": {"channels": 2},
    "retrieval": {"size": 8, "levels": 3, "r_min": 2, "r_max": 8, "entry_channels": 2, "mlp_width": 8, "channels": 16},
    "decoder": {"channels": [16, 8], "style_width": 16, "mapping_layers": 1},
    "discriminator": {"channels": 4, "max_channels": 8},
    "losses": {"perceptual": 0},
    "training": {"images": 24, "batch_size": 4, "ema": 0.9, "seed": 3},
}
TINY_DIFFUSION: dict[str, Any] = {
    "kind": "diffusion",
    "autoencoder": "toy",
    "denoiser": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_channels": 4},
    "sampling": {"sampler": "dpmpp_2m", "steps": 4},
    "training": {"images": 24, "batch_size": 4, "warmup_images": 8, "decay_images": 24, "ema": 0.9, "seed": 3},
}


#: Other ways to fill the four places: changes to the tiny autoencoder.
_CONV = {"kind": "conv", "channels": 8, "multipliers": [1, 2], "blocks": 1}
_HINGE = {"l1": 1, "l2": 0, "adversarial_loss": "hinge", "adaptive": True, "gradient_penalty": 0}
METHODS: dict[str, dict[str, Any]] = {
    "kl_key_code": {"bottleneck": {"kind": "kl_key_code", "channels": 2}},
    "key_length_2": {"bottleneck": {"channels": 4}, "retrieval": {"key_length": 2}},
    "hash": {"retrieval": {"index": "hash", "max_entries": 64}},
    "conv": {"decoder": _CONV},
    "movq": {"decoder": _CONV | {"kind": "movq"}},
    "ldm": {"bottleneck": {"kind": "kl", "channels": 2}, "retrieval": {"kind": "none"}, "decoder": _CONV},
    "vqgan": {"bottleneck": {"kind": "vq", "channels": 8, "entries": 16}, "retrieval": {"kind": "none"},
              "decoder": _CONV, "discriminator": {"kind": "patch", "channels": 4, "layers": 2}, "losses": _HINGE},
    "rq_vae": {"bottleneck": {"kind": "rq", "channels": 8, "entries": 16, "depth": 2}, "retrieval": {"kind": "none"},
               "decoder": _CONV},
    "accumulated": {"training": {"accumulate": 2}},
    "bf16": {"training": {"precision": "bf16"}},
}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return base | {key: _merged(base.get(key, {}), value) if isinstance(value, dict) and "kind" not in value else value
                   for key, value in changes.items()}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The changes that make another method of the tiny autoencoder: `tiny_autoencoder(**method)`."""
    return copy.deepcopy(METHODS[request.param])


@pytest.fixture(scope="session")
def tiny_autoencoder() -> Callable[..., AutoencoderRecipe]:
    """`tiny_autoencoder(losses={"l2": 0})` is the tiny recipe with that change."""

    def make(**changes: Any) -> AutoencoderRecipe:
        recipe = recipe_from_dict(_merged(TINY_AUTOENCODER, changes))
        assert isinstance(recipe, AutoencoderRecipe)
        return recipe

    return make


@pytest.fixture(scope="session")
def tiny_diffusion() -> Callable[..., DiffusionRecipe]:
    """`tiny_diffusion(training={"ema": 0})` is the tiny recipe with that change."""

    def make(**changes: Any) -> DiffusionRecipe:
        recipe = recipe_from_dict(_merged(TINY_DIFFUSION, changes))
        assert isinstance(recipe, DiffusionRecipe)
        return recipe

    return make


class Page(HTMLParser):
    """A report's page: collects tags with attributes, and checks that they close in order."""

    VOID = ("meta", "img", "link", "br", "hr", "base", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def rows(self) -> list[list[str]]:
        """The texts of the cells of every row of every table."""
        return self._rows

    def assert_self_contained(self) -> None:
        """No scripts, no forms, and nothing that is fetched."""
        assert not {"script", "link", "iframe", "object", "base", "form", "embed"} & {tag for tag, _ in self.tags}
        for _, attributes in self.tags:
            for name, value in attributes.items():
                assert not name.startswith("on")
                if name in ("src", "href", "xlink:href", "srcset", "action"):
                    assert str(value).startswith(("data:image/png;base64,", "#"))
        (policy,) = [m["content"] for m in self.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
        assert str(policy).startswith("default-src 'none'")


@pytest.fixture(scope="session")
def parse_page() -> type[Page]:
    """`parse_page(html)`: the tags and the text of a page, which is checked to be well-formed."""
    return Page
