"""Frames larger than 4K: faces at their places, and bounded memory."""

import gc
import subprocess
import sys

import av
import numpy as np
import pytest

from avjax.preparation import frames
from avjax.preparation.clip import prepare_clip
from tests.clips import write_video

MEASURE = """
import sys
from pathlib import Path
from avjax.preparation.clip import prepare_clip
from tests.clips import WholeFrame

def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024

for video in sys.argv[1:]:
    prepare_clip(Path(video), None, profile="fixed", num_frames=6, image_size=64,
                 detector=WholeFrame(), threads=1)
    print(peak())
"""


class Brightest:
    """A detector that returns the box of what is bright; records the frames' widths."""

    def __init__(self):
        self.widths = []

    def faces(self, frames, thorough=False):
        self.widths.append(frames.shape[2])
        boxes = []
        for image in frames:
            rows, columns = np.nonzero(image[..., 0] > 128)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes.append(np.array([box], np.float64))
        return boxes


def test_faces_are_searched_in_reduced_frames_and_cropped_from_whole_ones(tmp_path):
    image = np.full((2000, 5000, 3), 40, np.uint8)
    image[800:1200, 3000:3400] = 200
    video = write_video(tmp_path / "wide.mp4", [image] * 2)
    detector = Brightest()
    clip = prepare_clip(
        video, None, profile="fixed", num_frames=2, image_size=64, detector=detector
    )
    assert detector.widths == [2500, 2500]
    np.testing.assert_allclose(clip.frames[:, 1:-1, 1:-1], 200, atol=3)


def test_decoded_frames_are_freed_without_a_collection_of_cycles(tmp_path):
    video = write_video(tmp_path / "clip.mp4", 40)
    gc.collect()
    gc.disable()
    try:
        frames.frames_at(video, np.arange(40) / 30)
        alive = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
    finally:
        gc.enable()
    assert alive <= 2


@pytest.mark.slow
def test_eight_k_takes_at_most_a_gigabyte_beyond_its_frames(root_dir, tmp_path):
    large = write_video(
        tmp_path / "8k.mp4", [np.full((4320, 7680, 3), 20 * i, np.uint8) for i in range(8)]
    )
    small = write_video(tmp_path / "small.mp4", 8)
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(large)],
        cwd=root_dir,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    before, after = map(int, output.split())
    assert after - before < 6 * 7680 * 4320 * 3 + 1e9
