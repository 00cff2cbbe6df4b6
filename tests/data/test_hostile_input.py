"""Whatever a user's files hold: no crash, every rejection counted by reason, valid UTF-8 out, order kept."""

import datetime
import gzip
import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from llmkit.data import readers
from llmkit.data.collect import Collect, work
from llmkit.errors import DataError

GOOD = [json.dumps({"id": i, "text": f"Document number {i} is a good one."}).encode() for i in range(20)]


def collect(tmp_path, out="out", **settings):
    """Collect tmp_path/in -> (result, kept records, rejected records)."""
    folder = tmp_path / out
    folder.mkdir()
    result = work(Collect(source=str(tmp_path / "in"), **settings), folder)
    read = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("train", "heldout", "rejected")
    }
    return result, read["train"] + read["heldout"], read["rejected"]


def given(tmp_path, **files):
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name.replace("_", ".")).write_bytes(content)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "caf\xe9"}', "not_utf8"),
        (b'{"text": "a \\ud800 alone"}', "lone_surrogate"),
        ("\ufeff".join(["", '{"text": "x"}']).encode("utf-16"), "not_utf8"),
        (b'{"text": ""}', "empty"),
        (b'{"text": " \\n\\t "}', "empty"),
        (b'{"text": 12345}', "text_is_not_text"),
        (b'{"text": ["a"]}', "text_is_not_text"),
        (b'{"text": null}', "no_text"),
        (b'{"txet": "wrong key"}', "no_text"),
        (b'"just a string"', "not_an_object"),
        (b"[" * 100_000, "not_json"),
        (b'{"text": "no end', "not_json"),
        (b'{"n": ' + b"9" * 10_000 + b', "text": "huge number"}', "not_json"),
        (json.dumps({"text": "\x01\x02\x03 program \x00"}).encode(), "binary"),
    ],
)
def test_a_bad_line_is_counted_by_its_reason_and_the_rest_goes_on(tmp_path, line, reason):
    given(tmp_path, a_jsonl=b"\n".join([*GOOD[:10], line, *GOOD[10:]]))
    result, kept, rejected = collect(tmp_path)
    counts = result["counts"]
    assert counts["in"] == counts["kept"] + sum(counts["rejected"].values())
    assert reason in counts["rejected"]
    assert [r["reason"] for r in rejected if r["id"] == "a.jsonl:11"] in ([reason], [])
    assert sorted(int(r["id"]) for r in kept) == list(range(20))


def test_a_byte_order_mark_and_a_nul_are_taken_out(tmp_path):
    text = "A line with \x00 in it. " + "It is otherwise quite long, and means what it says. " * 3
    given(tmp_path, a_jsonl=b"\xef\xbb\xbf" + b"\n".join([json.dumps({"text": text}).encode(), *GOOD]))
    result, kept, _ = collect(tmp_path)
    assert result["counts"]["kept"] == 21
    assert not any("\x00" in r["text"] or "\ufeff" in r["text"] for r in kept)


def test_a_torn_last_line_costs_one_record(tmp_path):
    given(tmp_path, a_jsonl=b"\n".join(GOOD)[:-15])
    result, _, _ = collect(tmp_path)
    assert result["counts"]["rejected"] == {"not_json": 1}
    assert result["counts"]["kept"] == 19


