"""The JSON endpoint: answers, and what becomes of bad uploads."""

import contextlib
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from avjax import __version__
from avjax.serving.limits import Limits
from tests.clips import tone, write_sound, write_video
from tests.serving_models import CLASSES, Scripted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LIMITS = Limits(
    upload_bytes=1_500_000,
    clip_seconds=20.0,
    frames=600,
    pixels=50_000,
    answer_seconds=2.0,
    memory_bytes=150_000_000,
    waiting=2,
)


@pytest.fixture(scope="module")
def server(start):
    return start(Scripted, LIMITS)


@pytest.fixture
def address(server):
    """The server's address; at the end of a test no upload is left."""
    yield server[0]
    assert [path for path in server[1].rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", 60, sound=tone(2))


def post(address, content, **arguments):
    return requests.post(f"{address}/api/predict", data=content, timeout=60, **arguments)


def post_form(address, content, name="clip.mp4"):
    return requests.post(f"{address}/api/predict", files={"clip": (name, content)}, timeout=60)


def script(clip, words):
    """A clip that makes `Scripted` do something: words behind the last box of an mp4."""
    box = f"do:{words}\0".encode()
    return clip.read_bytes() + (8 + len(box)).to_bytes(4, "big") + b"free" + box


def test_answer_is_that_of_predict(address, clip):
    expected = {"clip": "clip.mp4", **Scripted().predict(clip).to_json()}
    response = post_form(address, clip.read_bytes())
    assert (response.status_code, response.json()) == (200, json.loads(json.dumps(expected)))
    assert response.json()["label"] == "happy"
    raw = post(address, clip.read_bytes())
    assert raw.json() == {**expected, "clip": "clip", "timeline": raw.json()["timeline"]}


def test_health_and_version(address):
    health = requests.get(f"{address}/health", timeout=10).json()
    assert health == {"status": "ok", "taken": 0, "places": 3}
    version = requests.get(f"{address}/version", timeout=10).json()
    assert (version["version"], version["model"], version["classes"]) == (
        *(__version__, "small"),
        CLASSES,
    )
    assert "it knows nothing" in version["statement"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\clips\\passwd", "a\nb/passwd"])
def test_client_names_are_no_paths(address, clip, name):
    assert post_form(address, clip.read_bytes(), name).json()["clip"] == "passwd"


def bad_files(folder):
    whole = write_video(folder / "clip.mp4", 30, sound=tone(1)).read_bytes()
    secret = write_sound(folder / "secret.wav", tone(2))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    noise = np.random.default_rng(0).bytes(50_000)
    small = [np.zeros((16, 16, 3), np.uint8)] * 700
    return {
        "empty": (b"", 400, "no clip in the request"),
        "text": (b"not a clip", 422, "no video or sound file that can be read"),
        "noise": (noise, 422, "clip "),
        "cut": (whole[: len(whole) // 3], 422, "clip "),
        "playlist": (playlist.encode(), 422, "no video or sound file that can be read"),
        "script": (
            f"ffconcat version 1.0\nfile {secret}\n".encode(),
            *(422, "no video or sound file that can be read"),
        ),
        "hours": (
            write_sound(folder / "long.wav", tone(30, 8000), 8000).read_bytes(),
            *(422, "clip is longer than 20 s"),
        ),
        "frames": (
            write_video(folder / "frames.mp4", small, rate=100).read_bytes(),
            *(422, "more than 600 frames"),
        ),
        "large frames": (
            write_video(folder / "l.mp4", [np.zeros((240, 320, 3), np.uint8)]).read_bytes(),
            *(422, "frames of 320x240"),
        ),
        "huge": (bytes(2_000_000), 413, "the file is larger than 1.5 MB"),
        "bug": (script(folder / "clip.mp4", "bug"), 500, "which is a bug"),
    }


def test_bad_uploads_get_one_sentence(address, server, tmp_path):
    for name, (content, status, text) in bad_files(tmp_path).items():
        response = post(address, content)
        assert (name, response.status_code) == (name, status)
        error = response.json()["error"]
        assert text in error, name
        assert str(server[1]) not in error and str(tmp_path) not in error
        assert "\n" not in error


def test_uploads_without_a_length_stop_at_the_limit(address):
    sent = []

    def endless():
        while True:
            sent.append(1)
            yield bytes(100_000)

    with contextlib.suppress(requests.ConnectionError):  # the server may hang up meanwhile
        assert post(address, endless()).status_code == 413
    assert len(sent) < 200
    form = io.BytesIO(bytes(2_000_000))
    assert post_form(address, form).status_code == 413


def test_a_form_without_a_file(address):
    response = requests.post(f"{address}/api/predict", files={"x": (None, "y")}, timeout=10)
    assert (response.status_code, "holds no file" in response.text) == (400, True)


def test_waiting_clips_are_bounded(address, clip):
    content = script(clip, "nap")
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: post(address, content), range(8)))
    codes = [response.status_code for response in responses]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 3
    busy = responses[codes.index(503)]
    assert busy.headers["Retry-After"] == "5"
    assert "try again" in busy.json()["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("sleep", "takes more than 2 s to judge"),
        ("die", "makes the decoder crash"),
        ("eat", "takes more than 0.15 GB of memory"),
    ],
)
def test_a_clip_that_hangs_crashes_or_swells_harms_no_other(address, clip, words, text):
    response = post(address, script(clip, words))
    assert response.status_code == 422
    assert text in response.json()["error"]
    assert post(address, clip.read_bytes()).status_code == 200


@pytest.mark.slow
def test_an_upload_that_is_never_judged_is_removed(start, clip, monkeypatch):
    monkeypatch.setattr("avjax.serving.page.KEPT", (1, 1))
    address, folder = start(Scripted, LIMITS)
    files = {"files": ("clip.mp4", clip.read_bytes())}
    (path,) = requests.post(f"{address}/gradio_api/upload", files=files, timeout=10).json()
    assert Path(path).is_relative_to(folder) and Path(path).is_file()
    assert requests.get(f"{address}/gradio_api/file={path}", timeout=10).status_code == 200
    deadline = time.monotonic() + 20
    while Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(path).exists()
