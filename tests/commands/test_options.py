"""Wherever a command takes a data set, it takes the address of one."""

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bricscli.app import app
from bricscli.commands import options
from bricscli.errors import DataError, RecipeError
from bricscli.tasks.prepare import prepare_toy

RECIPE = ["--recipe", "tiny/toy.yaml", "--set", "training.images=8", "--set", "encoder.channels=8",
          "--set", "decoder.channels=[16, 8]", "--set", "retrieval.channels=16", "--set", "losses.perceptual=0"]
Brics = Callable[..., None]


class Site:
    """A server of a folder on this machine, which keeps what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                asked.append(self.path)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.host}/drawn/"

    @property
    def shards(self) -> int:
        return sum(path.endswith(".tar") for path in self.asked)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    prepare_toy(folder / "drawn", resolution=32, count=24, val_fraction=0.3, workers=1)
    found = Site(folder)
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join(10)


@pytest.fixture
def brics(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Brics:
    """Runs a command in this process, in a new folder with a new cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site.asked.clear()
    return lambda *words: app([*words], standalone_mode=False)


def test_a_data_set_by_its_address(brics: Brics, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    by_address = ["--data", site.url, "--allow-host", site.host]
    brics("train-ae", *RECIPE, *by_address, "--dry-run")
    told = capsys.readouterr().out
    assert f"data          {site.url.rstrip('/')}: " in told and "train-00000.tar" in told and site.shards == 0
    brics("train-ae", *RECIPE, *by_address)
    came = site.shards
    assert came == 2
    brics("encode", "--run", "runs/toy")  # finds the data set of the run by its digest
    brics("train-ae", *RECIPE, *by_address)  # finished: the same data set
    monkeypatch.setenv("BRICS_ALLOW_HOSTS", f"other.example {site.host}")
    brics("encode", "--run", "runs/toy", "--data", site.url)
    brics("eval", "usage", "--ref", site.url, "--limit", "2")
    brics("eval", "reconstruction", "--ref", site.url, "--metrics", "psnr")
    brics("eval", "statistics", site.url, "--features", "random", "--out", "a.safetensors")
    assert "of drawn, random features" in capsys.readouterr().out
    assert site.shards == came, "every shard comes once"


def test_what_does_not_fit_is_refused_before_it_is_fetched(brics: Brics, site: Site) -> None:
    with pytest.raises(DataError, match=f"{site.host}/drawn: holds images of 32 pixels, the recipe needs images of 64"):
        brics("train-ae", *RECIPE, "--set", "data.resolution=64", "--set", "decoder.channels=[16, 8, 8]",
              "--data", site.url, "--allow-host", site.host)
    assert site.shards == 0


def test_addresses_that_are_not_allowed_are_refused_everywhere(brics: Brics, site: Site, tmp_path: Path) -> None:
    prepare_toy(tmp_path / "samples", resolution=32, count=4, workers=1)
    for words in (["train-ae", *RECIPE, "--data"], ["train-ae", *RECIPE, "--dry-run", "--data"],
                  ["nn-search", "samples", "--metric", "pixel", "--ref"], ["eval", "spectrum", "--ref"],
                  ["eval", "fid", "--features", "random", "--ref"],
                  ["eval", "statistics", "--features", "random", "--out", "a.safetensors"]):
        with pytest.raises(DataError, match=f"is not asked for data, .* --allow-host {site.host}"):
            brics(*words, site.url)
    with pytest.raises(RecipeError, match="--allow-host: `http://x` is no host"):
        brics("eval", "spectrum", "--ref", site.url, "--allow-host", "http://x")
    assert site.asked == []


def test_a_path_stays_what_it_is() -> None:
    assert options.at_hand("data/church", []) == "data/church"
    assert options.at_hand("cleanfid:lsun_church:trainfull:256", []) == "cleanfid:lsun_church:trainfull:256"
