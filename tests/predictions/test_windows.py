"""Windows that slide over long files: the same as cuts, and what is missing where."""

import math

import jax
import numpy as np
import pytest
import soundfile

from avjax import predict
from avjax.errors import InputError
from avjax.models.audio_visual import AudioVisualNet
from avjax.models.ops.frames import normalise
from avjax.models.single_modality import AudioNet
from avjax.preparation.clip import prepare_clip
from avjax.preparation.windows import check_hop, plan_windows
from avjax.runs.saved_model import ModelCard
from tests.clips import tone, write_sound, write_video
from tests.small_networks import small_card

NET = AudioVisualNet(num_classes=3, stage_repeats=(1, 1, 1))
CARD = small_card(num_frames=4, image_size=64, audio_steps=44, seconds=1.0)


class BrightFaces:
    """Finds a face, at a place of its own, in frames of some brightness; counts frames searched."""

    def __init__(self, least=0, people=1):
        self.least, self.people, self.searched = least, people, {False: 0, True: 0}

    def faces(self, frames, thorough=False):
        self.searched[thorough] += len(frames)
        found = []
        for image in frames:
            x = image.mean() / 10
            boxes = [[x, 5.0, x + 40, 45.0], [70.0, 5.0, 85.0, 20.0]][: self.people]
            found.append(np.array(boxes if image.mean() >= self.least else []).reshape(-1, 4))
        return found


@pytest.fixture(scope="module", autouse=True)
def _small_network():
    """Replaces the network by a smaller one, which compiles quickly."""
    with pytest.MonkeyPatch.context() as patch:
        kinds = {"audio_visual": NET, "audio": AudioNet(num_classes=3)}
        patch.setattr(predict, "build_network", lambda network: kinds[network["kind"]])
        yield


def draw(net, card):
    """Random variables with positive variances, whose logits differ from clip to clip."""
    rng = np.random.default_rng(3)

    def values(path, leaf):
        drawn = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return drawn + 1 if path[-1].key in ("var", "scale") else drawn

    shapes = jax.eval_shape(
        net.init,
        jax.random.key(0),
        np.zeros((1, card.audio_steps, 10), np.float32),
        np.zeros((1, card.num_frames, 64, 64, 3), np.float32),
    )
    drawn = jax.tree_util.tree_map_with_path(values, shapes)
    classifier = (
        drawn["params"].get("classifier_1") or drawn["params"]["audio_model"]["classifier_1"]
    )
    classifier["kernel"] /= 30
    return drawn


