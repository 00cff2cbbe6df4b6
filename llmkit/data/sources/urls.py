"""Web pages by a list of their addresses. Nothing is fetched unless `fetch_pages: true` says so."""

import time
import urllib.error
import urllib.parse
import urllib.request
import urllib.robotparser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import extract
from llmkit.data.readers import unreadable
from llmkit.errors import ConfigError, DataError
from llmkit.registry import register

AGENT = "llmkit-data"
PIECE = 100


@register("source", "urls")
class Urls:
    """Pages as documents with their `url`; what is forbidden, fails or is no page is counted by reason."""

    class Settings(Section):
        name: Literal["urls"] = "urls"
        path: str = Field(description="a text file, one http(s) address a line; lines with # are left out")
        fetch_pages: bool = Field(False, description="true: yes, go to these addresses")
        wait_s: float = Field(1.0, ge=0, description="seconds between two pages of one host")
        timeout_s: float = Field(20.0, gt=0, description="seconds to wait for an answer")
        extraction: extract.How = Field("fast", description="fast: resiliparse; precise: trafilatura")
        licence: str = Field("not stated", description="licence of these pages, for manifest and model card")

    kind = "documents"
    size = "as it is"
    licence = "as the pages say"
    origin = "the web, by address"

    def __init__(self, settings: Settings):
        self.settings = settings
        self.licence = settings.licence
        self.origin = f"pages listed in {Path(settings.path).name}"
        self._robots: dict[str, urllib.robotparser.RobotFileParser | None] = {}
        self._asked: dict[str, float] = {}

    def pieces(self) -> list[list[str]]:
        """The addresses, a hundred together. ConfigError without leave to fetch; DataError without a list."""
        if not self.settings.fetch_pages:
            raise ConfigError(
                "urls.fetch_pages: is false, so no page is fetched; set it to true to go online"
            )
        path = Path(self.settings.path).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: there is no such file; it should list addresses, one a line")
        lines = map(str.strip, path.read_text(encoding="utf-8").splitlines())
        found = [line for line in lines if line and not line.startswith("#")]
        return [found[i : i + PIECE] for i in range(0, len(found), PIECE)]

    def records(self, piece: list[str] | None = None) -> Iterator[dict[str, Any]]:
        for url in piece or [url for piece in self.pieces() for url in piece]:
            yield {"url": url, **self._page(url)}

    def _page(self, url: str) -> dict[str, Any]:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return unreadable(url, "not_an_address")
        try:
            if not self._allowed(url, f"{parts.scheme}://{parts.netloc}"):
                return unreadable(url, "forbidden_by_robots")
            kind, content = self._got(url, extract.MAX_PAGE + 1)
        except (OSError, ValueError, urllib.error.URLError) as error:
            return unreadable(url, "not_fetched", str(error))
        if "html" not in kind:
            return unreadable(url, "not_a_page", kind)
        return extract.page(content, url, self.settings.extraction)

    def _allowed(self, url: str, host: str) -> bool:
        if host not in self._robots:
            rules = urllib.robotparser.RobotFileParser()
            try:
                rules.parse(
                    self._got(f"{host}/robots.txt", 1 << 19)[1].decode("utf-8", "replace").splitlines()
                )
            except urllib.error.HTTPError as error:
                rules.allow_all = 400 <= error.code < 500
                rules.disallow_all = not rules.allow_all
            self._robots[host] = rules
        return self._robots[host].can_fetch(AGENT, url)

    def _got(self, url: str, most: int) -> tuple[str, bytes]:
        """(content type, at most `most` bytes) of an address, not sooner than its host should bear."""
        host = urllib.parse.urlsplit(url).netloc
        time.sleep(max(0.0, self._asked.get(host, 0.0) + self.settings.wait_s - time.monotonic()))
        request = urllib.request.Request(url, headers={"User-Agent": AGENT})
        try:
            with _WEB.open(request, timeout=self.settings.timeout_s) as answer:
                return answer.headers.get_content_type(), answer.read(most)
        finally:
            self._asked[host] = time.monotonic()


class _OnlyWeb(urllib.request.HTTPRedirectHandler):
    """An answer may send us on to another page of the web, not to a file or another service."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise ValueError(f"is sent on to {newurl[:80]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_WEB = urllib.request.OpenerDirector()
_WEB.add_handler(urllib.request.ProxyHandler())
_WEB.add_handler(urllib.request.HTTPHandler())
_WEB.add_handler(urllib.request.HTTPSHandler())
_WEB.add_handler(urllib.request.HTTPDefaultErrorHandler())
_WEB.add_handler(urllib.request.HTTPErrorProcessor())
_WEB.add_handler(_OnlyWeb())
