"""The page in Chromium: open, paint, run, compare, save; what is saved is what the command writes. Slow (a minute).

Skipped where gradio, playwright or Chromium is missing.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'brics[ui]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
PATHS = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
PATIENCE = 40_000  #: milliseconds
Page = Any


@pytest.fixture(scope="module")
def served(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page's address, and where the server makes temporary folders."""
    temporary = tmp_path_factory.mktemp("tmp")
    process = subprocess.Popen(
        [sys.executable, "-m", "bricscli", "inpaint", "--ui", "--port", "0", "--run", "runs/toy-diffusion", "--steps",
         "600"], stdout=subprocess.PIPE, text=True, cwd=runs.parent, env=PATHS | {"TMPDIR": str(temporary)})
    assert process.stdout is not None
    yield process.stdout.readline().split()[0], temporary
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0 and list(temporary.glob("brics-page-*")) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 390])
def page(request: pytest.FixtureRequest, browser: Any, served: tuple[str, Path]) -> Iterator[Page]:
    """Of a desktop and of a phone. Whatever is asked of another host, every error and every refusal fails the test."""
    phone = request.param == 390
    context = browser.new_context(viewport={"width": request.param, "height": 844}, has_touch=phone, is_mobile=phone,
                                  color_scheme="dark" if phone else "light")
    context.set_default_timeout(PATIENCE)
    page, wrong = context.new_page(), []
    ours = (served[0], "blob:", "data:", "about:")
    page.on("request", lambda r: None if r.url.startswith(ours) else wrong.append(r.url))
    page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(served[0])
    page.wait_for_selector("#open input[type=file]", state="attached")
    yield page
    context.close()
    assert wrong == []


def read(page: Page, where: str, words: str) -> str:
    """What the page says, once it has said `words`."""
    page.wait_for_function("([where, words]) => document.querySelector(where)?.innerText.includes(words)",
                           arg=[where, words])
    return str(page.inner_text(where))


def stroke(page: Page, *points: tuple[float, float]) -> None:
    """Over the canvas, in shares of it, by mouse or, on a phone, by a finger."""
    canvas = page.locator("#painting canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    if page.evaluate("navigator.maxTouchPoints > 0"):
        finger = page.context.new_cdp_session(page)
        for number, (x, y) in enumerate(places):
            finger.send("Input.dispatchTouchEvent", {"type": "touchMove" if number else "touchStart",
                                                     "touchPoints": [{"x": x, "y": y}]})
            page.wait_for_timeout(60)
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    else:
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=5)
        page.mouse.up()
    page.wait_for_timeout(500)


def save(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_open_paint_run_compare_save(page: Page, served: tuple[str, Path], runs: Path, photo: Path, tmp_path: Path
                                     ) -> None:
    for name, data in (("text.png", b"hello"), ("drawing.svg", b"<svg/>")):
        page.set_input_files("#open input[type=file]", {"name": name, "mimeType": "image/png", "buffer": data})
        read(page, "#message", f"{name}: not an image")
    page.set_input_files("#open input[type=file]", photo)
    read(page, "#message", "photo.png, 60 × 40. What you paint is replaced")
    page.wait_for_selector("#painting canvas")
    page.wait_for_timeout(3000)  # the canvas draws the picture
    page.click("#run")
    read(page, "#state", "Nothing is painted yet.")

    stroke(page, (0.4, 0.45), (0.5, 0.5), (0.55, 0.55))
    page.click("#painting button[aria-label=Undo]")
    page.click("#run")
    read(page, "#state", "Nothing is painted yet.")
    stroke(page, (0.4, 0.45), (0.5, 0.5), (0.55, 0.55))
    page.fill("#variants input[type=number]", "2")
    page.keyboard.press("Tab")
    page.focus("#run")
    page.keyboard.press("Enter")
    read(page, "#state", "Done: 2 pictures to choose from.")

    page.get_by_text("Careful, and several times slower").click()
    page.click("#run")
    page.click("#stop")
    read(page, "#state", "Stopped.")
    page.get_by_text("Quick").click()
    page.click("#run")
    read(page, "#state", "Done: 2 pictures to choose from.")

    page.wait_for_selector("#compare img")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    before, after = (page.locator("#compare img").nth(number).get_attribute("src") for number in (0, 1))
    assert before != after
    first = save(page, "#save", tmp_path)
    page.locator("#which label").nth(1).click()
    page.wait_for_function("(src) => document.querySelectorAll('#compare img')[1].src != src", arg=after)
    page.wait_for_timeout(1000)
    second, mask = save(page, "#save", tmp_path), save(page, "#save-mask", tmp_path)
    assert [first.name, second.name, mask.name] == ["photo-1.png", "photo-2.png", "photo-mask.png"]
    command = shlex.split(page.input_value("#command textarea"))

    kept, new = (np.asarray(Image.open(path).convert("RGB")) for path in (photo, second))
    painted = np.asarray(Image.open(mask)) == 255
    assert 0 < painted.mean() < 0.5 and np.array_equal(kept[~painted], new[~painted])
    for path in (photo, mask):
        shutil.copy(path, runs.parent)
    out = tmp_path / "filled"
    command[command.index("--out") + 1] = str(out)
    subprocess.run([sys.executable, "-m", "bricscli", *command[1:]], check=True, cwd=runs.parent, env=PATHS)
    assert [(out / path.name).read_bytes() for path in (first, second)] == [first.read_bytes(), second.read_bytes()]

    page.goto("about:blank")  # the guest's folder goes
    for _ in range(100):
        left = list(served[1].rglob("*.png"))
        if not left:
            break
        subprocess.run(["sleep", "0.2"], check=True)
    assert left == []
