"""The demo's corpus: raw clips of synthetic actors, named as in RAVDESS.

Every actor has a look and a voice. Every clip has an expression and a manner of speaking. Some
emotions share a face (`face.FACES`) or a voice (`voice.MANNERS`), their strength varies, and
sometimes face or voice hides them: neither stream suffices alone.

A clip depends only on the seed, the actor and its name.
"""

import functools
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
from demo.face import Expression, FaceArtist, Pose, draw_expression, draw_look
from demo.voice import (
    OPENNESS_RATE,
    SAMPLE_RATE,
    Speaker,
    Speech,
    draw_manner,
    draw_speaker,
    speak,
)
from jaxtyping import Float, UInt8

from avjax.data.ravdess import ACTORS, AUDIO_ONLY, AUDIO_VIDEO, EMOTIONS, SPEECH, ClipName
from avjax.errors import InputError
from avjax.runtime.progress import progress_bar

FRAME_RATE = 30
HOLD = 2  # frames per drawing: on twos, as in animation
SECONDS = 3.6  # a network's window
SIZE = 224  # pixels; the face fills about half of it
GRAIN = 3.0  # standard deviation of the camera noise, in grey levels

STRENGTHS = {"01": (0.5, 0.9), "02": (0.75, 1.15)}  # range for each intensity
HIDING_SHARE, HIDING_STRENGTH = 0.1, 0.3  # share of hidden faces and voices, and their strength

# Intensity, statement and repetition, ordered so that any prefix is balanced. RAVDESS has no strong
# neutral.
TAKES = (
    *("01-01-01", "02-02-01", "02-01-02", "01-02-02"),
    *("02-01-01", "01-02-01", "01-01-02", "02-02-02"),
)
H264_OPTIONS = {"preset": "ultrafast", "crf": "20"}
AAC_OPTIONS = {"aac_coder": "fast"}
SETTINGS_FILE = "synthetic.json"


def corpus(actors: int, clips_per_emotion: int) -> list[ClipName]:
    """Returns the names of a corpus's clips, actor by actor.

    Args:
      actors: number of actors, 1 to 24.
      clips_per_emotion: clips per actor and emotion, 1 to 8; neutral has at most 4.

    Raises:
      InputError: a number is out of range.
    """
    _check("actors", actors, len(ACTORS))
    _check("clips per emotion", clips_per_emotion, len(TAKES))
    names = []
    for actor in ACTORS[:actors]:
        for label, emotion in enumerate(EMOTIONS):
            takes = [take for take in TAKES if emotion != "neutral" or take.startswith("01")]
            for take in takes[:clips_per_emotion]:
                text = f"{AUDIO_VIDEO}-{SPEECH}-{label + 1:02d}-{take}-{actor:02d}"
                names.append(ClipName.parse(text))
    return names


def _check(quantity: str, number: int, maximum: int) -> None:
    if not 1 <= number <= maximum:
        raise InputError(f"the number of {quantity} is {number}; choose 1 to {maximum}")


def write_corpus(
    out: Path, names: list[ClipName], seed: int = 0, processes: int = 2, progress: bool = False
) -> int:
    """Writes every clip's video and sound to ``out/Actor_NN/``.

    Keeps existing clips, so calling it again completes the corpus.

    Args:
      out: the folder; created if missing.
      names: the clips; see `corpus`.
      seed: random seed.
      processes: number of parallel processes.
      progress: whether to show a progress bar.

    Returns:
      The number of clips written.

    Raises:
      InputError: ``out`` is a file or holds clips of another seed.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder for the clips")
    out.mkdir(parents=True, exist_ok=True)
    _check_settings(out / SETTINGS_FILE, {"seed": seed})
    folders = {name.actor: out / f"Actor_{name.actor}" for name in names}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    todo = [(folders[n.actor], n, seed) for n in names if not _is_written(folders[n.actor], n)]
    # Spawn: a fork does not survive the threads of JAX, which the caller may have started.
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(processes, len(todo)))
    with ProcessPoolExecutor(workers, context, initializer=_one_thread) as pool:
        done = pool.map(_write, todo, chunksize=4)
        for _ in progress_bar(done, total=len(todo), unit="clip", disable=not progress):
            pass
    return len(todo)


def _check_settings(path: Path, settings: dict[str, int]) -> None:
    """Writes the settings, or compares them with those of existing clips."""
    text = json.dumps(settings) + "\n"
    if not path.exists():
        path.write_text(text)
    elif (existing := path.read_text()) != text:
        raise InputError(
            f"{path.parent} holds clips of other settings ({existing.strip()}); choose another "
            "folder, or remove that one"
        )


def _one_thread() -> None:
    """Keeps OpenCV's threads from competing with other processes."""
    cv2.setNumThreads(1)


def _write(task: tuple[Path, ClipName, int]) -> None:
    folder, name, seed = task
    write_clip(folder, name, seed)


def _paths(folder: Path, name: ClipName) -> tuple[Path, Path]:
    """Returns the paths of a clip's video and sound."""
    sound = name._replace(modality=AUDIO_ONLY)
    return folder / f"{name.clip_id}.mp4", folder / f"{sound.clip_id}.wav"


