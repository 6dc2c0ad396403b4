"""What a model says of a file, as a whole and window by window."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from avjax.preparation.faces import Face
from avjax.preparation.notes import windows_without

_MOST_LINES = 20  # of a timeline in text


@dataclasses.dataclass(frozen=True)
class Window:
    """A model's prediction for one window of a file.

    Attributes:
      start: in seconds.
      end: in seconds.
      label: the most probable class; None if the window lacks every stream that the model reads.
      probabilities: probability of every class, by name; empty without a label.
      missing: the streams, of those that the model reads, that the window lacks.
      calibrated: calibrated probabilities; None if the model is not calibrated, or without a label.
    """

    start: float
    end: float
    label: str | None
    probabilities: dict[str, float]
    missing: tuple[str, ...] = ()
    calibrated: dict[str, float] | None = None

    @property
    def shown(self) -> dict[str, float]:
        """The probabilities to show: calibrated ones, if there are any."""
        return self.calibrated or self.probabilities


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's prediction for one file.

    Attributes:
      label: the most probable class.
      probabilities: probability of every class, by name, in the model's order. Of several windows,
        the normalised geometric mean over judged ones, so the label is that of the mean log
        probability.
      missing: the streams, of those that the network reads, that the file lacked throughout; the
        network saw zeros.
      notes: what preparation decided by itself, such as "deinterlaced"; see
        `avjax.preparation.notes`.
      calibrated: probabilities by the temperatures of the model's card; None if it has none.
      timeline: the file's windows.
      faces: the followed face in the frames that the model saw; empty without video. Not in JSON.
    """

    label: str
    probabilities: dict[str, float]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calibrated: dict[str, float] | None = None
    timeline: tuple[Window, ...] = ()
    faces: tuple[Face, ...] = dataclasses.field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the prediction as a JSON-serialisable dict."""
        content = dataclasses.asdict(self)
        del content["faces"]
        windows = [window | {"missing": list(window["missing"])} for window in content["timeline"]]
        lists = {"missing": list(self.missing), "notes": list(self.notes), "timeline": windows}
        return content | lists

    def __str__(self) -> str:
        """Formats one line per class, the most probable first, then the timeline in short."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        lines = [f"  {name:12}{p:6.1%}{self._calibrated_text(name)}" for name, p in ranked]
        if self.missing:
            lines.append(f"  without {' and '.join(self.missing)}")
        lines += [f"  note: {note}" for note in self.notes]
        if len(self.timeline) > 1:
            spans = [f"  {text}" for text in _spans(self.timeline)]
            lines += spans[:_MOST_LINES]
            if len(spans) > _MOST_LINES:
                lines.append(f"  and {len(spans) - _MOST_LINES} more; see --json, --csv or --plot")
        return "\n".join(lines)

    def _calibrated_text(self, name: str) -> str:
        return "" if self.calibrated is None else f"  calibrated {self.calibrated[name]:6.1%}"


def edges(timeline: Sequence[Window]) -> list[float]:
    """Returns where each window's share of the time begins, and the end of the last one's.

    Windows overlap; their shares meet midway between the middles of neighbours.
    """
    middles = [(window.start + window.end) / 2 for window in timeline]
    between = [(a + b) / 2 for a, b in itertools.pairwise(middles)]
    return [timeline[0].start, *between, timeline[-1].end]


def _spans(timeline: Sequence[Window]) -> list[str]:
    """Describes successive windows that agree in label and missing streams."""
    texts: list[str] = []
    shares = list(zip(timeline, itertools.pairwise(edges(timeline)), strict=True))
    for _, members in itertools.groupby(shares, lambda share: (share[0].label, share[0].missing)):
        group, times = zip(*members, strict=True)
        where = f"{clock(times[0][0])} to {clock(times[-1][1])}"
        label, missing = group[0].label, " and ".join(group[0].missing)
        if label is None:
            texts.append(f"{where}  not judged: without {missing}")
            continue
        probability = np.mean([window.shown[label] for window in group])
        without = f"  without {missing}" if missing else ""
        texts.append(f"{where}  {label:12}{probability:6.1%}{without}")
    return texts


