"""Shards on disk: Megatron's format byte by byte, sealed by size, sha256 and the tokenizer's fingerprint."""

import itertools
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from llmkit.data import encode, shard
from llmkit.data.corpus import Corpus
from llmkit.data.indexed import Indexed, Writer, id_type
from llmkit.errors import DataError
from llmkit.tokenizer.vocabulary import Tokenizer

SMALL_SPANS = (
    "import sys; from llmkit.data import encode; encode.SPAN = 400; sys.exit(encode.main(*sys.argv[1:]))"
)


def collected(folder, texts):
    """A directory as `data collect` leaves it, every tenth document held out."""
    folder.mkdir()
    for name, kept in (("train", [t for i, t in enumerate(texts) if i % 10]), ("heldout", texts[::10])):
        lines = [json.dumps({"id": str(i), "source": "test", "text": text}) for i, text in enumerate(kept)]
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return str(folder)


@pytest.fixture
def made(tmp_path, tokenizer_dir):
    """Shards of 40 small documents, several files to a split."""
    texts = [f"Document {i}: " + "you may use the work as it is. " * (i % 7) for i in range(40)]
    settings = shard.Shard(
        data=collected(tmp_path / "data", texts), tokenizer=str(tokenizer_dir), shard_tokens=1000
    )
    (tmp_path / "shards").mkdir()
    result = shard.work(settings, tmp_path / "shards")
    return tmp_path / "shards", texts, result


def test_an_index_is_megatrons_byte_by_byte(tmp_path):
    writer = Writer(tmp_path / "a", id_type(60_000))
    for ids in ([1, 2, 3], [4], [5, 65_535]):
        writer.add(ids)
    writer.close()
    expected = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 3, 4)
    expected += struct.pack("<3i", 3, 1, 2) + struct.pack("<3q", 0, 6, 8) + struct.pack("<4q", 0, 1, 2, 3)
    assert (tmp_path / "a.idx").read_bytes() == expected
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<6H", 1, 2, 3, 4, 5, 65_535)


def test_large_vocabularies_take_four_bytes(tmp_path):
    writer = Writer(tmp_path / "a", id_type(100_000))
    writer.add([99_999, 7])
    writer.close()
    assert Indexed(tmp_path / "a").ids.tolist() == [99_999, 7]
    assert id_type(65_536) == np.dtype("<u2") != id_type(65_537)


def test_documents_come_back_whole_and_in_order(made, tokenizer_dir):
    folder, texts, result = made
    tokenizer = Tokenizer.load(tokenizer_dir)
    names = sorted(p for p in folder.glob("train_*.bin"))
    assert len(names) > 1
    found = []
    for path in names:
        indexed = Indexed(path)
        for ids in np.split(indexed.ids, np.cumsum(indexed.lengths)[:-1]):
            assert ids[0] == tokenizer.bos
            found.append(tokenizer.decode(ids[1:]))
    assert found == [text for i, text in enumerate(texts) if i % 10]
    assert result["counts"]["train_bytes"] == sum(len(text.encode()) for text in found)


@pytest.mark.parametrize("workers", [1, 2])
def test_documents_are_closed_where_it_is_asked_for(tmp_path, tokenizer_dir, monkeypatch, workers):
    monkeypatch.setattr(encode, "SPAN", 400)
    monkeypatch.setattr(encode, "COMMAND", ["-c", SMALL_SPANS])
    texts = [f"Document {i}: " + "as it is. " * (i % 9) for i in range(30)]
    data = collected(tmp_path / "data", texts)
    (tmp_path / "out").mkdir()
    shard.work(
        shard.Shard(data=data, tokenizer=str(tokenizer_dir), eos=True, workers=workers), tmp_path / "out"
    )
    tokenizer, indexed = Tokenizer.load(tokenizer_dir), Indexed(tmp_path / "out/train_00000")
    found = np.split(indexed.ids, np.cumsum(indexed.lengths)[:-1])
    assert all(ids[0] == tokenizer.bos and ids[-1] == tokenizer.eos for ids in found)
    assert [tokenizer.decode(ids[1:-1]) for ids in found] == [t for i, t in enumerate(texts) if i % 10]


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path, tokenizer_dir, monkeypatch):
    """Spans of 1 MB become spans of 400 bytes here, and in the processes that are started."""
    monkeypatch.setattr(encode, "SPAN", 400)
    monkeypatch.setattr(encode, "COMMAND", ["-c", SMALL_SPANS])
    texts = [f"Document {i}: caf\u00e9 " + "as it is. " * (i * 7 % 90) for i in range(60)]
    data = collected(tmp_path / "data", texts)
    found = {}
    for workers in (1, 2, 3):
        out = tmp_path / f"by_{workers}"
        out.mkdir()
        settings = shard.Shard(data=data, tokenizer=str(tokenizer_dir), shard_tokens=1000, workers=workers)
        shard.work(settings, out)
        found[workers] = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    assert len(found[1]) > 7
    assert found[1] == found[2] == found[3]
    index = json.loads(found[1]["shards.json"])
    assert index["splits"]["train"]["documents"] == 54
    assert index["splits"]["train"]["bytes"] == sum(len(t.encode()) for i, t in enumerate(texts) if i % 10)


