"""Shards behind a URL: uploaded whole or not at all, fetched once, checked like any others."""

import json

import fsspec
import pytest

from llmkit import manifest
from llmkit.data import remote, shard
from llmkit.data.sets.tokens import Tokens
from llmkit.errors import DataError


@pytest.fixture
def shards(tmp_path, tokenizer_dir, monkeypatch):
    """Small shards with a manifest, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    lines = [json.dumps({"id": str(i), "text": f"Document {i}. " * 30}) + "\n" for i in range(20)]
    for name in ("train", "heldout"):
        (data / f"{name}.jsonl").write_text("".join(lines))
    out = tmp_path / "shards"
    out.mkdir()
    result = shard.work(shard.Shard(data=str(data), tokenizer=str(tokenizer_dir)), out)
    manifest.write(out, result=result, licences={"test": {"licence": "CC0"}})
    return out


@pytest.fixture(params=["memory://bucket/a/shards", "file"])
def url(request, tmp_path):
    yield request.param if "://" in request.param else f"file://{tmp_path}/bucket/shards"
    fsspec.filesystem("memory").store.clear()


def test_a_dataset_behind_a_url_is_the_dataset_on_disk(shards, url):
    remote.upload(shards, url)
    here = Tokens(Tokens.Settings(shards=str(shards), seq_len=16), "train", 0)
    there = Tokens(Tokens.Settings(shards=url, seq_len=16), "train", 0)
    assert there.fingerprint == here.fingerprint
    assert there.licences == {"test": {"licence": "CC0"}}
    one, other = (dataset.batch([(0, 3), (1, 7)]) for dataset in (here, there))
    assert all((one[key] == other[key]).all() for key in one)


def test_what_is_there_is_not_fetched_again_and_a_torn_file_is(shards, url, capsys):
    remote.upload(shards, url)
    folder = remote.local(url)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    torn = folder / "train_00000.bin"
    torn.write_bytes(torn.read_bytes()[:-10])
    assert remote.local(url) == folder
    assert shard.verify(folder)
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"train_00000.bin"}
    remote.upload(shards, url)
    assert "has these shards already" in capsys.readouterr().out


def test_a_flipped_bit_on_the_way_is_found(shards):
    remote.upload(shards, "memory://bucket/b")
    store = fsspec.filesystem("memory")
    data = bytearray(store.cat_file("/bucket/b/train_00000.bin"))
    data[5] ^= 1
    store.pipe_file("/bucket/b/train_00000.bin", bytes(data))
    with pytest.raises(DataError, match=r"train_00000\.bin: sha256"):
        Tokens(Tokens.Settings(shards="memory://bucket/b", seq_len=16), "train", 0)
    store.store.clear()


def test_an_upload_that_was_cut_off_is_no_directory_of_shards(shards, monkeypatch):
    store = fsspec.filesystem("memory")
    put = type(store).put_file

    def fail(self, path, name, **more):
        if path.endswith("train_00000.idx"):
            raise OSError("the line is dead")
        return put(self, path, name, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put_file", fail)
        with pytest.raises(OSError, match="the line is dead"):
            remote.upload(shards, "memory://bucket/c")
    with pytest.raises(DataError, match="holds no shards.json; copy shards there with data upload"):
        remote.local("memory://bucket/c")
    remote.upload(shards, "memory://bucket/c")
    assert shard.verify(remote.local("memory://bucket/c"))
    store.store.clear()


def test_other_shards_are_not_written_over_and_names_do_not_lead_out(shards):
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/d/shards.json", b"{}")
    with pytest.raises(DataError, match="holds other shards"):
        remote.upload(shards, "memory://bucket/d")
    with pytest.raises(DataError, match="nosuch://x"):
        remote.local("nosuch://x")
    with pytest.raises(DataError, match="leads out of it"):
        remote._inside("../up", "memory://bucket/d")
    store.store.clear()