def _is_written(folder: Path, name: ClipName) -> bool:
    return all(path.exists() for path in _paths(folder, name))


def write_clip(
    folder: Path, name: ClipName, seed: int = 0, *, seconds: float = SECONDS, size: int = SIZE
) -> tuple[Path, Path]:
    """Writes one clip: an mp4 (H.264, AAC) and its wav (48 kHz, 16 bit, mono).

    Writes each file under a temporary name first, so a file with its final name is complete.

    Args:
      folder: an existing folder.
      name: the clip; emotion, intensity, statement and actor determine its content.
      seed: random seed.
      seconds: length of the clip.
      size: width and height of the video in pixels; even.

    Returns:
      The paths of the video and the sound.
    """
    frames, speech = make_clip(name, seed, seconds=seconds, size=size)
    video, sound = _paths(folder, name)
    part = sound.with_suffix(".part")
    soundfile.write(part, speech.samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    part.replace(sound)
    part = video.with_suffix(".part")
    _encode(part, size, frames, speech.samples)
    part.replace(video)
    return video, sound


def make_clip(
    name: ClipName, seed: int = 0, *, seconds: float = SECONDS, size: int = SIZE
) -> tuple[Iterator[UInt8[np.ndarray, "size size 3"]], Speech]:
    """Returns the RGB frames of a clip, drawn lazily, and its speech.

    Args:
      name: see `write_clip`.
      seed: see `write_clip`.
      seconds: see `write_clip`.
      size: see `write_clip`.
    """
    actor, emotion = int(name.actor), EMOTIONS[name.label]
    artist, speaker = _cast(seed, actor, size)
    take = np.random.default_rng((seed, *(int(field) for field in name[1:])))
    expression = draw_expression(emotion, _draw_strength(name.intensity, take), take)
    manner = draw_manner(emotion, _draw_strength(name.intensity, take), take)
    speech = speak(speaker, manner, int(name.statement), seconds, take)
    return _film(artist, expression, speech, seconds, take), speech


@functools.lru_cache(maxsize=1)  # clips come actor by actor
def _cast(seed: int, actor: int, size: int) -> tuple[FaceArtist, Speaker]:
    rng = np.random.default_rng((seed, actor))
    look, speaker = draw_look(rng, actor), draw_speaker(rng, actor)
    return FaceArtist(look, size), speaker


def _draw_strength(intensity: str, rng: np.random.Generator) -> float:
    """Draws how clearly a face or voice shows its emotion; 1 is the table's entry."""
    strength = rng.uniform(*STRENGTHS[intensity])
    return HIDING_STRENGTH * strength if rng.random() < HIDING_SHARE else strength


# ----------------------------------------------------------------------------------------- video

SPEAKING = 0.3  # how far speech opens the mouth
BLINK_SECONDS = 0.16
SWAY = Pose(x=0.02, y=0.018, turn=0.05)  # of the head at a sway of 1
STANCE = Pose(x=0.012, y=0.01, turn=0.03, zoom=0.03)  # standard deviation between clips


def _film(
    artist: FaceArtist,
    expression: Expression,
    speech: Speech,
    seconds: float,
    rng: np.random.Generator,
) -> Iterator[UInt8[np.ndarray, "size size 3"]]:
    """Draws a clip's frames: lips move with the speech, eyes blink, the head sways."""
    count = round(seconds * FRAME_RATE)
    stance = rng.normal(size=4) * STANCE + Pose()
    phases = rng.uniform(0, 2 * np.pi, 3)
    blinks = rng.uniform(0, 2.5) + np.array([0.0, rng.uniform(1.2, 2.5)])
    grain = np.round(rng.normal(0, GRAIN, (2, artist.size, artist.size, 3))).astype(np.int16)
    for index in range(0, count, HOLD):
        time = index / FRAME_RATE
        swing = np.sin(2 * np.pi * expression.tempo * time * np.array([1, 1.3, 0.8]) + phases)
        sway = np.append(expression.sway * swing, 0.0) * SWAY
        loudness = np.interp(time * OPENNESS_RATE, np.arange(len(speech.openness)), speech.openness)
        blinking = np.any(np.abs(time - blinks) < BLINK_SECONDS / 2)
        current = expression._replace(
            mouth_open=expression.mouth_open + SPEAKING * float(loudness),
            eye_open=0.0 if blinking else expression.eye_open,
        )
        drawing = artist.draw(current, Pose(*(stance + sway).tolist()))
        frame = cv2.add(drawing, grain[index // HOLD % 2], dtype=cv2.CV_8U)
        for _ in range(min(HOLD, count - index)):
            yield frame


def _encode(
    path: Path,
    size: int,
    frames: Iterator[UInt8[np.ndarray, "size size 3"]],
    samples: Float[np.ndarray, "s"],
) -> None:
    """Writes an mp4 on one thread, so the bytes do not depend on the number of cores."""
    block = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "fltp", "mono")
    block.sample_rate, block.pts = SAMPLE_RATE, 0  # without pts the encoder's delay remains
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options=H264_OPTIONS)
        video.height = video.width = size
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        sound = container.add_stream("aac", rate=SAMPLE_RATE, options=AAC_OPTIONS, layout="mono")
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        container.mux(sound.encode(block))
        container.mux(sound.encode())