def clock(second: float) -> str:
    """Formats a time as minutes and seconds."""
    tenths = round(second * 10)
    return f"{tenths // 600:3d}:{tenths % 600 / 10:04.1f}"


class Scored(NamedTuple):
    """A window with its logits.

    Attributes:
      start: in seconds.
      end: in seconds.
      logits: None if it lacks every stream that the network reads.
      missing: the streams that it lacks.
    """

    start: float
    end: float
    logits: Float[np.ndarray, "k"] | None
    missing: tuple[str, ...]


def summarise(
    windows: Sequence[Scored],
    notes: Sequence[str],
    faces: Sequence[Face],
    *,
    classes: Sequence[str],
    streams: Sequence[str],
    temperatures: Mapping[str, float],
) -> Prediction:
    """Returns the prediction for a file.

    Mean logits and mean log probabilities differ by one number for all classes, so the softmax of
    the former is the normalised geometric mean, and of one window exactly its own softmax.

    Args:
      windows: in order; at least one has logits.
      notes: on the file.
      faces: of its frames.
      classes: names, in the order of the logits.
      streams: those that the network reads.
      temperatures: see `avjax.runs.saved_model.ModelCard`.
    """

    def named(logits: Float[np.ndarray, "k"]) -> dict[str, float]:
        return dict(zip(classes, _softmax(logits).tolist(), strict=True))

    timeline, raw, scaled = [], [], []
    for window in windows:
        if window.logits is None:
            timeline.append(Window(window.start, window.end, None, {}, window.missing))
            continue
        temperature = _temperature(window.missing, streams, temperatures)
        raw.append(window.logits.astype(np.float64))
        scaled.append(None if temperature is None else raw[-1] / temperature)
        calibrated = None if scaled[-1] is None else named(scaled[-1])
        probabilities = named(raw[-1])
        label = max(probabilities, key=probabilities.__getitem__)
        timeline.append(
            Window(window.start, window.end, label, probabilities, window.missing, calibrated)
        )
    judged = [logits for logits in scaled if logits is not None]
    probabilities = named(np.mean(raw, axis=0))
    return Prediction(
        max(probabilities, key=probabilities.__getitem__),
        probabilities,
        tuple(s for s in streams if all(s in window.missing for window in windows)),
        tuple(notes),
        named(np.mean(judged, axis=0)) if len(judged) == len(raw) else None,
        tuple(timeline),
        tuple(faces),
    )


def _softmax(logits: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _temperature(
    missing: Sequence[str], streams: Sequence[str], temperatures: Mapping[str, float]
) -> float | None:
    """Returns the temperature for the streams that are there; None if there is none."""
    present = [stream for stream in streams if stream not in missing]
    return temperatures.get("both" if len(present) > 1 else present[0])


def missing_notes(windows: Sequence[Scored]) -> list[str]:
    """Tells in how many of several windows sound or a face is missing, and how many had neither."""
    told = []
    total = len(windows)
    for stream, text in (("audio", "no sound"), ("video", "no face")):
        count = sum(stream in window.missing for window in windows)
        if 0 < count < total:
            told.append(windows_without(text, count, total))
    unjudged = sum(window.logits is None for window in windows)
    if unjudged:
        told.append(windows_without("nothing to judge", unjudged, total))
    return told


def nothing_there(name: str, streams: tuple[str, ...]) -> str:
    """Says that a file has no stream that the network reads."""
    reasons: dict[tuple[str, ...], str] = {
        ("audio",): "no sound, and the model reads nothing else",
        ("video",): "no face, and the model reads nothing else",
    }
    return f"{name} has {reasons.get(streams, 'neither sound nor a face')}; choose another clip"
