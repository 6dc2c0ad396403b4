"""Reading clips: sound, frames, broken files; MFCCs equal the reference's."""

import io

import av
import librosa
import numba
import numpy as np
import pytest
import resampy
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from avjax.data import records
from avjax.errors import InputError
from avjax.preparation import media, sound
from tests.clips import frame, tone, write_sound, write_video

# MFCCs of 48 kHz noise, by number of samples and time step, from librosa 0.8.1 with resampy 0.2.2
# as in the reference (load at 22050 Hz, `extract_audios.py`, load, mfcc).
GOLDEN = {
    150001: {
        0: [-34.0051, -3.5077, -10.6344, -2.6257, -11.001, 0.6789, 2.5827, 3.9914, -0.2098, 0.5236],
        77: [-29.6236, -1.489, 3.6537, 4.7724, -4.9007, -1.1232, -4.4074, -1.4367, -5.0115, 5.0276],
        134: [-42.8237, -6.9135, -3.3658, 5.0512, -0.9108, 6.7707, 0.0425, 2.0125, -4.864, -3.4522],
        155: [-832.8933, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    },
    200003: {
        0: [-35.5665, -7.8357, -3.4404, -0.355, -8.9399, -0.8733, -4.141, 1.6894, 0.1757, 0.9572],
        77: [-31.6034, -4.5174, -2.9413, 5.9332, -5.1244, 0.9757, 1.2197, 6.2031, 0.2555, 6.3126],
        134: [-33.115, -2.4588, -1.5955, 4.8158, -1.6487, -0.1724, -0.2808, 3.141, -2.2385, 5.0592],
        155: [-38.3387, -7.2949, -3.6593, 6.2398, -2.9398, 6.2825, 4.929, 2.2388, -4.2294, 5.655],
    },
}  # fmt: skip


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(-8000, 8000, count, dtype=np.int16)


# ------------------------------------------------------------------------------------------ sound


@pytest.mark.parametrize("count", list(GOLDEN))
def test_mfcc_equals_the_reference(tmp_path, count):
    path = write_sound(tmp_path / "noise.wav", noise(count))
    features = media.mfcc(media.fit_audio(media.read_audio(path)))
    assert features.shape == (records.audio_steps(3.6), 10) == (156, 10)
    assert features.dtype == np.float32
    for step, row in GOLDEN[count].items():
        np.testing.assert_allclose(features[step], row, atol=1e-3)


@pytest.mark.ravdess
@pytest.mark.parametrize(
    ("name", "row"),
    [
        # librosa 0.8.1 as above, step 77: a quiet clip and a stereo clip.
        (
            "Actor_05/03-01-02-01-02-02-05",
            [
                -521.7049,
                -60.8842,
                46.6603,
                32.3332,
                -33.2498,
                35.9682,
                -29.5053,
                -12.7955,
                9.8077,
                4.3279,
            ],
        ),
        (
            "Actor_20/03-01-06-01-01-02-20",
            [-839.1124, 0.3382, 3.3272, 0.2767, 3.206, 0.2262, 3.1048, 0.264, 3.0753, 0.3995],
        ),
    ],
)
def test_mfcc_of_real_clips_equals_the_reference(shared_dir, name, row):
    path = shared_dir / "ravdess" / "audio" / f"{name}.flac"
    features = media.mfcc(media.fit_audio(media.read_audio(path)))
    np.testing.assert_allclose(features[77], row, atol=1e-3)


def test_sound_is_cropped_to_the_middle_or_padded_at_the_end():
    ramp = (np.arange(100) / 128).astype(np.float32)
    np.testing.assert_array_equal(media.fit_audio(ramp, 40), ramp[30:70])
    np.testing.assert_array_equal(media.fit_audio(ramp, 101), [*ramp, 0])
    np.testing.assert_array_equal(media.fit_audio(ramp, 100), ramp)


def test_samples_are_rounded_down_to_sixteen_bits():
    samples = np.array([1.6, 1.4, -1.4, 0, 1e-12, -1e-12, 4e4, -4e4], np.float32) / 32768
    stored = media.fit_audio(samples, len(samples)) * 32768
    np.testing.assert_array_equal(stored, [1, 1, -2, 0, 0, 0, 32767, -32768])


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_any_rate_is_resampled_to_22050_hertz(tmp_path, rate):
    samples = media.read_audio(write_sound(tmp_path / "tone.flac", tone(1, rate), rate))
    assert samples.shape == (22050,)
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) == 440
    np.testing.assert_allclose(np.abs(samples[2000:-2000]).max(), 0.5, atol=0.01)


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([tone(0.5, 22050), np.zeros(11025, np.float32)], axis=1)
    stereo[:, 1] = 0.5 * stereo[:, 0]
    samples = media.read_audio(write_sound(tmp_path / "stereo.wav", stereo, 22050))
    np.testing.assert_allclose(samples, stereo.mean(1), atol=1e-4)


