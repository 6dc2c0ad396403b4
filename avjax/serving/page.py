"""The page: a clip in, bars, faces and timeline out; on Gradio."""

import base64
import contextlib
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
KEPT = (60, 600)  # seconds: how often, and for how long, uploads without an answer are kept
_JUDGE = "Judge the clip"
_PLAYABLE = {
    **{".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mp3": "audio/mpeg"},
    **{".wav": "audio/wav", ".ogg": "audio/ogg", ".flac": "audio/flac", ".m4a": "audio/mp4"},
}
_MOST_TO_PLAY = 6_000_000  # bytes
_EMPTY = '<div class="av-answer"><p class="av-key">The answer appears here.</p></div>'
STYLE = (
    CSS
    + """
.gradio-container{max-width:1320px!important;margin:0 auto!important}
.av-head h1{font-size:1.5rem;margin:0;font-weight:700}
.av-head p{margin:.2rem 0 0;color:var(--av-grey)}
.av-model{font-size:.85rem;white-space:pre-line}
.av-examples{display:grid!important;grid-template-columns:1fr 1fr}
.av-player{max-width:100%;max-height:280px;margin-top:1rem;border-radius:6px}
#av-video video{max-height:300px}
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

    def judge(clip: Any) -> tuple[str, None]:
        if clip is None:
            return _refused("There is no clip yet: upload or record one."), None
        path = Path(clip["path"]).resolve()
        name = clip.get("orig_name") or path.name
        if not (path.is_relative_to(uploads.resolve()) and path.is_file()):
            return _refused("The clip is gone; upload it again."), None
        try:
            return _answer(worker, path, name), None
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another clip of the same content
                path.parent.rmdir()

    def example(name: str) -> str:
        return _answer(worker, EXAMPLES / name, name)

    hears, sees = "audio" in facts.streams, "video" in facts.streams
    with gr.Blocks(
        title="avjax", analytics_enabled=False, fill_width=True, delete_cache=KEPT
    ) as page:
        gr.HTML(_head(facts), elem_classes="av-head")
        with gr.Row():
            with gr.Column(scale=3, min_width=290):
                inputs = []
                with gr.Tab("Video"):
                    video = gr.Video(
                        label="Upload or record",
                        sources=["upload", "webcam"],
                        include_audio=True,
                        webcam_options=gr.WebcamOptions(mirror=False),
                        elem_id="av-video",
                    )
                    inputs.append((video, gr.Button(_JUDGE, variant="primary")))
                with gr.Tab("Sound", visible=hears):
                    sound = gr.Audio(
                        label="Upload or record",
                        sources=["upload", "microphone"],
                        type="filepath",
                        editable=False,
                        elem_id="av-sound",
                    )
                    inputs.append((sound, gr.Button(_JUDGE, variant="primary")))
                gr.HTML(f'<p class="av-key">{html.escape(_rules(limits))}</p>')
                gr.HTML('<p class="av-key">Or a generated clip:</p>')
                with gr.Row(elem_classes="av-examples"):
                    clips = [
                        (name, gr.Button(text, size="sm", min_width=120))
                        for name, text in CLIPS.items()
                        if (sees or "no-sound" not in name) and (hears or "no-face" not in name)
                    ]
            with gr.Column(scale=8, min_width=300):
                result = gr.HTML(_EMPTY, elem_id="av-result")
                gr.HTML(_model(facts))
        shared: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "clip",
            "api_visibility": "private",
            "show_progress_on": result,
        }
        for component, button in inputs:
            # Unprocessed: the components would call FFmpeg's program in this process.
            button.click(judge, component, [result, component], preprocess=False, **shared)
        for name, clip in clips:
            clip.click(partial(example, name), None, result, **shared)
    return page.queue(max_size=limits.waiting, api_open=False)


def _answer(worker: Worker, path: Path, name: str) -> str:
    """Returns an answer, or why there is none, in HTML; small clips can be played in it."""
    try:
        with worker.place():
            return worker.answer("page", path, name) + _player(path)
    except BusyError:
        return _refused("As many clips wait as may; try again in a moment.")
    except InputError as error:
        return _refused(str(error))
    except BrokenError:
        return _refused("The model failed on this clip, which is a bug; the log has more.")


def _player(path: Path) -> str:
    """Renders a player that holds the clip itself, as the server does not keep it."""
    kind = _PLAYABLE.get(path.suffix.lower())
    if kind is None or path.stat().st_size > _MOST_TO_PLAY:
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    tag = kind.partition("/")[0]
    return (
        f'<{tag} class="av-player" controls preload="auto" src="data:{kind};base64,{data}"></{tag}>'
    )


def _refused(reason: str) -> str:
    return f'<div class="av-answer"><p class="av-refused">{html.escape(reason)}</p></div>'


def _rules(limits: Limits) -> str:
    return (
        f"Up to {limits.upload_bytes / 1e6:g} MB and {limits.clip_seconds:.0f} s. The clip is "
        "deleted once it is answered, and goes nowhere else."
    )


def _head(facts: Facts) -> str:
    reads = {"audio": "sound", "video": "faces"}
    what = " and ".join(reads[stream] for stream in facts.streams)
    classes = ", ".join(facts.classes)
    return (
        "<h1>Which emotion does this clip express?</h1>"
        f"<p>The model, {html.escape(facts.model)}, reads {what}, and knows: "
        f"{html.escape(classes)}.</p>"
    )


def _model(facts: Facts) -> str:
    text = facts.statement or _UNKNOWN
    return (
        f"<details open><summary>The model and its limits</summary>"
        f'<div class="av-model">{html.escape(text)}</div></details>'
    )
