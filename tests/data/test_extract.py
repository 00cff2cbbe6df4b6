"""Pages, books and crawls as text: what a reader would see; hostile ones counted, in little time."""

import gzip
import time
import zipfile

import pytest

from llmkit.data import extract
from llmkit.data.sources.files import Files

PAGE = b"<html><head><script>alert(1)</script></head><body><p>Hello <b>you</b>.</p></body></html>"


def read(path):
    return list(Files(Files.Settings(path=str(path))).records())


def test_a_page_is_its_text_without_scripts(tmp_path):
    (tmp_path / "a.html").write_bytes(PAGE)
    (tmp_path / "b.html.gz").write_bytes(gzip.compress(PAGE))
    assert [record["text"] for record in read(tmp_path)] == ["Hello you.", "Hello you."]


def test_the_charset_that_a_page_is_in_is_found(tmp_path):
    words = "Fünf Bäche fließen über die Brücke, schöne Grüße. "
    (tmp_path / "a.html").write_bytes(f"<p>{words * 10}</p>".encode("latin-1"))
    assert "Grüße" in read(tmp_path)[0]["text"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<div " + b" ".join(b"a%d=1" % i for i in range(100_000)) + b">x</div>", "giant_tag"),
        (b"<div>" * 1_000_000 + b"deep", "too_deep"),
        (b"<p>" + b"x" * (9 << 20), "too_long"),
    ],
)
def test_a_hostile_page_is_counted_and_not_parsed(content, reason):
    start = time.process_time()
    assert extract.page(content, "a")["unreadable"] == reason
    assert time.process_time() - start < 2


def test_text_far_down_is_not_lost(tmp_path):
    content = b"<div>" * 5_000 + b"deep down" + b"</div>" * 5_000 + b"<p>unclosed <b>and <i>so on"
    assert "deep down" in extract.page(content, "a")["text"]
    assert "so on" in extract.page(content, "a")["text"]


def test_a_page_packed_two_hundredfold_is_read_to_the_limit_only(tmp_path):
    (tmp_path / "a.html.gz").write_bytes(gzip.compress(b"<p>" + b" " * (100 << 20)))
    assert [record["unreadable"] for record in read(tmp_path)] == ["too_long"]


def test_a_book_is_its_chapters_in_order_and_nothing_is_unpacked(tmp_path):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "b.epub", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("OEBPS/two.xhtml", "<p>Second</p>")
        archive.writestr("OEBPS/one.xhtml", "<p>First</p>")
        archive.writestr("../../evil.html", "<p>Outside</p>")
        archive.writestr("cover.png", "x")
    (tmp_path / "in" / "c.epub").write_bytes(b"not a zip")
    records = read(tmp_path / "in")
    assert [r.get("text", r.get("unreadable")) for r in records] == [
        "Outside",
        "First",
        "Second",
        "broken_file",
    ]
    assert not list(tmp_path.rglob("evil*"))


def test_the_precise_way_leaves_out_what_surrounds_the_article(tmp_path):
    pytest.importorskip("trafilatura")
    said = "This is a sentence of the article, and it is long enough to be taken for one. " * 6
    page = f"<html><body><nav><a href=x>Menu</a></nav><article><p>{said}</p></article></body></html>"
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html").write_text(page + "<!-- -->" * (1 << 17))
    files = Files(Files.Settings(path=str(tmp_path), extraction="precise"))
    first, second = files.records()
    assert first["text"].split() == said.split()
    assert second["unreadable"] == "too_long"


def test_a_crawl_gives_its_pages_with_their_addresses(tmp_path):
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE

    def record(kind, body, mime):
        head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://example.org/{kind}\r\n"
        head += f"WARC-Record-ID: <urn:uuid:{kind}>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        return (
            f"{head}Content-Type: {mime}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"
        )

    crawl = record("response", http, "application/http; msgtype=response")
    crawl += record("conversion", "Only text, é.".encode(), "text/plain")
    (tmp_path / "a.warc").write_bytes(crawl)
    (tmp_path / "b.warc.gz").write_bytes(gzip.compress(crawl))
    (tmp_path / "c.warc.gz").write_bytes(b"no crawl at all")
    records = read(tmp_path)
    assert [r["text"] for r in records if "text" in r] == ["Hello you.", "Only text, é."] * 2
    assert records[-1]["unreadable"] == "broken_file"
    assert records[0]["url"] == "http://example.org/response"
    (tmp_path / "c.warc.gz").write_bytes(gzip.compress(b""))
    assert read(tmp_path)[-1]["unreadable"] == "no_pages"


@pytest.mark.parametrize("packed", [True, False])
def test_half_a_page_at_the_end_of_a_torn_crawl_is_counted_and_not_taken_for_a_page(tmp_path, packed):
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>" + bytes(range(65, 91)) * 40
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\nWARC-Date: 2026-01-01T00:00:00Z"
    )
    record = head + b"\r\nContent-Type: application/http\r\nContent-Length: %d\r\n\r\n" % len(body)
    whole = record + body + b"\r\n\r\n"
    whole = gzip.compress(whole) if packed else whole
    path = tmp_path / f"a.warc{'.gz' * packed}"
    for lost in (30, len(whole) // 3):
        path.write_bytes(whole + whole[:-lost])
        first, second = read(path)
        assert len(first["text"]) == 26 * 40
        assert second["unreadable"] == "broken_file"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<p>Seen</p><script>while(1);</script><style>p{}</style><noscript>Off</noscript>", "Seen"),
        (b"<!DOCTYPE x [<!ENTITY a 'lol'><!ENTITY b '&a;&a;&a;&a;'>]><p>Seen &b;</p>", "Seen &b;"),
        (b'<meta charset="no-such-thing"><p>Seen</p>', "Seen"),
        (b"<p>Seen</p><iframe src=file:///etc/passwd></iframe><object data=x>", "Seen"),
        (b"<p>Seen<p>\xff\xfe\x00\x80", "Seen"),
    ],
)
def test_scripts_entities_charsets_and_frames_do_nothing(content, text):
    found = extract.page(content, "a")["text"]
    assert text in found
    assert not any(word in found for word in ("while", "lollol", "root:", "Off"))


def test_a_book_of_too_many_or_too_large_chapters_is_counted(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "a.epub", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.xhtml", "<p>" + " " * (20 << 20))
        archive.writestr("two.xhtml", "<p>Fine</p>")
    records = read(tmp_path / "in")
    assert [r.get("text", r.get("unreadable")) for r in records] == ["too_long", "Fine"]
    monkeypatch.setattr(extract, "MAX_MEMBERS", 1)
    assert [r["unreadable"] for r in read(tmp_path / "in")] == ["too_many_pages"]
