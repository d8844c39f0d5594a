"""How the page looks, in gradio's components, and which of the desk's doings is behind what."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from bricscli.errors import BricsError, RecipeError
from bricscli.page.desk import MOST_VARIANTS, Choice, Desk, Filled, Painting, Stopped

TITLE = "Fill a part of a picture"
#: What is seen on any picture, and is no colour of many.
BRUSH = "rgb(255, 0, 170)"
METHODS = {"blended": "Quick", "repaint": "Careful, and several times slower", "concat": "As it was trained to"}
DECODERS = {"asymmetric": "Shown what is kept", "plain": "Plain"}
BLENDS = {"feather:8": "Soft edge", "paste": "Hard edge", "none": "Everything as the model draws it"}

SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
THEME = gr.themes.Default(primary_hue="pink", font=SYSTEM, font_mono=["ui-monospace", "Menlo", "monospace"])
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
.message { padding: .6em .9em; border-radius: 8px; border: 1px solid var(--border-color-primary); }
.message.wrong { border-color: #d33; border-left-width: 5px; }
.command textarea { font-family: var(--font-mono); }
"""


def build_page(desk: Desk) -> gr.Blocks:
    """The page; nothing of it calls anybody, and one picture is filled at a time."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\nOpen a picture and paint over what you want replaced. All the rest of it stays as it "
                    "is. Nothing leaves this computer.")
        opened = gr.File(label="1. Open a picture, or drop one here", file_types=["image"], height=140,
                         elem_id="open")
        message = gr.HTML(_message("PNG, JPEG or WebP, up to 16 megapixels."), elem_id="message")
        with gr.Column(visible=False) as easel:
            painting = gr.ImageEditor(
                label="2. Paint", sources=(), transforms=(), layers=False, format="png",
                brush=gr.Brush(colors=[BRUSH], default_color=BRUSH, color_mode="fixed"), buttons=["fullscreen"],
                elem_id="painting", interactive=True, height="min(62vh, 100vw)")
        with gr.Group(visible=False) as controls:
            with gr.Row():
                method = gr.Radio([(METHODS[name], name) for name in desk.methods], value=desk.first.method,
                                  label="3. How", min_width=280, visible=len(desk.methods) > 1)
                variants = gr.Slider(1, MOST_VARIANTS, value=desk.first.variants, step=1, min_width=280,
                                     label="How many to choose from", elem_id="variants")
            known = {desk.first.blend: desk.first.blend, **BLENDS}
            with gr.Accordion("More", open=False), gr.Row():
                seed = gr.Number(desk.first.seed, label="Seed: another number fills otherwise", precision=0, minimum=0)
                blend = gr.Radio([(label, value) for value, label in known.items()], value=desk.first.blend,
                                 label="Where new meets old")
                decoder = gr.Radio([(DECODERS[name], name) for name in desk.decoders], value=desk.first.decoder,
                                   label="Decoder", visible=len(desk.decoders) > 1)
        with gr.Row():
            run = gr.Button("Fill it", variant="primary", visible=False, elem_id="run")
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
        state = gr.HTML(visible=False, elem_id="state")
        with gr.Column(visible=False, elem_id="results") as results:
            compared = gr.ImageSlider(label="4. Before and after: drag the line", buttons=["fullscreen"], format="png",
                                      max_height=640, elem_id="compare")
            shown = gr.Radio([], label="Which one", elem_id="which")
            with gr.Row():
                save = gr.DownloadButton("Save this picture", variant="primary", elem_id="save")
                save_mask = gr.DownloadButton("Save the mask", elem_id="save-mask")
            command = gr.Textbox(label="The command that makes the same", buttons=["copy"], lines=2, interactive=False,
                                 elem_classes="command", elem_id="command")
        made = gr.State(None)

        after_opening = [opened, message, painting, easel, controls, run, state, results]
        choices = [painting, method, decoder, variants, seed, blend]
        after_filling = [state, run, stop, results, compared, shown, save, save_mask, command, made]

        def take(path: str | None, request: gr.Request) -> list[Any]:
            if path is None:
                return [gr.skip()] * len(after_opening)
            try:
                data = Path(path).read_bytes()
                desk.remove({Path(path)})
                guest = desk.open(_key(request), Path(path).name, data)
            except (BricsError, OSError) as error:
                return [None, _message(_words(error), wrong=True), *[gr.skip()] * (len(after_opening) - 2)]
            text = f"{guest.name}, {guest.size[0]} × {guest.size[1]}. What you paint is replaced; the rest stays."
            shown_there = gr.update(visible=True)
            return [None, _message(text), str(guest.view), shown_there, shown_there, shown_there,
                    gr.update(value="", visible=False), gr.update(visible=False)]

        def fill(painted: Any, method: Any, decoder: Any, variants: Any, seed: Any, blend: Any,
                 request: gr.Request, progress: gr.Progress = gr.Progress()) -> Iterator[list[Any]]:  # noqa: B008
            rest = [gr.skip()] * (len(after_filling) - 3)
            yield [gr.update(value=_message("At work."), visible=True), gr.update(interactive=False),
                   gr.update(visible=True), *rest]
            try:
                choice = Choice(str(method), str(decoder), _whole(variants), _whole(seed), str(blend))
                filled = desk.fill(_key(request), _painting(painted), choice,
                                   lambda share: progress(share, desc="Filling"))
                words, rest = _message(f"Done: {_count(len(filled.pictures))}."), _hand_over(filled)
            except Stopped as error:
                words = _message(str(error))
            except BricsError as error:
                words = _message(_words(error), wrong=True)
            yield [words, gr.update(interactive=True), gr.update(visible=False), *rest]

        def show(number: int | None, made: Filled | None) -> list[Any]:
            if made is None or number is None or not 1 <= number <= len(made.views):
                return [gr.skip(), gr.skip()]
            return [(str(made.before), str(made.views[number - 1])), str(made.pictures[number - 1])]

        def end(request: gr.Request) -> None:
            desk.stop(_key(request))

        def leave(request: gr.Request) -> None:
            desk.leave(_key(request))

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # All by the queue: the guard knows of no other way to call.
        opened.upload(take, opened, after_opening, concurrency_limit=2, **quiet)
        # As it was sent: gradio would decode what was painted, and the picture too, of any format and size.
        run.click(fill, choices, after_filling, concurrency_limit=1, api_visibility="private", preprocess=False,
                  show_progress_on=[state])
        stop.click(end, None, None, concurrency_limit=4, **quiet)
        shown.input(show, [shown, made], [compared, save], **quiet)
        page.unload(leave)
    return page.queue(max_size=16)


def _hand_over(filled: Filled) -> list[Any]:
    """Of results, compared, shown, save, save_mask, command and made."""
    numbers = [(f"{number}", number) for number in range(1, len(filled.pictures) + 1)]
    return [gr.update(visible=True), (str(filled.before), str(filled.views[0])),
            gr.update(choices=numbers, value=1, visible=len(numbers) > 1), str(filled.pictures[0]), str(filled.mask),
            filled.command, filled]


def _key(request: gr.Request) -> str:
    return str(request.session_hash)


def _count(number: int) -> str:
    return "one picture" if number == 1 else f"{number} pictures to choose from"


def _message(text: str, wrong: bool = False) -> str:
    """Read out by screen readers; `text` may hold names of files."""
    kind, role = ("message wrong", "alert") if wrong else ("message", "status")
    return f'<div class="{kind}" role="{role}">{html.escape(text)}</div>'


def _words(error: Exception) -> str:
    return " ".join(error.lines) if isinstance(error, BricsError) else "The picture could not be read. Open it again."


def _painting(value: Any) -> Painting:
    """Of what the page's canvas sends; anything else is no painting at all."""
    def paths(files: Any) -> list[Path]:
        return [Path(file["path"]) for file in files if isinstance(file, dict) and isinstance(file.get("path"), str)]

    if not isinstance(value, dict) or not isinstance(value.get("layers"), list):
        return Painting([])
    return Painting(paths(value["layers"]), paths([value.get("background"), value.get("composite")]))


def _whole(value: Any) -> int:
    """Raises RecipeError."""
    try:
        return int(value or 0)
    except (TypeError, ValueError, OverflowError):
        raise RecipeError("Seeds and numbers of variants are whole numbers.") from None