def test_sound_below_minus_80_decibels_is_silent():
    assert media.is_silent(np.zeros(10, np.float32))
    assert media.is_silent(np.full(10, 0.99e-4, np.float32))
    assert not media.is_silent(np.array([0, -1.01e-4], np.float32))


def test_sound_track_of_a_video_is_read(tmp_path):
    samples = media.read_audio(write_video(tmp_path / "clip.mp4", sound=tone(1)))
    assert len(samples) / records.SAMPLE_RATE == pytest.approx(1, abs=0.1)
    assert np.argmax(np.abs(np.fft.rfft(samples[:22050]))) == pytest.approx(440, abs=2)
    assert media.read_audio(write_video(tmp_path / "mute.mp4")) is None


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4"])
def test_text_file_is_not_sound(tmp_path, suffix):
    path = tmp_path / f"notes{suffix}"
    path.write_text("not a recording")
    with pytest.raises(InputError, match=f"notes{suffix}"):
        media.read_audio(path)


def test_sound_file_without_samples_is_refused(tmp_path):
    path = write_sound(tmp_path / "empty.wav", np.zeros(0, np.float32))
    with pytest.raises(InputError, match=r"empty\.wav holds no sound samples"):
        media.read_audio(path)


# ----------------------------------------------------------------------------------------- frames


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 60, faststart=True)


def test_selected_frames_are_read_in_order(video):
    images = media.read_frames(video, [0, 7, 59])
    assert images.shape == (3, 64, 96, 3)
    assert images.dtype == np.uint8
    for image, number in zip(images, (0, 7, 59), strict=True):
        np.testing.assert_allclose(image.mean(), frame(number).mean(), atol=1.5)


def test_times_start_at_zero(video):
    np.testing.assert_allclose(media.frame_times(video), np.arange(60) / 30, atol=1e-3)


def test_decoding_stops_at_the_last_selected_frame(video, monkeypatch):
    decoded = []
    open_container = av.open

    class Counting:
        def __init__(self, container):
            self._container = container

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._container.close()

        def __getattr__(self, name):
            return getattr(self._container, name)

        def demux(self, stream):
            for packet in self._container.demux(stream):
                decoded.append(packet)
                yield packet

    monkeypatch.setattr(av, "open", lambda *a, **k: Counting(open_container(*a, **k)))
    media.read_frames(video, [2, 5], threads=1)
    assert 6 <= len(decoded) < 20  # the decoder looks a few frames ahead


def test_truncated_video_is_refused(video, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.mp4 breaks off after 0\.. of 2\.0 seconds"):
        media.frame_times(cut)
    with pytest.raises(InputError, match=r"cut\.mp4 (breaks off|cannot be decoded)"):
        media.read_frames(cut, [59])


def test_video_without_its_index_is_refused(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 20)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"clip\.mp4 cannot be decoded"):
        media.frame_times(path)


def test_frame_past_the_end_is_an_error(video):
    with pytest.raises(InputError, match="breaks off after 60 frames"):
        media.read_frames(video, [0, 60])