@pytest.fixture(scope="module")
def variables():
    return draw(NET, CARD)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Three seconds; the tone rises, so that no two windows are the same."""
    sound = np.concatenate([tone(0.5, hertz=200.0 * (i + 1)) for i in range(6)])
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", 90, sound=sound)


def logits(probabilities):
    return np.log(np.array(list(probabilities.values())))


@pytest.mark.parametrize("profile", ["fixed", "reference"])
def test_windows_equal_cuts(variables, clip, profile):
    card = CARD if profile == "fixed" else ModelCard(**{**vars(CARD), "profile": profile})
    model = predict.Model(variables, card, BrightFaces(least=80))
    prediction = model.predict(clip, hop=0.5)
    assert len(prediction.timeline) == 5
    for window in prediction.timeline if profile == "fixed" else []:
        cut = prepare_clip(
            clip,
            clip,
            profile=profile,
            num_frames=4,
            image_size=64,
            seconds=1.0,
            detector=BrightFaces(least=80),
            start=window.start,
            end=window.end,
        )
        expected = model.predict_prepared(cut)
        assert window.missing == expected.missing
        np.testing.assert_allclose(
            logits(window.probabilities), logits(expected.probabilities), atol=0.1
        )
    first, *_, last = prediction.timeline
    assert first.missing == ("video",) and last.missing == ()
    assert first.probabilities != last.probabilities
    mean = np.mean([logits(window.probabilities) for window in prediction.timeline], axis=0)
    expected = np.exp(mean) / np.exp(mean).sum()
    np.testing.assert_allclose(list(prediction.probabilities.values()), expected, rtol=1e-6)
    assert prediction.label == CARD.classes[int(mean.argmax())]


def test_windows_of_the_network_equal_clips(variables, clip):
    """Features of frames are shared, and equal those of clips that are encoded alone."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 4, 64, 64, 3), np.uint8)
    mfcc = rng.normal(0, 30, (3, 44, 10)).astype(np.float32)
    model = predict.Model(variables, CARD, BrightFaces())
    expected = model.logits(mfcc, frames)
    apply = jax.jit(NET.apply, static_argnames="method")
    images = normalise(frames.reshape(-1, 64, 64, 3), "fixed")
    features = apply(variables, images, method="encode_images")
    shared = apply(variables, mfcc, features.reshape(3, 4, -1), method="fuse_images")
    np.testing.assert_allclose(shared, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("people", [1, 2])
def test_each_frame_is_searched_once(variables, clip, people):
    detector = BrightFaces(people=people)
    prediction = predict.Model(variables, CARD, detector).predict(clip, hop=0.25)
    assert len(prediction.timeline) == 9
    frames = 8 + 4
    assert len(prediction.faces) == frames
    searches = {False: frames, True: frames if people > 1 else 0}
    assert detector.searched == searches
    followed = [note for note in prediction.notes if "2 people seen" in note]
    assert len(followed) == people - 1


def test_silence_and_faceless_stretches_are_told(variables, tmp_path):
    sound = np.concatenate([tone(1.9), np.zeros(100800, np.float32), tone(1)])
    images = [np.full((64, 96, 3), 120 if i < 30 or i >= 120 else 20, np.uint8) for i in range(150)]
    clip = write_video(tmp_path / "clip.mp4", images, sound=sound)
    prediction = predict.Model(variables, CARD, BrightFaces(least=60)).predict(clip, hop=1.0)
    missing = [window.missing for window in prediction.timeline]
    assert missing == [(), ("video",), ("audio", "video"), ("audio", "video"), ()]
    unjudged = prediction.timeline[2]
    assert (unjudged.label, unjudged.probabilities) == (None, {})
    assert prediction.missing == ()
    assert "no sound in 2 of 5 windows" in prediction.notes
    assert "no face in 3 of 5 windows" in prediction.notes
    assert "nothing to judge in 2 of 5 windows" in prediction.notes
    assert "12 of 20 frames without a face" in prediction.notes
    assert "not judged: without audio and video" in str(prediction)
    assert [face.box is None for face in prediction.faces].count(True) == 12


def test_a_bar_counts_the_windows(variables, clip, capsys):
    model = predict.Model(variables, CARD, BrightFaces())
    results = [result for _, result in model.predict_many([clip, clip], hop=0.5, progress=True)]
    assert results[0] == results[1]
    bars = [line for line in capsys.readouterr().err.splitlines() if "%|" in line]
    assert bars and all(" 0/5 " in line or "5/5 " in line for line in bars)
    model.predict(clip, hop=0.5)
    assert capsys.readouterr().err == ""


def test_a_file_with_nothing_in_it_is_refused(variables, tmp_path):
    mute = write_video(tmp_path / "mute.mp4", 90)
    model = predict.Model(variables, CARD, BrightFaces(least=300))
    with pytest.raises(InputError, match=r"mute\.mp4 has neither sound nor a face"):
        model.predict(mute)


def test_tracks_of_other_lengths(variables, tmp_path):
    """Video of 2 s beside sound of 4 s: later windows have no video."""
    clip = write_video(tmp_path / "clip.mp4", 60, sound=tone(4))
    prediction = predict.Model(variables, CARD, BrightFaces()).predict(clip, hop=1.0)
    assert [w.missing for w in prediction.timeline] == [(), (), ("video",), ("video",)]
    sound = write_sound(tmp_path / "voice.flac", tone(3, 22050), 22050)
    prediction = predict.Model(variables, CARD, BrightFaces()).predict(sound, hop=1.0)
    assert prediction.missing == ("video",)
    assert prediction.faces == ()


def test_a_model_of_sound_takes_any_hop(tmp_path):
    net = {"kind": "audio", "num_classes": 3}
    card = ModelCard(net, CARD.classes, "fixed", 0, 64, 44, seconds=1.0)
    model = predict.Model(draw(AudioNet(num_classes=3), card), card)
    sound = write_sound(tmp_path / "voice.wav", tone(2.2, 22050), 22050)
    assert len(model.predict(sound, hop=0.3).timeline) == 5
    assert len(model.predict(sound).timeline) == 3
    odd = tmp_path / "voice.mat"  # which FFmpeg does not read
    soundfile.write(odd, tone(1.2, 22050), 22050, format="MAT5", subtype="PCM_16")
    assert len(model.predict(odd).timeline) == 1
    with pytest.raises(InputError, match=r"hop 0 s is out of range; choose more than 0, up to 1 s"):
        model.predict(sound, hop=0)


def test_calibrated_probabilities(variables, clip):
    temperatures = {"both": 2.0, "audio": 4.0}
    card = ModelCard(**{**vars(CARD), "temperatures": temperatures})
    model = predict.Model(variables, card, BrightFaces(least=80))
    prediction = model.predict(clip, hop=0.5)
    scaled = []
    for window in prediction.timeline:
        temperature = temperatures["audio" if window.missing else "both"]
        powers = np.exp(logits(window.probabilities) / temperature)
        expected = powers / powers.sum()
        np.testing.assert_allclose(list(window.calibrated.values()), expected, rtol=1e-6)
        scaled.append(logits(window.probabilities) / temperature)
    mean = np.exp(np.mean(scaled, axis=0))
    np.testing.assert_allclose(list(prediction.calibrated.values()), mean / mean.sum(), rtol=1e-6)
    assert "calibrated" in str(prediction)
    card = ModelCard(**{**vars(CARD), "temperatures": {"both": 2.0}})
    prediction = predict.Model(variables, card, BrightFaces(least=80)).predict(clip, hop=0.5)
    assert prediction.calibrated is None  # some windows lack a temperature
    assert prediction.timeline[-1].calibrated is not None


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.4, 1.6, 2.0, 2.3])
def test_windows_are_centred_in_the_file(tmp_path, seconds):
    sound = write_sound(tmp_path / "voice.wav", tone(seconds, 22050), 22050)
    plan = plan_windows(sound, streams=("audio",), seconds=1.0, num_frames=4, hop=0.5)
    left, right = plan.first, seconds - (plan.start(plan.total - 1) + 1.0)
    assert plan.total == (1 if seconds < 1.5 else 2 if seconds < 2.0 else 3)
    if seconds >= 1.0:
        assert left == pytest.approx(right, abs=1e-3)
        assert left < 0.25 + 1e-3


