"""Synthetic clips: names, files, determinism, faces and voices."""

import importlib.util
import runpy
from collections.abc import Callable

import av
import numpy as np
import pytest
import soundfile
from demo import corpus
from demo import face as faces
from demo import voice as voices

from avjax import cli
from avjax.data.ravdess import EMOTIONS, ClipName
from avjax.errors import InputError
from avjax.preparation import media
from avjax.preparation.face_detector import COARSE_MIN_FACE_SIZE, FaceDetector
from avjax.preparation.face_detector.weights import PACKAGE, REMEDY

SMALL = {"seconds": 0.6, "size": 64}


def clip_name(emotion: str, actor: int = 3, take: str = "02-01-01") -> ClipName:
    return ClipName.parse(f"01-01-{EMOTIONS.index(emotion) + 1:02d}-{take}-{actor:02d}")


def film(name: ClipName, seed: int = 0, **options) -> np.ndarray:
    frames, _ = corpus.make_clip(name, seed, **options)
    return np.stack(list(frames))


def voice(name: ClipName, seed: int = 0, seconds: float = corpus.SECONDS) -> np.ndarray:
    return corpus.make_clip(name, seed, seconds=seconds)[1].samples


# ---------------------------------------------------------------------------------------- names


def test_corpus_is_balanced_over_actors_and_emotions():
    names = corpus.corpus(actors=12, clips_per_emotion=4)
    assert len(set(names)) == len(names) == 12 * 8 * 4
    assert {name.actor for name in names} == {f"{actor:02d}" for actor in range(1, 13)}
    per_emotion = np.bincount([name.label for name in names], minlength=8)
    np.testing.assert_array_equal(per_emotion, 12 * 4)
    for feature in ("statement", "repetition"):
        assert sum(getattr(name, feature) == "01" for name in names) == len(names) // 2


def test_full_corpus_has_as_many_clips_as_ravdess_speech():
    names = corpus.corpus(actors=24, clips_per_emotion=8)
    assert len(set(names)) == 1440  # RAVDESS's speech trials
    assert all(n.intensity == "01" for n in names if EMOTIONS[n.label] == "neutral")


@pytest.mark.parametrize(("actors", "clips"), [(0, 4), (25, 4), (12, 0), (12, 9)])
def test_corpus_refuses_numbers_out_of_range(actors, clips):
    with pytest.raises(InputError, match="choose 1 to"):
        corpus.corpus(actors, clips)


# ---------------------------------------------------------------------------------------- files


def test_clip_files_have_the_lengths_and_formats_of_ravdess(tmp_path):
    name = clip_name("happy")
    video, sound = corpus.write_clip(tmp_path, name, size=64)
    assert (video.name, sound.name) == ("01-01-03-02-01-01-03.mp4", "03-01-03-02-01-01-03.wav")
    assert sorted(path.name for path in tmp_path.iterdir()) == [video.name, sound.name]
    with av.open(str(video)) as container:
        picture, track = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec_context.name, track.codec_context.name) == ("h264", "aac")
        assert (picture.width, picture.height, picture.average_rate) == (64, 64, 30)
    assert len(media.frame_times(video)) == 108
    information = soundfile.info(sound)
    assert (information.samplerate, information.subtype) == (48000, "PCM_16")
    assert (information.frames, information.channels) == (172800, 1)


def test_sound_of_the_video_matches_the_sound_file(tmp_path):
    video, sound = corpus.write_clip(tmp_path, clip_name("angry"), **SMALL)
    from_video, from_file = media.read_audio(video), media.read_audio(sound)
    assert np.corrcoef(from_video[: len(from_file)], from_file)[0, 1] > 0.98  # nor is it delayed


def test_written_video_shows_the_drawn_frames(tmp_path):
    name = clip_name("sad")
    video, _ = corpus.write_clip(tmp_path, name, **SMALL)
    drawn = film(name, **SMALL)
    decoded = media.read_frames(video, list(range(len(drawn))))
    assert decoded.shape == drawn.shape
    assert np.abs(decoded.astype(int) - drawn).mean() < 8  # grey levels; chroma is subsampled


