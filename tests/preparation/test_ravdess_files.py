"""Finding clips on disk."""

import pytest

from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.ravdess_files import find_crops, find_raw
from avjax.preparation.raw_clip import RawClip

TRIAL = "01-03-01-02-01-05"


def kind(clip):
    """RAVDESS's field of modality."""
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
    (clip,), skipped, notes = find_raw(tmp_path, pair_video_only=False)
    assert clip.record.clip_id == f"01-{TRIAL}"
    assert clip.audio == tmp_path / folder / f"03-{TRIAL}.{suffix}"
    assert (skipped, notes) == ({}, [])


def test_sibling_folders_and_what_else_lies_there(tmp_path):
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
    found, skipped, notes = find_raw(tmp_path, pair_video_only=False)
    sound = tmp_path / f"audio/Actor_05/03-{TRIAL}.flac"
    assert [(kind(clip), clip.audio) for clip in found] == [
        ("01", sound),
        ("02", None),
    ]
    assert skipped == {}
    (note,) = notes
    assert note == f"1 media file without a RAVDESS name is ignored: {tmp_path}/holiday.mp4"
    paired, *_ = find_raw(tmp_path, pair_video_only=True)
    assert [clip.audio for clip in paired] == [sound, sound]


def test_without_a_sound_file_the_own_track_counts(tmp_path):
    touch(tmp_path, f"Actor_05/01-{TRIAL}.mp4", f"Actor_05/02-{TRIAL}.mp4")
    found, *_ = find_raw(tmp_path, pair_video_only=True)
    assert [clip.audio for clip in found] == [tmp_path / f"Actor_05/01-{TRIAL}.mp4", None]


def test_sound_without_a_video_is_a_clip_of_its_own(tmp_path):
    other = TRIAL.replace("01-03", "01-04")
    touch(tmp_path, f"Actor_05/01-{TRIAL}.mp4", f"Actor_05/03-{TRIAL}.wav")
    touch(tmp_path, f"audio/Actor_05/03-{other}.flac", "audio/Actor_05/song.wav")
    paired, alone = find_raw(tmp_path, pair_video_only=False)[0]
    assert paired.audio == tmp_path / f"Actor_05/03-{TRIAL}.wav"
    assert alone.record.clip_id == f"03-{other}"
    assert (alone.video, alone.audio) == (None, tmp_path / f"audio/Actor_05/03-{other}.flac")
    skipped = find_raw(tmp_path, pair_video_only=False)[1]
    assert list(skipped) == [str(tmp_path / "audio/Actor_05/song.wav")]


def test_the_sound_of_an_unpaired_silent_video_is_a_clip_of_its_own(tmp_path):
    touch(tmp_path, f"Actor_05/02-{TRIAL}.mp4", f"Actor_05/03-{TRIAL}.wav")
    sound = tmp_path / f"Actor_05/03-{TRIAL}.wav"
    apart, *_ = find_raw(tmp_path, pair_video_only=False)
    assert [(kind(clip), clip.audio) for clip in apart] == [
        ("02", None),
        ("03", sound),
    ]
    paired, *_ = find_raw(tmp_path, pair_video_only=True)
    assert [(kind(clip), clip.audio) for clip in paired] == [("02", sound)]


def test_what_files_should_hold_and_do_not(tmp_path):
    video, sound = tmp_path / "a.mp4", tmp_path / "a.wav"
    record = ClipRecord("a", "group_b", label=0)
    both = RawClip(record, "a", video, sound)
    assert both.lacks(has_audio=True, has_video=True) == ""
    assert both.lacks(has_audio=False, has_video=True) == f"no sound in {sound}"
    assert both.lacks(False, False) == f"no face found in {video} and no sound in {sound}"
    assert RawClip(record, "a", None, sound).lacks(has_audio=True, has_video=False) == ""
    assert RawClip(record, "a", video, None).lacks(has_audio=False, has_video=True) == ""


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Actor 5", f"01-{TRIAL}.mp4"),
        ("Actor_5", f"01-{TRIAL}.MP4"),
        ("05", f"01-{TRIAL}.mov"),
        ("Actor_05 (1)", f"01-{TRIAL}.mkv"),
        ("Video_Speech_Actor_05/Actor_05", f"01-{TRIAL}.WebM"),
        ("", f"01-{TRIAL}.avi"),
        ("clips/all", f"01-{TRIAL} (1).mp4"),
    ],
)
def test_names_tell_the_actor_wherever_a_file_lies(tmp_path, folder, name):
    touch(tmp_path, f"{folder}/{name}".lstrip("/"), f"sound/03-{TRIAL}.WAV", "Actor_05.zip")
    (clip,), skipped, notes = find_raw(tmp_path, pair_video_only=False)
    assert clip.video == tmp_path / folder / name
    assert (clip.record.actor, clip.record.label, clip.record.split) == (5, 2, "actor_05")
    assert clip.audio == tmp_path / f"sound/03-{TRIAL}.WAV"
    assert (skipped, notes) == ({}, [])


