"""The text of web pages, out of .html, .epub and .warc files, in bounded time and memory.

resiliparse takes 0.1 s for 50,000 nested elements, but a minute for a tag with 100,000 attributes, and 0.4 GB
for a million nested elements. So pages beyond the limits below are not parsed; they are counted, by reason:

    too_long        more than MAX_PAGE bytes, packed ones included
    giant_tag       a tag of more than MAX_TAG bytes
    too_deep        MAX_OPEN more elements opened than closed
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from llmkit.data.readers import BROKEN, failed, listed, opened, unreadable
from llmkit.errors import ConfigError

MAX_PAGE = 8 << 20
MAX_PRECISE = 1 << 20
"""Bytes of a page for trafilatura, which takes about a second for so many."""
MAX_TAG = 1 << 15
MAX_OPEN = 50_000
MAX_MEMBERS = 10_000
How = Literal["fast", "precise"]
PAGES = (".html", ".htm", ".xhtml")
_GIANT = re.compile(rb"<[^<>]{%d}" % MAX_TAG)
_VOID = rb"area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"
_OPENS = re.compile(rb"<(?!(?:%s)\b)[a-zA-Z]" % _VOID)


def page(content: bytes, name: str, how: How = "fast") -> dict[str, Any]:
    """{id, text} of one page, or why it was not parsed."""
    if how == "precise":
        return _precise(content, name)
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    except ImportError:
        raise ConfigError("source: web pages are read with resiliparse; pip install 'llmkit[web]'") from None
    if reason := beyond(content):
        return unreadable(name, reason, content)
    text = extract_plain_text(bytes_to_str(content, detect_encoding(content)), noscript=False)
    return {"id": name, "text": text}


def _precise(content: bytes, name: str) -> dict[str, Any]:
    """{id, text} by trafilatura, which leaves out more of what surrounds an article, and some articles."""
    try:
        import trafilatura
    except ImportError:
        raise ConfigError("extract: precise is trafilatura's; pip install 'llmkit[precise]'") from None
    if reason := beyond(content, MAX_PRECISE):
        return unreadable(name, reason, content)
    text = trafilatura.extract(content, favor_precision=True, include_comments=False)
    return {"id": name, "text": text or ""}


def beyond(content: bytes, most: int | None = None) -> str | None:
    """The limit that a page passes, or None."""
    if len(content) > (most or MAX_PAGE):
        return "too_long"
    if _GIANT.search(content):
        return "giant_tag"
    if len(_OPENS.findall(content)) - content.count(b"</") > MAX_OPEN:
        return "too_deep"
    return None


def html_file(path: Path, name: str, how: How = "fast") -> Iterator[dict[str, Any]]:
    """The one page of a file."""
    try:
        with opened(path) as file:
            yield page(file.read(MAX_PAGE + 1), name, how)
    except BROKEN as error:
        yield failed(name, error)


def epub(path: Path, name: str, how: How = "fast") -> Iterator[dict[str, Any]]:
    """The chapters of a book, which is a zip of pages, in order of path. Nothing is unpacked to disk."""
    try:
        with listed(path) as archive:
            inside = [i for i in archive.infolist() if i.filename.lower().endswith(PAGES)]
            if len(inside) > MAX_MEMBERS:
                yield unreadable(name, "too_many_pages")
                return
            for info in sorted(inside, key=lambda info: info.filename):
                with archive.open(info) as file:
                    yield page(file.read(MAX_PAGE + 1), f"{name}:{info.filename[:200]}", how)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, *BROKEN) as error:
        yield failed(name, error)


def warc(path: Path, name: str, how: How = "fast") -> Iterator[dict[str, Any]]:
    """The pages of a crawl: HTML responses as text, and the plain texts of a .wet; `url` says whence."""
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError:
        raise ConfigError("source: .warc files are read with fastwarc; pip install 'llmkit[web]'") from None

    number = None
    wanted = WarcRecordType.response | WarcRecordType.conversion
    try:
        with path.open("rb") as file:
            for number, record in enumerate(ArchiveIterator(file, record_types=wanted)):
                label = f"{name}:{number}"
                url = record.headers.get("WARC-Target-URI", "")
                content = record.reader.read(MAX_PAGE + 1)
                if len(content) < min(record.content_length, MAX_PAGE + 1):
                    yield unreadable(label, "broken_file", "the file ends within this page")
                elif len(content) > MAX_PAGE:
                    yield unreadable(label, "too_long", content)
                elif record.record_type == WarcRecordType.conversion:
                    yield {"id": label, "url": url, "text": content.decode("utf-8", "replace")}
                elif "html" in (record.http_content_type or ""):
                    yield {**page(content, label, how), "url": url}
        if number is None:
            yield unreadable(name, "no_pages")
    except BROKEN as error:
        yield failed(name, error)