def test_corpus_keeps_existing_clips_and_adds_missing_ones(tmp_path):
    names = [clip_name("calm"), clip_name("fearful", actor=4)]
    folder = tmp_path / "Actor_03"
    folder.mkdir()
    video, sound = corpus.write_clip(folder, names[0], **SMALL)
    times = video.stat().st_mtime_ns, sound.stat().st_mtime_ns
    assert corpus.write_corpus(tmp_path, names, processes=1) == 1
    assert (video.stat().st_mtime_ns, sound.stat().st_mtime_ns) == times
    assert (tmp_path / "Actor_04" / f"{names[1].clip_id}.mp4").exists()
    assert corpus.write_corpus(tmp_path, names, processes=1) == 0
    with pytest.raises(InputError, match="other settings"):
        corpus.write_corpus(tmp_path, names, seed=1)


@pytest.fixture
def command(root_dir) -> Callable[..., int]:
    script = runpy.run_path(str(root_dir / "tools" / "make_demo_clips.py"))
    return lambda *argv: cli.run(["make_demo_clips", *argv], script["define_flags"], script["job"])


def test_command_completes_a_corpus(command, tmp_path, capsys):
    names = corpus.corpus(actors=1, clips_per_emotion=1)
    folder = tmp_path / "Actor_01"
    folder.mkdir()
    for name in names[1:]:
        corpus.write_clip(folder, name, **SMALL)
    options = (f"--out={tmp_path}", "--actors=1", "--clips_per_emotion=1", "--processes=1")
    assert command(*options) == 0
    assert f"8 clips in {tmp_path} (1 new)" in capsys.readouterr().out
    assert len(list(folder.glob("*.mp4"))) == len(list(folder.glob("*.wav"))) == 8


def test_command_reports_errors_in_one_line(command, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    for options, message in (
        ((f"--out={tmp_path}", "--actors=25"), "number of actors is 25"),
        ((f"--out={file}",), "is a file"),
    ):
        assert command(*options) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1


# ---------------------------------------------------------------------------------- determinism


def test_clip_depends_only_on_seed_and_name(tmp_path):
    name = clip_name("surprised")
    first = [path.read_bytes() for path in corpus.write_clip(tmp_path, name, **SMALL)]
    film(clip_name("sad", actor=8), **SMALL)
    second = [path.read_bytes() for path in corpus.write_clip(tmp_path, name, **SMALL)]
    assert first == second
    assert not np.array_equal(film(name, **SMALL), film(name, seed=1, **SMALL))
    assert not np.array_equal(voice(name, seconds=1), voice(name, seed=1, seconds=1))


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_all_emotions_have_a_face_and_a_voice(emotion):
    rng = np.random.default_rng(0)
    expressions = [faces.draw_expression(emotion, 1.0, rng) for _ in range(400)]
    manners = [voices.draw_manner(emotion, 1.0, rng) for _ in range(400)]
    for drawn, table, jitter in (
        (expressions, faces.FACES, faces.JITTER),
        (manners, voices.MANNERS, voices.JITTER),
    ):
        error = np.abs(np.mean(drawn, 0) - table[emotion]) / jitter
        assert error.max() < 0.5  # clipping shifts some means


# ---------------------------------------------------------------------------------------- faces


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"MTCNN's weights are not installed: {REMEDY}")
    return FaceDetector(coarse_min_face_size=COARSE_MIN_FACE_SIZE)


def test_detector_finds_every_face_in_its_place(detector):
    frames, expected = [], []
    for index, emotion in enumerate(EMOTIONS):
        for actor in (1 + index, 9 + index):
            name = clip_name(emotion, actor, "01-01-01")
            drawn, _ = corpus.make_clip(name, seconds=0.2)
            frames.append(list(drawn)[-1])
            expected.append(corpus.SIZE / 2)
    boxes = detector.largest_boxes(np.stack(frames))
    assert all(box is not None for box in boxes)
    corners = np.array(boxes)
    middles = (corners[:, :2] + corners[:, 2:]) / 2
    sides = corners[:, 2:] - corners[:, :2]
    assert np.abs(middles - corpus.SIZE / 2).max() < 0.12 * corpus.SIZE
    assert sides.min() > 0.35 * corpus.SIZE
    assert sides.max() < 0.8 * corpus.SIZE


def test_faces_are_symmetric():
    """Flipping in training must not change the emotion; light from the front."""
    look = faces.draw_look(np.random.default_rng(0), 1)._replace(light=(0.0, -0.5))
    artist = faces.FaceArtist(look, 128)
    for expression in faces.FACES.values():
        frame = artist.draw(expression, faces.Pose()).astype(int)
        assert np.abs(frame - frame[:, ::-1]).mean() < 3


