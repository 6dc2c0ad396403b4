"""Preparation of a clip: windows and frames of both profiles."""

import numpy as np
import pytest

from avjax.data.records import WINDOW_SECONDS, audio_steps
from avjax.errors import InputError
from avjax.preparation.clip import (
    Window,
    check_profile,
    even_times,
    prepare_clip,
    reference_indices,
)
from tests.clips import WholeFrame, frame, tone, write_sound, write_video

SIZE = 32


def prepare(video, audio, profile="fixed", num_frames=6, detector=None):
    return prepare_clip(
        video,
        audio,
        profile=profile,
        num_frames=num_frames,
        image_size=SIZE,
        detector=detector or WholeFrame(),
    )


def test_reference_frames_are_the_centres_of_equal_parts():
    assert reference_indices(15) == [i * 108 // 15 + 3 for i in range(15)]
    assert reference_indices(6) == [9, 27, 45, 63, 81, 99]


def test_even_times_are_the_middles_of_equal_parts_of_the_window():
    np.testing.assert_allclose(even_times(0.0, 5.0, 3, Window(0.7, 3.6)), [1.3, 2.5, 3.7])
    np.testing.assert_allclose(even_times(0.0, 5.0, 2, Window(0.0, 3.6)), [0.9, 2.7])


def test_window_beyond_the_video_ends_with_it():
    np.testing.assert_allclose(even_times(0.5, 2.5, 2, Window(0.0, 3.6)), [1.0, 2.0])
    np.testing.assert_allclose(even_times(0.0, 1.0, 2, Window(2.0, 3.6)), [1.0, 1.0])


def test_reference_profile_starts_at_zero_and_pads_with_black(tmp_path):
    video = write_video(tmp_path / "clip.mp4", 70)
    clip = prepare(video, None, "reference")
    assert clip.frames.shape == (6, SIZE, SIZE, 3)
    means = clip.frames.mean((1, 2, 3))
    np.testing.assert_allclose(means[:4], [frame(i).mean() for i in (9, 27, 45, 63)], atol=2)
    assert not clip.frames[4:].any()


def test_fixed_profile_is_rgb_and_reference_profile_bgr(tmp_path):
    blue = np.zeros((64, 96, 3), np.uint8)
    blue[..., 2] = 200
    video = write_video(tmp_path / "blue.mp4", [blue] * 110)
    assert prepare(video, None, "fixed").frames[0].mean((0, 1)).argmax() == 2
    assert prepare(video, None, "reference").frames[0].mean((0, 1)).argmax() == 0


def test_fixed_profile_crops_sound_and_frames_to_one_window(tmp_path):
    """The centre window of 4.6 s of sound, and so of the frames, starts at 0.5 s."""
    samples = tone(4.6)
    samples[: int(0.5 * 48000)] = 0
    sound = write_sound(tmp_path / "sound.wav", samples)
    images = [np.full((64, 96, 3), 20 + i, np.uint8) for i in range(138)]
    clip = prepare(write_video(tmp_path / "clip.mp4", images), sound, num_frames=1)
    middle = 20 + 15 + 54  # of the 108 frames from number 15
    np.testing.assert_allclose(clip.frames.mean(), middle, atol=1)
    assert clip.mfcc[2, 0] == pytest.approx(clip.mfcc[80, 0], abs=5)


def test_short_fixed_clip_repeats_frames(tmp_path):
    clip = prepare(write_video(tmp_path / "clip.mp4", 2), None, num_frames=4)
    means = clip.frames.mean((1, 2, 3))
    assert means[0] == means[1] < means[2] == means[3]


@pytest.mark.parametrize("profile", ["fixed", "reference"])
def test_missing_sound_is_zeros(tmp_path, profile):
    video = write_video(tmp_path / "clip.mp4", 40, sound=np.zeros(48000, np.float32))
    clip = prepare(video, video, profile)
    assert (clip.has_audio, clip.has_video) == (False, True)
    assert clip.mfcc.shape == (audio_steps(WINDOW_SECONDS), 10)
    assert not clip.mfcc.any()


@pytest.mark.parametrize("profile", ["fixed", "reference"])
def test_missing_face_is_zeros(tmp_path, profile):
    video = write_video(tmp_path / "clip.mp4", 40, sound=tone(1))
    clip = prepare(video, video, profile, detector=WholeFrame(faces=False))
    assert (clip.has_audio, clip.has_video) == (True, False)
    assert clip.frames.shape == (6, SIZE, SIZE, 3)
    assert not clip.frames.any()
    assert clip.faceless == (6 if profile == "fixed" else 2)


def test_clip_without_video(tmp_path):
    clip = prepare(None, write_sound(tmp_path / "sound.flac", tone(2)))
    assert (clip.has_audio, clip.has_video) == (True, False)
    assert clip.mfcc.any()


def test_too_few_frames_for_the_reference_profile_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"clip\.mp4 has only 2 frames"):
        prepare(write_video(tmp_path / "clip.mp4", 2), None, "reference")


def test_unknown_profiles_are_refused():
    check_profile("reference")
    with pytest.raises(InputError, match=r"unknown profile 'fancy'; choose one of fixed, refe"):
        check_profile("fancy")
