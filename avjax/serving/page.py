"""The page: a clip in, bars, faces and timeline out; on Gradio."""

import html
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from avjax.errors import InputError
from avjax.serving.judging import EXAMPLES, Facts
from avjax.serving.limits import Limits
from avjax.serving.views import CSS
from avjax.serving.worker import BrokenError, BusyError, Worker

CLIPS = {  # by file, what a button says
    "happy.mp4": "Sound and face",
    "angry-no-face.mp4": "Sound, no face",
    "sad-no-sound.mp4": "Face, no sound",
    "mixed.mp4": "11 s: each in turn",
}
# Fonts of the machine: Gradio's own come from elsewhere.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
_EMPTY = '<div class="av-answer"><p class="av-key">The answer appears here.</p></div>'
STYLE = (
    CSS
    + """
.gradio-container{max-width:1180px!important;margin:0 auto!important}
.av-head h1{font-size:1.5rem;margin:0;font-weight:700}
.av-head p{margin:.2rem 0 0;color:var(--body-text-color-subdued)}
.av-model{font-size:.85rem;white-space:pre-line}
.av-examples button{min-width:0}
"""
)
_UNKNOWN = (
    "This model's makers say nothing of its data, accuracy and limits. It judges as its training "
    "clips were labelled, and knows nothing of what a person feels."
)


def create_page(worker: Worker, facts: Facts, limits: Limits, uploads: Path) -> gr.Blocks:
    """Returns the page.

    Args:
      worker: judges.
      facts: of the model.
      limits: see `Limits`.
      uploads: Gradio's folder of uploads, where clips lie until they are answered.
    """

    def judge(video: Any, sound: Any) -> tuple[str, None, None]:
        chosen = video or sound
        if chosen is None:
            return _refused("There is no clip yet: upload or record one."), None, None
        path = Path(chosen["path"]).resolve()
        name = chosen.get("orig_name") or path.name
        if not (path.is_relative_to(uploads.resolve()) and path.is_file()):
            return _refused("The clip is gone; upload it again."), None, None
        try:
            return _answer(worker, path, name), None, None
        finally:
            for part in (video, sound):
                if part is not None:
                    _remove(Path(part["path"]), uploads)

    def example(name: str) -> str:
        return _answer(worker, EXAMPLES / name, name)

    hears, sees = "audio" in facts.streams, "video" in facts.streams
    with gr.Blocks(title="avjax", analytics_enabled=False, delete_cache=(60, 600)) as page:
        gr.HTML(_head(facts), elem_classes="av-head")
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                video = gr.Video(
                    label="Video: upload or record",
                    sources=["upload", "webcam"],
                    include_audio=True,
                    webcam_options=gr.WebcamOptions(mirror=False),
                    height=280,
                    elem_id="av-video",
                )
                sound = gr.Audio(
                    label="Or sound alone",
                    sources=["upload", "microphone"],
                    type="filepath",
                    editable=False,
                    visible=hears,
                    elem_id="av-sound",
                )
                button = gr.Button("Judge the clip", variant="primary", elem_id="av-judge")
                gr.HTML(f'<p class="av-key">{html.escape(_rules(limits))}</p>')
                gr.HTML('<h3 class="av-key">Or a generated clip:</h3>')
                with gr.Row(elem_classes="av-examples"):
                    clips = [
                        (name, gr.Button(text, size="sm", min_width=120))
                        for name, text in CLIPS.items()
                        if (sees or "no-sound" not in name) and (hears or "no-face" not in name)
                    ]
            with gr.Column(scale=7, min_width=300):
                result = gr.HTML(_EMPTY, elem_id="av-result")
                gr.HTML(_model(facts))
        shared: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "clip",
            "api_visibility": "private",
            "show_progress_on": result,
        }
        outputs = [result, video, sound]
        # Unprocessed: the components would call FFmpeg's program in this process.
        button.click(judge, [video, sound], outputs, preprocess=False, api_name="judge", **shared)
        for name, clip in clips:
            clip.click(partial(example, name), None, result, api_name=name, **shared)
    return page.queue(max_size=limits.waiting, api_open=False)


def _answer(worker: Worker, path: Path, name: str) -> str:
    try:
        with worker.place():
            return worker.answer("page", path, name)
    except BusyError:
        return _refused("As many clips wait as may; try again in a moment.")
    except InputError as error:
        return _refused(str(error))
    except BrokenError:
        return _refused("The model failed on this clip, which is a bug; the log has more.")


def _remove(path: Path, uploads: Path) -> None:
    """Removes an upload and its folder."""
    if path.resolve().is_relative_to(uploads.resolve()):
        path.unlink(missing_ok=True)


def _refused(reason: str) -> str:
    return f'<div class="av-answer"><p class="av-refused">{html.escape(reason)}</p></div>'


def _rules(limits: Limits) -> str:
    return (
        f"{limits} The clip is deleted from the server once it is answered; nothing leaves the "
        "server."
    )


def _head(facts: Facts) -> str:
    reads = {"audio": "sound", "video": "faces"}
    what = " and ".join(reads[stream] for stream in facts.streams)
    classes = ", ".join(facts.classes)
    return (
        "<h1>Which emotion does this clip express?</h1>"
        f"<p>Model {html.escape(facts.model)} reads {what}, and knows: {html.escape(classes)}.</p>"
    )


def _model(facts: Facts) -> str:
    text = facts.statement or _UNKNOWN
    return (
        f"<details open><summary>The model and its limits</summary>"
        f'<div class="av-model">{html.escape(text)}</div></details>'
    )