def test_only_open_eyes_show_their_whites():
    look = faces.draw_look(np.random.default_rng(0), 5)  # dark skin
    artist = faces.FaceArtist(look, 224)

    def whites(eye_open: float) -> int:
        expression = faces.REST._replace(eye_open=eye_open)
        eyes = artist.draw(expression, faces.Pose())[84:126, 56:168]
        return int((eyes.min(-1) > 190).sum())

    assert whites(1.5) > whites(1.0) > 20
    assert whites(0.0) == 0


def test_expressions_differ_more_between_emotions_than_within():
    look = faces.draw_look(np.random.default_rng(0), 1)
    artist, rng = faces.FaceArtist(look, 96), np.random.default_rng(0)

    def face(emotion: str) -> np.ndarray:
        expression = faces.draw_expression(emotion, 0.9, rng)
        return artist.draw(expression, faces.Pose()).astype(float)

    shown = {e: np.stack([face(e) for _ in range(4)]) for e in ("happy", "sad", "surprised")}
    assert _between(shown) > 1.2 * _within(shown)


def test_mouth_moves_with_the_speech():
    name = clip_name("neutral", take="01-01-01")
    frames, speech = corpus.make_clip(name, size=96)
    mouth = np.stack(list(frames))[:, 60:78, 40:56].astype(float)
    moved = np.abs(mouth - mouth[0]).mean((1, 2, 3))
    at_frames = np.linspace(0, len(speech.openness) - 1, len(moved)).round().astype(int)
    assert np.corrcoef(moved, speech.openness[at_frames])[0, 1] > 0.4


# --------------------------------------------------------------------------------------- voices


def _level(samples: np.ndarray) -> float:
    return 10 * np.log10(np.mean(samples**2))


def test_voices_are_audible_and_not_clipped():
    for emotion in EMOTIONS:
        samples = voice(clip_name(emotion, take="01-01-01"))
        assert np.abs(samples).max() <= voices.PEAK
        assert -48 < _level(samples) < -10
        assert np.mean(np.abs(samples) == voices.PEAK) < 1e-3


def test_anger_is_louder_than_sadness():
    speaker = voices.draw_speaker(np.random.default_rng(0), 1)
    angry, sad = (
        voices.speak(speaker, voices.MANNERS[emotion], 1, 3.6, np.random.default_rng(0)).samples
        for emotion in ("angry", "sad")
    )
    assert _level(angry) > _level(sad) + 10


@pytest.mark.parametrize("pitch", [0.0, 12.0])
def test_voice_has_the_given_pitch(pitch):
    speaker = voices.Speaker(pitch=120, tract=1, brightness=0, gain=0, room=-90)
    manner = voices.PLAIN._replace(pitch=pitch, melody=0, slope=0, tremor=0, rate=2)
    speech = voices.speak(speaker, manner, 1, 2.0, np.random.default_rng(0))
    rate = voices.SAMPLE_RATE
    sound = speech.samples[int(0.6 * rate) : int(0.75 * rate)]  # within the first vowel
    echo = np.correlate(sound, sound, "full")[len(sound) - 1 :]
    lags = np.arange(rate // 400, rate // 80)
    hertz = rate / lags[np.argmax(echo[lags])]
    assert hertz == pytest.approx(120 * 2 ** (pitch / 12), rel=0.03)


def test_manners_differ_more_between_emotions_than_within():
    def features(emotion: str, take: str) -> np.ndarray:
        return media.mfcc(voice(clip_name(emotion, take=take))[::2].astype(np.float32)).mean(0)

    takes = ("02-01-01", "02-01-02", "02-02-01", "02-02-02")
    heard = {e: np.stack([features(e, t) for t in takes]) for e in ("happy", "sad", "disgust")}
    assert _between(heard) > 1.5 * _within(heard)


def _within(groups: dict[str, np.ndarray]) -> float:
    """Mean distance between two clips of the same group."""
    return float(np.mean([_distances(group, group).sum() / 12 for group in groups.values()]))


def _between(groups: dict[str, np.ndarray]) -> float:
    """Mean distance between two clips of different groups."""
    pairs = [(a, b) for a in groups for b in groups if a < b]
    return float(np.mean([_distances(groups[a], groups[b]).mean() for a, b in pairs]))


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first.reshape(len(first), -1), second.reshape(len(second), -1)
    return np.linalg.norm(first[:, None] - second[None], axis=-1)
