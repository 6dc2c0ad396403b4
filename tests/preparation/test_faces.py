"""Face detection: geometry, the cascade with fake networks, crops, and real clips."""

import importlib.util

import cv2
import numpy as np
import pytest

from avjax.preparation.crops import NoFaceError, fixed_crops, reference_crops
from avjax.preparation.face_detector import COARSE_MIN_FACE_SIZE, FaceDetector, geometry
from avjax.preparation.face_detector.weights import PACKAGE, REMEDY, MtcnnVariables


def frames_of_noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def make_boxes(*rows) -> np.ndarray:
    return np.array(rows, np.float32)


# ---------------------------------------------------------------------------------------- geometry


def test_pyramid_scales():
    scales = geometry.pyramid_scales(720, 1280, 20)
    assert len(scales) == 11
    np.testing.assert_allclose(scales[:3], [0.6, 0.4254, 0.3016086])
    assert 720 * scales[-1] >= 12 > 720 * scales[-1] * 0.709
    assert geometry.pyramid_scales(19, 100, 20) == []


def test_coarse_pyramid_is_a_subset():
    coarse = geometry.pyramid_scales(720, 1280, COARSE_MIN_FACE_SIZE)
    np.testing.assert_allclose(coarse, geometry.pyramid_scales(720, 1280, 20)[5:], rtol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(5, 8), (17, 23), (40, 31)])
