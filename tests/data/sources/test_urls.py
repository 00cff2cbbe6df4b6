"""Pages by their addresses, from a server of the test's own: with leave only, and politely."""

import http.server
import threading
import time

import pytest

from llmkit.data.sources.urls import Urls
from llmkit.errors import ConfigError, DataError

pytest.importorskip("resiliparse")
PAGES = {
    "/robots.txt": (200, "text/plain", b"User-agent: *\nDisallow: /private\n"),
    "/good": (200, "text/html", b"<html><body><p>A page.</p></body></html>"),
    "/image": (200, "image/png", b"\x89PNG"),
    "/private": (200, "text/html", b"<p>Secret</p>"),
    "/big": (200, "text/html", b"<p>" + b"x " * (5 << 20)),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, time.monotonic()))
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        status, kind, content = PAGES.get(self.path, (404, "text/html", b"<p>Not here</p>"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def listed(tmp_path, server, *paths):
    lines = [path if ":" in path else f"http://127.0.0.1:{server.server_port}{path}" for path in paths]
    (tmp_path / "urls.txt").write_text("# what to fetch\n\n" + "\n".join(lines))
    return str(tmp_path / "urls.txt")


def test_nothing_is_fetched_without_leave(tmp_path, server):
    path = listed(tmp_path, server, "/good")
    with pytest.raises(ConfigError, match=r"urls.fetch_pages: is false, .* set it to true to go online"):
        list(Urls(Urls.Settings(path=path)).records())
    assert server.asked == []


def test_pages_are_read_and_what_is_none_is_counted_by_reason(tmp_path, server):
    paths = ("/good", "/image", "/private", "/missing", "/big", "/away", "file:///etc/passwd", "http://")
    source = Urls(Urls.Settings(path=listed(tmp_path, server, *paths), fetch_pages=True, wait_s=0))
    records = list(source.records())
    assert records[0]["text"] == "A page."
    assert records[0]["url"].endswith("/good")
    assert [r.get("unreadable") for r in records] == [
        None,
        "not_a_page",
        "forbidden_by_robots",
        "not_fetched",
        "too_long",
        "not_fetched",
        "not_an_address",
        "not_an_address",
    ]
    assert "/private" not in [path for path, _ in server.asked]
    assert [path for path, _ in server.asked].count("/robots.txt") == 1


def test_a_host_is_not_asked_more_often_than_agreed(tmp_path, server):
    path = listed(tmp_path, server, "/good", "/good")
    list(Urls(Urls.Settings(path=path, fetch_pages=True, wait_s=0.2)).records())
    times = [when for _, when in server.asked]
    assert all(b - a >= 0.19 for a, b in zip(times, times[1:]))


def test_a_list_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="there is no such file; it should list addresses"):
        Urls(Urls.Settings(path=str(tmp_path / "none"), fetch_pages=True)).pieces()
