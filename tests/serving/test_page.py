"""The page in a real browser: click through it, count its requests to other hosts."""

import os
import shutil
from pathlib import Path

import pytest

from avjax.serving.limits import Limits
from tests.serving_models import small_model

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EXAMPLES = Path(__file__).parents[2] / "avjax" / "serving" / "examples"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
JUDGE = "button.primary:visible"


@pytest.fixture(scope="module")
def server(start):
    return start(small_model, Limits(upload_bytes=400_000, clip_seconds=30.0))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page, opened; at the end there was no error, no request to others, no upload left."""
    address, folder = server
    context = browser.new_context(permissions=["camera", "microphone"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors, urls = [], []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    page.goto(address)
    page.wait_for_selector(JUDGE)
    yield page
    context.close()
    assert errors == []
    assert [u for u in urls if not u.startswith((address, "data:", "blob:"))] == []
    assert len(urls) > 10
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def upload(page, path):
    page.set_input_files("#av-video input[type=file]", path)
    page.wait_for_selector("#av-video video")


def shoot(page, name):
    """Saves a screenshot at every width where AVJAX_SCREENSHOTS names a folder."""
    folder = os.environ.get("AVJAX_SCREENSHOTS")
    for width, (x, y) in WIDTHS.items():
        page.set_viewport_size({"width": x, "height": y})
        page.wait_for_timeout(300)
        scroll = page.evaluate("document.documentElement.scrollWidth")
        assert scroll <= x, f"{width}: {scroll} pixels wide"
        spans = page.locator(".av-bar span").all()
        assert all(span.bounding_box()["width"] > 50 for span in spans), width
        if folder:
            page.screenshot(path=f"{folder}/{name}-{width}.png", full_page=True)


def test_an_uploaded_clip(page):
    upload(page, EXAMPLES / "mixed.mp4")
    page.click(JUDGE)
    page.wait_for_selector(".av-cards")
    titles = page.locator(".av-card h3").all_inner_texts()
    assert titles == ["Sound and picture", "Picture off: sound alone", "Sound off: picture alone"]
    assert page.locator(".av-card").first.locator("tbody tr").count() == 3
    assert "cal." in page.inner_text(".av-card")
    assert page.locator(".av-bar b").count() == 9
    assert "no sound in" in page.inner_text(".av-notes")
    assert page.locator(".av-strip img").count() == 8
    width = "document.querySelector('.av-wide img').naturalWidth"
    assert page.evaluate(width) > 500
    assert "it knows nothing" in page.inner_text(".av-model")
    assert page.locator("#av-video video").count() == 0  # gone with its file
    page.wait_for_function("document.querySelector('.av-player').readyState >= 2")
    shoot(page, "answer")


def test_examples_and_bad_uploads(page, tmp_path):
    page.get_by_role("button", name="Face, no sound").click()
    page.wait_for_selector(".av-cards")
    assert "no sound: judged without" in page.inner_text(".av-notes")
    assert page.locator(".av-card").count() == 1
    text = tmp_path / "talk.mp4"
    text.write_text("#EXTM3U\n")
    page.set_input_files("#av-video input[type=file]", text)
    page.wait_for_selector("#av-video video", state="attached")
    page.click(JUDGE)
    page.wait_for_selector(".av-refused")
    refusal = page.inner_text(".av-refused")
    assert "talk.mp4 is no video or sound file that can be read" in refusal
    assert "/" not in refusal
    shoot(page, "refusal")


def judge_recording(page):
    """Asks for an answer, twice if the page did not know the recording yet on a busy machine."""
    page.click(JUDGE)
    try:
        page.wait_for_selector(".av-cards", timeout=30_000)
    except playwright.TimeoutError:
        page.click(JUDGE)
        page.wait_for_selector(".av-cards")


def test_a_recorded_clip(page):
    page.get_by_label("Capture from camera").first.click()
    page.get_by_text("Click to Access Webcam").click()
    page.get_by_label("start recording").click()
    page.wait_for_timeout(2500)
    page.get_by_label("start recording").click()  # Gradio keeps the name; this stops it
    page.wait_for_selector("#av-video video[src*='gradio_api/file=']")
    judge_recording(page)
    assert page.locator(".av-card").count() >= 1


def test_a_recorded_sound(page):
    page.get_by_role("tab", name="Sound").click()
    page.locator("#av-sound").get_by_label("Record audio").click()
    page.locator("#av-sound").get_by_text("Record", exact=True).first.click()
    page.wait_for_timeout(2500)
    page.locator("#av-sound").get_by_text("Stop", exact=True).first.click()
    page.wait_for_timeout(2000)  # uploads itself
    judge_recording(page)
    assert "no face: judged without" in page.inner_text(".av-notes")


def test_a_large_upload_is_refused(page, tmp_path):
    (tmp_path / "large.mp4").write_bytes(bytes(500_000))
    page.set_input_files("#av-video input[type=file]", tmp_path / "large.mp4")
    page.wait_for_selector(".toast-body")
    assert "exceed the maximum allowed size" in page.inner_text(".toast-body")
