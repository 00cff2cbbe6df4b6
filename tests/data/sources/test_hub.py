"""A data set by `datasets`, streamed shard by shard; here from a folder, since tests have no network."""

import json

import pytest

from llmkit.data.collect import Collect, work
from llmkit.data.sources.hub import Hub
from llmkit.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set of three shards of ten rows."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "set").mkdir()
    for shard in range(3):
        rows = ({"text": f"Row {i} of shard {shard}.", "other": i} for i in range(10))
        (tmp_path / f"set/train-0000{shard}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "set"


def test_every_shard_is_a_task_and_together_they_are_the_set(folder):
    source = Hub(Hub.Settings(id=str(folder)))
    pieces = source.pieces()
    assert pieces == [[0, 3], [1, 3], [2, 3]]
    parts = [row for piece in pieces for row in source.records(piece)]
    assert parts == list(source.records())
    assert [row["text"] for row in parts] == [f"Row {i} of shard {s}." for s in range(3) for i in range(10)]
    assert len({row["id"] for row in parts}) == 30


def test_it_is_collected_like_any_other_source(folder, tmp_path):
    (tmp_path / "out").mkdir()
    entry = {"name": "hub", "id": str(folder), "licence": "CC0-1.0", "revision": None}
    result = work(Collect(source=[entry], heldout_frac=0.2), tmp_path / "out")
    assert result["counts"]["kept"] == 30
    assert result["licences"]["hub"]["licence"] == "CC0-1.0"


def test_a_set_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be read .*; check id, config, split and network"):
        Hub(Hub.Settings(id=str(tmp_path / "empty"))).pieces()
