"""Archives and packed files made to harm: counted or refused, in bounded time and memory, and never executed.

Each case runs in a process of its own, whose CPU time and peak memory are then read from the kernel.
"""

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
import zlib

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from llmkit.data import fetch, readers
from llmkit.data.collect import Collect, work
from llmkit.data.sources.files import Files
from llmkit.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
ASK = """
import json, resource, sys
from pathlib import Path
from llmkit.data import extract, fetch, readers
from llmkit.data.sources.files import Files
from llmkit.errors import DataError
import llmkit.trust
try:
    import resiliparse.extract.html2text, fastwarc.warc, resiliparse.parse.encoding
except ImportError:
    pass
def used():
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime, own.ru_maxrss / 1024
before = used()
def found():
%s
try:
    said = found()
except DataError as error:
    said = {"error": str(error)}
after = used()
print(json.dumps({"said": said, "seconds": after[0] - before[0], "mib": after[1] - before[1]}))
"""
READ = "    return [r.get('unreadable', 'text') for r in Files(Files.Settings(path=sys.argv[1])).records()]"


def asked(code, *args):
    """What `code`, the body of a function, returns in a process of its own, and what that took."""
    done = subprocess.run(
        [sys.executable, "-c", ASK % code, *map(str, args)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def canary(tmp_path):
    """A folder that must not change; yields the folder for the input."""
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/secret.txt").write_text("secret")
    (tmp_path / "in").mkdir()
    yield tmp_path / "in"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["canary", "in"]
    assert [p.name for p in (tmp_path / "canary").iterdir()] == ["secret.txt"]
    assert (tmp_path / "canary/secret.txt").read_text() == "secret"


def zeros(mib, level=9):
    """`mib` MiB of zeros as gzip, without having them in memory."""
    packer = zlib.compressobj(level, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(mib)) + packer.flush()


def package(monkeypatch, home, content, suffix):
    """An archive in the cache of fetched packages -> its Package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    kept = fetch.Package("npm", "thing", "1.0", hashlib.sha256(content).hexdigest())
    kept.folder.mkdir(parents=True)
    (kept.folder / f"thing{suffix}").write_bytes(content)
    return kept


MEMBERS = """
    package = fetch.Package("npm", "thing", "1.0", sys.argv[1])
    return sum(len(content) for _, content in fetch.members(package, "*"))"""


# ---- packed text ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.jsonl.gz", "a.jsonl.zst", "a.html.gz"])
def test_a_bomb_ends_early_and_is_counted(canary, name):
    """512 MiB of zeros out of 0.5 MB, or of 16 kB."""
    if name.endswith("gz"):
        (canary / name).write_bytes(zeros(64) * 8)  # members of a .gz follow each other
    else:
        (canary / name).write_bytes(zstandard.compress(bytes(64 << 20)) * 8)
    got = asked(READ, canary)
    assert got["said"][-1] in ("bomb", "too_long")  # a page is read to its limit only
    assert got["seconds"] < 10
    assert got["mib"] < 256


def test_a_parquet_bomb_is_not_begun(canary):
    rows = pyarrow.table({"text": ["a" * (1 << 20)] * 128})
    pyarrow.parquet.write_table(rows, canary / "a.parquet", compression="zstd", use_dictionary=False)
    got = asked(READ, canary)
    assert got["said"] == ["bomb"]
    assert got["mib"] < 256


def test_without_the_cap_the_bomb_would_be_read(canary, monkeypatch):
    (canary / "a.txt.gz").write_bytes(zeros(80))
    records = list(Files(Files.Settings(path=str(canary), part_bytes=1 << 20)).records())
    assert records[-1]["unreadable"] == "bomb"
    assert len(records) < 70
    monkeypatch.setattr(readers, "MAX_RATIO", 10**6)
    assert len(list(Files(Files.Settings(path=str(canary), part_bytes=1 << 20)).records())) == 80


def test_what_is_well_packed_is_no_bomb(canary):
    """80 MB of a log that repeats itself."""
    rows = b"".join(
        b'{"text": "%s %d"}\n' % (b"the same again and again, and a number " * 20, i) for i in range(100_000)
    )
    (canary / "a.jsonl.gz").write_bytes(gzip.compress(rows, 6))
    assert 50 < len(rows) / (canary / "a.jsonl.gz").stat().st_size < readers.MAX_RATIO
    assert len(rows) > readers.FREE
    assert sum("text" in r for r in Files(Files.Settings(path=str(canary))).records()) == 100_000


def test_a_bomb_in_a_bomb_is_not_opened(canary, capsys):
    (canary / "a.txt.gz.gz").write_bytes(gzip.compress(zeros(64)))
    (canary / "a.jsonl.zst.gz").write_bytes(gzip.compress(b"x"))
    (canary / "b.txt").write_text("Text.")
    assert [r["text"] for r in Files(Files.Settings(path=str(canary))).records()] == ["Text."]
    assert "2 files are not read (.gz)" in capsys.readouterr().err


def test_a_frame_that_asks_for_gigabytes_of_memory_is_broken(canary):
    """zstd's header may demand a window of any size."""
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = packer.compress(b"{}\n" * 1000) + packer.flush()
    (canary / "a.jsonl.zst").write_bytes(content)
    got = asked(READ, canary)
    assert got["said"] == ["broken_file"]
    assert got["mib"] < 256


def test_a_bomb_is_in_the_books_like_any_other_file(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/a.jsonl.gz").write_bytes(zeros(100))
    rows = "".join(json.dumps({"text": f"Text number {i}."}) + "\n" for i in range(50))
    (tmp_path / "in/b.jsonl").write_text(rows)
    counts = work(Collect(source=str(tmp_path / "in"), heldout_frac=0.1), tmp_path / "out")["counts"]
    assert counts["kept"] == 50
    assert counts["in"] == counts["kept"] + sum(counts["rejected"].values())
    assert counts["rejected"]["bomb"] == 1


# ---- archives ---------------------------------------------------------------------------------------------


def zipped(num):
    """A zip that lists one empty page `num` times, written by hand: zipfile takes minutes for a million."""
    name, head = b"page.html", b"\x14" + bytes(21)
    local = b"PK\3\4" + head + len(name).to_bytes(2, "little") + b"\0\0" + name
    listed = (b"PK\1\2\x14\0" + head + len(name).to_bytes(2, "little") + bytes(16) + name) * num
    end = b"PK\5\6" + bytes(4) + (min(num, 0xFFFF).to_bytes(2, "little") * 2)
    end += len(listed).to_bytes(4, "little") + len(local).to_bytes(4, "little") + b"\0\0"
    return bytes(local + listed + end)


def test_the_zip_made_by_hand_is_one(canary):
    (canary / "a.epub").write_bytes(zipped(3))
    with zipfile.ZipFile(canary / "a.epub") as archive:
        assert archive.namelist() == ["page.html"] * 3
    assert len(list(Files(Files.Settings(path=str(canary))).records())) == 3


def test_a_book_of_a_million_files_is_not_listed(canary):
    (canary / "a.epub").write_bytes(zipped(1_000_000))
    got = asked(READ, canary)
    assert got["said"] == ["broken_file"]
    assert got["seconds"] < 2
    assert got["mib"] < 64


@pytest.mark.parametrize("suffix", [".whl", ".tgz"])
def test_a_package_of_a_million_files_is_refused(tmp_path, monkeypatch, suffix):
    if suffix == ".whl":
        content = zipped(1_000_000)
    else:
        content = gzip.compress(tarfile.TarInfo("package/a.txt").tobuf() * 100_000, 1) * 10
    kept = package(monkeypatch, tmp_path, content, suffix)
    got = asked(MEMBERS, kept.sha256)
    assert any(word in got["said"]["error"] for word in ("list of files", "entries", "unpacks", "twice"))
    assert got["seconds"] < 10
    assert got["mib"] < 128


def test_the_entries_of_a_tarball_are_counted_and_forgotten(tmp_path, monkeypatch):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for i in range(200):
            archive.addfile(tarfile.TarInfo(f"package/{i}.txt"))
    kept = package(monkeypatch, tmp_path, data.getvalue(), ".tgz")
    assert len(list(fetch.members(kept, "*"))) == 200
    monkeypatch.setattr(fetch, "MAX_ENTRIES", 199)
    with pytest.raises(DataError, match="more than 199 entries"):
        list(fetch.members(kept, "*"))


def tarball(*entries):
    """(name, type, content or target) -> a .tgz."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                archive.addfile(info)
    return data.getvalue()


def test_a_file_behind_a_symbolic_link_is_a_name_and_nothing_is_written(canary, monkeypatch):
    target = str(canary.parent / "canary")
    entries = (
        ("package/link", tarfile.SYMTYPE, target),
        ("package/link/secret.txt", tarfile.REGTYPE, b"overwritten"),
        ("package/hard", tarfile.LNKTYPE, f"{target}/secret.txt"),
        ("../../canary/secret.txt", tarfile.REGTYPE, b"overwritten"),
        (f"{target}/secret.txt", tarfile.REGTYPE, b"overwritten"),
        ("package/device", tarfile.CHRTYPE, ""),
        ("package/pipe", tarfile.FIFOTYPE, ""),
    )
    kept = package(monkeypatch, canary, tarball(*entries), ".tgz")
    read = dict(fetch.members(kept, "*"))
    assert set(read.values()) == {b"overwritten"}  # and nothing of what the links point at
    assert len(read) == 3


def test_names_that_differ_in_case_are_two_files_and_a_name_twice_is_refused(canary, monkeypatch):
    plain = [("package/A.txt", tarfile.REGTYPE, b"upper"), ("package/a.txt", tarfile.REGTYPE, b"lower")]
    kept = package(monkeypatch, canary / "one", tarball(*plain), ".tgz")
    assert dict(fetch.members(kept, "*")) == {"package/A.txt": b"upper", "package/a.txt": b"lower"}
    kept = package(monkeypatch, canary / "two", tarball(*plain, plain[0]), ".tgz")
    with pytest.raises(DataError, match=r"package/A\.txt stands in it twice"):
        list(fetch.members(kept, "*"))
    assert fetch.read(kept, "package/a.txt") == b"lower"


def test_a_tarball_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    """One that hides 4 GiB in a header, where no member's size is asked for."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 4 << 30
    packer = zlib.compressobj(9, wbits=31)
    content = packer.compress(info.tobuf()) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(128))
    kept = package(monkeypatch, tmp_path, content + packer.flush(), ".tgz")
    got = asked(MEMBERS, kept.sha256)
    assert "cannot be read" in got["said"]["error"]
    assert got["mib"] < 256


@pytest.mark.parametrize(
    "content",
    [
        b"!<arch>\n" + b"data.tar.gz".ljust(48) + b"ten bytes" + b" `\n" + b"x" * 100,
        b"!<arch>\n" + b"\xff" * 60,
        b"!<arch>\n" + b"data.tar.xz".ljust(48) + b"100       `\n" + b"x" * 100,
        b"!<arch>\n" + b"data.tar.gz".ljust(48) + b"-5        `\n" + b"x" * 100,
        b"",
    ],
)
def test_a_debian_package_of_nonsense_is_refused_in_one_line(tmp_path, monkeypatch, content):
    kept = package(monkeypatch, tmp_path, content, ".deb")
    with pytest.raises(DataError, match="cannot be read"):
        list(fetch.members(kept, "*"))


# ---- pages ------------------------------------------------------------------------------------------------

PAGES = {
    "deep": b"<div>" * 1_000_000 + b"deep",
    "almost too deep": b"<div>" * 49_000 + b"kept",
    "attributes": b"<p " + b" ".join(b"a%d=1" % i for i in range(100_000)) + b">x",
    "unclosed": b"<p><b><i><td><table>" * 9_000 + b"kept",
    "tables": b"<table><tr><td>" * 16_000 + b"kept",
    "entities": b"<!DOCTYPE x [<!ENTITY a '" + b"lol" * 9_000 + b"'>]>" + b"&a;" * 100_000,
    "script": b"<script>" + b"while(1);" * 400_000 + b"</script>kept",
    "charset": b'<meta charset="' + b"x" * 20_000 + b'">kept \xff\xfe\x00',
    "comment": b"<!--" * 1_000_000,
    "quotes": b'<a href="' + b"<" * 1_000_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_hostile_page_takes_two_seconds_and_256_mib_at_most(canary, name):
    pytest.importorskip("resiliparse")
    (canary / "a.html").write_bytes(PAGES[name])
    got = asked(READ, canary)
    assert len(got["said"]) == 1
    assert got["seconds"] < 2
    assert got["mib"] < 256


def test_a_crawl_that_unpacks_without_end_is_read_to_the_limit_of_a_page(canary):
    pytest.importorskip("fastwarc")
    size = 200 << 20
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\nContent-Type: application/http"
    )
    head += b"\r\nContent-Length: %d\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" % size
    packer = zlib.compressobj(9, wbits=31)
    body = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(size >> 20))
    (canary / "a.warc.gz").write_bytes(packer.compress(head) + body + packer.flush())
    got = asked(READ, canary)
    assert got["said"][0] in ("too_long", "broken_file")
    assert got["seconds"] < 10
    assert got["mib"] < 256
