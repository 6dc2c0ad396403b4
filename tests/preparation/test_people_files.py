"""Files as people have them, each written here and checked for the right frames and samples."""

import av
import numpy as np
import pytest
import soundfile

from avjax.errors import InputError
from avjax.preparation import frames, mixdown, notes
from avjax.preparation.clip import prepare_clip
from avjax.preparation.container import has_video
from avjax.preparation.sound import read_audio, read_sound
from avjax.preparation.timeline import read_timeline
from tests.clips import WholeFrame, encode, frame, tone, write_sound, write_video


def prepare(video, audio, num_frames=4, **cut):
    return prepare_clip(
        video,
        audio,
        profile="fixed",
        num_frames=num_frames,
        image_size=16,
        detector=WholeFrame(),
        **cut,
    )


def test_a_colon_is_no_protocol_and_a_name_says_nothing(tmp_path):
    video = write_video(tmp_path / "clip.mp4", 10, sound=tone(0.5))
    for name in ("a:b.mp4", "concat:x", "-clip", "clip.wav"):
        copy = tmp_path / name
        copy.write_bytes(video.read_bytes())
        assert has_video(copy)
        np.testing.assert_array_equal(read_audio(copy), read_audio(video))


def test_sound_alone_in_a_video_container(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=48000, layout="mono")
        block = av.AudioFrame.from_ndarray(tone(1)[None], format="fltp", layout="mono")
        block.sample_rate = 48000
        container.mux(track.encode(block))
        container.mux(track.encode(None))
    assert not has_video(path)
    clip = prepare(path, path)
    assert (clip.has_audio, clip.has_video) == (True, False)
    assert clip.notes == (notes.NO_VIDEO,)


def test_frames_are_those_shown_at_their_times(tmp_path):
    times = [0, 0.1, 0.2, 1.2, 1.3, 1.4]  # a second without frames
    path = write_video(tmp_path / "hole.mp4", 6, times=times)
    shown = frames.frames_at(path, [0.05, 0.15, 0.7, 1.19, 1.25])
    assert shown.order == [0, 1, 2, 2, 3]
    means = [image.mean() for image in shown.images]
    np.testing.assert_allclose(means, [frame(i).mean() for i in range(4)], atol=1.5)
    clip = prepare(path, None, 2, start=0.5, end=1.1)  # a cut inside the hole
    np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), frame(2).mean(), atol=1.5)


def test_frames_are_turned_upright(tmp_path):
    image = np.full((64, 96, 3), 40, np.uint8)
    image[:16, :24] = 200  # a bright corner, top left
    for degrees, corner in ((90, (-8, 8)), (180, (-8, -8)), (270, (8, -8))):  # counterclockwise
        path = encode(
            tmp_path / f"{degrees}.mp4",
            [image] * 3,
            set_up=lambda track, turn=degrees: track.set_display_rotation(turn),
        )
        shown = frames.frames_at(path, [0.0])
        assert shown.images[0].shape[:2] == ((64, 96) if degrees == 180 else (96, 64))
        assert shown.images[0][corner].mean() == pytest.approx(200, abs=8)
        assert shown.notes[0].startswith("turned upright")


def test_interlaced_and_hdr_frames_are_told(tmp_path):
    images = [frame(3 * i, 160, 128) for i in range(12)]
    path = encode(tmp_path / "fields.mp4", images, **{"x264-params": "interlaced=1:tff=1"})
    shown = frames.frames_at(path, [0.1, 0.42])
    assert shown.notes == (notes.DEINTERLACED,)
    means = [image.mean() for image in shown.images]
    np.testing.assert_allclose(means, [frame(6).mean(), frame(30).mean()], atol=3)

    def hlg(track):
        context = track.codec_context
        context.color_trc, context.color_primaries, context.colorspace = 18, 9, 9

    white = [np.full((64, 96, 3), 191, np.uint8)] * 3  # 75 % of signal: HLG's reference white
    shown = frames.frames_at(encode(tmp_path / "hlg.mp4", white, "yuv420p10le", hlg), [0.0])
    assert shown.notes == (notes.HDR,)
    assert shown.images[0].mean() > 235