def test_a_process_that_is_lost_is_an_error_and_so_is_a_bad_line(tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(encode, "SPAN", 400)
    data = Path(collected(tmp_path / "data", ["some words. " * 40] * 30))
    for command in (["-c", "import os; os.kill(os.getpid(), 9)"], ["-c", "print('half a span')"]):
        monkeypatch.setattr(encode, "COMMAND", command)
        with pytest.raises(DataError, match="a process that encodes it was lost"):
            list(encode.encoded(data / "train.jsonl", tokenizer_dir, 2))
    with (data / "train.jsonl").open("a") as file:
        file.write('{"text": "torn\n')
    with pytest.raises(DataError, match="a line is no document"):
        list(encode.encoded(data / "train.jsonl", tokenizer_dir, 1))


def test_a_shard_holds_no_more_than_its_cap_unless_one_document_does(tmp_path, tokenizer_dir):
    texts = ["word " * n for n in (300, 300, 300, 3000, 10, 10, 10)]
    data = Path(collected(tmp_path / "data", texts))
    shutil.copy(data / "train.jsonl", data / "heldout.jsonl")
    (tmp_path / "out").mkdir()
    settings = shard.Shard(data=str(data), tokenizer=str(tokenizer_dir), shard_tokens=1000)
    shard.work(settings, tmp_path / "out")
    files = [Indexed(path) for path in sorted((tmp_path / "out").glob("train_*.bin"))]
    tokenizer = Tokenizer.load(tokenizer_dir)
    lengths = [1 + len(tokenizer.encode(text)) for text in texts[1:]]
    assert [n for file in files for n in file.lengths] == lengths
    assert all(len(file.ids) <= 1000 or len(file.lengths) == 1 for file in files)
    for one, after in itertools.pairwise(files):
        assert len(one.ids) + after.lengths[0] > 1000, "a shard is full before the next begins"


def test_any_document_and_any_row_can_be_read_by_itself(made, tokenizer_dir):
    folder, texts, _ = made
    corpus = Corpus(folder, "train")
    kept = [text for i, text in enumerate(texts) if i % 10]
    assert len(corpus.starts) == len(kept)
    for number in (35, 0, 17, 1, 34):
        assert corpus.tokenizer.decode(corpus.document(number)[1:]) == kept[number]
    stream = np.concatenate([corpus.document(i) for i in range(len(kept))])
    for start in (0, 997, len(stream) - 50):
        assert (corpus.read(start, start + 50) == stream[start : start + 50]).all()


def test_whole_shards_pass(made):
    assert shard.verify(made[0])["tokenizer"]


def test_a_truncated_shard_names_file_and_sizes(made):
    path = made[0] / "train_00000.bin"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=rf"train_00000\.bin: {size - 2} bytes, {size} expected"):
        shard.verify(made[0])
    with pytest.raises(DataError, match=rf"{size - 2} bytes, {size} expected"):
        Indexed(path)


def test_a_flipped_bit_is_found_unless_contents_are_not_asked_for(made):
    path = made[0] / "heldout_00000.bin"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"heldout_00000\.bin: sha256"):
        shard.verify(made[0])
    shard.verify(made[0], contents=False)


def test_a_missing_or_empty_shard_is_named(made):
    (made[0] / "train_00001.idx").unlink()
    with pytest.raises(DataError, match=r"train_00001\.idx: is missing"):
        shard.verify(made[0])
    (made[0] / "train_00000.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"train_00000\.bin: 0 bytes"):
        shard.verify(made[0])


def test_a_directory_without_shards_says_how_to_make_them(tmp_path):
    with pytest.raises(DataError, match=r"no shards\.json; make it with"):
        shard.verify(tmp_path)


def test_no_documents_are_an_error(tmp_path, tokenizer_dir):
    (tmp_path / "out").mkdir()
    settings = shard.Shard(data=collected(tmp_path / "data", []), tokenizer=str(tokenizer_dir))
    with pytest.raises(DataError, match="holds no documents"):
        shard.work(settings, tmp_path / "out")