def test_video_that_changes_its_size_is_refused(tmp_path):
    parts = [
        write_video(tmp_path / f"{width}.h264", [frame(0, width, 64)] * 3) for width in (96, 128)
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(InputError, match="changes its size from 96x64 to 128x64; replace"):
        media.read_frames(path, [0, 4])


def test_sound_file_is_not_video(tmp_path):
    path = write_sound(tmp_path / "tone.wav", tone(0.2))
    with pytest.raises(InputError, match=r"tone\.wav has no video track"):
        media.frame_times(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.mp4"):
        media.frame_times(tmp_path / "gone.mp4")


def test_log_mel_of_a_tone_and_of_silence():
    spectrum = media.log_mel(tone(1.0, rate=records.SAMPLE_RATE, hertz=2000.0), 64)
    assert spectrum.shape == (44, 64)
    assert spectrum.dtype == np.float32
    loudest = spectrum[5:-5].argmax(1)
    centres = librosa.mel_frequencies(66, fmax=records.SAMPLE_RATE / 2)[1:-1]
    assert set(loudest.tolist()) == {int(np.abs(centres - 2000).argmin())}
    assert not media.log_mel(np.zeros(22050, np.float32), 64).any()


# ------------------------------------------------------------------------- segments of long files


def sweep(seconds, rate=48000):
    """A rising tone, which sounds different at every time."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 100 * t) * t)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_segment_of_a_sound_file(tmp_path, suffix):
    path = write_sound(tmp_path / f"long.{suffix}", sweep(6, 22050), 22050)
    samples = media.read_audio(path)
    np.testing.assert_array_equal(media.read_audio(path, start=2.5, end=4), samples[55125:88200])
    np.testing.assert_array_equal(media.read_audio(path, start=5.9), samples[130095:])
    with pytest.raises(InputError, match="no sound samples from 7 s on; correct the clip's start"):
        media.read_audio(path, start=7)


def test_segment_of_a_sound_track(tmp_path):
    path = write_video(tmp_path / "long.mp4", 30, sound=sweep(6))
    samples = media.read_audio(path, 48000)
    for start, end in ((0.0, 1.0), (0.3, 2.0), (2.5, 4.0), (5.0, None)):
        segment = media.read_audio(path, 48000, start, end)
        expected = samples[int(start * 48000) : None if end is None else int(end * 48000)]
        assert abs(len(segment) - len(expected)) <= 1
        # The first blocks after a seek and the last of a file may differ.
        middle = slice(4800, len(expected) - 4800)
        np.testing.assert_allclose(segment[middle], expected[middle], atol=1e-3)


def test_segment_of_a_video(tmp_path):
    path = write_video(tmp_path / "long.mp4", 110)
    frame_times = media.frame_times(path)
    for start, end in ((1.5, 2.5), (3.2, None), (0.0, 0.5), (2.01, 2.2)):
        times = media.frame_times(path, start, end)
        inside = frame_times[
            (frame_times > start - 1e-6) & (frame_times < (np.inf if end is None else end))
        ]
        np.testing.assert_allclose(times, inside - start, atol=1e-6)
        first = int(np.flatnonzero(frame_times > start - 1e-6)[0])
        actual = media.read_frames(path, [0, 3, len(times) - 1], start=start)
        expected = media.read_frames(path, [first, first + 3, first + len(times) - 1])
        np.testing.assert_array_equal(actual, expected)
    with pytest.raises(InputError, match="no frame from 4 s on"):
        media.frame_times(path, 4.0)


@given(
    st.sampled_from(["wav", "flac", "aiff", "w64"]),
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=200, max_size=300),
    st.integers(1000, 20_000),
)
def test_any_samples_are_read_exactly(tmp_path_factory, suffix, numbers, rate):
    samples = np.array(numbers, np.float64) / 2**15
    path = write_sound(tmp_path_factory.mktemp("sound") / f"x.{suffix}", samples, rate)
    np.testing.assert_array_equal(media.read_audio(path, rate), samples.astype(np.float32))


@given(st.sampled_from([b"RIFF", b"fLaC", b"OggS", b"FORM", b"\x1aE\xdf\xa3", b""]), st.binary())
def test_any_bytes_are_refused_by_name(tmp_path_factory, magic, content):
    path = tmp_path_factory.mktemp("bytes") / "x.wav"
    path.write_bytes(magic + content)
    for read in (media.read_audio, media.frame_times):
        with pytest.raises(InputError, match=str(path)):
            read(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [1e-5, 1.0, 2**-15, 2**-16])
def test_sound_is_rounded_as_libsndfile_does(dtype, unit):
    rng = np.random.default_rng(0)
    steps = rng.integers(-33000, 33000, 5000) if unit < 1e-4 else rng.uniform(-1.1, 1.1, 5000)
    samples = np.append(steps * unit, [1, -1, 1 - 2**-24, -1 + 2**-24, 0, -0.0, 1e-9]).astype(dtype)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 22050, format="WAV", subtype="PCM_16")
    buffer.seek(0)
    expected = soundfile.read(buffer, dtype="float32")[0]
    np.testing.assert_array_equal(media.fit_audio(samples, len(samples)), expected, strict=True)


# ------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_resampling_equals_resampys_own_loop(monkeypatch, rate):
    samples = noise(3 * rate + 17).astype(np.float32) / 32768
    resampled = sound.resample(samples, rate, records.SAMPLE_RATE)
    monkeypatch.setattr(sound, "_interpolate", lambda: resampy.interpn.resample_f_s)
    np.testing.assert_array_equal(resampled, sound.resample(samples, rate, records.SAMPLE_RATE))


@pytest.mark.parametrize("damage", [b"", b"no pickle"])
def test_a_damaged_cache_of_the_resampling_loop_is_not_used(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    loop = sound._compiled_loop.__wrapped__
    samples = noise(4000).astype(np.float32)
    expected = sound.resample(samples, 44100, records.SAMPLE_RATE)
    loop()
    monkeypatch.setattr(sound, "_interpolate", loop)
    code, index = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert (code.suffix, index.suffix) == (".nbc", ".nbi")
    for path in (code, index):  # the code is read only by a sound index
        path.write_bytes(damage)
        actual = sound.resample(samples, 44100, records.SAMPLE_RATE)
        np.testing.assert_array_equal(actual, expected)
