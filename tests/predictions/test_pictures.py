"""Plots and annotated videos of predictions, read back by other libraries."""

from pathlib import Path
from xml.etree import ElementTree

import av
import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from avjax.errors import InputError
from avjax.predictions.annotate import annotate
from avjax.predictions.drawing import Drawing
from avjax.predictions.outputs import beside
from avjax.predictions.plot import COLOURS, timeline_figure, write_plot
from avjax.predictions.prediction import Scored, summarise
from avjax.predictions.show import show
from avjax.preparation.faces import Face
from avjax.preparation.sound import read_audio
from tests.clips import write_sound, write_video

CLASSES = ["calm", "angry", "a very long name of a class"]
BOX = (20.0, 10.0, 60.0, 50.0)


def prediction(faces=(), count=3):
    """Windows of a second, every half: both streams, no face, nothing."""
    missing = [(), ("video",), ("audio", "video")]
    scored = [
        Scored(0.5 * i, 0.5 * i + 1, None if i % 3 == 2 else np.array([1.0, i, 0]), missing[i % 3])
        for i in range(count)
    ]
    streams = ("audio", "video")
    return summarise(scored, [], faces, classes=CLASSES, streams=streams, temperatures={})


def bar_spans(axes):
    """Returns start and end of each dark bar, by row."""
    paths = [path.vertices for c in axes.collections for path in c.get_paths()]
    return sorted(
        (float(v[:, 1].mean().round()), float(v[:, 0].min()), float(v[:, 0].max())) for v in paths
    )


def test_plot_shows_bands_and_what_is_missing():
    figure = timeline_figure("clip.mp4", prediction())
    bands, strip = figure.axes
    assert bands.get_title() == "clip.mp4: calm"
    heights = [path.get_paths()[0].vertices[:, 1].max() for path in bands.collections]
    assert heights[len(CLASSES) - 1] == pytest.approx(1)
    reach = max(path.get_paths()[0].vertices[:, 0].max() for path in bands.collections)
    assert reach == pytest.approx(1.25)  # not over the window that is not judged
    assert bar_spans(strip) == [(0, 1.25, 2.0), (1, 0.75, 1.25), (1, 1.25, 2.0)]


def test_plot_of_one_window():
    figure = timeline_figure("clip.mp4", prediction(count=1))
    assert figure.axes[1].get_xlim() == (0, 1)
    assert len(figure.axes[0].collections) == len(CLASSES)
    assert [text.get_text() for text in figure.axes[1].texts] == ["nothing missing"]


@pytest.mark.parametrize(
    ("seconds", "first"),
    [
        (1.3, ["0:00.0", "0:00.2", "0:00.4"]),
        (3.6, ["0:00.0", "0:00.5", "0:01.0"]),
        (9, ["0:00", "0:01"]),
    ],
)
def test_ticks_of_a_plot_have_the_same_decimals(seconds, first):
    scored = [Scored(0, seconds, np.array([1.0, 0, 0]), ())]
    result = summarise(scored, [], [], classes=CLASSES, streams=("audio",), temperatures={})
    figure = timeline_figure("clip.mp4", result)
    FigureCanvasAgg(figure).draw()
    texts = [tick.get_text() for tick in figure.axes[1].get_xticklabels()]
    assert texts[: len(first)] == first
    assert len({len(text) for text in texts}) == 1


def test_plots_are_files_of_their_kind(tmp_path):
    write_plot(tmp_path / "a.png", "clip", prediction())
    image = cv2.imread(str(tmp_path / "a.png"))
    assert image.shape[1] > 1000
    ink = bytes.fromhex(COLOURS[1][1:])[::-1]
    assert (image == np.frombuffer(ink, np.uint8)).all(-1).sum() > 1000
    write_plot(tmp_path / "a.svg", "clip", prediction())
    first = (tmp_path / "a.svg").read_bytes()
    assert ElementTree.fromstring(first).tag.endswith("svg")
    write_plot(tmp_path / "a.svg", "clip", prediction())
    assert (tmp_path / "a.svg").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]
    with pytest.raises(InputError, match=r"a\.txt has another suffix .*; choose \.png or \.svg"):
        write_plot(tmp_path / "a.txt", "clip", prediction())


def test_each_of_several_files_has_its_own_output():
    files = [Path("x/clip.mp4"), Path("y/clip.mp4"), Path("z.wav")]
    names = beside(Path("out/timeline.png"), files)
    assert [names[file].name for file in files] == [
        *("timeline-clip.png", "timeline-clip-2.png", "timeline-z.png")
    ]
    assert beside(Path("out/timeline.png"), files[:1]) == {files[0]: Path("out/timeline.png")}
    assert beside(None, files) == {}


