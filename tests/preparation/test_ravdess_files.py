"""Finding RAVDESS clips on disk."""

import pytest

from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.ravdess_files import find_crops, find_raw
from avjax.preparation.raw_clip import RawClip

TRIAL = "01-03-01-02-01-05"


def modality(clip):
    """Returns RAVDESS's modality field."""
    return clip.record.clip_id[:2]


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize("folder", ["ACTOR05", "Actor_05", "actor05"])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_video_and_sound_in_one_folder(tmp_path, folder, suffix):
    touch(tmp_path, f"{folder}/01-{TRIAL}.mp4", f"{folder}/03-{TRIAL}.{suffix}")
    (clip,), skipped = find_raw(tmp_path, pair_video_only=False)
    assert clip.record.clip_id == f"01-{TRIAL}"
    assert clip.audio == tmp_path / folder / f"03-{TRIAL}.{suffix}"
    assert skipped == {}


def test_sibling_folders_and_unrelated_files(tmp_path):
    touch(
        tmp_path,
        f"video/Actor_05/01-{TRIAL}.mp4",
        f"video/Actor_05/02-{TRIAL}.mp4",
        f"audio/Actor_05/03-{TRIAL}.flac",
        f"audio/Actor_05/03-{TRIAL}_croppad.wav",
        f"crops/Actor_05/01-{TRIAL}_facecroppad.avi",
        "README.md",
        "holiday.mp4",
    )
    clips, skipped = find_raw(tmp_path, pair_video_only=False)
    sound = tmp_path / f"audio/Actor_05/03-{TRIAL}.flac"
    assert [(modality(clip), clip.audio) for clip in clips] == [
        ("01", sound),
        ("02", None),
    ]
    assert skipped == {}
    paired, _ = find_raw(tmp_path, pair_video_only=True)
    assert [clip.audio for clip in paired] == [sound, sound]


def test_audio_video_without_a_sound_file_uses_its_track(tmp_path):
    touch(tmp_path, f"Actor_05/01-{TRIAL}.mp4", f"Actor_05/02-{TRIAL}.mp4")
    clips, _ = find_raw(tmp_path, pair_video_only=True)
    assert [clip.audio for clip in clips] == [tmp_path / f"Actor_05/01-{TRIAL}.mp4", None]


def test_sound_without_a_video_is_a_clip(tmp_path):
    other_trial = TRIAL.replace("01-03", "01-04")
    touch(tmp_path, f"Actor_05/01-{TRIAL}.mp4", f"Actor_05/03-{TRIAL}.wav")
    touch(tmp_path, f"audio/Actor_05/03-{other_trial}.flac", "audio/Actor_05/song.wav")
    paired, unpaired = find_raw(tmp_path, pair_video_only=False)[0]
    assert paired.audio == tmp_path / f"Actor_05/03-{TRIAL}.wav"
    assert unpaired.record.clip_id == f"03-{other_trial}"
    assert (unpaired.video, unpaired.audio) == (
        None,
        tmp_path / f"audio/Actor_05/03-{other_trial}.flac",
    )
    skipped = find_raw(tmp_path, pair_video_only=False)[1]
    assert list(skipped) == [str(tmp_path / "audio/Actor_05/song.wav")]


def test_sound_of_an_unpaired_silent_video_is_a_clip(tmp_path):
    touch(tmp_path, f"Actor_05/02-{TRIAL}.mp4", f"Actor_05/03-{TRIAL}.wav")
    sound = tmp_path / f"Actor_05/03-{TRIAL}.wav"
    unpaired, _ = find_raw(tmp_path, pair_video_only=False)
    assert [(modality(clip), clip.audio) for clip in unpaired] == [
        ("02", None),
        ("03", sound),
    ]
    paired, _ = find_raw(tmp_path, pair_video_only=True)
    assert [(modality(clip), clip.audio) for clip in paired] == [("02", sound)]


def test_lacks_names_the_missing_streams(tmp_path):
    video, sound = tmp_path / "a.mp4", tmp_path / "a.wav"
    record = ClipRecord("a", "group_b", label=0)
    clip = RawClip(record, "a", video, sound)
    assert clip.lacks(has_audio=True, has_video=True) == ""
    assert clip.lacks(has_audio=False, has_video=True) == f"no sound in {sound}"
    assert clip.lacks(False, False) == f"no face found in {video} and no sound in {sound}"
    assert RawClip(record, "a", None, sound).lacks(has_audio=True, has_video=False) == ""
    assert RawClip(record, "a", video, None).lacks(has_audio=False, has_video=True) == ""


def test_misnamed_and_repeated_videos_are_listed(tmp_path):
    touch(tmp_path, f"a/Actor_05/01-{TRIAL}.mp4", f"b/Actor_05/01-{TRIAL}.mp4", "Actor_05/x.mp4")
    clips, skipped = find_raw(tmp_path, pair_video_only=False)
    assert [clip.video.parent.parent.name for clip in clips] == ["a"]
    assert "already found" in skipped[str(tmp_path / f"b/Actor_05/01-{TRIAL}.mp4")]
    assert "not a RAVDESS name" in skipped[str(tmp_path / "Actor_05/x.mp4")]


def test_folder_without_clips_is_refused(tmp_path):
    with pytest.raises(InputError, match="no clips found in"):
        find_raw(tmp_path, pair_video_only=False)
    with pytest.raises(InputError, match="there is no folder"):
        find_raw(tmp_path / "gone", pair_video_only=False)


def test_crops_prefer_lossless_and_prepared_sound(tmp_path):
    crops = touch(
        tmp_path / "crops",
        f"ACTOR05/01-{TRIAL}_facecroppad.avi",
        f"ACTOR05/01-{TRIAL}_facecroppad.npy",
        f"ACTOR05/02-{TRIAL}_facecroppad.avi",
    )
    sounds = touch(tmp_path / "wav", f"x/03-{TRIAL}.wav", f"x/03-{TRIAL}_croppad.wav")
    clips, _ = find_crops(crops, sounds, pair_video_only=True)
    assert [clip.video.suffix for clip in clips] == [".npy", ".avi"]
    assert {clip.audio.name for clip in clips} == {f"03-{TRIAL}_croppad.wav"}
    unpaired, _ = find_crops(crops, sounds, pair_video_only=False)
    assert [clip.audio is None for clip in unpaired] == [False, True]
    with pytest.raises(InputError, match="no face crops"):
        find_crops(sounds, sounds, pair_video_only=False)
