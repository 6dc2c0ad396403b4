"""Several people in a clip: one is followed, by tracks of made-up boxes and in drawn clips."""

import importlib.util

import cv2
import numpy as np
import pytest
from demo import face as faces

from avjax.errors import InputError
from avjax.preparation import notes
from avjax.preparation.clip import prepare_clip
from avjax.preparation.face_detector import default_detector
from avjax.preparation.face_detector.weights import PACKAGE, REMEDY
from avjax.preparation.tracks import follow, hit, link
from avjax.prepare import PreparationSettings, prepare
from tests.clips import write_video


def face(x: float, y: float = 100, side: float = 80) -> list[float]:
    """Returns a box around a point."""
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def frames(*rows) -> list[np.ndarray]:
    """Returns the boxes of frames, the largest first."""
    ordered = [sorted(boxes, key=lambda box: box[0] - box[2]) for boxes in rows]
    return [np.array(boxes, np.float32).reshape(-1, 4) for boxes in ordered]


def followed(*rows, target=None, size=(640, 360)):
    """Returns the middles, from left to right, of the followed person's boxes, and the people."""
    person = follow(frames(*rows), [size] * len(rows), target)
    assert person is not None
    middles = [None if box is None else float(box[0] + box[2]) / 2 for box in person.boxes]
    return middles, person.people


def test_a_single_face_is_kept_as_it_is():
    rows = frames(*([face(300 + 20 * i, side=80 + 3 * i)] for i in range(15)))
    person = follow(rows, [(640, 360)] * 15)
    assert person.people == 1
    assert all(box is not None for box in person.boxes)
    np.testing.assert_array_equal(np.stack(person.boxes), np.concatenate(rows))


def test_the_larger_of_two_changes_but_one_is_followed():
    rows = [[face(100, side=70 + 30 * (i % 2)), face(400, side=95)] for i in range(8)]
    assert followed(*rows) == ([400.0] * 8, 2)


def test_longest_and_largest_count_together():
    portrait = face(500, y=60, side=40)
    speaker = [[face(100, side=120), portrait]] * 12 + [[portrait]] * 3
    assert followed(*speaker) == ([100.0] * 12 + [None] * 3, 2)
    passer_by = [[face(100, side=70)]] * 11 + [[face(100, side=70), face(400, side=110)]] * 4
    assert followed(*passer_by) == ([100.0] * 15, 2)


def test_gaps_are_bridged_and_filled_by_nobody_else():
    rows = [[face(100)]] * 4 + [[face(400, side=110)]] * 3 + [[face(110)]] * 4 + [[]]
    assert followed(*rows) == ([100.0] * 4 + [None] * 3 + [110.0] * 4 + [None], 2)


def test_people_who_pass_each_other_stay_themselves():
    """One walks to the right, the other to the left, a head lower."""
    rows = [[face(100 + 30 * i, y=100, side=84), face(520 - 30 * i, y=190)] for i in range(15)]
    assert followed(*rows) == ([100.0 + 30 * i for i in range(15)], 2)


def test_who_takes_the_place_of_another_later_is_someone_else():
    walk = [[face(100 + 30 * i)] for i in range(10)]
    rows = [*walk, *[[face(370), face(100)]] * 5]
    assert followed(*rows) == ([100.0 + 30 * i for i in range(10)] + [370.0] * 5, 2)


def test_faces_of_unlike_sizes_are_different_people():
    rows = [[face(300, side=200)]] * 3 + [[face(300, side=60)]] * 7
    assert followed(*rows) == ([300.0] * 3 + [None] * 7, 2)


def test_whom_one_frame_shows_together_are_two():
    near = [[face(300), face(370)], [face(335)]]
    assert sorted(map(len, link(frames(*near)))) == [1, 2]


def test_a_face_found_twice_is_one():
    rows = [[face(300, side=100), face(320, side=70)]] * 5
    assert followed(*rows) == ([300.0] * 5, 1)


def test_who_is_hardly_seen_is_not_counted():
    rows = [[face(300)]] * 14 + [[face(300), face(500), face(100, side=30)]]
    assert followed(*rows) == ([300.0] * 15, 1)
    assert followed(*rows[-5:]) == ([300.0] * 5, 3)


def test_places_are_compared_as_fractions_of_frames_that_change_their_size():
    rows = frames([face(400, side=100)], [face(200, y=50, side=50)], [face(800, y=200, side=200)])
    person = follow(rows, [(640, 360), (320, 180), (1280, 720)])
    assert person.people == 1
    assert [None if box is None else box[2] - box[0] for box in person.boxes] == [100, 50, 200]


def test_a_point_or_a_box_chooses():
    rows = [[face(100), face(400, side=120)]] * 3 + [[face(400, side=120)]]
    assert followed(*rows) == ([400.0] * 4, 2)
    for target in ((80, 90), (50, 40, 100, 130)):
        assert followed(*rows, target=target) == ([100.0] * 3 + [None], 2)
    for target in ((250, 100), (240, 50, 20, 20), (0, 0, 640, 360)):
        assert follow(frames(*rows), [(640, 360)] * 4, target) is None


def test_targets_hit_the_nearest_and_most_overlapped():
    boxes = np.array([face(100, side=120), face(150, side=60)])
    points = ((50, 100), (120, 100), (130, 100), (200, 100))
    assert [hit(boxes, point) for point in points] == [0, 0, 1, None]
    assert hit(boxes, (120, 70, 60, 60)) == 1
    assert hit(boxes[:0], (1, 1)) is None