def test_resize_area_averages_windows(height, width):
    """Compares smaller, equal and larger sizes with a loop over PyTorch's windows."""
    frame = frames_of_noise(1, 17, 23)[0]
    resized = geometry.resize_area(cv2.integral(frame), height, width)
    for i in range(height):
        rows = slice(i * 17 // height, -(-(i + 1) * 17 // height))
        for j in range(width):
            columns = slice(j * 23 // width, -(-(j + 1) * 23 // width))
            expected = frame[rows, columns].mean((0, 1))
            np.testing.assert_allclose(resized[i, j], expected, rtol=1e-6)


def test_crop_area_equals_resizing_the_crop():
    frames = frames_of_noise(2, 30, 40)
    integrals = np.stack([cv2.integral(frame) for frame in frames])
    corners = np.array([[0, 0, 40, 30], [3, 5, 10, 29], [39, 29, 40, 30]])
    frame_indices = np.array([1, 0, 1])
    crops = geometry.crop_area(integrals, frame_indices, corners, 24)
    for crop, frame, (x1, y1, x2, y2) in zip(crops, frame_indices, corners, strict=True):
        patch = np.ascontiguousarray(frames[frame, y1:y2, x1:x2])
        expected = geometry.resize_area(cv2.integral(patch), 24, 24)
        np.testing.assert_array_equal(crop, expected)


def test_cell_boxes_are_floored():
    boxes = geometry.cell_boxes(np.array([0, 3]), np.array([0, 10]), 0.6)
    np.testing.assert_array_equal(
        boxes, [[1, 1, 20, 20], [35, 11, 53, 29]]
    )  # 18 / 0.6 is 29.999998 in float32


def test_move_corners_adds_the_extra_pixel_to_the_size():
    box, offset = make_boxes([10, 20, 30, 60]), make_boxes([0.1, -0.1, 0.2, 0])
    np.testing.assert_allclose(geometry.move_corners(box, offset, 0), [[12, 16, 34, 60]])
    np.testing.assert_allclose(geometry.move_corners(box, offset, 1), [[12.1, 15.9, 34.2, 60]])


def test_squared_keeps_the_centre():
    np.testing.assert_array_equal(
        geometry.squared(make_boxes([10, 20, 30, 60], [0, 0, 8, 4])),
        [[0, 20, 40, 60], [0, -2, 8, 6]],
    )


def test_crop_corners_are_one_based_and_mark_empty_boxes():
    boxes = make_boxes([5.9, 6.9, 10.9, 12.2], [-4.5, -3, 5, 200], [60, 5, 70, 9], [-9, 1, 0.5, 4])
    corners, inside = geometry.crop_corners(boxes, height=40, width=50)
    np.testing.assert_array_equal(corners[:2], [[4, 5, 10, 12], [0, 0, 5, 40]])
    np.testing.assert_array_equal(inside, [True, True, False, False])


def test_suppress_drops_overlaps_and_sorts_by_score():
    boxes = make_boxes([0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [5, 0, 15, 10])
    scores = np.array([0.7, 0.9, 0.95, 0.8], np.float32)
    np.testing.assert_array_equal(geometry.suppress(boxes, scores, 0.5), [2, 1, 3])
    np.testing.assert_array_equal(geometry.suppress(boxes, scores, 0.4), [2, 1])
    assert len(geometry.suppress(boxes[:0], scores[:0], 0.5)) == 0


def test_suppress_nested_divides_by_the_smaller_area():
    boxes = make_boxes([0, 0, 99, 99], [10, 10, 19, 19], [95, 0, 104, 9])
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    np.testing.assert_array_equal(geometry.suppress_nested(boxes, scores, 0.7), [0, 2])
    np.testing.assert_array_equal(geometry.suppress(boxes, scores, 0.7), [0, 1, 2])


# ----------------------------------------------------------------------------------------- cascade


class FakeDetector(FaceDetector):
    """The cascade with fake networks that detect white rectangles."""

    def __init__(self, **options):
        super().__init__(MtcnnVariables({}, {}, {}), **options)
        self.crops = []
        self._pnet = self._propose_white
        self._rnet = self._onet = self._accept_white

    def _propose_white(self, level):
        cells = level[:, :-11:2, :-11:2, 0]
        inner = np.minimum(cells, level[:, 10:-1:2, 10:-1:2, 0])
        probability = np.where(inner > 250, 0.99, 0.0).astype(np.float32)
        return probability, np.zeros((*probability.shape, 4), np.float32)

    def _accept_white(self, crops):
        self.crops.append(len(crops))
        probability = crops.mean((1, 2, 3)) / 255
        return probability, np.zeros((len(crops), 4), np.float32), None


def white_square(x: int, y: int, side: int) -> np.ndarray:
    frame = np.zeros((160, 240, 3), np.uint8)
    frame[y : y + side, x : x + side] = 255
    return frame


def test_each_frame_gets_its_box():
    frames = np.stack([white_square(100, 40, 50), white_square(0, 0, 0), white_square(20, 90, 60)])
    for batch_size in (1, 2, 3):
        first, none, last = FakeDetector(batch_size=batch_size).largest_boxes(frames)
        assert none is None
        for box, (x, y, side) in ((first, (100, 40, 50)), (last, (20, 90, 60))):
            assert box[0] > x - 8 and box[1] > y - 8
            assert box[2] < x + side + 8 and box[3] < y + side + 8
            assert box[2] - box[0] > side / 2


def test_crops_are_padded_to_powers_of_two():
    detector = FakeDetector()
    detector.largest_boxes(np.stack([white_square(20, 20, 120)] * 8))
    assert all(count & (count - 1) == 0 and 16 <= count <= 32 for count in detector.crops)
    assert max(detector.crops) > 16


def test_coarse_search_falls_back_on_frames_without_a_face():
    frames = np.stack([white_square(20, 20, 130), white_square(100, 40, 40)])
    coarse_only = FakeDetector(min_face_size=COARSE_MIN_FACE_SIZE).largest_boxes(frames)
    assert coarse_only[0] is not None and coarse_only[1] is None
    two_stage = FakeDetector(coarse_min_face_size=COARSE_MIN_FACE_SIZE).largest_boxes(frames)
    full = FakeDetector().largest_boxes(frames)
    np.testing.assert_array_equal(two_stage[0], coarse_only[0])
    np.testing.assert_array_equal(two_stage[1], full[1])


def test_frames_too_small_for_a_face_have_no_boxes():
    assert FakeDetector().largest_boxes(frames_of_noise(2, 12, 200)) == [None, None]
    assert FakeDetector().largest_boxes(frames_of_noise(0, 64, 64)) == []


# ------------------------------------------------------------------------------------------- crops


def test_reference_crops_are_rounded_stretched_and_bgr():
    frames = frames_of_noise(1, 40, 60)
    crops = reference_crops(frames, [np.array([10.5, 3.5, 30.6, 20.4])], size=8)
    expected = cv2.resize(np.ascontiguousarray(frames[0, 4:20, 10:31, ::-1]), (8, 8))
    np.testing.assert_array_equal(crops[0], expected)


def test_reference_crops_reuse_the_last_box_and_are_clipped():
    frames = np.repeat(frames_of_noise(1, 40, 60), 5, axis=0)
    inside, outside = np.array([5.0, 5, 20, 20]), np.array([-9.0, 30, 70, 55])
    crops = reference_crops(frames, [None, inside, None, outside, None], size=8)
    np.testing.assert_array_equal(crops[0], crops[1])
    np.testing.assert_array_equal(crops[2], crops[1])
    np.testing.assert_array_equal(crops[4], crops[3])
    expected = cv2.resize(np.ascontiguousarray(frames[0, 30:, :, ::-1]), (8, 8))
    np.testing.assert_array_equal(crops[3], expected)


def test_box_outside_the_frame_gives_a_crop():
    crops = reference_crops(frames_of_noise(1, 40, 60), [np.array([70.0, 50, 80, 60])], size=8)
    assert crops.shape == (1, 8, 8, 3)


def test_fixed_crops_are_undistorted_and_rgb():
    frames = frames_of_noise(1, 40, 60)
    crops = fixed_crops(frames, [np.array([20.0, 10, 28, 26])], size=16)
    np.testing.assert_array_equal(crops[0], frames[0, 10:26, 16:32])


def test_fixed_crops_stay_inside_and_use_the_nearest_box():
    frames = np.repeat(frames_of_noise(1, 40, 60), 5, axis=0)
    corner, huge = np.array([-10.0, -10, 6, 6]), np.array([0.0, -50, 60, 90])
    crops = fixed_crops(frames, [None, corner, None, None, huge], size=16)
    np.testing.assert_array_equal(crops[1], frames[0, :16, :16])
    np.testing.assert_array_equal(crops[0], crops[1])
    np.testing.assert_array_equal(crops[2], crops[1])
    np.testing.assert_array_equal(crops[3], crops[4])
    expected = cv2.resize(
        np.ascontiguousarray(frames[0, :, 10:50]), (16, 16), interpolation=cv2.INTER_AREA
    )
    np.testing.assert_array_equal(crops[4], expected)


@pytest.mark.parametrize("crop", [reference_crops, fixed_crops])
def test_clip_without_any_face_is_an_error(crop):
    with pytest.raises(NoFaceError, match="any of its 2 frames"):
        crop(frames_of_noise(2, 40, 60), [None, None], 8)


# -------------------------------------------------------------------------------------- real clips

# facenet-pytorch 2.5.3's boxes in frame 3 of four clips of actor 05 (torch 2.13, CPU).
FACENET_BOXES = {
    "01-01-01-01-02-01-05": (469.102, 123.702, 830.472, 607.547),
    "01-01-04-02-01-02-05": (479.861, 112.013, 837.089, 607.076),
    "01-01-08-01-02-01-05": (478.413, 160.445, 813.682, 621.364),
    "02-01-03-01-01-02-05": (476.052, 162.671, 824.720, 627.171),
}


@pytest.fixture(scope="module")
def weights():
    """Skips the test without the published weights."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"MTCNN's weights are not installed: {REMEDY}")


def selected_frames(path) -> np.ndarray:
    """Decodes the frames that the reference selects with OpenCV."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    indices = [i * 108 // 15 + 3 for i in range(15)]
    return np.ascontiguousarray([frames[i] for i in indices if i < len(frames)])


def test_noise_has_no_face(weights):
    assert FaceDetector().largest_boxes(frames_of_noise(1, 90, 120)) == [None]


@pytest.mark.slow  # by default, the crops are compared, which follow from boxes
@pytest.mark.ravdess
def test_boxes_equal_facenet(shared_dir, weights):
    """Compares the full and the coarse pyramid on one frame of four clips."""
    folder = shared_dir / "ravdess" / "video" / "Actor_05"
    frames = np.stack([selected_frames(folder / f"{name}.mp4")[0] for name in FACENET_BOXES])
    full = np.stack(FaceDetector().largest_boxes(frames))
    np.testing.assert_allclose(full, list(FACENET_BOXES.values()), atol=0.01)
    coarse = FaceDetector(coarse_min_face_size=COARSE_MIN_FACE_SIZE).largest_boxes(frames)
    np.testing.assert_allclose(coarse, full, atol=0.001)


@pytest.mark.ravdess
def test_crops_equal_the_reference_byte_for_byte(shared_dir, weights):
    detector = FaceDetector(coarse_min_face_size=COARSE_MIN_FACE_SIZE)
    paths = sorted((shared_dir / "ravdess" / "video" / "Actor_05").glob("*.mp4"))
    assert len(paths) == 8
    for path in paths:
        frames = selected_frames(path)
        crops = reference_crops(frames, detector.largest_boxes(frames))
        name = f"{path.stem}_facecroppad.npy"
        expected = np.load(shared_dir / "ravdess" / "reference_crops" / "Actor_05" / name)
        np.testing.assert_array_equal(crops, expected[: len(crops)], err_msg=path.stem)
        assert not expected[len(crops) :].any()