def decoded(path):
    """Returns times and RGB frames, and the container's facts."""
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        facts = video.codec_context.name, file.streams.audio[0].codec_context.name
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video)]
    return facts, frames


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """Two seconds at an uneven rate, grey, with a tone from 0.75 s on."""
    folder = tmp_path_factory.mktemp("annotated")
    times = np.cumsum([0, *([0.04, 0.1] * 14)])
    images = [np.full((66, 97 - 1, 3), 128, np.uint8)] * len(times)
    sound = np.where(np.arange(96000) < 36000, 0, 0.5 * np.sin(np.arange(96000) / 10)).astype("f4")
    clip = write_video(folder / "clip.mp4", images, sound=sound, times=times)
    moved = (BOX[0] + 20, BOX[1], BOX[2] + 20, BOX[3])
    faces = [Face(0.2, BOX), Face(0.6, moved), Face(1.0, None), Face(1.4, None)]
    annotate(clip, folder / "out.mp4", prediction(faces))
    return clip, times, folder / "out.mp4"


def test_annotated_video_keeps_times_and_sound(annotated):
    clip, times, out = annotated
    facts, frames = decoded(out)
    assert facts == ("h264", "aac")
    np.testing.assert_allclose([time for time, _ in frames], times, atol=1e-3)
    assert frames[0][1].shape == (360, 524, 3)
    onsets = [np.argmax(np.abs(read_audio(path)) > 0.1) / 22050 for path in (clip, out)]
    assert onsets[1] == pytest.approx(onsets[0], abs=0.005)
    assert sorted(path.name for path in out.parent.iterdir()) == ["clip.mp4", "out.mp4"]


def test_boxes_move_between_frames_that_the_model_saw(annotated):
    _, times, out = annotated
    _, frames = decoded(out)
    scale = 360 / 66

    def left_edge(number):
        row = frames[number][1][round(45 * scale)].astype(int)  # below the tag
        inside = np.abs(row - 128).max(-1) > 12  # the box is grey, too
        inside[: round(15 * scale)] &= False
        return np.argmax(inside) / scale if inside.any() else None

    middle = int(np.argmin(np.abs(times - 0.4)))
    assert left_edge(middle) == pytest.approx(20 + 20 * (times[middle] - 0.2) / 0.4, abs=1.0)
    assert left_edge(int(np.argmin(np.abs(times - 1.3)))) is None


def luminance(colour):
    """Relative luminance of sRGB, as WCAG 2 defines it."""
    x = np.asarray(colour, float) / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def on_white(faces, index=0):
    """Draws into a white frame what a model says whose surest class is the one of an index."""
    scored = [Scored(0, 1, np.eye(3)[index] * 4, ())]
    result = summarise(scored, [], faces, classes=CLASSES, streams=("audio",), temperatures={})
    return Drawing(result).drawn(np.full((360, 480, 3), 255, np.uint8), (480, 360), 0.5)


def test_without_a_face_the_label_is_above_the_bars():
    """Bars of three classes are 60 pixels high, 8 above the ground."""
    ink = np.frombuffer(bytes.fromhex(COLOURS[1][1:]), np.uint8)
    marked = [(on_white(faces, 1) == ink).all(-1) for faces in ([], [Face(0.5, BOX)])]
    above = [mark[360 - 8 - 60 - 20 : 360 - 8 - 60].sum() for mark in marked]
    assert above[0] > 500
    assert above[1] == 0
    assert marked[1][: 360 - 88].sum() > 500  # at the box


def test_bars_stand_out_from_their_ground_over_white():
    """By a contrast of 3, which WCAG 2 asks of graphics."""
    for index in range(3):
        image = on_white([], index)
        ink = np.frombuffer(bytes.fromhex(COLOURS[index][1:]), np.uint8)
        assert (image[292:352] == ink).all(-1).sum() > 500
        ground = image[350, 12]
        assert (luminance(ink) + 0.05) / (luminance(ground) + 0.05) > 3


def test_annotating_needs_a_video_and_another_name(tmp_path):
    sound = write_sound(tmp_path / "voice.wav", np.zeros(48000, np.float32))
    with pytest.raises(InputError, match=r"voice\.wav has no video to draw into; leave out"):
        annotate(sound, tmp_path / "out.mp4", prediction())
    clip = write_video(tmp_path / "clip.mp4", 5)
    content = clip.read_bytes()
    with pytest.raises(InputError, match="would replace the clip itself; name another file"):
        annotate(clip, clip, prediction())
    assert clip.read_bytes() == content
    with pytest.raises(InputError, match=r"out\.mp4 cannot be written .*another --annotate"):
        annotate(clip, tmp_path / "absent" / "out.mp4", prediction())
    status = show([(sound, prediction())], [sound], annotate=tmp_path / "out.mp4")
    assert status == 1
    assert not (tmp_path / "out.mp4").exists()