def test_links_are_followed_once(tmp_path):
    disk = touch(tmp_path / "disk", f"Actor_05/03-{TRIAL}.wav", f"x/01-{TRIAL}.mp4")
    source = touch(tmp_path / "source", "Actor_06/notes.txt")
    (source / "Actor_05").symlink_to(disk / "Actor_05")
    (source / "Actor_05 again").symlink_to(disk / "Actor_05")
    (source / f"01-{TRIAL}.mp4").symlink_to(disk / f"x/01-{TRIAL}.mp4")
    (source / "Actor_06/up").symlink_to(source)
    (disk / "Actor_05/back").symlink_to(source)
    (clip,), skipped, notes = find_raw(source, pair_video_only=False)
    assert clip.video == source / f"01-{TRIAL}.mp4"
    assert clip.audio == source / f"Actor_05/03-{TRIAL}.wav"
    assert (skipped, notes) == ({}, [])
    (source / "gone.mp4").symlink_to(disk / "gone.mp4")
    assert find_raw(source, False).notes == [f"1 link leads nowhere: {source / 'gone.mp4'}"]


def test_leftovers_of_systems_are_no_clips(tmp_path):
    video = f"Actor_05/01-{TRIAL}.mp4"
    other = TRIAL.replace("01-03", "01-04")
    leftovers = [f"Actor_05/._01-{TRIAL}.mp4", f"__MACOSX/{video}", f".Trash-1000/files/{video}"]
    leftovers += ["Actor_05/Thumbs.db", "desktop.ini", ".DS_Store", f"$RECYCLE.BIN/01-{other}.mp4"]
    leftovers += [f"__MACOSX/Actor_05/._03-{TRIAL}.wav", f".Trashes/501/03-{other}.wav"]
    touch(tmp_path, video, *leftovers)
    (clip,), skipped, notes = find_raw(tmp_path, pair_video_only=False)
    assert (clip.video, skipped, notes) == (tmp_path / video, {}, [])


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ("Actor_05/{}.mp4", ["Actor_05/.old/{}.mp4", ".backup/Actor_05/{}.mp4"]),
        ("b/Actor_05/{}.mp4", ["a/Actor_05 (1)/{}.mp4", "a/Actor_05 copy/{}.mp4"]),
        ("b/{}.mp4", ["a/{} (1).mp4", "a/{} - Copy.mp4", "a/{}_cut.mp4"]),
        ("b/{}.mp4", ["a/{}.webm", "a/{}.mov"]),
        ("Actor_05/{}.mp4", ["audio_speech_actors_01-24/Actor_05/{}.mp4"]),
    ],
)
def test_the_live_file_of_several_is_used_and_the_others_counted(tmp_path, kept, left):
    video, *others = (name.format(f"01-{TRIAL}") for name in (kept, *left))
    touch(tmp_path, video, *others)
    (clip,), skipped, (note,) = find_raw(tmp_path, pair_video_only=False)
    assert (clip.video, skipped) == (tmp_path / video, {})
    assert note.startswith(f"{len(others)} file{'s repeat' if others[1:] else ' repeats'} a clip")
    assert note.endswith(f"; {tmp_path / video} is used")


def test_a_mirror_with_all_actors_twice(tmp_path):
    trials = [TRIAL[:-2] + f"{actor:02d}" for actor in range(1, 25)]
    for folder in ("", "audio_speech_actors_01-24/"):
        touch(tmp_path, *(f"{folder}Actor_{trial[-2:]}/03-{trial}.wav" for trial in trials))
    clips, skipped, (note,) = find_raw(tmp_path, pair_video_only=False)
    assert [clip.audio for clip in clips] == [
        tmp_path / f"Actor_{trial[-2:]}/03-{trial}.wav" for trial in trials
    ]
    assert skipped == {} and note.startswith("24 files repeat a clip")


@pytest.mark.parametrize("suffix", ["mp3", "M4A", "ogg", "opus", "aiff"])
def test_sound_of_any_kind_joins_by_its_trial(tmp_path, suffix):
    touch(tmp_path, f"v/01-{TRIAL}.mp4", f"s/03-{TRIAL}.{suffix}", f"s/01-{TRIAL}.mp3")
    (clip,), _, notes = find_raw(tmp_path, pair_video_only=False)
    assert clip.audio == tmp_path / f"s/03-{TRIAL}.{suffix}"
    assert len(notes) == 1 and "1 file repeats" in notes[0]


