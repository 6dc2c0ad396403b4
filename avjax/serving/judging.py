"""Judges clips: what a worker computes for the endpoint and for the page."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from avjax.errors import InputError
from avjax.models.network import Network
from avjax.predictions.prediction import Prediction
from avjax.runs.saved_model import ModelCard
from avjax.runtime.sealed import finite
from avjax.runtime.versions import versions
from avjax.serving import views
from avjax.serving.limits import Limits, check_media

EXAMPLES = Path(__file__).parent / "examples"  # of synthetic actors, by tools/make_examples.py


class Judging(Protocol):
    """A model, such as `avjax.predict.Model`."""

    card: ModelCard

    @property
    def net(self) -> Network:
        """The network."""
        ...

    def predict(self, path: Path) -> Prediction:
        """Predicts the emotion in a file."""
        ...

    def predict_apart(self, path: Path) -> dict[str, Prediction]:
        """As `predict`, and from each stream alone."""
        ...


class Facts(NamedTuple):
    """What a page and an endpoint say of the model.

    Attributes:
      model: its name, or the network's kind.
      statement: data, accuracy, limits and licence; empty for a model of one's own.
      classes: names.
      streams: those that it reads.
      versions: of libraries.
    """

    model: str
    statement: str
    classes: list[str]
    streams: list[str]
    versions: dict[str, str]


def facts(model: Judging) -> Facts:
    """Returns what there is to say of a model."""
    card = model.card
    name = card.about.get("name") or card.network["kind"]
    streams = list(model.net.inputs.streams)
    return Facts(name, card.statement, card.classes, streams, versions())


def warm_up(model: Judging) -> None:
    """Judges the examples once, which compiles what later clips use.

    Raises:
      InputError: the face detector's weights are missing.
    """
    for name in ("happy.mp4", "mixed.mp4"):  # one window, and several
        model.predict_apart(EXAMPLES / name)


def as_json(model: Judging, path: Path, name: str, limits: Limits) -> dict[str, Any]:
    """Returns what ``avjax predict --json`` prints, with the client's name for the file.

    Raises:
      InputError: the file cannot be judged, or exceeds a limit.
    """
    check_media(path, limits)
    return finite({"clip": name, **model.predict(path).to_json()})


def as_page(model: Judging, path: Path, name: str, limits: Limits) -> str:
    """Returns an answer in HTML: bars, each stream alone, notes, faces, timeline.

    Raises:
      InputError: as `as_json`.
    """
    check_media(path, limits)
    apart = model.predict_apart(path)
    return views.answer(path, name, apart)


def without_path(error: InputError, path: Path, name: str) -> str:
    """Returns an error's message with the client's name for the file in place of its path."""
    return " ".join(str(error).replace(str(path), name).split())
