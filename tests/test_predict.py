"""Prediction from files and arrays; missing streams; errors."""

import json
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avjax
from avjax import predict
from avjax.errors import InputError
from avjax.models.audio_visual import AudioVisualNet
from avjax.models.ops.frames import normalise
from avjax.models.single_modality import AudioNet
from avjax.preparation.clip import prepare_clip
from avjax.runs.saved_model import save_model
from tests.clips import tone, write_video
from tests.small_networks import CLASSES, random_variables, small_card

NET = AudioVisualNet(num_classes=3, stage_repeats=(1, 1, 1))
CARD = small_card(num_frames=2, image_size=64, audio_steps=156)


class FakeDetector:
    """A detector that returns the same boxes for every frame."""

    def __init__(self, *boxes):
        self.boxes = np.array(boxes).reshape(-1, 4)

    def faces(self, frames, thorough=False):
        return [self.boxes] * len(frames)


apply = jax.jit(NET.apply)
FACE, NO_FACE = FakeDetector([20.0, 10.0, 70.0, 60.0]), FakeDetector()


@pytest.fixture(scope="module", autouse=True)
def _small_network():
    """Replaces the network by a smaller one, which compiles quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "build_network", lambda network: NET)
        yield


@pytest.fixture(scope="module")
def variables():
    """Random variables with positive variances and small logits."""
    return random_variables(NET, *(np.float32(x) for x in inputs(1)), divisor=10)


@pytest.fixture(scope="module")
def model(variables):
    return predict.Model(variables, CARD, FACE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, variables):
    path = tmp_path_factory.mktemp("run")
    save_model(path / "best", variables, CARD)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", 110, sound=tone(4))


def inputs(rows):
    rng = np.random.default_rng(0)
    mfcc = rng.normal(0, 30, (rows, 156, 10)).astype(np.float32)
    return mfcc, rng.integers(0, 256, (rows, 2, 64, 64, 3), np.uint8)


def test_logits_equal_the_network(model, variables):
    mfcc, frames = inputs(2)
    logits = model.logits(mfcc, frames)
    assert logits.shape == (2, 3)
    assert logits.dtype == np.float32
    expected = apply(variables, mfcc, normalise(jnp.asarray(frames), "fixed"))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 0.01


def test_missing_stream_is_zeros_after_normalisation(model, variables):
    mfcc, frames = inputs(2)
    logits = model.logits(mfcc, frames, has_audio=np.array([True, False]), has_video=[False, True])
    normalised = normalise(jnp.asarray(frames), "fixed")
    mfcc[1], normalised = 0, normalised.at[0].set(0)
    np.testing.assert_allclose(logits, apply(variables, mfcc, normalised), rtol=1e-4, atol=1e-5)


def test_omitted_array_is_a_missing_stream(model):
    """Not black frames: the fixed profile normalises them to nonzero values."""
    mfcc, frames = inputs(2)
    absent = np.zeros(2, bool)
    for arrays, flag in (((mfcc, None), "has_video"), ((None, frames), "has_audio")):
        expected = model.logits(mfcc, frames, **{flag: absent})
        np.testing.assert_array_equal(model.logits(*arrays), expected)
        np.testing.assert_array_equal(model.logits(*arrays, **{flag: ~absent}), expected)
    logits = model.logits(mfcc, frames[:, :0])  # as in a sound dataset
    np.testing.assert_array_equal(logits, model.logits(mfcc))


def test_empty_batch_gives_empty_logits(model):
    mfcc, frames = inputs(2)
    for arrays in ((mfcc[:0], frames[:0]), (mfcc[:0], None), (None, frames[:0])):
        logits = model.logits(*arrays)
        assert (logits.shape, logits.dtype) == ((0, 3), np.float32)


def with_nan(mfcc, row):
    return np.where(np.arange(len(mfcc))[:, None, None] == row, np.float32("nan"), mfcc)


def test_missing_stream_may_hold_nan(model):
    mfcc, frames = inputs(2)
    present = np.array([True, False])
    expected = model.logits(mfcc, frames, has_audio=present)
    nan = with_nan(mfcc, 1)
    np.testing.assert_array_equal(model.logits(nan, frames, has_audio=present), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mfcc, frames: (mfcc, frames / np.float32(255)), "frames are float32; give uint8"),
        (
            lambda mfcc, frames: (mfcc, frames[0]),
            r"frames \[2, 64, 64, 3\] have the wrong",
        ),
        (lambda mfcc, frames: (mfcc, frames[..., :1]), r"frames .* have the wrong shape"),
        (lambda mfcc, frames: (mfcc[0], frames), r"mfcc \[156, 10\] has the wrong shape; give"),
        (
            lambda mfcc, frames: (mfcc.swapaxes(1, 2), frames),
            r"mfcc \[2, 10, 156\] has the wrong",
        ),
        (lambda mfcc, frames: (mfcc.astype(complex), frames), "mfcc is complex128; give float32"),
        (lambda mfcc, frames: (mfcc.astype(str), frames), "mfcc is <U.*; give float32"),
        (lambda mfcc, frames: ([[0], [0, 1]], frames), "mfcc is not an array"),
        (lambda mfcc, frames: (mfcc[:1], frames), r"different numbers of clips"),
        (lambda mfcc, frames: (mfcc[:0], frames), r"different numbers of clips"),
        (lambda mfcc, frames: (with_nan(mfcc, 1), frames), "mfcc of clip 1 holds NaN"),
        (lambda mfcc, frames: (None, None), "neither mfcc nor frames"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(model, change, message):
    with pytest.raises(InputError, match=message):
        model.logits(*change(*inputs(2)))


@pytest.mark.parametrize("name", ["has_audio", "has_video"])
@pytest.mark.parametrize("value", [[True], np.ones(3, bool), np.ones((2, 1), bool), [1.0, 0.0], 1])
def test_flags_that_do_not_fit_are_refused(model, name, value):
    with pytest.raises(InputError, match=f"{name} is .*; give 2 booleans, one per clip"):
        model.logits(*inputs(2), **{name: value})


def test_predict_returns_probabilities_of_a_raw_clip(model, clip):
    prediction = model.predict(clip)
    assert list(prediction.probabilities) == CLASSES
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.label == max(CLASSES, key=prediction.probabilities.get)
    assert prediction.missing == ()
    restored = predict.Prediction(**json.loads(json.dumps(prediction.to_json())))
    assert restored.probabilities == prediction.probabilities


def test_missing_streams_are_listed(model, variables, clip, tmp_path):
    mute = write_video(tmp_path / "mute.mp4", 110)
    assert model.predict(mute).missing == ("audio",)
    faceless = predict.Model(variables, CARD, NO_FACE)
    prediction = faceless.predict(clip)
    assert prediction.missing == ("video",)
    assert "without video" in str(prediction)
    assert prediction.probabilities != model.predict(clip).probabilities
    with pytest.raises(InputError, match=r"mute\.mp4 has neither sound nor a face"):
        faceless.predict(mute)


def test_people_beside_the_followed_one_are_told(variables, clip):
    several = FakeDetector([20.0, 10.0, 70.0, 60.0], [2.0, 10.0, 10.0, 18.0])
    note = "2 people seen; followed the one seen longest and largest (2 of 2 frames)"
    prediction = predict.Model(variables, CARD, several).predict(clip)
    assert prediction.notes == (note,)
    assert f"note: {note}" in str(prediction)
    alone = predict.Model(variables, CARD, FACE).predict(clip)
    assert (prediction.probabilities, alone.notes) == (alone.probabilities, ())


def test_predict_prepared_equals_predict(model, clip):
    shape = {name: getattr(CARD, name) for name in ("profile", "num_frames", "image_size")}
    prepared = prepare_clip(clip, clip, **shape, seconds=CARD.seconds, detector=FACE)
    expected, prediction = model.predict_prepared(prepared), model.predict(clip)
    for name in ("label", "probabilities", "missing", "notes"):
        assert getattr(prediction, name) == getattr(expected, name)


def test_load_restores_the_saved_model(checkpoint, model):
    loaded = avjax.load(checkpoint)
    assert loaded.card == CARD
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, model.variables)
    np.testing.assert_array_equal(loaded.logits(*inputs(2)), model.logits(*inputs(2)))


def test_command_prints_predictions_and_errors(checkpoint, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "default_detector", lambda: FACE)
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    arguments = ["predict", "--json", "--checkpoint", str(checkpoint)]
    assert predict.main([*arguments, str(text), str(clip), str(tmp_path / "absent.mp4")]) == 1
    out, err = capsys.readouterr()
    (line,) = map(json.loads, out.splitlines())
    assert line["clip"] == str(clip)
    names = ("label", "probabilities", "calibrated", "missing", "notes", "timeline")
    assert set(line) == {"clip", *names}
    errors = [line for line in err.splitlines() if "%|" not in line]  # but the bar
    assert [error.startswith("error: ") for error in errors] == [True, True]
    assert "text.mp4" in errors[0]
    assert "absent.mp4" in errors[1]
    assert predict.main([*arguments[:1], *arguments[2:], str(clip)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{clip}: {line['label']}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "absent"], "no clip given; name one or more video or sound"),
        (["--checkpoint", "absent", "clip.mp4"], "there is no checkpoint at absent"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert predict.main(["predict", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--hop=0", "hop 0 s is out of range"),
        ("--plot=x.txt", "--plot=x.txt has another suffix"),
        ("--csv=absent/x.csv", "absent/x.csv cannot be written"),
        ("--annotate=sub/../v.mp4", "would overwrite v.mp4, which is read"),
    ],
)
def test_wrong_flags_are_all_that_is_told(flag, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    audio = AudioNet(num_classes=6)
    monkeypatch.setattr(predict, "build_network", lambda network: audio)
    (tmp_path / "sub").mkdir()
    (tmp_path / "v.mp4").write_text("video")
    assert predict.main(["predict", flag, "v.mp4"]) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err
    assert (tmp_path / "v.mp4").read_text() == "video"


def test_an_absent_clip_is_named(model):
    (outcome,) = model.predict_many(["nope.wav"])
    assert str(outcome[1]) == "there is no clip nope.wav; name a video or sound file"


def test_an_error_of_a_library_on_one_clip_is_one_line(
    checkpoint, clip, tmp_path, monkeypatch, capsys
):
    class Dazzled(FakeDetector):
        def faces(self, frames, thorough=False):
            if frames.mean() > 200:
                raise ZeroDivisionError("too bright")
            return super().faces(frames, thorough)

    monkeypatch.setattr(predict, "default_detector", lambda: Dazzled(*FACE.boxes))
    white = [np.full((64, 96, 3), 255, np.uint8)] * 4
    bright = write_video(tmp_path / "bright.mp4", white, sound=tone(0.3))
    arguments = ["predict", "--json", "--checkpoint", str(checkpoint), str(bright), str(clip)]
    reason = f"error: {bright} cannot be prepared (ZeroDivisionError: too bright)"
    for flags in ([], ["--debug"]):
        assert predict.main([*arguments, *flags]) == 1
        out, err = capsys.readouterr()
        assert [json.loads(line)["clip"] for line in out.splitlines()] == [str(clip)]
        assert reason in err
        assert ("Traceback" in err and "in faces" in err) == bool(flags)


def test_predict_outside_the_main_thread(model, checkpoint, clip, monkeypatch, capsys):
    monkeypatch.setattr(predict, "default_detector", lambda: FACE)
    arguments = ["predict", "--json", "--checkpoint", str(checkpoint), str(clip)]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(model.predict, clip).result() == model.predict(clip)
        assert pool.submit(predict.main, arguments).result() == 0
    assert json.loads(capsys.readouterr().out)["clip"] == str(clip)


def test_each_stream_alone_is_judged_beside_the_whole(model, variables, clip, tmp_path):
    apart = model.predict_apart(clip)
    assert list(apart) == ["whole", "audio", "video"]
    assert apart["whole"] == model.predict(clip)
    assert apart["audio"].missing == ("video",)
    assert apart["video"].missing == ("audio",)
    faceless = predict.Model(variables, CARD, NO_FACE)
    assert faceless.predict(clip).probabilities == apart["audio"].probabilities
    assert list(faceless.predict_apart(clip)) == ["whole"]
    shape = {"profile": "fixed", "num_frames": 2, "image_size": 64}
    prepared = prepare_clip(clip, clip, **shape, seconds=CARD.seconds, detector=FACE)
    mute = model.predict_prepared(prepared._replace(has_audio=False))
    assert mute.probabilities == apart["video"].probabilities
    silent = write_video(tmp_path / "silent.mp4", 110)
    assert list(model.predict_apart(silent)) == ["whole"]
