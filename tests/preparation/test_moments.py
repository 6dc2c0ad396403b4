"""Files whose clocks are odd: the frame and the sound of a moment are those that a player gives.

Frames show their number as a grey level, and sound is a tone at a known second.
"""

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.errors import InputError
from avjax.preparation import frames
from avjax.preparation.clip import prepare_clip
from avjax.preparation.sound import read_sound
from avjax.preparation.timeline import read_timeline
from tests.clips import WholeFrame, frame, tone, write_sound

FRAMES, RATE = 100, 25  # 4 s
TONE = 2.5  # second at which the tone begins
SECONDS = FRAMES / RATE
# Seconds that lie 3 ms and more from the beginning of a frame; Matroska's clock has milliseconds.
INSIDE_FRAMES = st.integers(0, 3700).filter(lambda ms: 3 <= ms % 40 <= 37).map(lambda ms: ms / 1000)


def write(path, codecs=("libx264", "aac"), first=0.0, late=0.0, **options):
    """Writes frames, with a keyframe every 20, and 0.2 s of a tone.

    ``first`` is the container's first second, and sound is ``late`` seconds behind the frames.
    """
    sound = np.zeros(int(48000 * SECONDS), np.float32)
    begin = int(48000 * TONE)
    sound[begin : begin + 9600] = tone(0.2)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codecs[0], rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        video.codec_context.gop_size = 20
        video.codec_context.bit_rate = 4_000_000
        audio = container.add_stream(codecs[1], rate=48000, layout="mono")
        packets = []
        for number in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(textured(number), format="rgb24")
            picture.pts = number
            packets += video.encode(picture)
        packets += video.encode(None)
        values = (sound * 32767).astype(np.int16)[None]
        block = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
        block.sample_rate, block.pts = 48000, 0
        resampler = av.AudioResampler(audio.codec_context.format, "mono", 48000)
        for part in [*resampler.resample(block), None]:
            packets += audio.encode(part)
        for packet in packets:
            seconds = first + (late if packet.stream is audio else 0.0)
            shift(packet, seconds)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def textured(number):
    """Returns a frame with noise, so that its packet is of a usual size."""
    noise = np.random.default_rng(number).choice([-12, 12], (64, 48, 1))
    return (frame(number) + np.concatenate([noise, -noise], axis=1)).astype(np.uint8)


def shift(packet, seconds):
    ticks = round(seconds / packet.time_base)
    packet.pts += ticks
    packet.dts += ticks


def trim(source, path, start):
    """Drops what lies before ``start`` without encoding anew, as ``ffmpeg -ss START -c copy``.

    Packets from the last keyframe on stay in the file, and its edit list hides them.
    """
    with av.open(str(source)) as file, av.open(str(path), "w") as container:
        streams = [container.add_stream_from_template(stream) for stream in file.streams]
        file.seek(int(start * 1e6))
        for packet in file.demux():
            if packet.dts is not None:
                shift(packet, -start)
                packet.stream = streams[packet.stream_index]
                container.mux(packet)
    return path


def numbers(selection):
    """Reads the numbers that selected frames show; 8 bits of luma darken some by one level."""
    shown = [round((image.mean() - 19.5) / 2) for image in selection.images]
    return [shown[i] for i in selection.order]


def first_whole(cut):
    """When the first frame begins that a cut leaves whole: FFmpeg, and players, begin with it."""
    return np.ceil(cut * RATE - 1e-6) / RATE


def numbers_at(seconds):
    """The numbers of the frames that are shown at some seconds of the source."""
    return np.clip(np.floor(np.asarray(seconds) * RATE + 1e-6), 0, FRAMES - 1).astype(int).tolist()


def heard_at(path, **cut):
    """When the tone begins, in seconds."""
    samples = read_sound(path, 48000, **cut).samples
    return np.flatnonzero(np.abs(samples) > 0.1)[0] / 48000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("moments")


@pytest.fixture(scope="module")
def source(folder):
    return write(folder / "source.mp4", qp="4")


@given(start=st.integers(50, 2400), later=INSIDE_FRAMES)
def test_trimmed_files_begin_where_they_were_cut(folder, source, start, later):
    """``start`` is in milliseconds; keyframes are 0.8 s apart."""
    cut = start / 1000
    path = trim(source, folder / "trimmed.mp4", cut)
    first = first_whole(cut)
    moments = np.array([0.0, 0.08, 0.48])
    assert numbers(frames.frames_at(path, moments)) == numbers_at(first + moments)
    later = min(later, SECONDS - first - 0.02)
    shown = frames.frames_at(path, moments, start=later)
    assert numbers(shown) == numbers_at(first + later + moments)
    timeline = read_timeline(path)
    assert timeline.begin == 0 and timeline.announced is None
    assert timeline.end == pytest.approx(SECONDS - first, abs=0.001)
    assert heard_at(path) == pytest.approx(TONE - cut, abs=0.002)
    if later < TONE - cut:
        assert heard_at(path, start=later) == pytest.approx(TONE - cut - later, abs=0.002)


