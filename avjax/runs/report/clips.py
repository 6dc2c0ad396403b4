"""The report's section of single clips: the most confidently wrong ones, seen and heard."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image

from avjax.data.pipeline import PreparedDataset
from avjax.errors import InputError
from avjax.runs.evaluation_file import predicted, striking_clips
from avjax.runs.report.page import note, pair, percent, picture, table

_SIDE = 80  # pixels of a frame in the strip
_QUALITY = 80  # of JPEG
_COLOURS = {"video": "--series0", "audio": "--series1"}
_LEAST = 0.25  # attention over an even share at the upper edge, if no time step has more


def clips_section(evaluation: Mapping[str, Any], dataset: PreparedDataset | None) -> str:
    """Renders the clips that are most confidently wrong, and two that are right, for contrast.

    Args:
      evaluation: the content of ``evaluation.json``.
      dataset: the evaluated clips, for pictures; None if they are gone.
    """
    if not evaluation.get("clips"):
        return ""
    wrong, right = striking_clips(evaluation)
    text = "Frames and sound as the network gets them"
    if dataset is None:
        text = "The prepared clips are not at hand, so pictures are left out"
    if evaluation.get("attention"):
        text += (
            "; with the attention over time that each stream receives from the other: more than "
            "an even share is drawn above the line, less below"
        )
    parts = [note(f"{text}. Probabilities are calibrated where the model is.")]
    parts += [_clip(evaluation, name, dataset) for name in wrong]
    if not wrong:
        parts.append(note("No clip is wrong."))
    if right:
        parts.append("<h3>For contrast, most confidently right</h3>")
    parts += [_clip(evaluation, name, dataset) for name in right]
    return "".join(parts)


def _clip(evaluation: Mapping[str, Any], name: str, dataset: PreparedDataset | None) -> str:
    """Renders one clip."""
    clip = evaluation["clips"][name]
    title = f"{name}, {_speaker(clip['speaker'])}: {clip['truth']}"
    answer = predicted(evaluation, name, next(iter(evaluation["conditions"])))
    title += "" if answer == clip["truth"] else f", taken for {answer}"
    body = _timeline(name, dataset, evaluation.get("attention", {}).get(name, {}))
    answers = _answers(evaluation, clip)
    return f'<div class="clip"><h3>{html.escape(title)}</h3>{pair(body, answers)}</div>'


def _speaker(speaker: str) -> str:
    if not speaker:
        return "no group"
    return f"actor {speaker}" if speaker.isdecimal() else speaker


def _answers(evaluation: Mapping[str, Any], clip: Mapping[str, Any]) -> str:
    """Renders the most probable classes, and the true one's probability, by condition."""
    classes, rows = evaluation["classes"], []
    for condition, raw in clip["probabilities"].items():
        values = clip.get("calibrated", {}).get(condition, raw)
        ranked = sorted(range(len(classes)), key=lambda k: -values[k])[:3]
        likely = ", ".join(f"{classes[k]} {percent(values[k])}" for k in ranked)
        rows.append((condition, likely, percent(values[classes.index(clip["truth"])])))
    return table(("condition", "most probable", f"truth ({clip['truth']})"), rows, "settings")


def _timeline(
    name: str, dataset: PreparedDataset | None, attention: Mapping[str, Sequence[float]]
) -> str:
    """Renders frames, sound and the attention that they receive, over the same time."""
    pictures = {} if dataset is None else _pictures(dataset, name)
    parts = []
    for stream, text in (
        ("video", "attention to the face from the voice"),
        ("audio", "attention to the voice from the face"),
    ):
        parts.append(pictures.get(stream, ""))
        if stream in attention:
            values = attention[stream]
            text += f": {min(values):.2f} to {max(values):.2f} even shares"
            key = f'<span class="key" style="background: var({_COLOURS[stream]})"></span>'
            parts.append(f'<p class="note">{key}{text}</p>')
            parts.append(_steps(values, _COLOURS[stream], text))
    if not any(parts):
        return ""
    if dataset is not None:
        seconds = dataset.metadata.seconds
        parts.append(f'<div class="scale note"><span>0 s</span><span>{seconds:g} s</span></div>')
    return f'<div class="wide"><div class="timeline">{"".join(parts)}</div></div>'


def _steps(values: Sequence[float], colour: str, text: str) -> str:
    """Draws attention by time step: above the line at an even share, or below."""
    top = max(_LEAST, *(abs(value - 1) for value in values))
    path = "".join(f"V{1 - value:.3f}H{step + 1}" for step, value in enumerate(values))
    return (
        f'<svg viewBox="0 {-top:.3f} {len(values)} {2 * top:.3f}" preserveAspectRatio="none" '
        f'role="img" aria-label="{text}"><path d="M0 0{path}V0Z" style="fill: var({colour})"/>'
        f'<path d="M0 0H{len(values)}" style="stroke: var(--soft)" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def _pictures(dataset: PreparedDataset, name: str) -> dict[str, str]:
    """Returns a clip's frames and sound as pictures, by stream; of a missing stream, a note."""
    numbers = {record.clip_id: number for number, record in enumerate(dataset.records)}
    if name not in numbers:
        return {}
    record = dataset.records[numbers[name]]
    try:
        features = dataset.read(numbers[name])
    except InputError as error:
        return {"video": note(str(error))}
    pictures = {}
    if dataset.metadata.num_frames:
        frames = np.asarray(features["frames"])
        frames = frames[..., ::-1] if dataset.metadata.profile == "reference" else frames
        strip = picture(_strip(frames), "jpeg", f"{len(frames)} frames", "strip")
        pictures["video"] = strip if record.has_video else note("no face")
    kind = "log_mel" if dataset.metadata.log_mels else "mfcc"
    text = {"log_mel": "log-mel spectrogram", "mfcc": "MFCCs, each standardised over the clip"}
    sound = picture(_spectrum(np.asarray(features[kind]), kind), "png", text[kind], "spectrum")
    pictures["audio"] = sound if record.has_audio else note("no sound")
    return pictures


def _strip(frames: UInt8[np.ndarray, "n s s 3"]) -> bytes:
    """Encodes frames side by side as JPEG."""
    tiles = [Image.fromarray(np.ascontiguousarray(x)).resize((_SIDE, _SIDE)) for x in frames]
    buffer = io.BytesIO()
    row = np.concatenate([np.asarray(tile) for tile in tiles], axis=1)
    Image.fromarray(row).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _spectrum(sound: Float[np.ndarray, "t m"], kind: str) -> bytes:
    """Encodes sound as PNG: time to the right, low coefficients or bands below."""
    sound = sound.astype(np.float32)
    if kind == "mfcc":  # the first coefficient would hide the others
        scaled = 0.5 + (sound - sound.mean(0)) / np.maximum(sound.std(0), 1e-6) / 5
    else:
        scaled = (sound - sound.min()) / max(np.ptp(sound), 1e-6)
    pixels = colormaps["viridis"](np.clip(scaled.T[::-1], 0, 1), bytes=True)[..., :3]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()
