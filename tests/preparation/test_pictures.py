"""How frames are shown: orientation, pixel aspect, HDR; pictures that are no video; tags."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.errors import InputError
from avjax.preparation import frames, notes
from avjax.preparation.clip import prepare_clip
from avjax.preparation.container import has_video
from avjax.preparation.sound import read_audio
from tests.clips import WholeFrame, encode, tone, write_sound, write_video

# ------------------------------------------------------------------------------------ orientation

# The display matrix's a, b, c, d: x and y, downward, are shown at a x + c y, b x + d y.
ORIENTATIONS = [
    *[(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)],
    *[(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],  # mirrored
]
GREY, TOP_LEFT, TOP_RIGHT = 40, 220, 130


@pytest.fixture(scope="module")
def corners(tmp_path_factory):
    """A video with two bright corners above."""
    image = np.full((64, 96, 3), GREY, np.uint8)
    image[:16, :24], image[:16, -24:] = TOP_LEFT, TOP_RIGHT
    return write_video(tmp_path_factory.mktemp("corners") / "corners.mp4", [image] * 3)


def with_matrix(path, target, a, b, c, d):
    """Copies an mp4 and writes a display matrix into its track's header (`tkhd`)."""
    content = bytearray(path.read_bytes())
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1]) * ([1 << 16] * 8 + [1 << 30])
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = matrix.astype(">i4").tobytes()
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_frames_are_turned_and_mirrored_as_the_file_says(corners, tmp_path, matrix):
    a, b, c, d = matrix
    shown = frames.frames_at(with_matrix(corners, tmp_path / "x.mp4", *matrix), [0.0])
    (image,) = shown.images
    assert image.shape[:2] == ((64, 96) if a else (96, 64))
    for (x, y), level in (((-1, -1), TOP_LEFT), ((1, -1), TOP_RIGHT), ((-1, 1), GREY)):
        right, down = a * x + c * y, b * x + d * y
        corner = image[-8 if down > 0 else 7, -8 if right > 0 else 7]
        np.testing.assert_allclose(corner, level, atol=6)
    assert bool(shown.notes) == (matrix != ORIENTATIONS[0])
    assert all(("mirrored" in note) == (a * d - b * c < 0) for note in shown.notes)


# ------------------------------------------------------------------------------------------ pixels


@given(across=st.integers(1, 64), down=st.integers(1, 64))
def test_pixels_are_made_square(tmp_path_factory, across, down):
    """A disc of the shown shape is round, whatever the shape of a pixel; none is lost."""
    aspect = Fraction(across, down)
    if not Fraction(1, 4) <= aspect <= 4:
        aspect = Fraction(1)
    image = np.zeros((120, 160, 3), np.uint8)
    image[40:80, 40:120] = 200  # 80 by 40 stored pixels

    def set_up(track):
        track.codec_context.sample_aspect_ratio = aspect

    path = encode(tmp_path_factory.mktemp("sar") / "sar.mp4", [image] * 2, set_up=set_up, qp="4")
    shown = frames.frames_at(path, [0.0])
    bright = shown.images[0].mean(-1) > 100
    assert bright.any(0).sum() == pytest.approx(80 * max(aspect, 1), abs=1.5)
    assert bright.any(1).sum() == pytest.approx(40 * max(1 / aspect, 1), abs=1.5)
    expected = (notes.scaled_pixels(aspect),) if aspect != 1 else ()
    assert shown.notes == expected


def pq(light):
    """The signal of light in cd/m2, SMPTE ST 2084."""
    power = (light / 1e4) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_pq_is_tone_mapped_to_the_brightness_of_sdr(tmp_path, share):
    """Light is a share of reference white, 203 cd/m2; below its knee SDR shows the same share."""

    def set_up(track):
        context = track.codec_context
        context.color_trc, context.color_primaries, context.colorspace = 16, 9, 9

    level = round(255 * pq(203 * share))
    images = [np.full((64, 96, 3), level, np.uint8)] * 2
    path = encode(tmp_path / "pq.mp4", images, "yuv420p10le", set_up, qp="4")
    shown = frames.frames_at(path, [0.0])
    assert shown.notes == (notes.HDR,)
    assert shown.images[0].mean() == pytest.approx(255 * share ** (1 / 2.4), abs=3)