@pytest.mark.parametrize(
    ("hop", "choices"),
    [
        (1.0, "0.96 or 1.2"),
        (0.1, "0.24 or 0.48"),
        (0.0, "0.24"),
        (-3.0, "0.24"),
        (5.0, "3.6"),
        (math.nan, "0.24"),
        (math.inf, "0.24"),
    ],
)
def test_a_bad_hop_names_good_ones(hop, choices):
    with pytest.raises(InputError, match=rf"is no multiple of 0\.24 s.*; choose {choices}$"):
        check_hop(hop, 3.6, 15)


def test_a_good_hop_is_a_multiple_of_a_frames_share():
    assert check_hop(None, 3.6, 15) == pytest.approx(1.92)
    assert check_hop(None, 3.6, 0) == pytest.approx(1.8)
    for number in range(1, 16):
        assert check_hop(round(number * 0.24, 2), 3.6, 15) == pytest.approx(number * 0.24)


def test_each_stream_alone_is_judged_window_by_window(variables, tmp_path):
    long = write_video(tmp_path / "long.mp4", 100, sound=tone(3.3))
    model = predict.Model(variables, CARD, BrightFaces())
    apart = model.predict_apart(long)
    assert list(apart) == ["whole", "audio", "video"]
    assert apart["whole"] == model.predict(long)
    faceless = predict.Model(variables, CARD, BrightFaces(least=999)).predict(long)
    assert apart["audio"].timeline == faceless.timeline
    assert {window.missing for window in apart["video"].timeline} == {("audio",)}
