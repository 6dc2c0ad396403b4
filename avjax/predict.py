"""Predicts the emotion in raw or prepared clips with a trained model."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("predict"))

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from avjax.data.records import SAMPLE_RATE, PreparedClip
from avjax.errors import InputError
from avjax.models.network import Network
from avjax.models.networks import build_network
from avjax.predictions.inputs import checked_batch
from avjax.predictions.judge import WHOLE, WINDOWS_AT_ONCE, Judge, clip_logits, only
from avjax.predictions.many import in_order, media_files
from avjax.predictions.outputs import check_outputs
from avjax.predictions.prediction import (
    Prediction,
    Scored,
    Window,
    missing_notes,
    nothing_there,
    summarise,
)
from avjax.predictions.show import show
from avjax.preparation.clip import explained, prepare_clip
from avjax.preparation.face_detector import default_detector
from avjax.preparation.faces import Detector, Face
from avjax.preparation.sound import resample
from avjax.preparation.windows import Plan, check_hop, plan_windows, read_windows
from avjax.runs.saved_model import ModelCard, load_model
from avjax.runtime.ahead import ahead
from avjax.runtime.progress import progress_bar

_WINDOWS_AHEAD = 8

__all__ = ["Model", "Prediction", "Window", "main"]


class Model:
    """A trained network with its variables and card.

    Attributes:
      card: classes, profile and sizes of the training clips.
      variables: ``params`` and ``batch_stats`` (running statistics), trees of float32 arrays for
        ``model.net.apply``.
    """

    def __init__(
        self, variables: Mapping[str, Any], card: ModelCard, detector: Detector | None = None
    ) -> None:
        """Compiles nothing before first use, then once per input shape.

        Args:
          variables: ``params`` and ``batch_stats``.
          card: the model's card.
          detector: finds faces in raw clips; by default the MTCNN, loaded on first use.

        Raises:
          InputError: the card describes an invalid network.
        """
        self.card = card
        self.variables = jax.device_put(dict(variables))
        self._detector = detector
        self._net = build_network(card.network)
        self._warm = threading.Event()  # clear while `warm_up` works
        self._warm.set()

    def __repr__(self) -> str:
        card = self.card
        fields = {k: v for k, v in card.network.items() if k not in ("kind", "num_classes")}
        settings = "".join(f" {name}={value}" for name, value in fields.items())
        trained = f", epoch {card.epoch}" if card.epoch else ""
        if "accuracy" in card.metrics:
            trained += f", validation accuracy {card.metrics['accuracy']:.1%}"
        return (
            f"<{type(self).__name__} {card.network['kind']}{settings}: {', '.join(card.classes)}; "
            f"profile {card.profile}{trained}>"
        )

    @property
    def net(self) -> Network:
        """The network; ``net.inputs`` lists the inputs it reads."""
        return self._net

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Loads a run's best epoch, a converted checkpoint, or a model that avjax carries, by name.

        Raises:
          InputError: no model there, or only a face backbone, which does not classify.
        """
        return cls(*load_model(path))

    def logits(
        self,
        mfcc: Float[Array | np.ndarray, "b t 10"] | None = None,
        frames: UInt8[Array | np.ndarray, "b n h w 3"] | None = None,
        *,
        has_audio: Bool[Array | np.ndarray, "b"] | None = None,
        has_video: Bool[Array | np.ndarray, "b"] | None = None,
    ) -> Float[np.ndarray, "b k"]:
        """Returns logits of prepared clips.

        Length of clips and size of frames may differ from training. Inputs that the network does
        not read are ignored.

        Args:
          mfcc: finite MFCCs, as in a prepared dataset; log-mel spectrograms for a network of kind
            "log_mel"; None if no clip has sound.
          frames: face crops as in the model's profile (`reference`: BGR, `fixed`: RGB); None if no
            clip has any.
          has_audio: False for clips without sound, where the network sees zeros; by default all
            True, or all False without ``mfcc``.
          has_video: the same for frames.

        Returns:
          Float32 logits of the classes in ``card.classes``.

        Raises:
          InputError: wrong dtype, shape or number of arrays, non-finite MFCCs, or no input that the
            network reads.
        """
        batch = checked_batch(self._net.inputs, self.card, mfcc, frames, has_audio, has_video)
        self._warm.wait()
        if not len(batch["audio"]):
            return np.zeros((0, len(self.card.classes)), np.float32)
        return np.asarray(clip_logits(self.variables, batch, self._net, self.card.profile))

    def warm_up(self) -> None:
        """Compiles what a clip of one window needs, in a thread, while the first one is read."""

        def work() -> None:
            card, inputs = self.card, self._net.inputs
            size = card.image_size
            frames = np.zeros((1, card.num_frames, size, size, 3), np.uint8)
            try:
                if "audio" in inputs.streams:
                    resample(np.zeros(SAMPLE_RATE, np.float32), 2 * SAMPLE_RATE, SAMPLE_RATE)
                mfcc = np.zeros((1, card.audio_steps, inputs.audio_width), np.float32)
                batch = checked_batch(inputs, card, mfcc, frames, None, None)
                clip_logits(self.variables, batch, self._net, card.profile)
            except Exception:  # the first clip will meet it again
                pass
            finally:
                self._warm.set()

        self._warm.clear()
        threading.Thread(target=work, name="warm up").start()

    def predict(
        self, path: str | Path, *, hop: float | None = None, progress: bool = False
    ) -> Prediction:
        """Predicts the emotion in a raw video with its sound track, or in a sound file.

        Windows as long as the training clips slide over the file. A file that is less than a hop
        longer than one has the one in its middle, prepared exactly like a training clip. A window
        that lacks sound, or a face, is judged by the other stream, one that lacks both not at all.

        Args:
          path: a media file.
          hop: seconds from one window to the next, see `avjax.preparation.windows.check_hop`; by
            default about half a window.
          progress: show a bar over the windows of a long file.

        Raises:
          InputError: an unreadable file, no stream that the network reads, a bad ``hop``, or
            missing weights of the face detector.
        """
        return self._predict(path, hop, progress, threading.Event())[WHOLE]

    def predict_apart(self, path: str | Path, *, hop: float | None = None) -> dict[str, Prediction]:
        """Predicts as `predict`, and once more from each stream, with the other one left out.

        The file is decoded, searched and encoded once.

        Args:
          path: as in `predict`.
          hop: as in `predict`.

        Returns:
          By ``"whole"`` the result of `predict`; by ``"audio"`` and ``"video"`` what that stream
          alone says, if the network reads both and the file has both.

        Raises:
          InputError: as `predict`.
        """
        return self._predict(path, hop, False, threading.Event(), apart=True)

    def _predict(
        self,
        path: str | Path,
        hop: float | None,
        progress: bool,
        stop: threading.Event,
        apart: bool = False,
    ) -> dict[str, Prediction]:
        """As `predict_apart`, or the whole alone; gives up once asked to stop."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no clip {path}; name a video or sound file")
        card = self.card
        with explained(path):
            plan = plan_windows(
                path,
                streams=self._net.inputs.streams,
                seconds=card.seconds,
                num_frames=card.num_frames,
                hop=hop,
            )
        if plan.total > 1:
            return self._predict_windows(plan, progress, stop, apart)
        clip, faces = self._prepare(plan)
        end = min(plan.first + plan.seconds, plan.end or plan.seconds)
        clips = {WHOLE: clip}
        if apart and len(self._net.inputs.streams) > 1 and clip.has_audio and clip.has_video:
            clips["audio"] = clip._replace(has_video=False)
            clips["video"] = clip._replace(has_audio=False)
        return {
            name: self._predict_clip(part, str(path), plan.first, end, faces)
            for name, part in clips.items()
        }

    def predict_many(
        self, paths: Iterable[str | Path], *, hop: float | None = None, progress: bool = False
    ) -> Iterator[tuple[Path, Prediction | InputError]]:
        """Predicts several files, some at once on several cores; one that fails stops no other.

        Args:
          paths: media files.
          hop: as in `predict`.
          progress: as in `predict`, for the first file.

        Yields:
          In order, each path with its prediction, or with the error that `predict` raised.
        """
        stop, bars = threading.Event(), iter([progress])
        return in_order(
            lambda path: self._predict(path, hop, next(bars, False), stop)[WHOLE], paths, stop
        )

    def predict_prepared(self, clip: PreparedClip, name: str = "clip") -> Prediction:
        """Predicts the emotion in a result of `prepare_clip`; error messages contain ``name``.

        Raises:
          InputError: the clip has no stream that the network reads.
        """
        return self._predict_clip(clip, name, 0.0, self.card.seconds, [])

    def _predict_clip(
        self, clip: PreparedClip, name: str, start: float, end: float, faces: list[Face]
    ) -> Prediction:
        """Predicts the emotion in one prepared window of a file."""
        streams = self._net.inputs.streams
        present = {"audio": clip.has_audio, "video": clip.has_video}
        missing = tuple(stream for stream in streams if not present[stream])
        if missing == streams:
            raise InputError(nothing_there(name, streams))
        audio = clip.log_mel if self._net.inputs.audio == "log_mel" else clip.mfcc
        if audio is None:
            raise InputError(
                f"{name} was prepared without log-mel spectrograms; prepare it with them"
            )
        logits = self.logits(
            audio[None] if clip.has_audio else None,
            clip.frames[None] if clip.has_video else None,
        )
        scored = Scored(start, end, logits[0], missing)
        return self._summary([scored], clip.notes, faces)

    def _predict_windows(
        self, plan: Plan, progress: bool, stop: threading.Event, apart: bool
    ) -> dict[str, Prediction]:
        """Predicts the emotion in each of several windows of a file, and in the whole."""
        inputs, card = self._net.inputs, self.card
        told: dict[str, None] = {}
        prepared = read_windows(
            plan,
            profile=card.profile,
            image_size=card.image_size,
            log_mels=inputs.audio_width if inputs.audio == "log_mel" else 0,
            detector=None if plan.video is None else self._find_faces,
            told=told,
        )
        streams = inputs.streams
        names = (WHOLE, *streams) if apart and len(streams) > 1 else (WHOLE,)
        scored: dict[str, list[Scored]] = {name: [] for name in names}
        faces: list[Face] = []
        windows = ahead(prepared, _WINDOWS_AHEAD)  # prepared while others are judged
        bar = progress_bar(total=plan.total, unit="window", leave=False, disable=not progress)
        with explained(plan.path), contextlib.closing(windows), bar:
            while batch := list(itertools.islice(windows, WINDOWS_AT_ONCE)):
                faces += [face for window in batch for face in window.faces]
                if stop.is_set():
                    raise CancelledError
                for name in names:
                    scored[name] += self._judge.scored(plan, [only(name, w) for w in batch])
                bar.update(len(batch))
        judged = [n for n in names if any(window.logits is not None for window in scored[n])]
        if WHOLE not in judged:
            raise InputError(nothing_there(str(plan.path), streams))
        kept = judged if len(judged) == len(names) else [WHOLE]
        return {
            name: self._summary(scored[name], (*told, *missing_notes(scored[name])), faces)
            for name in kept
        }

    def _summary(
        self, scored: list[Scored], told: tuple[str, ...], faces: list[Face]
    ) -> Prediction:
        streams, card = self._net.inputs.streams, self.card
        return summarise(
            scored,
            told,
            faces,
            classes=card.classes,
            streams=streams,
            temperatures=card.temperatures,
        )

    def _prepare(self, plan: Plan) -> tuple[PreparedClip, list[Face]]:
        """Prepares the centre window of a file."""
        inputs, card = self._net.inputs, self.card
        faces: list[Face] = []
        clip = prepare_clip(
            None if plan.video is None else plan.path,
            plan.path,
            profile=card.profile,
            num_frames=card.num_frames,
            image_size=card.image_size,
            seconds=card.seconds,
            detector=None if plan.video is None else self._find_faces,
            log_mels=inputs.audio_width if inputs.audio == "log_mel" else 0,
            followed=faces,
        )
        return clip, faces

    @functools.cached_property
    def _find_faces(self) -> Detector:
        return default_detector() if self._detector is None else self._detector

    @functools.cached_property
    def _judge(self) -> Judge:
        return Judge(self._net, self.variables, self.card)


def predict_files(
    checkpoint: str, paths: list[str], *, hop: float | None, outputs: dict[str, Any], **shown: Any
) -> int:
    """Predicts files and the media files of folders; shows and writes what they show.

    Args:
      checkpoint: see `Model.load`.
      paths: files and folders.
      hop: see `Model.predict`.
      outputs: see `avjax.predictions.outputs.check_outputs`.
      **shown: see `avjax.predictions.show.show`.

    Returns:
      Exit status: 0, or 1 if a file failed.

    Raises:
      InputError: no model, a bad ``hop``, a folder without media files, or an output that cannot be
        written, or would overwrite an input. Nothing is printed before.
    """
    told: list[str] = []
    files = media_files(paths, told)
    check_outputs(files, outputs)
    model = Model.load(checkpoint)
    reads_video = "video" in model.net.inputs.streams
    check_hop(hop, model.card.seconds, model.card.num_frames if reads_video else 0)
    if model.card.about:
        print(model.card.statement, file=sys.stderr)
    model.warm_up()
    for line in told:
        print(f"note: {line}", file=sys.stderr)
    results = model.predict_many(files, hop=hop, progress=len(files) == 1)
    return show(results, files, **outputs, **shown)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.predict`."""
    return commands.run("predict", argv)