# ------------------------------------------------------------------------------------------ covers


def picture():
    return cv2.imencode(".png", np.full((64, 64, 3), 200, np.uint8))[1].tobytes()


def mp3_with_cover(path):
    """Writes an mp3 behind an ID3v2.3 tag with a picture of the front cover."""
    bare = path.with_suffix(".bare.mp3")
    with av.open(str(bare), "w", options={"write_id3v2": "0"}) as container:
        track = container.add_stream("mp3", rate=48000, layout="mono")
        block = av.AudioFrame.from_ndarray(tone(1)[None], format="fltp", layout="mono")
        block.sample_rate = 48000
        container.mux(track.encode(block))
        container.mux(track.encode(None))
    body = b"\0image/png\0\3\0" + picture()
    tag = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + size + tag + bare.read_bytes())
    return path


def video_with_cover(path, video):
    """Copies a video and puts a cover before its track."""
    with av.open(str(video)) as file, av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        copies = {s.index: container.add_stream_from_template(s) for s in file.streams}
        image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 250, np.uint8), format="rgb24")
        container.mux([*cover.encode(image), *cover.encode(None)])
        for packet in file.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    return path


def test_the_cover_of_a_sound_file_is_no_video(tmp_path):
    path = mp3_with_cover(tmp_path / "song.mp3")
    with av.open(str(path)) as file:
        assert len(file.streams.video) == 1  # FFmpeg sees the cover
    assert not has_video(path)
    clip = prepare(path)
    assert (clip.has_audio, clip.has_video, clip.notes) == (True, False, (notes.NO_VIDEO,))
    assert np.abs(np.fft.rfft(read_audio(path)[:22050])).argmax() == pytest.approx(440, abs=2)


def test_the_cover_of_a_video_is_not_taken(tmp_path):
    video = write_video(tmp_path / "bare.mp4", 8, sound=tone(0.3))
    path = video_with_cover(tmp_path / "cover.mp4", video)
    with av.open(str(path)) as file:
        assert len(file.streams.video) == 2
    np.testing.assert_array_equal(prepare(path).frames, prepare(video).frames)
    assert prepare(path).notes == prepare(video).notes


def prepare(path):
    return prepare_clip(
        path, path, profile="fixed", num_frames=2, image_size=16, detector=WholeFrame()
    )


# -------------------------------------------------------------------------------- tags and headers


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_titles_may_have_any_encoding(tmp_path, suffix):
    plain = tmp_path / f"plain.{suffix}"
    source = write_video(tmp_path / "source.mp4", 8, sound=tone(0.3))
    with av.open(str(source)) as file, av.open(str(plain), "w") as container:
        container.metadata["title"] = "cafXY"
        copies = [container.add_stream_from_template(stream) for stream in file.streams]
        for packet in file.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    path = tmp_path / f"latin.{suffix}"
    assert b"cafXY" in plain.read_bytes()
    path.write_bytes(plain.read_bytes().replace(b"cafXY", b"caf\xe9\xff"))
    expected, clip = prepare(plain), prepare(path)
    np.testing.assert_array_equal(clip.frames, expected.frames)
    np.testing.assert_array_equal(clip.mfcc, expected.mfcc)
    assert clip.has_audio and clip.has_video


@pytest.mark.parametrize("rate", [0, 8, 999, 1_000_001, 2**31, 2**32 - 1])
def test_a_header_with_an_impossible_rate_is_refused_at_once(tmp_path, rate):
    path = write_sound(tmp_path / "rate.wav", tone(0.3), 48000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"rate\.wav (has|cannot be decoded)"):
        prepare_clip(None, path, profile="fixed", num_frames=2, image_size=16, detector=None)