def test_no_face_at_all():
    assert follow(frames([], []), [(640, 360)] * 2) is None
    assert link(frames([], [])) == []


# ------------------------------------------------------------------------------------ drawn people

SIDE = 160  # pixels of a person's half of the frame; the coarse search finds only the larger
LIGHT, DARK = (140, 72)  # mean brightness of the faces
LEAVES = 24  # frame from which the light one is away


@pytest.fixture(scope="module")
def detector():
    """Skips the test without the published weights."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"MTCNN's weights are not installed: {REMEDY}")
    return default_detector()


@pytest.fixture(scope="module")
def two_people(tmp_path_factory):
    """A large light person on the left, in half of the clip, and a small dark one in all of it."""
    light, dark = (
        faces.FaceArtist(faces.draw_look(np.random.default_rng(actor), actor), SIDE)
        for actor in (1, 5)
    )
    nobody = np.full((SIDE, SIDE, 3), 128, np.uint8)
    images = []
    for i in range(15):
        sway = 0.02 * np.sin(i)
        left = light.draw(faces.FACES["happy"], faces.Pose(x=sway, zoom=1.15 + 3 * sway))
        right = dark.draw(faces.FACES["sad"], faces.Pose(y=sway, zoom=0.75))
        images += [np.hstack([left if 3 * i < LEAVES else nobody, right])] * 3
    return write_video(tmp_path_factory.mktemp("people") / "two.mp4", images)


def prepared(video, detector, profile="fixed", num_frames=15, **options):
    return prepare_clip(
        video,
        None,
        profile=profile,
        num_frames=num_frames,
        image_size=32,
        detector=detector,
        **options,
    )


def brightness(clip):
    """Returns the mean brightness of each crop's middle."""
    return clip.frames[:, 8:24, 8:24].mean((1, 2, 3))


def test_one_of_two_people_is_followed(two_people, detector):
    clip = prepared(two_people, detector)
    np.testing.assert_allclose(brightness(clip), DARK, atol=12)
    assert clip.notes == (notes.followed(2, False, 15, 15),)
    assert clip.notes[0].startswith("2 people seen; followed the one seen longest")
    assert clip.faceless == 0


def test_the_reference_takes_the_larger_face_of_each_frame(two_people, detector):
    clip = prepared(two_people, detector, "reference")
    expected = [LIGHT if 7 * i + 3 < LEAVES else DARK for i in range(6)]
    np.testing.assert_allclose(brightness(clip)[:6], expected, atol=12)
    assert clip.notes == ()


def test_a_face_column_chooses_another(two_people, detector, tmp_path):
    for face in ((80, 80), (40, 30, 80, 100)):
        clip = prepared(two_people, detector, face=face)
        np.testing.assert_allclose(brightness(clip)[:8], LIGHT, atol=12)
        assert clip.faceless == 7
        assert clip.notes == (notes.followed(2, True, 8, 15),)
    manifest = tmp_path / "clips.csv"
    rows = 'video,label,face\n{0},joy,"80,80"\n{0},grief,240 80\n{0},joy,"160,150,9,9"\n'
    manifest.write_text(rows.format(two_people), encoding="utf-8")
    settings = PreparationSettings("fixed", 15, 64, pair_video_only=False)
    find = {"manifest": manifest, "make_detector": lambda: detector}
    summary = prepare(None, tmp_path / "DATA", settings, **find)
    first, second, missed = (
        f"{two_people.with_suffix('')}#{face}" for face in ("80,80", "240,80", "160,150,9,9")
    )
    assert summary.notes == {
        first: (notes.followed(2, True, 8, 15),),
        second: (notes.followed(2, True, 15, 15),),
    }
    assert summary.faceless_frames == {first: 7}
    assert list(summary.skipped) == [missed]
    assert "160,150,9,9 hits no face in the clip's first frame" in summary.skipped[missed]
    with pytest.raises(InputError, match="names faces, but the reference profile takes"):
        prepare(None, tmp_path / "OTHER", settings._replace(profile="reference"), **find)


class FindsSquares:
    """A detector whose faces are bright squares on black."""

    def faces(self, images, thorough=False):
        found = []
        for image in images:
            stats = cv2.connectedComponentsWithStats((image[..., 0] > 60).astype(np.uint8))[2][1:]
            boxes = [[x, y, x + width, y + height] for x, y, width, height, _ in stats]
            found.extend(frames(boxes))
        return found


def test_the_chosen_person_is_followed_from_the_first_frame_into_the_window(tmp_path):
    """Two people change places until the window begins; the chosen one is the darker."""
    images = []
    for i in range(60):
        image = np.zeros((120, 320, 3), np.uint8)
        walk = min(200, 6 * i)
        image[10:50, 40 + walk : 80 + walk] = 120
        image[70:110, 240 - walk : 280 - walk] = 240
        images.append(image)
    video = write_video(tmp_path / "walk.mp4", images)
    window = {"num_frames": 5, "seconds": 0.5}
    clip = prepared(video, FindsSquares(), face=(50, 20), **window)
    np.testing.assert_allclose(brightness(clip), 120, atol=5)
    clip = prepared(video, FindsSquares(), face=(250, 90), **window)
    np.testing.assert_allclose(brightness(clip), 240, atol=5)
    with pytest.raises(InputError, match=r"walk\.mp4: 50,90 hits .* faces are at 60,30 and 260,90"):
        prepared(video, FindsSquares(), face=(50, 90), **window)