def test_joined_recordings_follow_one_another(tmp_path):
    first = write_video(tmp_path / "a.ts", [frame(i, 96, 64) for i in range(20)])
    second = write_video(tmp_path / "b.ts", [frame(30 + i, 128, 96) for i in range(20)])
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert read_timeline(path).end == pytest.approx(4 / 3, abs=0.01)
    whole = frames.frames_at(path, [0.5, 1.0])
    np.testing.assert_allclose(
        [image.mean() for image in whole.images], [frame(15).mean(), frame(40).mean()], atol=2
    )
    cut = frames.frames_at(path, [0.1], start=0.9)
    np.testing.assert_array_equal(cut.images[0], whole.images[1])
    assert notes.SIZE_CHANGES in prepare(path, None).notes


def test_a_silent_track_gives_way_and_sound_keeps_its_moment(tmp_path):
    path = tmp_path / "tracks.mkv"
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream("pcm_s16le", rate=48000, layout="mono") for _ in range(2)]
        for track, samples, second in zip(tracks, (0 * tone(2), tone(1)), (0, 1), strict=True):
            values = (samples * 32767).astype(np.int16)[None]
            block = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
            block.sample_rate, block.pts = 48000, second * 48000
            container.mux(track.encode(block))
            container.mux(track.encode(None))
    sound = read_sound(path, 48000)
    assert sound.notes == ("sound track 2 of 2 taken: those before it are silent",)
    assert sound.begin == pytest.approx(1, abs=0.002)
    assert not sound.samples[:47000].any()
    np.testing.assert_allclose(sound.samples[48000:95000], tone(1)[:47000], atol=1e-3)


def test_channels_keep_the_voice(tmp_path):
    voice = tone(1, 22050)
    still = np.zeros_like(voice)
    for channels, heard in (
        ([voice, -voice], 1.0),
        ([voice, still], 1.0),
        ([still + 1e-3, still, voice, still, still, still], 0.5),
    ):
        mix, told = mixdown.mono(np.stack(channels, 1).astype(np.float32), tmp_path)
        assert np.abs(mix).max() >= 0.5 * heard * np.abs(voice).max()
        assert told
    stereo = np.stack([voice, 0.8 * voice], 1)
    np.testing.assert_array_equal(mixdown.mono(stereo, tmp_path)[0], stereo.mean(1))


def test_samples_that_are_no_sound(tmp_path):
    voice = tone(0.5, 22050)
    faulty = voice.copy()
    faulty[7] = np.nan
    path = tmp_path / "nan.wav"
    soundfile.write(path, faulty, 22050, subtype="FLOAT")
    with pytest.raises(InputError, match=r"nan\.wav holds a sample that is nan"):
        read_audio(path)
    soundfile.write(path, np.stack([faulty, voice], 1), 22050, subtype="FLOAT")
    sound = read_sound(path)
    np.testing.assert_array_equal(sound.samples, voice)
    assert sound.notes == ("1 of 2 channels left out: not finite",)
    soundfile.write(path, voice * 32768, 22050, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path), voice, atol=1e-6)


def test_a_header_that_promises_more(tmp_path):
    path = write_sound(tmp_path / "cut.wav", tone(4, 22050), 22050)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 22050 * 2])
    with pytest.raises(InputError, match=r"cut\.wav breaks off after 2\.0 of 4\.0 seconds"):
        prepare(None, path)
    path = write_sound(tmp_path / "end.wav", tone(8, 22050), 22050)
    path.write_bytes(path.read_bytes()[: 44 + 7 * 22050 * 2])
    clip = prepare(None, path)
    assert clip.notes == ("sound breaks off after 7.0 of 8.0 s, behind the window",)


def test_tiny_files_and_impostors_are_one_line(tmp_path):
    tiny = write_sound(tmp_path / "tiny.wav", tone(1)[:1])
    with pytest.raises(InputError, match=r"tiny\.wav holds 1 sound sample,"):
        read_audio(tiny)
    slow = write_sound(tmp_path / "slow.wav", tone(0.3), 8)
    with pytest.raises(InputError, match="has 8 samples a second by its header"):
        read_audio(slow)
    for text, message in (
        ("version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("\x1f\x8b", "cannot be decoded"),
        ("<!DOCTYPE html><html></html>", "is a saved web page"),
        ("", "is empty"),
    ):
        path = tmp_path / "clip.mp4"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            prepare(path, path)


def test_kinds_of_notes():
    told = {"a": ("3 of 15 frames without a face",), "b": ("4 of 15 frames without a face", "x")}
    assert notes.counted(1, "file repeats", "files repeat") == "1 file repeats"
    assert notes.counted(2, "clip") == "2 clips"
    assert notes.faceless(1, 1) == "1 of 1 frame without a face"
    assert notes.kinds(told) == {"... of ... frames without a face": ["a", "b"], "x": ["b"]}
