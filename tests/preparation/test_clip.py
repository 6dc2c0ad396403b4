"""Preparation of a clip: windows and frames of both profiles."""

import numpy as np
import pytest

from avjax.data.records import WINDOW_SECONDS, audio_steps
from avjax.errors import InputError
from avjax.preparation.clip import check_profile, even_indices, prepare_clip, reference_indices
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


def test_even_frames_lie_in_the_centre_window():
    times = np.arange(150) / 30  # 5 s: the window is 0.7 to 4.3 s
    indices = even_indices(times, 6)
    assert np.diff(indices).tolist() == [18] * 5
    assert indices[0] - 21 == 129 - 1 - indices[-1] + 1 == 9
    assert even_indices(times, 6, start=0.0) == [9, 27, 45, 63, 81, 99]


def test_frames_of_short_clips_are_repeated():
    assert even_indices(np.arange(30) / 30, 3) == [5, 15, 25]
    assert even_indices(np.arange(2) / 30, 4) == [0, 0, 1, 1]
    assert even_indices(np.zeros(1), 3) == [0, 0, 0]


def test_window_past_the_end_uses_the_last_frame():
    assert even_indices(np.arange(10) / 30, 2, start=2.0) == [9, 9]


def test_frames_of_a_variable_frame_rate_are_chosen_by_time():
    times = np.concatenate([np.arange(60) / 30, 2 + np.arange(12) / 6])
    indices = even_indices(times, 1, start=2.0)
    assert times[indices[0]] == pytest.approx(3.0)


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
    assert check_profile("reference") == "reference"
    with pytest.raises(InputError, match=r"unknown profile 'fancy'; choose one of fixed, refe"):
        check_profile("fancy")
