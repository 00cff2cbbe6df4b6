"""PDF files: their text in the order of reading, and what a hostile one costs."""

import gzip
import zlib

import pytest

pytest.importorskip("pypdfium2")

from llmkit.data import pdf
from llmkit.data.collect import Collect, work


def written(*pages: str | bytes) -> bytes:
    """A PDF with one page for each text (a line for each \\n), or for each content stream as it is."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for i, page in enumerate(pages):
        filter_ = b""
        if isinstance(page, str):
            lines = "".join(f"({line}) Tj T* " for line in page.split("\n"))
            page = f"BT /F1 12 Tf 14 TL 72 720 Td {lines}ET".encode("latin-1")
        else:
            filter_ = b"/Filter /FlateDecode "
        box = b"/MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >>"
        objects.append(b"<< /Type /Page /Parent 2 0 R %s /Contents %d 0 R >>" % (box, 5 + 2 * i))
        objects.append(b"<< %s/Length %d >>\nstream\n%s\nendstream" % (filter_, len(page), page))
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (len(objects) + 1, table, end)


def read(tmp_path, content: bytes, name: str = "a.pdf", part_bytes: int = 50_000) -> list[dict]:
    (tmp_path / name).write_bytes(content)
    return list(pdf.documents(tmp_path / name, name, part_bytes))


def test_text_comes_in_the_order_of_reading(tmp_path):
    found = read(tmp_path, written("A first line.\nA second line.", "The next page."))
    assert found == [{"id": "a.pdf", "text": "A first line.\r\nA second line.\nThe next page."}]


def test_a_packed_one_is_read_as_well(tmp_path):
    assert read(tmp_path, gzip.compress(written("Packed.")), "a.pdf.gz") == [
        {"id": "a.pdf.gz", "text": "Packed."}
    ]


def test_a_word_parted_by_a_line_end_is_whole_again(tmp_path):
    (found,) = read(tmp_path, written("more in-\nformation"))
    assert found["text"] == "more information"


def test_a_long_file_is_cut_between_pages(tmp_path):
    found = read(tmp_path, written(*(f"Page {i} of a book." for i in range(5))), part_bytes=30)
    assert [one["id"] for one in found] == ["a.pdf:1-2", "a.pdf:3-4", "a.pdf:5-5"]
    assert "Page 4" in found[2]["text"]


@pytest.mark.parametrize("content", [b"", b"no PDF at all", b"%PDF-1.4\n", written("Half.")[:200]])
def test_what_is_none_is_counted(tmp_path, content):
    (found,) = read(tmp_path, content)
    assert found["unreadable"] == "broken_file"


def test_what_came_before_a_bomb_is_kept(tmp_path):
    line = b"BT /F1 12 Tf 72 720 Td (bomb) Tj ET "
    bomb = zlib.compress(line * (400_000_000 // len(line)), 9)  # 0.4 GB of text on one page
    found = read(tmp_path, written("Before.", bomb, "After."))
    assert any("Before." in one.get("text", "") for one in found)
    assert [one["unreadable"] for one in found if "unreadable" in one]


def test_a_reader_that_crashes_loses_its_file_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf.sys, "executable", "/bin/false")
    result = collected(tmp_path, {"a.pdf": written("A page."), "b.txt": b"One text.", "c.txt": b"Another."})
    assert result["counts"]["rejected"] == {"broken_file": 1}
    assert result["counts"]["kept"] == 2


def test_a_folder_with_one_gives_its_text(tmp_path):
    result = collected(
        tmp_path, {"a.pdf": written("The only page of this book."), "b.txt": b"A text beside it."}
    )
    assert (result["counts"]["in"], result["counts"]["kept"]) == (2, 2)


def collected(tmp_path, files: dict[str, bytes]) -> dict:
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    return work(Collect(source=str(tmp_path / "in")), tmp_path / "out")