def test_a_trimmed_clip_without_sound_is_prepared_from_what_is_shown(folder, source):
    path = trim(source, folder / "clip.mp4", 1.1)
    clip = prepare_clip(
        path, None, profile="fixed", num_frames=4, image_size=16, detector=WholeFrame()
    )
    first = first_whole(1.1)
    moments = first + (np.arange(4) + 0.5) / 4 * (SECONDS - first)
    shown = (clip.frames.mean((1, 2, 3)) - 20) / 2
    np.testing.assert_allclose(shown, numbers_at(moments), atol=0.6)
    assert clip.notes == ()


# name, codecs, first second, seconds by which the sound is late
KINDS = [
    ("a.mpg", ("mpeg2video", "mp2"), 0.0, 0.0),
    ("b.ts", ("libx264", "mp2"), 0.0, 0.5),
    ("c.mkv", ("libx264", "flac"), 3600.0, 0.0),
    ("d.mkv", ("libx264", "flac"), 3600.0, 0.7),
    ("e.avi", ("mpeg4", "pcm_s16le"), 0.0, 0.0),
    ("f.webm", ("libvpx", "libopus"), 0.0, 0.0),
]


@pytest.fixture(scope="module", params=KINDS, ids=[kind[0] for kind in KINDS])
def kind(request, folder):
    name, codecs, first, late = request.param
    return write(folder / name, codecs, first, late), late


def test_a_whole_file_has_one_clock(kind):
    path, late = kind
    timeline = read_timeline(path)
    moments = np.array([0.02, 1.02, 2.5, 3.9])
    assert numbers(frames.frames_at(path, timeline.begin + moments)) == numbers_at(moments)
    assert timeline.begin < 0.02  # the coder of the sound may need some time before
    assert timeline.end == pytest.approx(timeline.begin + SECONDS, abs=0.005)
    assert heard_at(path) == pytest.approx(TONE + late + timeline.begin, abs=0.01)


@given(INSIDE_FRAMES)
def test_a_cut_equals_decoding_from_the_start(kind, start):
    path, late = kind
    begin = read_timeline(path).begin
    cut, moments = start + begin, np.array([0.0, 0.08, 0.24])
    shown = frames.frames_at(path, moments, start=cut)
    assert numbers(shown) == numbers_at(cut + moments - begin)
    if cut < TONE + late:
        heard = heard_at(path, start=cut)
        assert heard == pytest.approx(TONE + late + begin - cut, abs=0.01)


@given(rate=st.integers(4000, 192_000), begin=st.integers(0, 900), start=st.integers(0, 500))
def test_a_tone_is_heard_at_its_second_at_any_rate(folder, rate, begin, start):
    """Times are in milliseconds."""
    samples = np.concatenate([np.zeros(begin * rate // 1000), tone(0.3, rate)])
    path = write_sound(folder / "rate.wav", samples, rate)
    sound = read_sound(path)
    assert len(sound.samples) == pytest.approx(len(samples) / rate * 22050, abs=1.5)
    onset = begin / 1000
    assert np.flatnonzero(np.abs(sound.samples) > 0.1)[0] / 22050 == pytest.approx(onset, abs=0.002)
    if start < begin:
        cut = read_sound(path, 22050, start / 1000).samples
        onset -= start / 1000
        assert np.flatnonzero(np.abs(cut) > 0.1)[0] / 22050 == pytest.approx(onset, abs=0.002)


def test_a_clock_that_jumps_by_hours_is_one_line(folder, source):
    """Filled with silence, the gap would take gigabytes."""
    for name, late in (("late.mkv", 7200.0), ("jump.mkv", 0.0)):
        path = folder / name
        with av.open(str(source)) as file, av.open(str(path), "w") as container:
            streams = [container.add_stream_from_template(stream) for stream in file.streams]
            for packet in file.demux():
                if packet.dts is not None:
                    is_sound, track = packet.stream.type == "audio", streams[packet.stream_index]
                    jumps = not late and packet.dts * packet.time_base > 2
                    shift(packet, is_sound * (late or 7200.0 * jumps))
                    packet.stream = track
                    container.mux(packet)
        with pytest.raises(InputError, match=rf"{name} has 7\d\d\d s without sound by its clock"):
            read_sound(path)
    cut = read_sound(folder / "late.mkv", 48000, start=7200.0)
    assert np.flatnonzero(np.abs(cut.samples) > 0.1)[0] / 48000 == pytest.approx(TONE, abs=0.05)