def test_lossless_sound_wins(tmp_path):
    touch(tmp_path, f"a/03-{TRIAL}.mp3", f"b/03-{TRIAL}.flac")
    (clip,), *_ = find_raw(tmp_path, pair_video_only=False)
    assert clip.audio == tmp_path / f"b/03-{TRIAL}.flac"


def test_sound_extracted_from_a_video_is_its_sound(tmp_path):
    touch(tmp_path, f"v/01-{TRIAL}.mp4", f"s/01-{TRIAL}.wav", f"s/02-{TRIAL}.wav")
    (clip,), skipped, _ = find_raw(tmp_path, pair_video_only=False)
    assert (clip.record.clip_id, clip.audio) == (f"01-{TRIAL}", tmp_path / f"s/01-{TRIAL}.wav")
    assert list(skipped) == [str(tmp_path / f"s/02-{TRIAL}.wav")]


def test_speech_by_default_and_songs_on_request(tmp_path):
    sung = TRIAL.replace("01-03", "02-03", 1)
    touch(tmp_path, f"01-{TRIAL}.mp4", f"song/01-{sung}.mp4", f"song/03-{sung}.wav")
    (clip,), skipped, notes = find_raw(tmp_path, pair_video_only=False)
    assert clip.record.clip_id == f"01-{TRIAL}"
    assert (skipped, notes) == ({}, ["2 songs are left out; --songs takes songs too"])
    speech, song = find_raw(tmp_path, pair_video_only=False, songs=True).clips
    assert (speech.record.clip_id, song.record.clip_id) == (f"01-{TRIAL}", f"01-{sung}")
    assert song.audio == tmp_path / f"song/03-{sung}.wav"
    assert speech.audio == speech.video
    with pytest.raises(InputError, match="song holds 2 songs and no speech; --songs takes songs"):
        find_raw(tmp_path / "song", pair_video_only=False)


def test_sounds_that_no_video_can_use_are_told(tmp_path):
    other = TRIAL.replace("01-03", "01-04")
    touch(tmp_path, f"Actor_05/01-{TRIAL}.mp4", f"Actor_05/03-{other}.wav")
    source = find_raw(tmp_path, pair_video_only=False)
    assert source.notes == [
        "1 sound file belongs to no video and becomes a clip of sound alone: "
        f"{tmp_path}/Actor_05/03-{other}.wav"
    ]


def test_misnamed_files_of_an_actor_are_listed(tmp_path):
    touch(tmp_path, f"Actor_05/01-{TRIAL}.mp4", "Actor_05/x.mp4", "6/y.wav")
    _, skipped, notes = find_raw(tmp_path, pair_video_only=False)
    assert list(skipped) == [str(tmp_path / name) for name in ("6/y.wav", "Actor_05/x.mp4")]
    assert "not a RAVDESS name" in skipped[str(tmp_path / "Actor_05/x.mp4")]
    assert notes == []


def test_no_clips(tmp_path):
    with pytest.raises(InputError, match=r"no clips found in .*; expected files such as"):
        find_raw(tmp_path, pair_video_only=False)
    with pytest.raises(InputError, match="there is no folder"):
        find_raw(tmp_path / "gone", pair_video_only=False)
    touch(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1001_DFA_SAD_XX.wav")
    with pytest.raises(
        InputError, match=r"none of its 2 media files, such as 1001_DFA.*--manifest"
    ):
        find_raw(tmp_path, pair_video_only=False)


def test_crops_prefer_lossless_and_prepared_sound(tmp_path):
    crops = touch(
        tmp_path / "crops",
        f"ACTOR05/01-{TRIAL}_facecroppad.avi",
        f"ACTOR05/01-{TRIAL}_facecroppad.npy",
        f"ACTOR05/02-{TRIAL}_facecroppad.avi",
    )
    sounds = touch(tmp_path / "wav", f"x/03-{TRIAL}.wav", f"x/03-{TRIAL}_croppad.wav")
    found, *_ = find_crops(crops, sounds, pair_video_only=True)
    assert [clip.video.suffix for clip in found] == [".npy", ".avi"]
    assert {clip.audio.name for clip in found} == {f"03-{TRIAL}_croppad.wav"}
    alone, *_ = find_crops(crops, sounds, pair_video_only=False)
    assert [clip.audio is None for clip in alone] == [False, True]
    with pytest.raises(InputError, match="no face crops"):
        find_crops(sounds, sounds, pair_video_only=False)
