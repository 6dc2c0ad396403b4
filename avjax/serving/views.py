"""Answers in HTML: bars of probabilities, notes, a strip of faces, the timeline."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from avjax.predictions.plot import COLOURS, MISSING, timeline_figure
from avjax.predictions.prediction import Prediction, clock
from avjax.preparation.crops import fixed_crops
from avjax.preparation.faces import Face
from avjax.preparation.frames import frames_at

_FACES = 8  # in the strip
_SIDE = 96  # pixels of each
_TITLES = {
    ("whole", True): "Sound and picture",
    ("whole", False): "The answer",
    ("audio", True): "Picture off: sound alone",
    ("video", True): "Sound off: picture alone",
}


def answer(path: Path, name: str, apart: Mapping[str, Prediction]) -> str:
    """Renders an answer.

    Args:
      path: the clip, for the strip of faces.
      name: what the client calls it.
      apart: see `avjax.predict.Model.predict_apart`.
    """
    whole = apart["whole"]
    cards = [_card(_TITLES[key, len(apart) > 1], p) for key, p in apart.items()]
    parts = [
        f'<h2 class="av-label">{_text(whole.label)} <small>{_text(name)}</small></h2>',
        _notes(whole),
        f'<div class="av-cards">{"".join(cards)}</div>',
        _key(whole),
        _strip(path, whole.faces),
        _timeline(name, whole),
    ]
    return f'<div class="av-answer">{"".join(parts)}</div>'


def _text(text: str) -> str:
    return html.escape(text)


def _card(title: str, prediction: Prediction) -> str:
    """Renders one judgement as a list of bars, in the order of the classes."""
    rows = []
    for number, (name, share) in enumerate(prediction.probabilities.items()):
        colour = COLOURS[number % len(COLOURS)]
        calibrated = None if prediction.calibrated is None else prediction.calibrated[name]
        mark = "" if calibrated is None else f'<b style="left:{100 * calibrated:.1f}%"></b>'
        figures = f"<td>{share:.0%}</td>"
        figures += "" if calibrated is None else f"<td>{calibrated:.0%}</td>"
        best = ' class="av-best"' if name == prediction.label else ""
        rows.append(
            f'<tr{best}><th>{_text(name)}</th><td class="av-bar"><span><i style="'
            f'width:{100 * share:.1f}%;background:{colour}"></i>{mark}</span></td>{figures}</tr>'
        )
    has_calibrated = prediction.calibrated is not None
    head = "<th></th><th></th><th>raw</th>" + ("<th>cal.</th>" if has_calibrated else "")
    return (
        f'<section class="av-card"><h3>{_text(title)}</h3><p>{_text(prediction.label)}</p>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _key(prediction: Prediction) -> str:
    if prediction.calibrated is None:
        return '<p class="av-key">This model is not calibrated: its probabilities are raw.</p>'
    return '<p class="av-key">Bars: raw probabilities. Marks, and cal.: calibrated ones.</p>'


def _notes(prediction: Prediction) -> str:
    missing = [f"{MISSING[stream]}: judged without" for stream in prediction.missing]
    lines = [*missing, *prediction.notes]
    if not lines:
        return ""
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f'<ul class="av-notes">{items}</ul>'


def _strip(path: Path, faces: Sequence[Face]) -> str:
    """Renders a few faces that the model saw, evenly over the clip."""
    seen = [face for face in faces if face.box is not None]
    if not seen:
        return ""
    places = np.linspace(0, len(seen) - 1, min(_FACES, len(seen))).round().astype(int)
    chosen = [seen[i] for i in dict.fromkeys(places.tolist())]
    selection = frames_at(path, [face.second for face in chosen])
    figures = []
    for face, number in zip(chosen, selection.order, strict=True):
        crop = fixed_crops([selection.images[number]], [np.array(face.box)], _SIDE)[0]
        second = clock(face.second).strip()
        figures.append(
            f'<figure><img alt="face at {second}" src="{_picture(crop)}" width="{_SIDE}" '
            f'height="{_SIDE}"><figcaption>{second}</figcaption></figure>'
        )
    return f'<h3>Faces that the model saw</h3><div class="av-strip">{"".join(figures)}</div>'


def _picture(image: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _timeline(name: str, prediction: Prediction) -> str:
    """Renders the figure of several windows."""
    if len(prediction.timeline) < 2:
        return ""
    figure = timeline_figure(name, prediction)
    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    picture = base64.b64encode(data.getvalue()).decode()
    return (
        f'<h3>Over time</h3><div class="av-wide"><img alt="probabilities over time" '
        f'src="data:image/png;base64,{picture}"></div>'
    )


CSS = """
:root{--av-grey:#565d69}
.dark{--av-grey:#b4bac4}
.av-answer h2.av-label{font-size:1.6rem;margin:0 0 .5rem;line-height:1.2}
.av-answer h2 small{font-size:.9rem;font-weight:400;color:var(--av-grey);
  overflow-wrap:anywhere}
.av-answer h3{font-size:.95rem;margin:1.1rem 0 .4rem;font-weight:600}
.av-cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,190px),1fr));gap:.8rem}
.av-card{border:1px solid var(--border-color-primary);border-radius:8px;padding:.7rem .8rem;
  background:var(--background-fill-primary);min-width:0}
.av-card h3{margin:0;font-weight:500;font-size:.85rem;color:var(--av-grey)}
.av-card p{margin:.1rem 0 .4rem;font-size:1.1rem;font-weight:600}
.av-answer .av-card table{width:100%;border-collapse:collapse;font-size:.82rem;margin:0}
.av-answer .av-card table,.av-answer .av-card tr,.av-answer .av-card thead{border:0!important}
.av-answer .av-card th,.av-answer .av-card td{border:0!important;padding:.12rem .2rem;
  text-align:right;font-variant-numeric:tabular-nums;background:none;font-weight:400;color:var(--body-text-color)}
.av-answer .av-card tbody th{text-align:left;padding-left:0}
.av-answer .av-card thead th{font-size:.7rem;color:var(--av-grey)}
.av-answer .av-card tr.av-best th,.av-answer .av-card tr.av-best td{font-weight:700}
.av-answer .av-card td.av-bar{width:100%}
.av-bar span{display:block;min-width:3.5rem;position:relative;height:.8rem;border-radius:3px;
  background:var(--background-fill-secondary)}
.av-bar i{position:absolute;inset:0 auto 0 0;border-radius:3px;min-width:1px}
.av-bar b{position:absolute;top:-2px;bottom:-2px;width:2px;margin-left:-1px;
  background:var(--body-text-color)}
.av-key{font-size:.8rem;color:var(--av-grey);margin:.5rem 0 0}
.av-notes{margin:0 0 .8rem;padding:.5rem .8rem .5rem 1.8rem;border-left:4px solid #d98200;
  background:var(--background-fill-secondary);border-radius:4px;font-size:.88rem;list-style:disc}
.av-strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(58px,1fr));gap:.5rem}
.av-strip figure{margin:0;text-align:center;font-size:.75rem}
.av-strip img{border-radius:6px;width:100%;height:auto;display:block}
.av-strip figcaption{color:var(--av-grey)}
.av-wide{overflow-x:auto;max-width:calc(100vw - 6rem)}
.av-wide img{width:100%;min-width:560px;border-radius:6px;display:block}
.av-refused{border-left:4px solid #c62828;padding:.6rem .9rem;border-radius:4px;
  background:var(--background-fill-secondary)}
"""