def test_records_keep_their_order(tmp_path):
    given(tmp_path, a_jsonl=b"\n".join(GOOD), b_jsonl=b'{"id": 20, "text": "Last of all."}')
    collect(tmp_path)
    ids = [
        int(json.loads(line)["id"]) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    ]
    assert ids == sorted(ids)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_megabyte_line_is_passed_over_in_little_memory(tmp_path):
    """In a process of its own, whose peak memory is then read from the kernel."""
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "a.jsonl").open("wb") as file:
        file.write(GOOD[0] + b'\n{"text": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + b"\n".join(GOOD[1:]))
    (tmp_path / "out").mkdir()
    code = (
        "from llmkit.data.collect import *; import sys; from pathlib import Path;"
        "print(work(Collect(source=sys.argv[1]), Path(sys.argv[2]))['counts']);"
        "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "'rejected': {'too_long': 1}" in done.stdout
    peak_kib = int(done.stdout.split("VmHWM:")[1].split()[0])
    assert peak_kib < 400 * 1024


def test_without_the_cap_on_lines_the_long_line_would_be_read(tmp_path, monkeypatch):
    """The safeguard of the test above, taken out."""
    given(tmp_path, a_jsonl=b"\n".join([*GOOD, json.dumps({"text": "x " * 10_000}).encode()]))
    monkeypatch.setattr(readers.json_lines, "__defaults__", (0, None, 0, 5_000))
    assert collect(tmp_path)[0]["counts"]["rejected"] == {"too_long": 1}
    monkeypatch.setattr(readers.json_lines, "__defaults__", (0, None, 0, 1 << 30))
    assert collect(tmp_path, "again")[0]["counts"]["rejected"] == {}


def test_a_text_file_of_one_endless_line_becomes_parts_that_join_to_it(tmp_path):
    text = "".join(f"{i}-\u20ac" for i in range(40_000))
    (tmp_path / "a.txt").write_text(text, "utf-8")
    parts = list(readers.text_parts(tmp_path / "a.txt", "a.txt", 10_000))
    assert len(parts) > 20
    assert all(len(part["text"].encode()) <= 10_000 for part in parts)
    assert "".join(part["text"] for part in parts) == text


def test_a_text_file_is_cut_at_blank_lines_where_it_has_some(tmp_path):
    text = "\n\n".join(f"Paragraph {i}. " + "word " * 50 for i in range(200))
    (tmp_path / "a.txt").write_text(text, "utf-8")
    parts = list(readers.text_parts(tmp_path / "a.txt", "a.txt", 5_000))
    assert "".join(part["text"] for part in parts) == text
    assert all(part["text"].startswith("Paragraph") for part in parts)


def test_one_bad_byte_costs_one_part_of_a_text_file(tmp_path):
    text = ("A good paragraph of words.\n\n" * 2_000).encode()
    (tmp_path / "a.txt").write_bytes(text[:30_000] + b"\xff" + text[30_000:])
    parts = list(readers.text_parts(tmp_path / "a.txt", "a.txt", 5_000))
    assert [part.get("unreadable") for part in parts].count("not_utf8") == 1
    assert len(parts) > 8


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_packed_files_are_read_and_torn_ones_are_counted(tmp_path, suffix):
    content = b"\n".join(GOOD * 500)
    packed = gzip.compress(content) if suffix == "gz" else zstandard.compress(content)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"whole.jsonl.{suffix}").write_bytes(packed)
    (tmp_path / "in" / f"zz.jsonl.{suffix}").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "in" / f"zzz.jsonl.{suffix}").write_bytes(b"this is not packed at all")
    result, kept, rejected = collect(tmp_path)
    assert len(kept) == 20
    assert "zzz.jsonl." + suffix in [r["id"] for r in rejected if r["reason"] == "broken_file"]
    assert result["counts"]["in"] == 20 + len(rejected)


def test_parquet_is_read_and_a_broken_one_is_counted(tmp_path):
    (tmp_path / "in").mkdir()
    table = pyarrow.table({"text": [f"Row {i} of a table." for i in range(10)] + [None], "other": range(11)})
    pyarrow.parquet.write_table(table, tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    pyarrow.parquet.write_table(table.drop_columns(["text"]), tmp_path / "in" / "c.parquet")
    result, kept, _ = collect(tmp_path)
    assert len(kept) == 10
    assert result["counts"]["rejected"] == {"no_text": 12, "broken_file": 1}


def test_columns_that_hold_no_text_are_counted(tmp_path):
    (tmp_path / "in").mkdir()
    for name, values in (
        ("a", [b"\xff\x00"]),
        ("b", [datetime.datetime(2026, 1, 1)]),
        ("c", [[1, 2]]),
        ("d", ["Text."] * 3),
    ):
        pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "in" / f"{name}.parquet")
    assert collect(tmp_path, dedup=False)[0]["counts"]["rejected"] == {"text_is_not_text": 3}


def test_a_folder_of_nothing_usable_says_why(tmp_path):
    given(tmp_path, a_jsonl=b'{"body": "x"}\n{"body": "y"}\nnot json')
    with pytest.raises(DataError, match=r"none of 3 records .*no_text 2, not_json 1"):
        collect(tmp_path)


def test_an_empty_folder_is_named_with_what_was_looked_for(tmp_path):
    given(tmp_path, a_docx=b"%PDF")
    with pytest.raises(DataError, match=r"in: holds no \.txt, .* \(1 others\)"):
        collect(tmp_path)


def test_other_files_are_warned_about_and_hidden_ones_are_not_read(tmp_path, capsys):
    given(tmp_path, a_jsonl=b"\n".join(GOOD), b_docx=b"PK")
    (tmp_path / "in" / ".secret.txt").write_text("hidden")
    assert collect(tmp_path)[0]["counts"]["in"] == 20
    assert ".docx" in capsys.readouterr().err


def test_files_without_anything_in_them_are_no_trouble(tmp_path):
    given(tmp_path, a_jsonl=b"\n".join(GOOD), b_jsonl=b"", c_txt=b"", d_html=b"", e_parquet=b"")
    _, kept, rejected = collect(tmp_path)
    assert len(kept) == 20
    assert {r["id"]: r["reason"] for r in rejected} == {"d.html": "empty", "e.parquet": "broken_file"}
