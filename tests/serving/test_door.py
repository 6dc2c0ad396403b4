"""The door: tokens, other sites, Gradio's routes, files of the machine."""

import json

import pytest
import requests

from avjax import serve as serving
from avjax.errors import InputError
from avjax.serving.access import check_token
from avjax.serving.app import import_gradio
from avjax.serving.limits import Limits

TOKEN = "a token of some length"
HIDDEN = "the file's content"


def guarded(*arguments):
    """Returns a server behind the door, which says who asked what."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from avjax.serving.guard import Guard

    async def echo(request):
        return PlainTextResponse(f"{request.url.path} {len(await request.body())}")

    route = Route("/{path:path}", echo, methods=["GET", "POST"])
    return Guard(Starlette(routes=[route]), *arguments)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    (folder / "a").mkdir()
    (folder / "a" / "clip.mp4").write_text("clip")
    (folder.parent / "hidden.txt").write_text(HIDDEN)
    return folder


@pytest.fixture(scope="module")
def address(serve, uploads):
    with serve(guarded(Limits(upload_bytes=1000), uploads, None)) as address:
        yield address


@pytest.fixture(scope="module")
def locked(serve, uploads):
    with serve(guarded(Limits(), uploads, TOKEN)) as address:
        yield address


def get(address, path="/", **headers):
    return requests.get(address + path, headers=headers, timeout=10, allow_redirects=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_other_hosts_than_loopback_need_a_token(host):
    with pytest.raises(InputError, match=r"--host=.* needs a --token"):
        check_token(host, None)
    with pytest.raises(InputError, match="the token has 5 characters"):
        check_token(host, "short")
    check_token(host, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_none(host):
    check_token(host, None)


def test_the_command_refuses_to_start_without_a_token(capsys, monkeypatch):
    monkeypatch.delenv("AVJAX_TOKEN", raising=False)
    assert serving.main(["serve", "--host", "0.0.0.0"]) == 1
    assert "needs a --token" in capsys.readouterr().err


def test_a_missing_gradio_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(InputError, match="pip install 'gradio>=6'"):
        import_gradio()


def test_a_missing_model_is_one_line(tmp_path, capsys):
    assert serving.main(["serve", "--port=0", f"--checkpoint={tmp_path}/absent"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: there is no checkpoint at")


def test_a_taken_port_is_one_line(address, capsys):
    port = address.rpartition(":")[2]
    assert serving.main(["serve", "--port", port]) == 1
    assert f"127.0.0.1:{port} cannot be served" in capsys.readouterr().err


def test_the_token_opens(locked):
    assert get(locked).status_code == 401
    assert get(locked, Authorization=f"Bearer {TOKEN}").status_code == 200
    for wrong in (f"Bearer {TOKEN}x", "Bearer", TOKEN, "Bearer tök"):
        assert get(locked, Authorization=wrong.encode()).status_code == 401
    assert get(locked, "/health").status_code == 200
    assert get(locked, "/version").status_code == 401
    assert requests.post(f"{locked}/api/predict", data=b"x", timeout=10).status_code == 401


def test_a_browser_logs_in_once(locked):
    assert "password" in get(locked, Accept="text/html").text
    session = requests.Session()
    wrong = session.post(f"{locked}/login", data={"token": "wrong"}, timeout=10)
    assert (wrong.status_code, "not the token" in wrong.text) == (401, True)
    assert session.post(f"{locked}/login", data={"token": TOKEN}, timeout=10).text == "/ 0"
    (cookie,) = session.cookies
    assert TOKEN not in str(cookie.value) and cookie.has_nonstandard_attr("HttpOnly")
    assert session.get(f"{locked}/version", timeout=10).status_code == 200
    huge = session.post(f"{locked}/login", data={"token": "x" * 100_000}, timeout=10)
    assert huge.status_code == 413


def test_other_sites_are_refused(address):
    """A name that resolves to the loopback, and a page that posts to it."""
    assert get(address).status_code == 200
    assert get(address, Host="evil.example").status_code == 403
    assert get(address, Origin="https://evil.example").status_code == 403
    assert get(address, Origin=address).status_code == 200
    assert "default-src 'self'" in get(address).headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        *("/docs", "/openapi.json", "/monitoring", "/login", "/gradio_api/run/judge"),
        *("/gradio_api/proxy=https://example.org/", "/gradio_api/deep_link", "/gradio_api/runs"),
        *("/gradio_api/file=https://example.org/", "/gradio_api/vibe-code/"),
        *("/gradio_api/file=/etc/hostname", "/gradio_api/file=etc/hostname"),
        *("/gradio_api/file=%2Fetc%2Fhostname", "/gradio_api/file/etc/hostname"),
    ],
)
def test_routes_that_the_page_does_not_need_are_closed(address, path):
    assert get(address, path).status_code == 404
    assert requests.post(address + path, timeout=10).status_code == 404


def test_only_uploads_are_shown(address, uploads):
    assert get(address, f"/gradio_api/file={uploads}/a/clip.mp4").status_code == 200
    for path in (f"{uploads}/../hidden.txt", f"{uploads}/%2e%2e/hidden.txt", f"{uploads}x/a"):
        request = requests.Request("GET", address).prepare()
        request.url = f"{address}/gradio_api/file={path}"  # as it stands
        assert requests.Session().send(request, timeout=10).status_code == 404


def join(address, value):
    content = json.dumps({"data": [value], "fn_index": 0, "session_hash": "x"})
    return requests.post(f"{address}/gradio_api/queue/join", data=content, timeout=10)


def test_a_page_may_name_uploads_only(address, uploads):
    good = {"path": f"{uploads}/a/clip.mp4", "meta": {"_type": "gradio.FileData"}}
    answer = join(address, good)
    assert (answer.status_code, answer.text.split()[0]) == (200, "/gradio_api/queue/join")
    shown = f"{address}/gradio_api/file={uploads}/a/clip.mp4"
    assert join(address, {**good, "url": shown}).status_code == 200
    elsewhere = shown.replace(address, "https://example.org")
    assert join(address, {**good, "url": elsewhere}).status_code == 400
    for name in ("/etc/hostname", "https://example.org/a.mp4", f"{uploads}/../hidden.txt", "a"):
        for value in ({**good, "path": name}, {**good, "url": name}, [{"x": {"path": name}}]):
            assert join(address, value).status_code == 400, value
    assert join(address, "x" * 70_000).status_code == 413
    broken = requests.post(f"{address}/gradio_api/queue/join", data=b"{", timeout=10)
    assert broken.status_code == 400


def test_large_uploads_to_the_page_are_refused(address):
    response = requests.post(f"{address}/gradio_api/upload", data=bytes(100_000), timeout=10)
    assert response.status_code == 413
